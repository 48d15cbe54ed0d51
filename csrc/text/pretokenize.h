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
#include "text/unicode.h"

namespace penstock::text {

// Rules one after the other: each cuts the pieces of the one before it, and sees of the text only the piece.
class Scheme {
  public:
    using enum Rule;

    static constexpr std::size_t kMostRules = 8;

    Scheme(Rule rule)
        : Scheme(std::vector{rule}) {}  // NOLINT(google-explicit-constructor): most have one rule
    // Throws std::invalid_argument if there are no rules, or too many.
    explicit Scheme(std::vector<Rule> rules);

    std::span<const Rule> rules() const noexcept { return rules_; }

    // Whether a word always ends between these characters, and the words before are the same whatever comes behind
    // the left one. The left one is no white space. False in doubt.
    bool splits(Rune left, Rune right) const noexcept;

  private:
    std::vector<Rule> rules_;
    bool has_whole_ = false;           // one rule is a whole scheme
    bool has_numbers_ = false;         // and takes numbers apart from everything else
    bool has_single_numbers_ = false;  // one by one
    bool has_letters_ = false;         // one rule is kLetters
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
