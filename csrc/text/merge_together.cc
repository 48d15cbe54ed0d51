// MergeTable::merge_together(): a few short words at once.

#include <algorithm>
#include <bit>

#include "text/bpe.h"
#include "text/cpu.h"

namespace penstock::text {
namespace {

using Word = MergeTable::Word;

constexpr std::size_t kHalf = Word::kMost / 2;

// Eight keys: one register, or two where there is no AVX2.
using Keys = std::int32_t __attribute__((vector_size(32)));

[[gnu::always_inline]] inline std::int32_t least(const std::int32_t* keys, bool is_wide) noexcept {
    const auto* const at = reinterpret_cast<const Keys*>(keys);
    Keys best = at[0] < at[1] ? at[0] : at[1];
    if (is_wide) {
        const Keys more = at[2] < at[3] ? at[2] : at[3];
        best = best < more ? best : more;
    }
    const Keys fours = __builtin_shufflevector(best, best, 4, 5, 6, 7, 0, 1, 2, 3);
    best = best < fours ? best : fours;
    const Keys twos = __builtin_shufflevector(best, best, 2, 3, 0, 1, 6, 7, 4, 5);
    best = best < twos ? best : twos;
    return best[0] < best[1] ? best[0] : best[1];
}

}  // namespace

void MergeTable::begin(Word& word, std::size_t count, const Rank* ranks,
                       std::uint64_t unknown) const noexcept {
    word.is_wide = count > kHalf;
    const std::size_t searched = word.is_wide ? Word::kMost : kHalf;
    for (unsigned i = 0; i + 1 < count; ++i) word.keys[i] = key_at(ranks[i], i);
    std::fill(word.keys + count - 1, word.keys + searched, kNever);
    word.ids[Word::kMost] = kOutside;
    word.alive = (std::uint64_t{1} << count) - 1;
    word.unknown = static_cast<std::uint32_t>(unknown);
    for (; unknown != 0; unknown &= unknown - 1) {
        const auto i = static_cast<std::size_t>(std::countr_zero(unknown));
        __builtin_prefetch(slots_.data() + place_of(key_of(word.ids[i], word.ids[i + 1])));
    }
}

// Nothing that depends on the words is a branch, but whether a word is done.
[[gnu::always_inline]] inline void MergeTable::merge_words(std::span<Word> words) const noexcept {
    std::uint8_t active[kTogether];
    std::size_t count = words.size();
    for (std::size_t i = 0; i < count; ++i) {
        active[i] = static_cast<std::uint8_t>(i);
        Word& word = words[i];
        for (std::uint32_t unknown = word.unknown; unknown != 0; unknown &= unknown - 1) {
            const auto at = static_cast<unsigned>(std::countr_zero(unknown));
            word.keys[at] = key_at(rank(word.ids[at], word.ids[at + 1]), at);
        }
    }
    constexpr std::uint64_t kEnd = std::uint64_t{1} << Word::kMost;
    while (count > 0) {
        std::size_t still = 0;
        for (std::size_t i = 0; i < count; ++i) {
            Word& word = words[active[i]];
            const std::int32_t best = least(word.keys, word.is_wide);
            if (best >= kNever) continue;
            active[still++] = active[i];
            const unsigned at = static_cast<unsigned>(best) % Word::kMost;
            const Id made = products_[static_cast<Rank>(best) >> kPlaceBits];
            word.made = made;
            word.ids[at] = made;
            std::uint64_t after = word.alive & (~std::uint64_t{1} << at);
            word.keys[std::countr_zero(after)] = kNever;
            word.alive ^= after & (std::uint64_t{0} - after);
            after = (after & (after - 1)) | kEnd;
            const std::uint64_t before = word.alive & ((std::uint64_t{1} << at) - 1);
            const auto next = static_cast<unsigned>(std::countr_zero(after));
            const unsigned left =
                before != 0 ? 63 - static_cast<unsigned>(std::countl_zero(before | 1)) : Word::kMost;
            word.at = static_cast<std::uint8_t>(at);
            word.next = static_cast<std::uint8_t>(next);
            word.left = static_cast<std::uint8_t>(left);
            __builtin_prefetch(slots_.data() + place_of(key_of(made, word.ids[next])));
            __builtin_prefetch(slots_.data() + place_of(key_of(word.ids[left], made)));
        }
        count = still;
        for (std::size_t i = 0; i < count; ++i) {
            Word& word = words[active[i]];
            const Rank with_next = rank(word.made, word.ids[word.next]);
            const Rank with_left = rank(word.ids[word.left], word.made);
            __builtin_prefetch(products_.data() + std::min(with_next, with_left));
            word.keys[word.at] = key_at(with_next, word.at);
            word.keys[word.left] = key_at(with_left, word.left);
        }
    }
}

#if PENSTOCK_X86
[[gnu::target("avx2,bmi,bmi2,lzcnt")]]
void MergeTable::merge_together_widely(std::span<Word> words) const noexcept {
    merge_words(words);
}
#endif

void MergeTable::merge_together_plainly(std::span<Word> words) const noexcept { merge_words(words); }

void MergeTable::merge_together(std::span<Word> words) const noexcept {
#if PENSTOCK_X86
    if (has_avx2()) return merge_together_widely(words);
#endif
    merge_together_plainly(words);
}

std::size_t MergeTable::finish(const Word& word, Id* out) noexcept {
    Id* to = out;
    for (std::uint64_t alive = word.alive; alive != 0; alive &= alive - 1)
        *to++ = word.ids[std::countr_zero(alive)];
    return static_cast<std::size_t>(to - out);
}

}  // namespace penstock::text
