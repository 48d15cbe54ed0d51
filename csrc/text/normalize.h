// Normalizers: text to text, as `tokenizers` does it. Pure functions over valid UTF-8.

#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/unicode.h"

namespace penstock::text {

// A set of code points, and the fast way through text that has no others.
class RuneSet {
  public:
    // Those for which `contains(rune)` is true.
    template <typename Contains>
    explicit RuneSet(const Contains& contains) : words_(kNumRunes / 64) {
        for (Rune rune = 0; rune < kNumRunes; ++rune) {
            words_[rune / 64] |= std::uint64_t{contains(rune)} << (rune % 64);
        }
        find_good_bytes();
    }

    bool contains(Rune rune) const noexcept {
        return rune < kNumRunes && (words_[rune / 64] >> (rune % 64) & 1) != 0;
    }

    // Where the first code point is that is not in the set, or `end`.
    const char* skip(const char* at, const char* end) const noexcept;

  private:
    static constexpr Rune kNumRunes = 0x110000;
    static constexpr std::size_t kMaxRanges = 8;

    // Bytes less 0x80, so that their order is that of signed numbers.
    struct Range {
        signed char first;
        signed char last;
    };

    void find_good_bytes();

    std::vector<std::uint64_t> words_;
    // A first byte is good if all code points that begin with it are in the set; other bytes are. In what has
    // only good bytes there is nothing to look for.
    std::array<bool, 256> is_good_{};
    std::array<Range, kMaxRanges> ranges_{};  // the good bytes, or the first of them
    std::size_t num_ranges_ = 0;
    std::size_t num_ascii_ranges_ = 0;  // of these, enough for text in ASCII
    bool all_ascii_ = false;
};

class Normalizer {
  public:
    Normalizer() = delete;
    Normalizer(const Normalizer&) = delete;
    Normalizer& operator=(const Normalizer&) = delete;
    virtual ~Normalizer() = default;

    // Text that has only these code points is its own normal form.
    const RuneSet& plain() const noexcept { return plain_; }

    // True: the text is its own normal form; found out fast, without writing. False may also be said in doubt.
    virtual bool is_normal(std::string_view text) const noexcept = 0;

    // Replaces `out`. False: the text leaves what is known exactly, and `tokenizers` must do it.
    virtual bool apply(std::string_view text, std::string& out) const = 0;

    // Whether it is sure that the left character stays as it is where the right one stands behind it, and that what
    // becomes of the text before and behind the place between them does not depend on the other side.
    virtual bool splits(Rune left, Rune right) const noexcept {
        return plain_.contains(left) && plain_.contains(right);
    }

  protected:
    explicit Normalizer(RuneSet plain) : plain_(std::move(plain)) {}

    bool is_plain(std::string_view text) const noexcept {
        const char* const end = text.data() + text.size();
        return plain_.skip(text.data(), end) == end;
    }

  private:
    RuneSet plain_;
};

enum class Form { kNfc, kNfd, kNfkc, kNfkd };

std::unique_ptr<Normalizer> make_form(Form form);
std::unique_ptr<Normalizer> make_lowercase();
// It does not decompose first, so it changes little text that no NFD went before.
std::unique_ptr<Normalizer> make_strip_accents();
std::unique_ptr<Normalizer> make_strip(bool left, bool right);
std::unique_ptr<Normalizer> make_prepend(std::string text);  // nothing to empty text
// A string, not a regex. Throws std::invalid_argument if it is empty.
std::unique_ptr<Normalizer> make_replace(std::string pattern, std::string content);
std::unique_ptr<Normalizer> make_bert(bool clean_text, bool chinese_chars, bool strip_accents,
                                      bool lowercase);
// The charsmap of SentencePiece, as bytes. Throws std::invalid_argument if it is damaged.
std::unique_ptr<Normalizer> make_precompiled(std::string_view charsmap);
std::unique_ptr<Normalizer> make_sequence(std::vector<std::unique_ptr<Normalizer>> steps);

}  // namespace penstock::text
