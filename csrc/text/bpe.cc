#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace penstock::text {

namespace {

std::uint64_t hash_of(const char* at, std::size_t length) noexcept {
    std::uint64_t hash = length * 0x9e3779b97f4a7c15u;
    const auto mix = [&hash](std::uint64_t part) {
        hash = (hash ^ part) * 0xbf58476d1ce4e5b9u;
        hash ^= hash >> 29;
    };
    for (; length >= 8; at += 8, length -= 8) {
        std::uint64_t part;
        std::memcpy(&part, at, 8);
        mix(part);
    }
    if (length != 0) {
        std::uint64_t part = 0;
        std::memcpy(&part, at, length);
        mix(part);
    }
    return hash * 0x9e3779b97f4a7c15u;
}

// The number of bits of a table for `count` entries that is at most half full.
unsigned table_bits(std::size_t count) noexcept {
    return static_cast<unsigned>(std::bit_width(std::max<std::size_t>(count, 8) * 2 - 1));
}

// Keys of the search for the next merge: the pair with the smallest is merged. No pair, or one that is not
// merged, has the largest key.
constexpr std::int32_t kNoKey = std::numeric_limits<std::int32_t>::max();

constexpr std::size_t kShort = 64;  // symbols that merge_short() takes
constexpr std::size_t kFan = 32;    // children of a node of merge_long()'s tree

// Written so that compilers make wide instructions of it.
template <std::size_t count>
std::int32_t least(const std::int32_t* keys) noexcept {
    std::int32_t result = keys[0];
    for (std::size_t i = 1; i < count; ++i) result = keys[i] < result ? keys[i] : result;
    return result;
}

// The same for short words, whose keys are rank and place.
constexpr std::uint64_t kNoMerge = ~std::uint64_t{0};

// `count` is a multiple of four.
inline std::uint64_t least(const std::uint64_t* keys, std::size_t count) noexcept {
    std::uint64_t best[4] = {keys[0], keys[1], keys[2], keys[3]};
    for (std::size_t i = 4; i < count; i += 4) {
        for (std::size_t j = 0; j < 4; ++j) best[j] = std::min(best[j], keys[i + j]);
    }
    return std::min(std::min(best[0], best[1]), std::min(best[2], best[3]));
}

// The place of the leftmost `key`, which is there.
std::size_t place_of_key(const std::int32_t* keys, std::int32_t key) noexcept {
    std::size_t i = 0;
    while (keys[i] != key) ++i;
    return i;
}

}  // namespace

TokenIds::TokenIds(std::span<const Token> tokens) {
    std::size_t num_bytes = 0;
    for (const Token& token : tokens) num_bytes += token.first.size();
    if (num_bytes > std::numeric_limits<std::uint32_t>::max() || tokens.size() > (std::size_t{1} << 30)) {
        throw std::invalid_argument("the vocabulary is larger than 4 GiB");
    }
    bytes_.reserve(num_bytes);
    tokens_.reserve(tokens.size());
    const unsigned bits = table_bits(tokens.size());
    slots_.resize(std::size_t{1} << bits);
    shift_ = 64 - bits;
    const std::size_t mask = slots_.size() - 1;
    for (const auto& [text, id] : tokens) {
        const std::uint64_t hash = hash_of(text.data(), text.size());
        std::size_t at = static_cast<std::size_t>(hash >> shift_);
        const auto tag = static_cast<std::uint32_t>(hash);
        for (;; at = (at + 1) & mask) {
            Slot& slot = slots_[at];
            if (slot.entry == 0) {
                tokens_.push_back(
                    {static_cast<std::uint32_t>(bytes_.size()), static_cast<std::uint32_t>(text.size()), id});
                bytes_.insert(bytes_.end(), text.begin(), text.end());
                slot = {tag, static_cast<std::uint32_t>(tokens_.size())};
                break;
            }
            Entry& entry = tokens_[slot.entry - 1];
            if (slot.tag == tag && std::string_view(bytes_.data() + entry.begin, entry.length) == text) {
                entry.id = id;
                break;
            }
        }
    }
}

std::uint64_t TokenIds::hash(std::string_view token) noexcept { return hash_of(token.data(), token.size()); }

Id TokenIds::find(std::string_view token, std::uint64_t hash) const noexcept {
    const std::size_t mask = slots_.size() - 1;
    const auto tag = static_cast<std::uint32_t>(hash);
    for (std::size_t at = static_cast<std::size_t>(hash >> shift_);; at = (at + 1) & mask) {
        const Slot& slot = slots_[at];
        if (slot.entry == 0) return kNone;
        if (slot.tag != tag) continue;
        const Entry& entry = tokens_[slot.entry - 1];
        if (std::string_view(bytes_.data() + entry.begin, entry.length) == token) return entry.id;
    }
}

std::vector<Merge> resolve_merges(const TokenIds& tokens, std::span<const MergePair> merges) {
    constexpr std::size_t kTogether = 32;
    struct Looked {
        std::uint64_t left, right, product;
        std::string text;
    };
    std::vector<Looked> looked(kTogether);
    std::vector<Merge> result;
    result.reserve(merges.size());
    for (std::size_t begin = 0; begin < merges.size(); begin += kTogether) {
        const std::span<const MergePair> some =
            merges.subspan(begin, std::min(kTogether, merges.size() - begin));
        for (std::size_t i = 0; i < some.size(); ++i) {
            const auto& [left, right] = some[i];
            if (left.empty() || right.empty()) throw std::invalid_argument("a merge has an empty part");
            looked[i].text.assign(left).append(right);
            looked[i].left = TokenIds::hash(left);
            looked[i].right = TokenIds::hash(right);
            looked[i].product = TokenIds::hash(looked[i].text);
            for (const std::uint64_t hash : {looked[i].left, looked[i].right, looked[i].product})
                tokens.prefetch(hash);
        }
        for (std::size_t i = 0; i < some.size(); ++i) {
            for (const std::uint64_t hash : {looked[i].left, looked[i].right, looked[i].product}) {
                tokens.prefetch_entry(hash);
            }
        }
        for (std::size_t i = 0; i < some.size(); ++i) {
            const Merge merge{tokens.find(some[i].first, looked[i].left),
                              tokens.find(some[i].second, looked[i].right),
                              tokens.find(looked[i].text, looked[i].product)};
            if (merge.left == TokenIds::kNone || merge.right == TokenIds::kNone ||
                merge.product == TokenIds::kNone) {
                throw std::invalid_argument("a merge names a token that is not in the vocabulary");
            }
            result.push_back(merge);
        }
    }
    return result;
}

std::size_t MergeTable::Scratch::num_bytes() const noexcept {
    std::size_t result = ids_.capacity() * sizeof(Id) + alive_.capacity() * sizeof(std::uint64_t);
    for (const auto& level : levels_) result += level.capacity() * sizeof(std::int32_t);
    return result;
}

void MergeTable::Scratch::trim() {
    if (num_bytes() <= std::size_t{1} << 20) return;
    ids_ = {};
    levels_ = {};
    alive_ = {};
}

MergeTable::MergeTable(std::span<const Merge> merges)
    : slots_(std::size_t{1} << table_bits(merges.size())),
      mask_(slots_.size() - 1),
      shift_(64 - table_bits(merges.size()) + std::bit_width(kWays - 1)) {
    if (merges.size() > kMaxMerges) throw std::invalid_argument("there are more than 2^24 merges");
    std::uint64_t* const slots = slots_.data();
    std::fill_n(slots, slots_.size(), kEmpty);
    products_.reserve(merges.size());
    for (const Merge& merge : merges) {
        for (const Id id : {merge.left, merge.right, merge.product}) {
            if (id < 0 || id > kMaxId) throw std::invalid_argument("a token id is negative or too large");
        }
        const std::uint64_t key = key_of(merge.left, merge.right);
        std::size_t at = place_of(key);
        while (slots[at] != kEmpty && slots[at] >> kRankBits != key) at = (at + 1) & mask_;
        slots[at] = key << kRankBits | products_.size();
        products_.push_back(merge.product);
    }
}

bool MergeTable::merge(std::span<const Id> symbols, Scratch& scratch, Ids& out) const {
    if (symbols.size() <= kShort) {
        Rank ranks[kShort];
        for (std::size_t i = 0; i + 1 < symbols.size(); ++i) ranks[i] = rank(symbols[i], symbols[i + 1]);
        merge_short(symbols, ranks, out);
        return true;
    }
    if (symbols.size() > kMaxSymbols) return false;
    merge_long(symbols, scratch, out);
    return true;
}

// The whole word in a few lines of cache: a bit for every symbol still there, and a key of rank and place for
// every pair. The least key says which pair is next, leftmost among equals. Keys are 64 bits wide so that the
// search is made of plain loads: wide ones would wait for the keys just stored.
void MergeTable::merge_short(std::span<const Id> symbols, const Rank* ranks, Ids& out) const {
    const std::size_t count = symbols.size();
    if (count < 2) {
        out.append(symbols);
        return;
    }
    std::uint64_t keys[kShort];
    Id ids[kShort];
    const auto key = [](Rank rank, unsigned place) {
        return rank == kNoRank ? kNoMerge : std::uint64_t{rank} << 6 | place;
    };
    std::memcpy(ids, symbols.data(), count * sizeof(Id));
    for (unsigned i = 0; i + 1 < count; ++i) keys[i] = key(ranks[i], i);
    const std::size_t searched = (count + 3) / 4 * 4;
    for (std::size_t i = count - 1; i < searched; ++i) keys[i] = kNoMerge;

    std::uint64_t alive = count == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
    for (;;) {
        const std::uint64_t best = least(keys, searched);
        if (best == kNoMerge) break;
        const auto at = static_cast<unsigned>(best & 63);
        const Id made = products_[best >> 6];
        ids[at] = made;
        std::uint64_t after = alive & (~std::uint64_t{1} << at);  // the symbols to the right
        const auto right = static_cast<unsigned>(std::countr_zero(after)) & 63;
        keys[right] = kNoMerge;
        alive &= ~(std::uint64_t{1} << right);
        after &= after - 1;
        keys[at] = after == 0 ? kNoMerge : key(rank(made, ids[std::countr_zero(after)]), at);
        if (const std::uint64_t before = alive & ((std::uint64_t{1} << at) - 1); before != 0) {
            const auto left = static_cast<unsigned>(63 - std::countl_zero(before));
            keys[left] = key(rank(ids[left], made), left);
        }
    }
    Id* to = out.room_for(count);
    Id* const begin = to;
    for (; alive != 0; alive &= alive - 1) *to++ = ids[std::countr_zero(alive)];
    out.grow_by(static_cast<std::size_t>(to - begin));
}

// The same with a tree of least ranks over the pairs instead of one scan: no stale entries, so memory is bounded
// by the length of the word, and the time by its length times the height of the tree.
void MergeTable::merge_long(std::span<const Id> symbols, Scratch& scratch, Ids& out) const {
    const std::size_t count = symbols.size();
    scratch.ids_.assign(symbols.begin(), symbols.end());
    Id* const ids = scratch.ids_.data();

    std::size_t height = 0;
    for (std::size_t size = count;; ++height) {
        const std::size_t rounded = (size + kFan - 1) / kFan * kFan;
        if (scratch.levels_.size() <= height) scratch.levels_.emplace_back();
        scratch.levels_[height].assign(rounded, kNoKey);
        if (rounded == kFan) break;
        size = rounded / kFan;
    }
    auto& levels = scratch.levels_;
    const auto key = [](Rank rank) { return rank == kNoRank ? kNoKey : static_cast<std::int32_t>(rank); };
    for (std::size_t i = 0; i + 1 < count; ++i) {
        levels[0][i] = key(rank(symbols[i], symbols[i + 1]));
    }
    for (std::size_t level = 1; level <= height; ++level) {
        for (std::size_t i = 0; i < levels[level - 1].size() / kFan; ++i) {
            levels[level][i] = least<kFan>(&levels[level - 1][i * kFan]);
        }
    }
    const auto set = [&levels, height](std::size_t place, std::int32_t value) {
        levels[0][place] = value;
        for (std::size_t level = 1; level <= height; ++level) {
            place /= kFan;
            const std::int32_t now = least<kFan>(&levels[level - 1][place * kFan]);
            if (levels[level][place] == now) return;
            levels[level][place] = now;
        }
    };

    auto& alive = scratch.alive_;
    alive.assign((count + 63) / 64, ~std::uint64_t{0});
    if (count % 64 != 0) alive.back() = (std::uint64_t{1} << count % 64) - 1;
    constexpr std::size_t kNowhere = ~std::size_t{0};
    const auto next = [&alive](std::size_t place) {
        if (++place >= 64 * alive.size()) return kNowhere;
        std::size_t i = place / 64;
        std::uint64_t word = alive[i] & ~std::uint64_t{0} << place % 64;
        while (word == 0) {
            if (++i == alive.size()) return kNowhere;
            word = alive[i];
        }
        return 64 * i + static_cast<std::size_t>(std::countr_zero(word));
    };
    const auto previous = [&alive](std::size_t place) {
        std::size_t i = place / 64;
        std::uint64_t word = alive[i] & ((std::uint64_t{1} << place % 64) - 1);
        while (word == 0) {
            if (i-- == 0) return kNowhere;
            word = alive[i];
        }
        return 64 * i + 63 - static_cast<std::size_t>(std::countl_zero(word));
    };

    for (;;) {
        const std::int32_t best = least<kFan>(levels[height].data());
        if (best == kNoKey) break;
        std::size_t at = 0;
        for (std::size_t level = height + 1; level-- > 0;) {
            at = at * kFan + place_of_key(&levels[level][at * kFan], best);
        }
        const Id made = products_[static_cast<std::size_t>(best)];
        const std::size_t right = next(at);
        ids[at] = made;
        alive[right / 64] &= ~(std::uint64_t{1} << right % 64);
        const std::size_t after = next(right);
        const std::size_t before = previous(at);
        const std::int32_t key_after = after == kNowhere ? kNoKey : key(rank(made, ids[after]));
        const std::int32_t key_before = before == kNowhere ? kNoKey : key(rank(ids[before], made));
        if (levels[0][right] != kNoKey) set(right, kNoKey);
        set(at, key_after);
        if (before != kNowhere && levels[0][before] != key_before) set(before, key_before);
    }
    for (std::size_t at = 0; at < count; at = next(at)) out.push(ids[at]);
}

}  // namespace penstock::text
