#include "text/byte_pairs.h"

#include <algorithm>
#include <vector>

namespace penstock::text {
namespace {

constexpr std::size_t index_of(std::size_t first, std::size_t second) noexcept { return first << 8 | second; }

}  // namespace

BytePairs::BytePairs(const std::array<Id, 256>& byte_ids)
    : byte_ids_(byte_ids),
      knows_all_(std::ranges::find(byte_ids, TokenIds::kNone) == byte_ids.end()),
      pairs_(std::size_t{1} << 16) {
    constexpr Rank kNever = MergeTable::kNoRank;
    std::fill_n(pairs_.data(), pairs_.size(), Pair{kNever, kNever, kNever, TokenIds::kNone});
}

// Of a pair that stands in the list more than once the last counts: an earlier one only makes us more careful.
void BytePairs::limit(Rank rank, const Merge& merge, Ends left, Ends right) noexcept {
    if (left.last < 0 || right.first < 0) return;
    Pair& pair =
        pairs_.data()[index_of(static_cast<std::size_t>(left.last), static_cast<std::size_t>(right.first))];
    if (merge.right == byte_ids_[static_cast<std::size_t>(right.first)])
        pair.left = std::min(pair.left, rank);
    if (merge.left == byte_ids_[static_cast<std::size_t>(left.last)]) pair.right = std::min(pair.right, rank);
}

void BytePairs::finish(std::span<const Merge> merges, const MergeTable& table) {
    if (!knows_all_) return;
    Id last = 0;
    for (const Merge& merge : merges) last = std::max({last, merge.left, merge.right, merge.product});
    std::vector<Rank> first_use(static_cast<std::size_t>(last) + 1, MergeTable::kNoRank);
    for (std::size_t rank = merges.size(); rank-- > 0;) {
        for (const Id id : {merges[rank].left, merges[rank].right})
            first_use[static_cast<std::size_t>(id)] = static_cast<Rank>(rank);
    }
    for (std::size_t left = 0; left < 256; ++left) {
        for (std::size_t right = 0; right < 256; ++right) {
            Pair& pair = pairs_.data()[index_of(left, right)];
            pair.rank = table.rank(byte_ids_[left], byte_ids_[right]);
            if (pair.rank == MergeTable::kNoRank) continue;
            const Id product = table.product(pair.rank);
            if (first_use[static_cast<std::size_t>(product)] > pair.rank) pair.product = product;
        }
    }
}

BytePairs::Symbols BytePairs::write_known(std::string_view word, Id* ids) const noexcept {
    std::size_t count = 0;
    for (const char c : word) {
        const Id id = byte_ids_[static_cast<unsigned char>(c)];
        if (id != TokenIds::kNone) ids[count++] = id;
    }
    return {count, count < 2 ? 0 : ~std::uint64_t{0} >> (64 - std::min<std::size_t>(count - 1, 64))};
}

// No branch depends on what the bytes are. Two pairs that share a byte cannot both be made at once, as each would have
// to come before the other.
template <bool kWithRanks>
BytePairs::Symbols BytePairs::write(std::string_view word, Id* ids, Rank* ranks) const noexcept {
    static constexpr Pair kEdge{MergeTable::kNoRank, MergeTable::kNoRank, MergeTable::kNoRank,
                                TokenIds::kNone};
    const auto* const bytes = reinterpret_cast<const unsigned char*>(word.data());
    const std::size_t size = word.size();
    const Pair* const pairs = pairs_.data();
    const Pair* before = &kEdge;
    const Pair* here = size > 1 ? pairs + index_of(bytes[0], bytes[1]) : &kEdge;
    std::size_t count = 0;
    std::uint64_t unknown = 0;  // a bit for the pair before a symbol
    bool was_taken = false;     // this byte belongs to the symbol before
    bool is_before_made = false;
    for (std::size_t i = 0; i < size; ++i) {
        const Pair* const behind = i + 2 < size ? pairs + index_of(bytes[i + 1], bytes[i + 2]) : &kEdge;
        const bool is_made =
            (here->rank < before->left) & (here->rank < behind->right) & (here->product != TokenIds::kNone);
        ids[count] = is_made ? here->product : byte_ids_[bytes[i]];
        if constexpr (kWithRanks) {
            const std::uint64_t bit = std::uint64_t{1} << count;
            unknown = (is_made | is_before_made) != 0 ? unknown | bit : unknown & ~bit;
            if (count > 0) ranks[count - 1] = before->rank;
        }
        count += !was_taken;
        is_before_made = was_taken;
        was_taken = is_made;
        before = here;
        here = behind;
    }
    if constexpr (kWithRanks) unknown = count < 2 ? 0 : unknown >> 1 & ~std::uint64_t{0} >> (65 - count);
    return {count, unknown};
}

BytePairs::Symbols BytePairs::first_symbols(std::string_view word, Id* ids, Rank* ranks) const noexcept {
    return knows_all_ ? write<true>(word, ids, ranks) : write_known(word, ids);
}

std::size_t BytePairs::first_symbols(std::string_view word, Id* ids) const noexcept {
    return knows_all_ ? write<false>(word, ids, nullptr).count : write_known(word, ids).count;
}

}  // namespace penstock::text
