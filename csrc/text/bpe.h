// The core of byte-pair encoding: a word as ids of its first symbols in, ids after all merges out.
//
// What the first symbols are (bytes, code points, byte fallbacks) is the caller's business. The order of merges
// is that of `tokenizers`: of all adjacent pairs the one with the lowest rank is merged next, of equals the
// leftmost. Nothing is assumed about the merge list (a token may have several, or none, or a lower rank than
// its parts), so greedy longest match is not used.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/ids.h"
#include "text/table.h"

namespace penstock::text {

// Token strings and their ids. Immutable once built.
class TokenIds {
  public:
    using Token = std::pair<std::string_view, Id>;
    static constexpr Id kNone = -1;

    TokenIds() : TokenIds(std::span<const Token>{}) {}
    // Copies the strings. Of equal strings the last is kept.
    explicit TokenIds(std::span<const Token> tokens);

    // kNone, if there is no such token.
    Id find(std::string_view token) const noexcept { return find(token, hash(token)); }

    // The same in steps, for who looks for many: each fetches what the next will read.
    static std::uint64_t hash(std::string_view token) noexcept;
    void prefetch(std::uint64_t hash) const noexcept { __builtin_prefetch(slots_.data() + (hash >> shift_)); }
    void prefetch_entry(std::uint64_t hash) const noexcept {
        if (const Slot& slot = slots_[hash >> shift_]; slot.entry != 0)
            __builtin_prefetch(&tokens_[slot.entry - 1]);
    }
    Id find(std::string_view token, std::uint64_t hash) const noexcept;

    // Different strings.
    std::size_t size() const noexcept { return tokens_.size(); }

  private:
    struct Entry {
        std::uint32_t begin;
        std::uint32_t length;
        Id id;
    };
    struct Slot {
        std::uint32_t tag;
        std::uint32_t entry;  // 1 + index; 0: empty
    };

    std::vector<char> bytes_;
    std::vector<Entry> tokens_;
    std::vector<Slot> slots_;
    unsigned shift_ = 0;
};

// left + right becomes product.
struct Merge {
    Id left;
    Id right;
    Id product;
};

using MergePair = std::pair<std::string_view, std::string_view>;

// The merges of a tokenizer.json as ids, in the same order. Throws std::invalid_argument if a part or a product
// is no token.
std::vector<Merge> resolve_merges(const TokenIds& tokens, std::span<const MergePair> merges);

// The merge list. Immutable once built.
class MergeTable {
  public:
    // Limits: what is beyond them is refused at construction (ids, ranks) or by merge() (symbols of one word).
    static constexpr Id kMaxId = (1 << 20) - 2;
    static constexpr std::size_t kMaxMerges = (std::size_t{1} << 24) - 2;
    static constexpr std::size_t kMaxSymbols = std::size_t{1} << 22;

    using Rank = std::uint32_t;
    static constexpr Rank kNoRank = (1u << 24) - 1;  // the pair is not merged

    // Buffers of merge(), kept from call to call: one thread's. At most 9 bytes per symbol of the longest word.
    class Scratch {
      public:
        std::size_t num_bytes() const noexcept;
        // Gives memory back, if a very long word made it large.
        void trim();

      private:
        friend class MergeTable;
        std::vector<Id> ids_;
        std::vector<std::vector<std::int32_t>> levels_;
        std::vector<std::uint64_t> alive_;
    };

    // Merges in rank order; of equal pairs the last counts, as in `tokenizers`. Throws std::invalid_argument
    // beyond the limits.
    explicit MergeTable(std::span<const Merge> merges);

    // Appends what the symbols become. Ids must be 0 to kMaxId. False, if there are more than kMaxSymbols:
    // nothing was appended then.
    bool merge(std::span<const Id> symbols, Scratch& scratch, Ids& out) const;

    // A short word on its way: set by begin(), worked on by merge_together(). Behind the last symbol is one that no
    // merge has, so that ends are no special case.
    struct Word {
        static constexpr std::size_t kMost = 32;  // symbols

        alignas(32) std::int32_t keys[kMost + 1];  // of pairs: rank and place; the least is merged next
        Id ids[kMost + 1];
        std::uint64_t alive;    // a bit for every symbol still there
        std::uint32_t unknown;  // pairs whose ranks merge_together() looks up first
        Id made;
        std::uint8_t at, left, next;
        bool is_wide;  // more than half of the keys count
    };
    static constexpr std::size_t kTogether = 16;

    // `count` is 1 to Word::kMost, ranks[i] the rank() of ids i and i + 1, but for pairs with a bit in `unknown`.
    // Fetches what says these.
    void begin(Word& word, std::size_t count, const Rank* ranks, std::uint64_t unknown) const noexcept;

    // Merges up to kTogether words whose ids are set and that are begun. Their steps alternate, so that the waits
    // for memory overlap: several times faster than one after another. With wide instructions where there are some.
    void merge_together(std::span<Word> words) const noexcept;

    // The same on any machine.
    void merge_together_plainly(std::span<Word> words) const noexcept;

    // Writes what the word became; returns how many.
    static std::size_t finish(const Word& word, Id* out) noexcept;

    // kNoRank, if the pair is not merged.
    Rank rank(Id left, Id right) const noexcept {
        const std::uint64_t key = key_of(left, right);
        for (std::size_t at = place_of(key);; at = (at + kWays) & mask_) {
            const std::uint64_t* const bucket = slots_.data() + at;
            const Rank found = rank_in(bucket, key);
            if (found != kNoRank || bucket[kWays - 1] == kEmpty) [[likely]]
                return found;
        }
    }
    Id product(Rank rank) const noexcept { return products_[rank]; }

  private:
    static constexpr unsigned kIdBits = 20;
    static constexpr unsigned kRankBits = 24;
    static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};
    static constexpr std::size_t kWays = 4;     // slots of a bucket, half a line of cache, filled in order
    static constexpr Id kOutside = kMaxId + 1;  // a symbol that no merge has
    static constexpr unsigned kPlaceBits = 5;
    static constexpr std::int32_t kNever = kNoRank << kPlaceBits;  // this key or a larger one: no merge
    static constexpr std::int32_t key_at(Rank rank, unsigned place) noexcept {
        return static_cast<std::int32_t>(rank << kPlaceBits | place);
    }

    static std::uint64_t key_of(Id left, Id right) noexcept {
        return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << kIdBits |
               static_cast<std::uint32_t>(right);
    }
    std::size_t place_of(std::uint64_t key) const noexcept {
        return static_cast<std::size_t>(key * 0x9e3779b97f4a7c15u >> shift_) * kWays;
    }

    // Without a branch: whether a pair is merged cannot be foretold.
    static Rank rank_in(const std::uint64_t* bucket, std::uint64_t key) noexcept {
        Rank found = kNoRank;
        for (std::size_t i = 0; i < kWays; ++i) {
            found = bucket[i] >> kRankBits == key ? static_cast<Rank>(bucket[i] & kNoRank) : found;
        }
        return found;
    }

    void merge_words(std::span<Word> words) const noexcept;
    void merge_together_widely(std::span<Word> words) const noexcept;
    void merge_short(std::span<const Id> symbols, const Rank* ranks, Ids& out) const;
    void merge_long(std::span<const Id> symbols, Scratch& scratch, Ids& out) const;

    Table<std::uint64_t> slots_;  // key and rank
    std::vector<Id> products_;    // by rank
    std::size_t mask_ = 0;
    unsigned shift_ = 0;
};

}  // namespace penstock::text
