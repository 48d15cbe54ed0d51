// Text 64 bytes at a time: which of them are words, as BertPreTokenizer cuts them.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace penstock::text {

// 64 bytes of text, a bit for each.
struct Block {
    std::uint64_t words;   // ASCII letters and digits
    std::uint64_t spaces;  // the space, tab, line feed, carriage return
    std::uint64_t firsts;  // the first bytes of what is not ASCII, and other control characters
    std::uint64_t others;  // the other bytes of what is not ASCII; what is left is ASCII punctuation
};

inline constexpr std::size_t kBlockBytes = 64;
inline constexpr std::size_t kReach = kBlockBytes + 16;  // bytes that must be readable where a block begins

#if defined(__SSE2__)

inline Block classify(const char* text) noexcept {
    Block block{0, 0, 0, 0};
    for (unsigned part = 0; part < kBlockBytes; part += 16) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text + part));
        const auto above = [](__m128i left, char right) {
            return _mm_cmpgt_epi8(left, _mm_set1_epi8(right));
        };
        const auto below = [](__m128i left, char right) {
            return _mm_cmplt_epi8(left, _mm_set1_epi8(right));
        };
        const auto equal = [](__m128i left, char right) {
            return _mm_cmpeq_epi8(left, _mm_set1_epi8(right));
        };
        const auto mask = [part](__m128i bits) {
            return std::uint64_t{static_cast<std::uint32_t>(_mm_movemask_epi8(bits))} << part;
        };
        const __m128i lower = _mm_or_si128(bytes, _mm_set1_epi8(0x20));
        const __m128i letter = _mm_and_si128(above(lower, 'a' - 1), below(lower, 'z' + 1));
        const __m128i digit = _mm_and_si128(above(bytes, '0' - 1), below(bytes, '9' + 1));
        const __m128i space = _mm_or_si128(_mm_or_si128(equal(bytes, ' '), equal(bytes, '\n')),
                                           _mm_or_si128(equal(bytes, '\t'), equal(bytes, '\r')));
        const __m128i other = below(bytes, static_cast<char>(0xc0));  // signed: not ASCII is below
        const __m128i odd = _mm_or_si128(below(bytes, ' '), equal(bytes, 0x7f));
        block.words |= mask(_mm_or_si128(letter, digit));
        block.spaces |= mask(space);
        block.firsts |= mask(_mm_andnot_si128(_mm_or_si128(space, other), odd));
        block.others |= mask(other);
    }
    return block;
}

#else

inline Block classify(const char* text) noexcept {
    Block block{0, 0, 0, 0};
    for (unsigned i = 0; i < kBlockBytes; ++i) {
        const auto byte = static_cast<unsigned char>(text[i]);
        const std::uint64_t bit = std::uint64_t{1} << i;
        const unsigned char lower = byte | 0x20;
        if ((lower >= 'a' && lower <= 'z') || (byte >= '0' && byte <= '9')) {
            block.words |= bit;
        } else if (byte == ' ' || byte == '\n' || byte == '\t' || byte == '\r') {
            block.spaces |= bit;
        } else if (byte >= 0x80 && byte < 0xc0) {
            block.others |= bit;
        } else if (byte < ' ' || byte >= 0x7f) {
            block.firsts |= bit;
        }
    }
    return block;
}

#endif

}  // namespace penstock::text
