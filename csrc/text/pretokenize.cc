#include "text/pretokenize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <memory>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "text/unicode.h"

namespace penstock::text {
namespace {

// What the schemes ask of a character, in a byte. None of the first three: "other" (punctuation, symbols,
// marks, controls).
enum Kind : std::uint8_t {
    kIsLetter = 1,
    kIsNumber = 2,
    kIsSpace = 4,
    kIsUpper = 8,   // \p{Lu}, \p{Lt}: only at the beginning of a word of kO200k
    kIsLower = 16,  // \p{Ll}: only at its end
    kIsMark = 32,   // \p{M}
};

[[gnu::noinline]] std::uint8_t compute_kind(Rune rune) noexcept {
    const std::uint32_t bits = classes(rune);
    unsigned kind = 0;
    if (bits & kLetter) kind |= kIsLetter;
    if (bits & kNumber) kind |= kIsNumber;
    if (bits & kSpace) kind |= kIsSpace;
    if (bits & (kUpper | kTitle)) kind |= kIsUpper;
    if (bits & kLower) kind |= kIsLower;
    if (bits & kMark) kind |= kIsMark;
    return static_cast<std::uint8_t>(kind);
}

constexpr Rune kTableEnd = 0x10000;

const std::uint8_t* kinds() noexcept {
    static const auto* const table = [] {
        auto* const made = new std::array<std::uint8_t, kTableEnd>;
        for (Rune rune = 0; rune < kTableEnd; ++rune) (*made)[rune] = compute_kind(rune);
        return made;
    }();
    return table->data();
}

struct Char {
    std::uint8_t kind;
    std::uint8_t length;

    bool is(unsigned kinds) const noexcept { return (kind & kinds) != 0; }
    bool is_other() const noexcept { return !is(kIsLetter | kIsNumber | kIsSpace); }
};

// Inlined, as it is asked for every character that is not ASCII.
[[gnu::always_inline]] inline Char char_at(const std::uint8_t* table, const char* at) noexcept {
    const auto first = static_cast<unsigned char>(*at);
    const Rune rune = first < 0x80 ? first : decode(at);
    if (rune >= kTableEnd) [[unlikely]]
        return {compute_kind(rune), 4};
    return {table[rune], static_cast<std::uint8_t>(sequence_length(first))};
}

constexpr bool is_newline(char c) noexcept { return c == '\n' || c == '\r'; }

// The length of 's, 't, 're, 've, 'm, 'll or 'd at `at`, where an apostrophe stands; 0: none of them.
std::size_t contraction(const char* at, const char* end, bool fold) noexcept {
    if (end - at < 2) return 0;
    const auto lower = [fold](char c) {
        return fold && c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
    };
    const char first = lower(at[1]);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
    if (end - at < 3) return 0;
    const char second = lower(at[2]);
    if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
        (first == 'l' && second == 'l')) {
        return 3;
    }
    // U+017F, the long s, folds to s.
    if (fold && at[1] == '\xc5' && at[2] == '\xbf') return 3;
    return 0;
}

template <typename Predicate>
const char* skip(const std::uint8_t* table, const char* at, const char* end, Predicate&& wanted) noexcept {
    while (at < end) {
        const Char c = char_at(table, at);
        if (!wanted(c)) break;
        at += c.length;
    }
    return at;
}

// \s*[\r\n]+|\s+(?!\S)|\s+, or without its first alternative, where white space stands.
const char* space_end(const std::uint8_t* table, const char* at, const char* end, bool newlines) noexcept {
    const char* behind_newline = nullptr;
    const char* last = at;
    const char* now = at;
    while (now < end) {
        const Char c = char_at(table, now);
        if (!c.is(kIsSpace)) break;
        last = now;
        now += c.length;
        if (newlines && is_newline(*last)) behind_newline = now;
    }
    if (behind_newline != nullptr) return behind_newline;
    return now == end || last == at ? now : last;
}

const char* word_end_gpt2(const std::uint8_t* table, const char* at, const char* end) noexcept {
    if (*at == '\'') {
        if (const std::size_t length = contraction(at, end, false); length != 0) return at + length;
    }
    const char* const behind_space = *at == ' ' && at + 1 < end ? at + 1 : at;
    const Char c = char_at(table, behind_space);
    if (c.is(kIsSpace)) return space_end(table, at, end, false);
    const unsigned kind = c.kind & (kIsLetter | kIsNumber | kIsSpace);
    return skip(table, behind_space, end, [kind](const Char& next) {
        return (next.kind & (kIsLetter | kIsNumber | kIsSpace)) == kind;
    });
}

//  ?[^\s\p{L}\p{N}]+[\r\n]* (`slash`: [\r\n/]*), or null.
const char* other_end(const std::uint8_t* table, const char* at, const char* end, bool slash) noexcept {
    const char* const begin = *at == ' ' ? at + 1 : at;
    at = skip(table, begin, end, [](const Char& c) { return c.is_other(); });
    if (at == begin) return nullptr;
    while (at < end && (is_newline(*at) || (slash && *at == '/'))) ++at;
    return at;
}

const char* number_end(const std::uint8_t* table, const char* at, const char* end, int most) noexcept {
    return skip(table, at, end, [most](const Char& c) mutable { return c.is(kIsNumber) && most-- > 0; });
}

const char* word_end_cl100k(const std::uint8_t* table, const char* at, const char* end, int digits) noexcept {
    if (*at == '\'') {
        if (const std::size_t length = contraction(at, end, true); length != 0) return at + length;
    }
    const Char c = char_at(table, at);
    const auto is_letter = [](const Char& next) { return next.is(kIsLetter); };
    if (c.is(kIsNumber)) return number_end(table, at, end, digits);
    if (c.is(kIsLetter)) return skip(table, at, end, is_letter);
    if (!is_newline(*at)) {
        const char* const behind = at + c.length;
        if (const char* const letters = skip(table, behind, end, is_letter); letters != behind)
            return letters;
    }
    if (const char* const other = other_end(table, at, end, false); other != nullptr) return other;
    return space_end(table, at, end, true);
}

// U*L+ (`lower`) or U+L*, where U is [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}] and L is [\p{Ll}\p{Lm}\p{Lo}\p{M}]; null: not
// there.
const char* cased_end(const std::uint8_t* table, const char* at, const char* end, bool lower) noexcept {
    const auto is_first = [](const Char& c) { return c.is(kIsLetter | kIsMark) && !c.is(kIsLower); };
    const auto is_second = [](const Char& c) { return c.is(kIsLetter | kIsMark) && !c.is(kIsUpper); };
    const char* both = nullptr;  // behind the last character that is U and L
    const char* now = skip(table, at, end, is_first);
    if (now == at && !lower) return nullptr;
    if (const char* const behind = skip(table, now, end, is_second); !lower || behind != now) return behind;
    for (const char* next = at; next < now;) {
        const Char c = char_at(table, next);
        next += c.length;
        if (!c.is(kIsUpper)) both = next;
    }
    return both;
}

const char* word_end_o200k(const std::uint8_t* table, const char* at, const char* end) noexcept {
    const Char c = char_at(table, at);
    const bool may_lead = !c.is(kIsLetter | kIsNumber) && !is_newline(*at);
    for (const bool lower : {true, false}) {
        const char* letters = may_lead ? cased_end(table, at + c.length, end, lower) : nullptr;
        if (letters == nullptr) letters = cased_end(table, at, end, lower);
        if (letters == nullptr) continue;
        if (letters < end && *letters == '\'') letters += contraction(letters, end, true);
        return letters;
    }
    if (c.is(kIsNumber)) return number_end(table, at, end, 3);
    if (const char* const other = other_end(table, at, end, true); other != nullptr) return other;
    return space_end(table, at, end, true);
}

template <Scheme scheme>
const char* one_word(const std::uint8_t* table, const char* at, const char* end) noexcept {
    if constexpr (scheme == Scheme::kGpt2) return word_end_gpt2(table, at, end);
    if constexpr (scheme == Scheme::kCl100k) return word_end_cl100k(table, at, end, 3);
    if constexpr (scheme == Scheme::kQwen2) return word_end_cl100k(table, at, end, 1);
    if constexpr (scheme == Scheme::kO200k) return word_end_o200k(table, at, end);
    return end;
}

using Bits = std::uint64_t;
constexpr std::size_t kBlock = 64;

// A bit for every byte of a block. Bytes of a longer character have the bits of the character.
struct Block {
    Bits letter = 0;
    Bits number = 0;
    Bits space = 0;
    Bits newline = 0;     // \r \n
    Bits blank = 0;       // ' '
    Bits apostrophe = 0;  // '
    Bits upper = 0;       // kO200k only: \p{Lu} \p{Lt}
    Bits lower = 0;       // kO200k only: \p{Ll}
    Bits mark = 0;        // kO200k only: \p{M}
    Bits slash = 0;       // kO200k only
    Bits wide = 0;        // bytes that are not ASCII
    Bits inner = 0;       // bytes of a character but its first
};

template <bool cased>
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
        if constexpr (cased) {
            block.upper |= mask(among(bytes, 'A', 26));
            block.slash |= mask(is('/'));
        }
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
        if constexpr (cased) {
            block.upper |= mask(upper);
            block.slash |= mask(c == '/');
        }
    }
#endif
    if constexpr (cased) block.lower = block.letter & ~block.upper;
    return block;
}

// Adds the characters that are not ASCII. The first byte of a block begins a character; the last one may reach
// over its end, where the text goes on.
template <bool cased>
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
        block.letter |= where(kIsLetter);
        block.number |= where(kIsNumber);
        block.space |= where(kIsSpace);
        if constexpr (cased) {
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
template <Scheme scheme>
[[gnu::always_inline]] inline Bits word_begins(const std::uint8_t* table, const char* at, const char* text,
                                               const char* end) noexcept {
    constexpr bool kIsGpt2 = scheme == Scheme::kGpt2;
    constexpr bool kCased = scheme == Scheme::kO200k;
    Block block = read_ascii<kCased>(at);
    Bits doubtful = 0;  // nothing from the first of these bits on is sure
    if (block.wide != 0) {
        read_wide<kCased>(table, at, block);
        if constexpr (scheme == Scheme::kCl100k || kCased) doubtful |= block.number & block.wide;
    }
    const Bits letter = block.letter | block.mark;
    const Bits other = ~(letter | block.number | block.space);
    const Bits letter_begin = letter & ~(letter << 1);
    const Bits number_begin = block.number & ~(block.number << 1);
    const Bits other_begin = other & ~(other << 1);

    Bits space = block.space;
    Bits tail = block.space;  // white space that is not a newline, nor before one
    Bits begins = 0;
    if constexpr (!kIsGpt2) {
        // Newlines right behind other characters belong to them.
        const Bits newline_begin = block.newline & (other << 1);
        const Bits taken = block.newline & ~(block.newline + newline_begin);
        space &= ~taken;
        if constexpr (kCased) doubtful |= block.slash & (taken << 1);
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
    if constexpr (kIsGpt2) {
        begins |= (letter_begin | number_begin) & ~behind_blank;
        for (Bits left = block.apostrophe & free_other & (letter >> 1); left != 0; left &= left - 1) {
            const auto i = static_cast<unsigned>(std::countr_zero(left));
            const std::size_t length = contraction(text + i, end, false);
            if (length == 0) continue;
            begins &= ~(Bits{2} << i);
            if (i + length < kBlock) begins |= Bits{1} << (i + length);
        }
    } else {
        const Bits leading = block.wide != 0 ? spread(free_other, block.inner) : free_other;
        begins |= letter_begin & ~(tail << 1) & ~(leading << 1);
        begins |= number_begin;
        if constexpr (scheme == Scheme::kQwen2) {
            begins |= block.number & ~block.inner;
        } else {
            const Bits fourth =
                block.number & (block.number << 1) & (block.number << 2) & (block.number << 3);
            for (Bits groups = number_begin; (groups = (groups << 3) & fourth) != 0;) begins |= groups;
        }
        if constexpr (kCased) {
            const Bits both = letter & ~(block.upper | block.lower);
            begins |= block.upper & ~block.inner & (block.lower << 1);
            doubtful |= block.upper & ~block.inner & (both << 1);
            doubtful |= block.mark & ~block.inner & ~(letter << 1);
            unsigned behind = 0;
            for (Bits left = block.apostrophe & (letter << 1); left != 0; left &= left - 1) {
                const auto i = static_cast<unsigned>(std::countr_zero(left));
                const std::size_t length = contraction(text + i, end, true);
                if (length == 0 || i == behind) continue;
                behind = i + static_cast<unsigned>(length);
                begins &= ~(((Bits{1} << length) - 1) << i);
                if (behind < kBlock) begins |= Bits{1} << behind;
            }
        } else {
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

template <Scheme scheme>
std::size_t find(const char* const begin, const char* const end, std::uint32_t* const ends,
                 std::size_t capacity) noexcept {
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
            at = one_word<scheme>(table, at, end);
            *out++ = static_cast<std::uint32_t>(at - begin);
            continue;
        }
        // Where to go on is known before the ends are written, four at a time: a loop over each would leave at a
        // place that no processor foretells.
        const auto base = static_cast<std::uint32_t>(at - begin);
        at += 63 - std::countl_zero(bits);
        std::uint32_t* to = out;
        out += count_of(bits);
        do {
            for (int i = 0; i < 4; ++i) {
                *to++ = base + static_cast<std::uint32_t>(std::countr_zero(bits | Bits{1} << 63));
                bits &= bits - 1;
            }
        } while (bits != 0);
    }
    return static_cast<std::size_t>(out - ends);
}

}  // namespace

std::optional<Scheme> scheme_of(std::string_view regex) noexcept {
    struct Known {
        std::string_view regex;
        Scheme scheme;
    };
    static constexpr Known kKnown[] = {
        {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", Scheme::kGpt2},
        {R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", Scheme::kGpt2},
        {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
         Scheme::kCl100k},
        {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
         Scheme::kQwen2},
        {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
         R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
         R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
         Scheme::kO200k},
    };
    for (const Known& known : kKnown) {
        if (known.regex == regex) return known.scheme;
    }
    return std::nullopt;
}

const char* word_end(Scheme scheme, const char* at, const char* end) noexcept {
    const std::uint8_t* const table = kinds();
    switch (scheme) {
        case Scheme::kNone:
            break;
        case Scheme::kGpt2:
            return one_word<Scheme::kGpt2>(table, at, end);
        case Scheme::kCl100k:
            return one_word<Scheme::kCl100k>(table, at, end);
        case Scheme::kQwen2:
            return one_word<Scheme::kQwen2>(table, at, end);
        case Scheme::kO200k:
            return one_word<Scheme::kO200k>(table, at, end);
    }
    return end;
}

std::size_t find_words(Scheme scheme, const char* begin, const char* end, std::uint32_t* ends,
                       std::size_t capacity) noexcept {
    switch (scheme) {
        case Scheme::kNone:
            break;
        case Scheme::kGpt2:
            return find<Scheme::kGpt2>(begin, end, ends, capacity);
        case Scheme::kCl100k:
            return find<Scheme::kCl100k>(begin, end, ends, capacity);
        case Scheme::kQwen2:
            return find<Scheme::kQwen2>(begin, end, ends, capacity);
        case Scheme::kO200k:
            return find<Scheme::kO200k>(begin, end, ends, capacity);
    }
    if (begin == end) return 0;
    *ends = static_cast<std::uint32_t>(end - begin);
    return 1;
}

}  // namespace penstock::text
