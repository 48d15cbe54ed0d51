// Which tokens a word has: what makes a tokenizer fast, as 99 words in 100 were seen before.
//
// WordCache: short words with few tokens. A slot is 32 bytes: the word itself (up to 15 bytes and its length, so a
// hit is exact) and up to three ids, or six of 20 bits. WideCache: words of up to 32 bytes, in slots of 64 bytes with
// up to seven ids, or short words with up to eleven.
// LongWordCache: any other words, exact too, as it keeps and compares bytes. All belong to one thread and are bounded.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "text/ids.h"
#include "text/table.h"

namespace penstock::text {

// The bytes of a word and its length. Equal keys are equal words.
struct WordKey {
    static constexpr std::size_t kMaxBytes = 15;

    std::uint64_t low = 0;
    std::uint64_t high = 0;  // the top byte is the length + 1, so no key is all zeros

    // `length` is at most kMaxBytes; `end` is the end of the memory that may be read.
    static WordKey of(const char* word, std::size_t length, const char* end) noexcept {
        std::uint64_t words[2] = {0, 0};
        if (end - word >= 16) [[likely]] {
            std::memcpy(words, word, 16);
            words[0] &= kMasks[length][0];
            words[1] &= kMasks[length][1];
        } else {
            std::memcpy(words, word, length);
        }
        return {words[0], words[1] | (std::uint64_t{length + 1} << 56)};
    }

    // As bytes, for caches of longer words.
    std::string_view bytes() const noexcept { return {reinterpret_cast<const char*>(this), sizeof(WordKey)}; }

    std::uint64_t hash() const noexcept {
        const std::uint64_t mixed = (low ^ (high * 0x9e3779b97f4a7c15u)) * 0xbf58476d1ce4e5b9u;
        return mixed ^ (mixed >> 32);
    }
    friend bool operator==(const WordKey&, const WordKey&) = default;

  private:
    struct Masks {
        std::uint64_t of_length[kMaxBytes + 2][2] = {};
        constexpr Masks() {
            for (std::size_t length = 0; length <= kMaxBytes + 1; ++length) {
                of_length[length][0] =
                    length >= 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << (8 * length)) - 1;
                of_length[length][1] = length <= 8   ? 0
                                       : length < 16 ? (std::uint64_t{1} << (8 * (length - 8))) - 1
                                                     : ~std::uint64_t{0};
            }
        }
        constexpr const std::uint64_t (&operator[](std::size_t length) const noexcept)[2] {
            return of_length[length];
        }
    };
    static const Masks kMasks;
};

inline constexpr WordKey::Masks WordKey::kMasks{};

// One thread's. A line of cache is a bucket of two slots; the newer word takes the older one's place.
class WordCache {
  public:
    static constexpr std::size_t kMaxIds = 3;
    static constexpr std::size_t kMaxPacked = 6;
    static constexpr unsigned kPackedBits = 20;  // of each of four ids or more

    struct Slot {
        WordKey key;  // high == 0: empty
        Id ids[kMaxIds];
        std::uint32_t count;  // of ids, or what the caller set; if they are packed: in the top four bits

        bool is_packed() const noexcept { return count >> kPackedShift != 0; }
        std::size_t num_packed() const noexcept { return count >> kPackedShift; }

        // Writes kMaxPacked ids, of which num_packed() count.
        void unpack(Id* out) const noexcept {
            std::uint64_t halves[2];
            std::memcpy(halves, ids, sizeof(halves));
            for (std::size_t i = 0; i < kMaxPacked; ++i)
                out[i] = static_cast<Id>(halves[i / 3] >> i % 3 * kPackedBits & kPackedMask);
        }
    };

    // 2^log2_slots slots of 32 bytes.
    explicit WordCache(unsigned log2_slots)
        : mask_((std::uint64_t{1} << log2_slots) - 2), slots_(std::size_t{1} << log2_slots) {}

    // The word's slot, or null. Valid until the next insert().
    const Slot* find(const WordKey& key) const noexcept { return find(key, key.hash()); }
    const Slot* find(const WordKey& key, std::uint64_t hash) const noexcept {
        const Slot* const bucket = slots_.data() + (hash & mask_);
        // Which of the two it is, is no branch: it could not be foretold.
        const bool second = differ(bucket[1].key, key) == 0;
        const Slot* const slot = bucket + second;
        if ((second | (differ(bucket[0].key, key) == 0)) != 0) [[likely]]
            return slot;
        return nullptr;
    }

    // Fetches what find() will look at.
    void prefetch(std::uint64_t hash) const noexcept { __builtin_prefetch(slots_.data() + (hash & mask_)); }

    // Keeps the word, if it has at most kMaxIds ids.
    void insert(const WordKey& key, std::span<const Id> ids) noexcept {
        if (ids.size() > kMaxIds) return;
        Slot& slot = claim(key);
        slot.count = static_cast<std::uint32_t>(ids.size());
        if (!ids.empty()) std::memcpy(slot.ids, ids.data(), ids.size_bytes());
    }

    // Keeps a word of four to kMaxPacked ids, which are 0 to 2^kPackedBits - 1.
    void insert_packed(const WordKey& key, std::span<const Id> ids) noexcept {
        std::uint64_t halves[2] = {0, std::uint64_t{ids.size()} << 60};
        for (std::size_t i = 0; i < ids.size(); ++i)
            halves[i / 3] |= static_cast<std::uint64_t>(ids[i]) << i % 3 * kPackedBits;
        Slot& slot = claim(key);
        std::memcpy(slot.ids, halves, sizeof(slot.ids));
        slot.count = static_cast<std::uint32_t>(halves[1] >> 32);
    }

    // The slot that is now the word's; the caller sets its ids and its count, whatever they mean to it.
    Slot& claim(const WordKey& key) noexcept {
        Slot* const bucket = slots_.data() + (key.hash() & mask_);
        bucket[1] = bucket[0];
        bucket[0].key = key;
        return bucket[0];
    }

    std::size_t num_bytes() const noexcept { return slots_.num_bytes(); }

  private:
    static constexpr unsigned kPackedShift = 28;
    static constexpr std::uint64_t kPackedMask = (std::uint64_t{1} << kPackedBits) - 1;

    static std::uint64_t differ(const WordKey& a, const WordKey& b) noexcept {
        return (a.low ^ b.low) | (a.high ^ b.high);
    }

    std::uint64_t mask_;
    Table<Slot> slots_;
};
static_assert(sizeof(WordCache::Slot) == 32);

// One thread's, for words of 16 to 32 bytes, and for shorter ones that have too many ids for a WordCache. A slot is a
// line of cache, so that a hit waits for memory once.
class WideCache {
  public:
    static constexpr std::size_t kMinBytes = 16;
    static constexpr std::size_t kMaxBytes = 32;
    static constexpr std::size_t kMaxIds = 7;
    static constexpr std::size_t kMaxIdsOfKey = 11;

    struct Slot {
        Id items[15];  // the word's bytes, then its ids
        std::uint8_t count;
        std::uint8_t length;  // of the bytes; 0: empty
        bool is_key;          // the bytes are a WordKey
        std::uint8_t unused;

        const char* bytes() const noexcept { return reinterpret_cast<const char*>(items); }
        // If they are at most kMaxIds.
        const Id* ids() const noexcept { return items + kMaxBytes / sizeof(Id); }
        const Id* ids_of_key() const noexcept { return items + begin_of_ids(count); }
    };

    // 2^log2_slots slots of 64 bytes.
    explicit WideCache(unsigned log2_slots)
        : mask_((std::uint64_t{1} << log2_slots) - 1), slots_(std::size_t{1} << log2_slots) {}

    // `word` has kMinBytes to kMaxBytes.
    static std::uint64_t hash(std::string_view word) noexcept {
        std::uint64_t parts[4];
        std::memcpy(parts, word.data(), 16);
        std::memcpy(parts + 2, word.data() + word.size() - 16, 16);
        const std::uint64_t first = (parts[0] ^ word.size()) * 0x9e3779b97f4a7c15u ^ parts[1];
        const std::uint64_t last = parts[2] * 0x94d049bb133111ebu ^ parts[3];
        const std::uint64_t mixed = (first ^ (first >> 29) ^ last) * 0xbf58476d1ce4e5b9u;
        return mixed ^ (mixed >> 32);
    }

    // The word's slot, or null: kMaxIds + 1 ids() of it may be read. Valid until the next insert(). `is_key`: the word
    // is the bytes of a WordKey.
    const Slot* find(std::string_view word, std::uint64_t hash, bool is_key = false) const noexcept {
        const Slot* const slot = slots_.data() + (hash & mask_);
        if (holds(*slot, word, is_key)) [[likely]]
            return slot;
        const Slot* const older = slots_.data() + ((hash & mask_) ^ 1);
        return holds(*older, word, is_key) ? older : nullptr;
    }

    // Keeps the word and at most kMaxIds ids, kMaxIdsOfKey of a key; of two places the older word's is taken.
    void insert(std::string_view word, std::uint64_t hash, std::span<const Id> ids,
                bool is_key = false) noexcept {
        Slot& slot = claim(word, hash, is_key);
        if (!ids.empty()) std::memcpy(slot.items + begin_of_ids(ids.size()), ids.data(), ids.size_bytes());
        slot.count = static_cast<std::uint8_t>(ids.size());
    }

    // The slot that is now the word's; the caller sets its count, whatever it means to it.
    Slot& claim(std::string_view word, std::uint64_t hash, bool is_key = false) noexcept {
        Slot& slot = slots_.data()[hash & mask_];
        if (slot.length != 0) slots_.data()[(hash & mask_) ^ 1] = slot;
        std::memcpy(slot.items, word.data(), word.size());
        slot.length = static_cast<std::uint8_t>(word.size());
        slot.is_key = is_key;
        return slot;
    }

    void prefetch(std::uint64_t hash) const noexcept { __builtin_prefetch(slots_.data() + (hash & mask_)); }

    std::size_t num_bytes() const noexcept { return slots_.num_bytes(); }

  private:
    // Among the items; more than kMaxIds are right behind a key.
    static constexpr std::size_t begin_of_ids(std::size_t count) noexcept {
        return (count <= kMaxIds ? kMaxBytes : sizeof(WordKey)) / sizeof(Id);
    }
    static bool holds(const Slot& slot, std::string_view word, bool is_key) noexcept {
        if (slot.length != word.size() || slot.is_key != is_key) return false;
        // Two halves, which overlap: together they are the word.
        const std::size_t last = word.size() - 16;
        return (differ(slot.bytes(), word.data()) | differ(slot.bytes() + last, word.data() + last)) == 0;
    }
    static std::uint64_t differ(const char* a, const char* b) noexcept {
        std::uint64_t one[2], other[2];
        std::memcpy(one, a, 16);
        std::memcpy(other, b, 16);
        return (one[0] ^ other[0]) | (one[1] ^ other[1]);
    }

    std::uint64_t mask_;
    Table<Slot> slots_;
};
static_assert(sizeof(WideCache::Slot) == 64);

// One thread's, for words that the others do not take. When it is full, it begins anew.
class LongWordCache {
  public:
    static constexpr std::size_t kReadable = 4;

    // At most this many bytes of words and ids are kept, and a quarter of it in slots.
    explicit LongWordCache(std::size_t num_bytes)
        : items_(num_bytes / sizeof(Id)), slots_(slots_for(num_bytes)) {}

    static std::uint64_t hash(std::string_view word) noexcept {
        std::uint64_t hash = word.size() * 0x9e3779b97f4a7c15u;
        const auto mix = [&hash](const char* at) {
            std::uint64_t part;
            std::memcpy(&part, at, 8);
            hash = (hash ^ part) * 0xbf58476d1ce4e5b9u;
            hash ^= hash >> 32;
        };
        if (word.size() < 8) {
            char padded[8] = {};
            std::memcpy(padded, word.data(), word.size());
            mix(padded);
        } else {
            for (std::size_t at = 0; at + 8 < word.size(); at += 8) mix(word.data() + at);
            mix(word.data() + word.size() - 8);
        }
        return hash;
    }

    // The ids of the word; data() is null if it is not known. Valid until the next insert(). At least kReadable
    // ids may be read.
    std::span<const Id> find(std::string_view word, std::uint64_t hash) const noexcept {
        const Slot* const bucket = bucket_of(hash);
        for (const Slot* slot = bucket; slot < bucket + kWays; ++slot) {
            if (slot->tag != static_cast<std::uint32_t>(hash) || slot->length != word.size()) continue;
            const Id* const at = items_.data() + slot->begin;
            if (std::memcmp(at + slot->count, word.data(), word.size()) == 0) return {at, slot->count};
        }
        return {};
    }

    void insert(std::string_view word, std::uint64_t hash, std::span<const Id> ids) noexcept {
        const std::size_t size = ids.size() + (word.size() + sizeof(Id) - 1) / sizeof(Id);
        if (size > items_.size() / 16) return;
        if (used_ + size + kReadable > items_.size()) {
            slots_.clear();
            used_ = 0;
        }
        Id* const at = items_.data() + used_;
        if (!ids.empty()) std::memcpy(at, ids.data(), ids.size_bytes());
        if (!word.empty()) std::memcpy(at + ids.size(), word.data(), word.size());
        Slot* const bucket = slots_.data() + (bucket_of(hash) - slots_.data());
        std::memmove(bucket + 1, bucket, (kWays - 1) * sizeof(Slot));
        bucket[0] = {static_cast<std::uint32_t>(hash), static_cast<std::uint32_t>(word.size()),
                     static_cast<std::uint32_t>(ids.size()), static_cast<std::uint32_t>(used_)};
        used_ += size;
    }

    // Fetches what find() will look at first.
    void prefetch(std::uint64_t hash) const noexcept { __builtin_prefetch(bucket_of(hash)); }

    std::size_t num_bytes() const noexcept { return items_.num_bytes() + slots_.num_bytes(); }

  private:
    struct Slot {
        std::uint32_t tag;
        std::uint32_t length;
        std::uint32_t count;
        std::uint32_t begin;
    };

    static constexpr std::size_t kWays = 4;  // slots in a line of cache

    static std::size_t slots_for(std::size_t num_bytes) noexcept {
        std::size_t slots = 64;
        while (2 * slots * sizeof(Slot) * 4 <= num_bytes) slots *= 2;
        return slots;
    }
    const Slot* bucket_of(std::uint64_t hash) const noexcept {
        return slots_.data() + (hash >> 32 & (slots_.size() - kWays));
    }

    Table<Id> items_;
    Table<Slot> slots_;
    std::size_t used_ = 0;
};

}  // namespace penstock::text
