#include "text/scan.h"

#include <bit>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "text/chars.h"

namespace penstock::text {
namespace {

using Bits = std::uint64_t;

// What the scanners are told about a scheme.
template <Rule scheme>
struct Traits {
    static constexpr bool kIsGpt2 = scheme == Rule::kGpt2;
    static constexpr bool kIsDeepSeek = scheme == Rule::kDeepSeekV3;
    static constexpr bool kIsCased = scheme == Rule::kO200k || scheme == Rule::kTekken;
    static constexpr bool kJoinsMarks = scheme == Rule::kQwen35 || kIsDeepSeek;
    static constexpr bool kHasContractions = !kIsDeepSeek && scheme != Rule::kTekken;
    static constexpr bool kTakesOneNumber =
        scheme == Rule::kQwen2 || scheme == Rule::kQwen35 || scheme == Rule::kTekken;
    static constexpr bool kTakesThreeNumbers = scheme == Rule::kCl100k || scheme == Rule::kO200k;
};

constexpr std::size_t kBlock = 64;

// A bit for every byte of a block. Bytes of a longer character have the bits of the character.
struct Block {
    Bits letter = 0;
    Bits number = 0;
    Bits space = 0;
    Bits newline = 0;     // \r \n
    Bits blank = 0;       // ' '
    Bits apostrophe = 0;  // '
    Bits upper = 0;       // if cased: \p{Lu} \p{Lt}
    Bits lower = 0;       // if cased: \p{Ll}
    Bits mark = 0;        // if cased: \p{M}; where marks join, they are letters
    Bits slash = 0;       // if cased
    Bits sign = 0;        // kDeepSeekV3 only: \p{P} \p{S}
    Bits wide = 0;        // bytes that are not ASCII
    Bits inner = 0;       // bytes of a character but its first
};

template <typename Traits>
[[gnu::always_inline]] inline Block read_ascii(const char* at) noexcept {
    Block block;
#if defined(__SSE2__)
    for (unsigned i = 0; i < kBlock; i += 16) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + i));
        const auto mask = [i](__m128i hits) {
            return Bits{static_cast<std::uint32_t>(_mm_movemask_epi8(hits))} << i;
        };
        // Bytes from `first`, `count` of them: wrapped to the least signed values, so one comparison does.
        const auto among = [](__m128i value, char first, int count) {
            const __m128i moved = _mm_add_epi8(value, _mm_set1_epi8(static_cast<char>(-128 - first)));
            return _mm_cmplt_epi8(moved, _mm_set1_epi8(static_cast<char>(-128 + count)));
        };
        const auto is = [bytes](char c) { return _mm_cmpeq_epi8(bytes, _mm_set1_epi8(c)); };
        const __m128i blank = is(' ');
        block.letter |= mask(among(_mm_or_si128(bytes, _mm_set1_epi8(0x20)), 'a', 26));
        block.number |= mask(among(bytes, '0', 10));
        block.blank |= mask(blank);
        block.space |= mask(_mm_or_si128(blank, among(bytes, '\t', 5)));
        block.newline |= mask(_mm_or_si128(is('\n'), is('\r')));
        block.apostrophe |= mask(is('\''));
        block.wide |= mask(bytes);
        if constexpr (Traits::kIsCased) {
            block.upper |= mask(among(bytes, 'A', 26));
            block.slash |= mask(is('/'));
        }
        if constexpr (Traits::kIsDeepSeek) block.sign |= mask(among(bytes, '!', 94));
    }
#else
    for (unsigned i = 0; i < kBlock; ++i) {
        const char c = at[i];
        const auto mask = [i](bool hit) { return Bits{hit} << i; };
        const bool upper = c >= 'A' && c <= 'Z';
        block.letter |= mask(upper || (c >= 'a' && c <= 'z'));
        block.number |= mask(c >= '0' && c <= '9');
        block.blank |= mask(c == ' ');
        block.space |= mask(c == ' ' || (c >= '\t' && c <= '\r'));
        block.newline |= mask(is_newline(c));
        block.apostrophe |= mask(c == '\'');
        block.wide |= mask((static_cast<unsigned char>(c) & 0x80) != 0);
        if constexpr (Traits::kIsCased) {
            block.upper |= mask(upper);
            block.slash |= mask(c == '/');
        }
        if constexpr (Traits::kIsDeepSeek) block.sign |= mask(c > ' ' && c < 0x7f);
    }
#endif
    if constexpr (Traits::kIsCased) block.lower = block.letter & ~block.upper;
    if constexpr (Traits::kIsDeepSeek) block.sign &= ~(block.letter | block.number);
    return block;
}

// Adds the characters that are not ASCII. The first byte of a block begins a character; the last one may reach
// over its end, where the text goes on.
template <typename Traits>
void read_wide(const std::uint8_t* table, const char* at, Block& block) noexcept {
    for (Bits left = block.wide; left != 0;) {
        const auto i = static_cast<unsigned>(std::countr_zero(left));
        const Char c = char_at(table, at + i);
        const Bits bits = ((Bits{1} << c.length) - 1) << i;
        const auto where = [bits, kind = unsigned{c.kind}](unsigned one) {
            return bits & (Bits{0} - Bits{(kind & one) != 0});
        };
        left &= ~bits;
        block.inner |= bits & (bits << 1);
        block.letter |= where(Traits::kJoinsMarks ? kIsLetter | kIsMark : kIsLetter);
        block.number |= where(kIsNumber);
        block.space |= where(kIsSpace);
        if constexpr (Traits::kIsDeepSeek) block.sign |= where(kIsSign);
        if constexpr (Traits::kIsCased) {
            block.upper |= where(kIsUpper);
            block.lower |= where(kIsLower);
            block.mark |= where(kIsMark);
        }
    }
}

// std::popcount() is a call on the oldest processors that this is built for.
std::uint32_t count_of(Bits bits) noexcept {
    bits -= bits >> 1 & 0x5555555555555555u;
    bits = (bits & 0x3333333333333333u) + (bits >> 2 & 0x3333333333333333u);
    bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return static_cast<std::uint32_t>(bits * 0x0101010101010101u >> 56);
}

// Bits of first bytes, spread over all bytes of their characters.
Bits spread(Bits first, Bits inner) noexcept {
    for (int i = 0; i < 3; ++i) first |= (first << 1) & inner;
    return first;
}
// Bits of last bytes, moved to the first bytes of their characters.
Bits first_of(Bits last, Bits inner) noexcept {
    for (int i = 0; i < 3; ++i) {
        const Bits moving = last & inner;
        last = (last & ~inner) | (moving >> 1);
    }
    return last;
}

// The words that begin in a block, which itself begins with a word. What cannot be told without what comes behind
// the block, or only with trouble, is left out: the last bit is then the word to go on with.
template <Rule scheme>
[[gnu::always_inline]] inline Bits word_begins(const std::uint8_t* table, const char* at, const char* text,
                                               const char* end) noexcept {
    using Is = Traits<scheme>;
    Block block = read_ascii<Is>(at);
    Bits doubtful = 0;  // nothing from the first of these bits on is sure
    if (block.wide != 0) {
        read_wide<Is>(table, at, block);
        if constexpr (Is::kTakesThreeNumbers) doubtful |= block.number & block.wide;
    }
    const Bits letter = block.letter | block.mark;
    const Bits other = Is::kIsDeepSeek ? block.sign : ~(letter | block.number | block.space);
    if constexpr (Is::kIsDeepSeek) doubtful |= ~(letter | other | block.space);
    const Bits letter_begin = letter & ~(letter << 1);
    const Bits number_begin = block.number & ~(block.number << 1);
    const Bits other_begin = other & ~(other << 1);

    Bits space = block.space;
    Bits tail = block.space;  // white space that is not a newline, nor before one
    Bits begins = 0;
    if constexpr (!Is::kIsGpt2) {
        // Newlines right behind other characters belong to them.
        const Bits newline_begin = block.newline & (other << 1);
        const Bits taken = block.newline & ~(block.newline + newline_begin);
        space &= ~taken;
        if constexpr (Is::kIsCased) doubtful |= block.slash & (taken << 1);
        // White space up to its last newline is a word. White space between newlines is rare.
        tail = space & ~block.newline;
        const Bits behind_newline = tail & ((block.newline & space) << 1);
        if (((tail + behind_newline) & block.newline & space) != 0) doubtful |= behind_newline;
        begins |= behind_newline;
    }
    begins |= space & ~(space << 1);
    // The last white space before something else is a word of its own, or the first character of the next.
    Bits last = tail & ~(block.space >> 1) & (~Bits{0} >> 1);
    if (block.wide != 0) last = first_of(last, block.inner);
    begins |= last;
    // White space that reaches the end of the block is sure only where it begins.
    if (space >> 63 != 0) {
        const int run = std::countl_one(space);
        if (run > 1) doubtful |= Bits{1} << (64 - run + 1);
    }

    const Bits behind_blank = block.blank << 1;
    const Bits free_other = other_begin & ~behind_blank;
    begins |= free_other;
    if constexpr (Is::kIsGpt2) {
        begins |= (letter_begin | number_begin) & ~behind_blank;
        for (Bits left = block.apostrophe & free_other & (letter >> 1); left != 0; left &= left - 1) {
            const auto i = static_cast<unsigned>(std::countr_zero(left));
            const std::size_t length = contraction(text + i, end, false);
            if (length == 0) continue;
            begins &= ~(Bits{2} << i);
            if (i + length < kBlock) begins |= Bits{1} << (i + length);
        }
    } else if constexpr (Is::kIsDeepSeek) {
        // One sign of ASCII leads letters of ASCII, and only them.
        const Bits ascii = letter & ~block.wide;
        const Bits leading = free_other & ~block.wide & (ascii >> 1);
        begins |= letter_begin & ~(tail << 1) & ~(leading << 1);
        begins |= (ascii + (leading << 1)) & ~ascii & letter;
    } else {
        const Bits leading = block.wide != 0 ? spread(free_other, block.inner) : free_other;
        begins |= letter_begin & ~(tail << 1) & ~(leading << 1);
        begins |= number_begin;
        if constexpr (Is::kTakesOneNumber) begins |= block.number & ~block.inner;
        if constexpr (Is::kTakesThreeNumbers) {
            const Bits fourth =
                block.number & (block.number << 1) & (block.number << 2) & (block.number << 3);
            for (Bits groups = number_begin; (groups = (groups << 3) & fourth) != 0;) begins |= groups;
        }
        if constexpr (Is::kIsCased) {
            const Bits both = letter & ~(block.upper | block.lower);
            begins |= block.upper & ~block.inner & (block.lower << 1);
            doubtful |= block.upper & ~block.inner & (both << 1);
            doubtful |= block.mark & ~block.inner & ~(letter << 1);
        }
        if constexpr (Is::kIsCased && Is::kHasContractions) {
            unsigned behind = 0;
            for (Bits left = block.apostrophe & (letter << 1); left != 0; left &= left - 1) {
                const auto i = static_cast<unsigned>(std::countr_zero(left));
                const std::size_t length = contraction(text + i, end, true);
                if (length == 0 || i == behind) continue;
                behind = i + static_cast<unsigned>(length);
                begins &= ~(((Bits{1} << length) - 1) << i);
                if (behind < kBlock) begins |= Bits{1} << behind;
            }
        } else if constexpr (Is::kHasContractions) {
            for (Bits left = block.apostrophe & free_other & (letter >> 1); left != 0; left &= left - 1) {
                const auto i = static_cast<unsigned>(std::countr_zero(left));
                if (const std::size_t length = contraction(text + i, end, true);
                    length != 0 && i + length < kBlock) {
                    begins |= Bits{1} << (i + length);
                }
            }
        }
    }
    return begins & ((doubtful & (Bits{0} - doubtful)) - 1);
}

template <Rule scheme>
std::size_t find(const char* const base, const char* const begin, const char* const end,
                 std::uint32_t* const ends, std::size_t capacity) noexcept {
    const std::uint8_t* const table = kinds();
    std::uint32_t* out = ends;
    const std::uint32_t* const full = ends + (capacity - kBlock);
    const char* at = begin;
    char padded[kBlock + 4];
    while (at < end && out <= full) {
        const char* from = at;
        const auto left = static_cast<std::size_t>(end - at);
        if (left < kBlock) {
            std::memcpy(padded, at, left);
            std::memset(padded + left, ' ', sizeof(padded) - left);
            from = padded;
        }
        Bits bits = word_begins<scheme>(table, from, at, end) & ~Bits{1};
        if (bits == 0) {
            at = rule_end(scheme, at, end);
            *out++ = static_cast<std::uint32_t>(at - base);
            continue;
        }
        // Where to go on is known before the ends are written, four at a time: a loop over each would leave at a
        // place that no processor foretells.
        const auto from_base = static_cast<std::uint32_t>(at - base);
        at += 63 - std::countl_zero(bits);
        std::uint32_t* to = out;
        out += count_of(bits);
        do {
            for (int i = 0; i < 4; ++i) {
                *to++ = from_base + static_cast<std::uint32_t>(std::countr_zero(bits | Bits{1} << 63));
                bits &= bits - 1;
            }
        } while (bits != 0);
    }
    return static_cast<std::size_t>(out - ends);
}

}  // namespace

std::size_t scan(Rule scheme, const char* base, const char* begin, const char* end, std::uint32_t* ends,
                 std::size_t capacity) noexcept {
    using Find = std::size_t (*)(const char*, const char*, const char*, std::uint32_t*, std::size_t) noexcept;
    static constexpr Find kFinds[kNumSchemes] = {
        find<Rule::kGpt2>,   find<Rule::kCl100k>,  find<Rule::kQwen2>,  find<Rule::kO200k>,
        find<Rule::kQwen35>, find<Rule::kMiniCpm>, find<Rule::kTekken>, find<Rule::kDeepSeekV3>,
    };
    return kFinds[static_cast<std::size_t>(scheme)](base, begin, end, ends, capacity);
}

}  // namespace penstock::text
