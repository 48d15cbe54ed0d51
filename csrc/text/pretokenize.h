// Pre-tokenizers of byte-level tokenizers: where a text is cut into words before merging.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "text/rules.h"
#include "text/scan.h"

namespace penstock::text {

// Rules one after the other: each cuts the pieces of the one before it, and sees of the text only the piece.
class Scheme {
  public:
    using enum Rule;

    static constexpr std::size_t kMostRules = 8;

    Scheme(Rule rule) : rules_{rule} {}  // NOLINT(google-explicit-constructor): most schemes are one rule
    // Throws std::invalid_argument if there are no rules, or too many.
    explicit Scheme(std::vector<Rule> rules);

    std::span<const Rule> rules() const noexcept { return rules_; }

    // Whether a word always ends between a letter and white space or punctuation behind it, the apostrophe left
    // out, and the words before are the same whatever comes behind.
    bool ends_behind_letters() const noexcept;

  private:
    std::vector<Rule> rules_;
};

// The words of one text, in order. The text is valid UTF-8 shorter than 4 GiB.
class WordFinder {
  public:
    WordFinder(const Scheme& scheme, std::string_view text,
               const Scanner& scanner = scanners().back()) noexcept;

    // Writes where the next words end, as distances from where those of the last call ended. Returns how many: 0
    // only at the end of the text. `capacity` is at least kLeastWords.
    std::size_t next(std::uint32_t* ends, std::size_t capacity) noexcept;

  private:
    std::span<const Rule> rules_;
    Scanner::Find find_;  // of the last rule; null: it has no scanner
    const char* at_;
    const char* end_;
    std::array<const char*, Scheme::kMostRules> piece_ends_;  // of each rule but the last; at_: to be found
};

}  // namespace penstock::text
