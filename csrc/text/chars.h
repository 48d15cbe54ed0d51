// What the rules of pre-tokenizers ask of characters, and what several of them have in common.

#pragma once

#include <cstddef>
#include <cstdint>

#include "text/unicode.h"

namespace penstock::text {

// In a byte. None of the first three: "other" (punctuation, symbols, marks, controls).
enum Kind : std::uint8_t {
    kIsLetter = 1,
    kIsNumber = 2,
    kIsSpace = 4,
    kIsUpper = 8,   // \p{Lu}, \p{Lt}: only at the beginning of a word of kO200k
    kIsLower = 16,  // \p{Ll}: only at its end
    kIsMark = 32,   // \p{M}
    kIsSign = 64,   // \p{P}, \p{S}
};

inline constexpr Rune kKindsEnd = 0x10000;

// Of every code point below kKindsEnd.
const std::uint8_t* kinds() noexcept;
std::uint8_t compute_kind(Rune rune) noexcept;

struct Char {
    std::uint8_t kind;
    std::uint8_t length;

    bool is(unsigned kinds) const noexcept { return (kind & kinds) != 0; }
};

// `table` is kinds(). Inlined, as it is asked for every character that is not ASCII.
[[gnu::always_inline]] inline Char char_at(const std::uint8_t* table, const char* at) noexcept {
    const auto first = static_cast<unsigned char>(*at);
    const Rune rune = first < 0x80 ? first : decode(at);
    if (rune >= kKindsEnd) [[unlikely]]
        return {compute_kind(rune), 4};
    return {table[rune], static_cast<std::uint8_t>(sequence_length(first))};
}

constexpr bool is_newline(char c) noexcept { return c == '\n' || c == '\r'; }

// The length of 's, 't, 're, 've, 'm, 'll or 'd at `at`, where an apostrophe stands; 0: none of them. `fold`: in
// either case.
std::size_t contraction(const char* at, const char* end, bool fold) noexcept;

}  // namespace penstock::text
