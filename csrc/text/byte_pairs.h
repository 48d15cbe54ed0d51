// The first merges of byte-level BPE, decided for all bytes of a word at once.
//
// A pair of bytes becomes its token whatever else is in the word, if neither byte can be taken by a merge that comes
// earlier: on its left by no symbol that ends in the byte before it, on its right by no symbol that begins with the
// byte behind it, and if nothing is made of that token before its turn. Most characters of other scripts, and half of
// the merges of English, are such pairs.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "text/bpe.h"
#include "text/table.h"

namespace penstock::text {

// Immutable once built.
class BytePairs {
  public:
    using Rank = MergeTable::Rank;

    // What the bytes of a token are, of which only the first and the last matter here; negative: none, as there is
    // a character in it that stands for no byte.
    struct Ends {
        int first;
        int last;
    };

    // `ends_of` says them for a part of a merge; `byte_ids` may hold TokenIds::kNone: then no pairs are made at all.
    template <typename EndsOf>
    BytePairs(std::span<const MergePair> texts, std::span<const Merge> merges, const MergeTable& table,
              const std::array<Id, 256>& byte_ids, EndsOf&& ends_of)
        : BytePairs(byte_ids) {
        for (std::size_t rank = 0; rank < merges.size(); ++rank)
            limit(static_cast<Rank>(rank), merges[rank], ends_of(texts[rank].first),
                  ends_of(texts[rank].second));
        finish(merges, table);
    }

    // Which symbols a word of at most 64 bytes begins with, and the ranks of their pairs where these are known.
    struct Symbols {
        std::size_t count;
        std::uint64_t unknown;  // a bit for each pair whose rank is not known yet
    };
    static constexpr std::size_t kMost = 64;

    // Writes symbols that merge to the same tokens as the bytes do; ranks[i] is that of symbols i and i + 1. There is
    // room for word.size() of both, and one more. Bytes that have no token vanish, as in `tokenizers`.
    Symbols first_symbols(std::string_view word, Id* ids, Rank* ranks) const noexcept;

    // The same without ranks, for a word of any length.
    std::size_t first_symbols(std::string_view word, Id* ids) const noexcept;

  private:
    struct Pair {
        Rank rank;
        Rank left;   // the earliest merge of the second byte with a symbol that ends in the first
        Rank right;  // the earliest merge of the first byte with a symbol that begins with the second
        Id product;  // kNone: it must wait for its turn
    };

    explicit BytePairs(const std::array<Id, 256>& byte_ids);
    void limit(Rank rank, const Merge& merge, Ends left, Ends right) noexcept;
    void finish(std::span<const Merge> merges, const MergeTable& table);
    template <bool kWithRanks>
    Symbols write(std::string_view word, Id* ids, Rank* ranks) const noexcept;
    Symbols write_known(std::string_view word, Id* ids) const noexcept;

    std::array<Id, 256> byte_ids_;
    bool knows_all_ = true;
    Table<Pair> pairs_;
};

}  // namespace penstock::text
