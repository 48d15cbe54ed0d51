// Code points and what they are, as the pinned release of `tokenizers` sees them.
//
// The tables are generated (tools/unicode_tables.py) by asking that release about every code point, so they are
// what it does, not what a standard says that it should do.

#pragma once

#include <cstddef>
#include <cstdint>

namespace penstock::text {

using Rune = char32_t;

// The length of the sequence that this first byte begins. The text must be valid UTF-8.
inline std::size_t sequence_length(unsigned char first) noexcept {
    return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

// The code point at `at`, where there is valid UTF-8.
inline Rune decode(const char* at) noexcept {
    const auto byte = [at](int i) { return static_cast<Rune>(static_cast<unsigned char>(at[i])); };
    const Rune first = byte(0);
    if (first < 0x80) return first;
    if (first < 0xe0) return (first & 0x1f) << 6 | (byte(1) & 0x3f);
    if (first < 0xf0) return (first & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f);
    return (first & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f);
}

// Writes the UTF-8 of a code point; returns its length, 1 to 4.
inline std::size_t encode(Rune rune, char* out) noexcept {
    const auto put = [out](int i, Rune value) { out[i] = static_cast<char>(value); };
    if (rune < 0x80) return put(0, rune), 1;
    if (rune < 0x800) return put(0, 0xc0 | rune >> 6), put(1, 0x80 | (rune & 0x3f)), 2;
    if (rune < 0x10000) {
        put(0, 0xe0 | rune >> 12), put(1, 0x80 | (rune >> 6 & 0x3f)), put(2, 0x80 | (rune & 0x3f));
        return 3;
    }
    put(0, 0xf0 | rune >> 18), put(1, 0x80 | (rune >> 12 & 0x3f)), put(2, 0x80 | (rune >> 6 & 0x3f));
    put(3, 0x80 | (rune & 0x3f));
    return 4;
}

// Bits of classes(). The first group is what the regexes of pre-tokenizers ask (Oniguruma), the second what
// BertNormalizer, BertPreTokenizer, Punctuation and Digits ask (Rust and its crates), the third what added tokens
// ask.
enum Class : std::uint32_t {
    kLetter = 1u << 0,       // \p{L}
    kNumber = 1u << 1,       // \p{N}
    kSpace = 1u << 2,        // \s
    kUpper = 1u << 3,        // \p{Lu}
    kTitle = 1u << 4,        // \p{Lt}
    kLower = 1u << 5,        // \p{Ll}
    kModifier = 1u << 6,     // \p{Lm}
    kOther = 1u << 7,        // \p{Lo}
    kMark = 1u << 8,         // \p{M}
    kPunctuation = 1u << 9,  // \p{P}
    kSymbol = 1u << 10,      // \p{S}

    kBertControl = 1u << 12,      // clean_text removes it
    kBertSpace = 1u << 13,        // clean_text makes it a space
    kBertSeparator = 1u << 14,    // BertPreTokenizer splits at it and drops it (char::is_whitespace)
    kBertPunctuation = 1u << 15,  // BertPreTokenizer makes it a word of its own, and Punctuation splits at it
    kBertChinese = 1u << 16,      // handle_chinese_chars puts spaces around it
    kNonspacing = 1u << 17,       // strip_accents removes it, after NFD
    kDigit = 1u << 18,            // Digits splits at it (char::is_numeric)

    kWordRune = 1u << 20,    // \w, as single_word of added tokens asks
    kStripSpace = 1u << 21,  // \s, as lstrip and rstrip of added tokens ask
};

// All bits of a code point. Any value is allowed; what is no code point has none.
std::uint32_t classes(Rune rune) noexcept;

// The named version: of `tokenizers` the tables were taken from, and the Unicode version that its classes equal.
extern const char* const kTokenizersRelease;
extern const char* const kUnicodeVersion;

}  // namespace penstock::text
