// Words between spaces, for the families that have them: where one ends, and what it became when it was met before.

#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "text/ids.h"
#include "text/word_cache.h"

namespace penstock::text {

inline constexpr std::size_t kLongestWord = 120;  // bytes of a word that is worth keeping

// The first byte that is no printable one, or `end`.
inline const char* find_low(const char* at, const char* end) noexcept {
#if defined(__SSE2__)
    const __m128i space = _mm_set1_epi8(0x20);
    for (; end - at >= 16; at += 16) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
        const int low = _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(bytes, space), bytes));
        if (low != 0) return at + std::countr_zero(static_cast<unsigned>(low));
    }
#endif
    while (at != end && static_cast<unsigned char>(*at) > 0x20) ++at;
    return at;
}

// One thread's. Short words with few ids are in slots of `words`, those with many in `many_ids`, long words apart.
struct KnownWords {
    static constexpr unsigned kLog2Words = 18;  // 8 MiB
    static constexpr std::size_t kLongWordBytes = std::size_t{4} << 20;
    static constexpr std::size_t kManyIds = std::size_t{1} << 19;  // 2 MiB

    WordCache words{kLog2Words};
    LongWordCache long_words{kLongWordBytes};
    // The ids of short words that have many: a slot of `words` says where they begin and in which round they were
    // written, as this starts anew when it is full.
    std::vector<Id> many_ids;
    Id round = 0;

    KnownWords() { many_ids.reserve(kManyIds); }

    // Appends the ids of a short word, if it is known.
    bool find(const WordKey& key, std::uint64_t hash, Ids& out) const {
        const WordCache::Slot* const slot = words.find(key, hash);
        if (slot == nullptr) return false;
        if (slot->count <= WordCache::kMaxIds) [[likely]] {
            std::memcpy(out.room_for(WordCache::kMaxIds), slot->ids, sizeof(slot->ids));
            out.grow_by(slot->count);
            return true;
        }
        if (slot->ids[1] != round) return false;
        out.append({many_ids.data() + slot->ids[0], slot->count});
        return true;
    }

    void insert(const WordKey& key, std::span<const Id> ids) {
        if (ids.size() <= WordCache::kMaxIds) return words.insert(key, ids);
        if (many_ids.size() + ids.size() > kManyIds) {
            many_ids.clear();
            round = round == std::numeric_limits<Id>::max() ? 0 : round + 1;
        }
        WordCache::Slot& slot = words.claim(key);
        slot.count = static_cast<std::uint32_t>(ids.size());
        slot.ids[0] = static_cast<Id>(many_ids.size());
        slot.ids[1] = round;
        many_ids.insert(many_ids.end(), ids.begin(), ids.end());
    }

    std::size_t num_bytes() const noexcept {
        return words.num_bytes() + long_words.num_bytes() + kManyIds * sizeof(Id);
    }
};

}  // namespace penstock::text
