#include "text/scan.h"

#include <array>
#include <bit>
#include <cstring>
#include <map>
#include <string_view>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
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
constexpr std::size_t kBehind = 3;  // bytes behind a block that are read with its last character

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

// Kinds of the characters that are not ASCII. As most blocks of 64 are alike, these tables stay in the fastest cache,
// and nothing is asked that the processor would have to guess.
class WideKinds {
  public:
    static const WideKinds& get() {
        static const auto* const made = new WideKinds;
        return *made;
    }

    // Of the character that begins at `at`. Its second byte may be read where it has none.
    [[gnu::always_inline]] unsigned at(const char* at) const noexcept {
        const auto byte = [at](int i) { return static_cast<std::size_t>(static_cast<unsigned char>(at[i])); };
        const std::size_t first = byte(0);
        if (first >= 0xf0) [[unlikely]]
            return compute_kind(decode(at));
        const bool is_long = first >= 0xe0;
        const std::size_t block = is_long ? (first & 0xf) << 6 | (byte(1) & 0x3f) : first & 0x1f;
        const std::size_t last = is_long ? byte(2) : byte(1);
        return kinds_[std::size_t{block_of_[block]} << 6 | (last & 0x3f)];
    }

  private:
    WideKinds() {
        std::map<std::string_view, std::uint16_t> known;
        for (std::size_t block = 0; block < block_of_.size(); ++block) {
            const std::uint8_t* const from = kinds() + block * 64;
            const std::string_view bytes(reinterpret_cast<const char*>(from), 64);
            const auto number = static_cast<std::uint16_t>(known.size());
            const auto [found, is_new] = known.emplace(bytes, number);
            if (is_new) kinds_.insert(kinds_.end(), from, from + 64);
            block_of_[block] = found->second;
        }
    }

    std::array<std::uint16_t, kKindsEnd / 64> block_of_{};
    std::vector<std::uint8_t> kinds_;
};

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

std::uint32_t count_plainly(Bits bits) noexcept {
    bits -= bits >> 1 & 0x5555555555555555u;
    bits = (bits & 0x3333333333333333u) + (bits >> 2 & 0x3333333333333333u);
    bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return static_cast<std::uint32_t>(bits * 0x0101010101010101u >> 56);
}

// Of each instruction set, the Lanes: the 64 bytes of a block, and which of them (a bit for each) are as asked.
// among(): from `first` on, `count` of them. letters(): those of ASCII.

namespace plain {

class Lanes {
  public:
    explicit Lanes(const char* at) noexcept : at_(at) {}

    Bits is(char c) const noexcept { return among(c, 1); }
    Bits among(char first, int count) const noexcept {
        return where([first, count](Bits word) { return is_among(word, first, count); });
    }
    Bits letters() const noexcept {
        return where([](Bits word) { return is_among(word | 0x20 * kOnes, 'a', 26); });
    }
    Bits high() const noexcept {
        return where([](Bits word) { return word; });
    }
    static std::uint32_t count(Bits bits) noexcept { return count_plainly(bits); }

  private:
    static constexpr Bits kOnes = 0x0101010101010101u;

    // Eight bytes in a word, the answer in the highest bit of each. The range is in one half of all bytes.
    static Bits is_among(Bits word, char first, int count) noexcept {
        const auto begin = static_cast<unsigned char>(first);
        const Bits low = word & 0x7f * kOnes;
        const Bits from = low + (0x80u - (begin & 0x7fu)) * kOnes;
        const Bits behind = low + (0x80u - (begin & 0x7fu) - static_cast<unsigned>(count)) * kOnes;
        return from & ~behind & (begin < 0x80 ? ~word : word);
    }
    template <typename Predicate>
    Bits where(Predicate&& wanted) const noexcept {
        Bits bits = 0;
        for (unsigned i = 0; i < kBlock; i += 8) {
            Bits word = 0;
            for (unsigned k = 0; k < 8; ++k) {
                word |= Bits{static_cast<unsigned char>(at_[i + k])} << (8 * k);
            }
            // Multiplied so that the eight answers meet in the highest byte.
            bits |= ((wanted(word) & 0x80 * kOnes) >> 7) * 0x0102040810204080u >> 56 << i;
        }
        return bits;
    }

    const char* at_;
};

#include "text/scan.inc"

}  // namespace plain

#if defined(__x86_64__)

namespace sse2 {

class Lanes {
  public:
    explicit Lanes(const char* at) noexcept {
        for (int i = 0; i < 4; ++i) lanes_[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at) + i);
    }

    Bits is(char c) const noexcept {
        const __m128i wanted = _mm_set1_epi8(c);
        return where([wanted](__m128i lane) { return _mm_cmpeq_epi8(lane, wanted); });
    }
    Bits among(char first, int count) const noexcept {
        return where([first, count](__m128i lane) { return is_among(lane, first, count); });
    }
    Bits letters() const noexcept {
        const __m128i bit = _mm_set1_epi8(0x20);
        return where([bit](__m128i lane) { return is_among(_mm_or_si128(lane, bit), 'a', 26); });
    }
    Bits high() const noexcept {
        return where([](__m128i lane) { return lane; });
    }
    static std::uint32_t count(Bits bits) noexcept { return count_plainly(bits); }

  private:
    // Wrapped to the least signed values, so that one comparison does.
    static __m128i is_among(__m128i lane, char first, int count) noexcept {
        const __m128i moved = _mm_add_epi8(lane, _mm_set1_epi8(static_cast<char>(-128 - first)));
        return _mm_cmplt_epi8(moved, _mm_set1_epi8(static_cast<char>(-128 + count)));
    }
    template <typename Predicate>
    Bits where(Predicate&& wanted) const noexcept {
        Bits bits = 0;
        for (int i = 0; i < 4; ++i) {
            const int hits = _mm_movemask_epi8(wanted(lanes_[i]));
            bits |= Bits{static_cast<std::uint32_t>(hits)} << (16 * i);
        }
        return bits;
    }

    __m128i lanes_[4];
};

#include "text/scan.inc"

}  // namespace sse2

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt")
#endif

namespace avx2 {

class Lanes {
  public:
    explicit Lanes(const char* at) noexcept
        : low_(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at))),
          high_(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at) + 1)) {}

    Bits is(char c) const noexcept {
        const __m256i wanted = _mm256_set1_epi8(c);
        return bits_of(_mm256_cmpeq_epi8(low_, wanted), _mm256_cmpeq_epi8(high_, wanted));
    }
    Bits among(char first, int count) const noexcept {
        return bits_of(is_among(low_, first, count), is_among(high_, first, count));
    }
    Bits letters() const noexcept {
        const __m256i bit = _mm256_set1_epi8(0x20);
        return bits_of(is_among(_mm256_or_si256(low_, bit), 'a', 26),
                       is_among(_mm256_or_si256(high_, bit), 'a', 26));
    }
    Bits high() const noexcept { return bits_of(low_, high_); }
    static std::uint32_t count(Bits bits) noexcept { return static_cast<std::uint32_t>(std::popcount(bits)); }

  private:
    static __m256i is_among(__m256i lane, char first, int count) noexcept {
        const __m256i moved = _mm256_add_epi8(lane, _mm256_set1_epi8(static_cast<char>(-128 - first)));
        return _mm256_cmpgt_epi8(_mm256_set1_epi8(static_cast<char>(-128 + count)), moved);
    }
    static Bits bits_of(__m256i low, __m256i high) noexcept {
        const auto half = [](int hits) { return Bits{static_cast<std::uint32_t>(hits)}; };
        return half(_mm256_movemask_epi8(low)) | half(_mm256_movemask_epi8(high)) << 32;
    }

    __m256i low_;
    __m256i high_;
};

#include "text/scan.inc"

}  // namespace avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#elif defined(__aarch64__)

namespace neon {

class Lanes {
  public:
    explicit Lanes(const char* at) noexcept {
        for (int i = 0; i < 4; ++i) lanes_[i] = vld1q_u8(reinterpret_cast<const std::uint8_t*>(at) + 16 * i);
    }

    Bits is(char c) const noexcept { return among(c, 1); }
    Bits among(char first, int count) const noexcept {
        return where([first, count](uint8x16_t lane) { return is_among(lane, first, count); });
    }
    Bits letters() const noexcept {
        return where([](uint8x16_t lane) { return is_among(vorrq_u8(lane, vdupq_n_u8(0x20)), 'a', 26); });
    }
    Bits high() const noexcept { return among('\x80', 128); }
    static std::uint32_t count(Bits bits) noexcept { return count_plainly(bits); }

  private:
    static uint8x16_t is_among(uint8x16_t lane, char first, int count) noexcept {
        const uint8x16_t moved = vsubq_u8(lane, vdupq_n_u8(static_cast<std::uint8_t>(first)));
        return vcltq_u8(moved, vdupq_n_u8(static_cast<std::uint8_t>(count)));
    }
    // One bit of each byte, and neighbours added until eight are a byte.
    template <typename Predicate>
    Bits where(Predicate&& wanted) const noexcept {
        static constexpr std::uint8_t kBits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
        const uint8x16_t bits = vld1q_u8(kBits);
        uint8x16_t hits[4];
        for (int i = 0; i < 4; ++i) hits[i] = vandq_u8(wanted(lanes_[i]), bits);
        const uint8x16_t halves = vpaddq_u8(vpaddq_u8(hits[0], hits[1]), vpaddq_u8(hits[2], hits[3]));
        return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(halves, halves)), 0);
    }

    uint8x16_t lanes_[4];
};

#include "text/scan.inc"

}  // namespace neon

#endif

std::vector<Scanner> find_scanners() {
    std::vector<Scanner> found{{"plain", plain::kFinds}};
#if defined(__x86_64__)
    found.push_back({"sse2", sse2::kFinds});
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
        __builtin_cpu_supports("popcnt")) {
        found.push_back({"avx2", avx2::kFinds});
    }
#elif defined(__aarch64__)
    found.push_back({"neon", neon::kFinds});
#endif
    return found;
}

}  // namespace

std::span<const Scanner> scanners() noexcept {
    static const auto* const found = new std::vector<Scanner>(find_scanners());
    return *found;
}

}  // namespace penstock::text
