#include "text/unigram_trie.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace penstock::text {

// The array is filled in blocks of 256, as the children of a node are all in one block. Only the newest blocks are
// open, so that building takes time in proportion to the pieces. No two nodes have the same `children`: a label
// that fits is then the right parent's.
class PieceTrie::Builder {
  public:
    explicit Builder(std::span<const Entry> entries) {
        sort(entries);
        add_block();  // the children of leaves: none
        add_block();
        std::vector<Range> todo;
        todo.push_back({kRoot, 0, pieces_.size(), 0});
        while (!todo.empty()) {
            const Range range = todo.back();
            todo.pop_back();
            place(range, todo);
        }
    }

    const Node& root() const noexcept { return root_; }
    const std::vector<Node>& nodes() const noexcept { return nodes_; }

  private:
    static constexpr std::size_t kRoot = ~std::size_t{0};
    static constexpr std::size_t kOpen = 8;

    struct Piece {
        std::size_t begin;  // of its bytes
        std::size_t size;
        double score;
        Id id;
    };
    struct Range {  // the pieces that begin with the same `depth` bytes
        std::size_t node;
        std::size_t begin;
        std::size_t end;
        std::size_t depth;
    };
    using Bits = std::array<std::uint64_t, 4>;
    struct Block {
        Bits free;
        Bits bases;  // not used yet
    };

    // The pieces in order, and their bytes one behind another, as they are read again for every level of the trie. Of
    // equal pieces the last is kept.
    void sort(std::span<const Entry> entries) {
        struct Key {  // most are told apart by their first bytes
            std::uint64_t first;
            std::size_t entry;
        };
        std::vector<Key> keys(entries.size());
        std::size_t num_bytes = 0;
        for (std::size_t i = 0; i < entries.size(); ++i) {
            const std::string_view piece = entries[i].piece;
            keys[i] = {0, i};
            for (std::size_t at = 0; at < 8; ++at) {
                keys[i].first =
                    keys[i].first << 8 | (at < piece.size() ? static_cast<unsigned char>(piece[at]) : 0u);
            }
            num_bytes += piece.size();
        }
        std::ranges::sort(keys, [entries](const Key& a, const Key& b) {
            if (a.first != b.first) return a.first < b.first;
            const int order = entries[a.entry].piece.compare(entries[b.entry].piece);
            return order != 0 ? order < 0 : a.entry < b.entry;
        });
        bytes_.reserve(num_bytes);
        pieces_.reserve(entries.size());
        for (std::size_t i = 0; i < keys.size(); ++i) {
            const Entry& entry = entries[keys[i].entry];
            if (i + 1 < keys.size() && entry.piece == entries[keys[i + 1].entry].piece) continue;
            pieces_.push_back({bytes_.size(), entry.piece.size(), entry.score, entry.id});
            bytes_.append(entry.piece);
        }
    }

    void add_block() {
        nodes_.resize(nodes_.size() + 256, Node{-std::numeric_limits<double>::infinity(), 0,
                                                static_cast<std::uint32_t>(kNone) << 9 | kNoLabel});
        constexpr std::uint64_t all = ~std::uint64_t{0};
        blocks_.push_back({{all, all, all, all}, {all, all, all, all}});
    }

    // Bit i of the result is bit i ^ label of `bits`.
    static Bits exchanged(const Bits& bits, unsigned label) noexcept {
        static constexpr std::uint64_t kLow[6] = {0x5555555555555555, 0x3333333333333333, 0x0f0f0f0f0f0f0f0f,
                                                  0x00ff00ff00ff00ff, 0x0000ffff0000ffff, 0x00000000ffffffff};
        Bits result;
        for (unsigned i = 0; i < 4; ++i) {
            std::uint64_t word = bits[i ^ (label >> 6)];
            for (unsigned step = 0; step < 6; ++step) {
                if ((label >> step & 1) == 0) continue;
                const unsigned shift = 1u << step;
                word = (word >> shift & kLow[step]) | (word & kLow[step]) << shift;
            }
            result[i] = word;
        }
        return result;
    }

    std::size_t base_for(const std::vector<unsigned char>& labels) {
        for (;;) {
            const std::size_t oldest =
                std::max<std::size_t>(1, blocks_.size() > kOpen ? blocks_.size() - kOpen : 0);
            for (std::size_t i = oldest; i < blocks_.size(); ++i) {
                Bits fits = blocks_[i].bases;
                for (const unsigned char label : labels) {
                    const Bits free = exchanged(blocks_[i].free, label);
                    std::uint64_t any = 0;
                    for (unsigned j = 0; j < 4; ++j) any |= fits[j] &= free[j];
                    if (any == 0) break;
                }
                for (unsigned j = 0; j < 4; ++j) {
                    if (fits[j] == 0) continue;
                    const unsigned bit = 64 * j + static_cast<unsigned>(std::countr_zero(fits[j]));
                    blocks_[i].bases[j] &= fits[j] - 1;
                    for (const unsigned char label : labels) {
                        blocks_[i].free[(bit ^ label) >> 6] &= ~(std::uint64_t{1} << ((bit ^ label) & 63));
                    }
                    return 256 * i + bit;
                }
            }
            add_block();
        }
    }

    void place(Range range, std::vector<Range>& todo) {
        Node& node = range.node == kRoot ? root_ : nodes_[range.node];
        if (range.node == kRoot) node.packed = static_cast<std::uint32_t>(kNone) << 9 | kNoLabel;
        if (range.begin != range.end && pieces_[range.begin].size == range.depth) {
            const Piece& piece = pieces_[range.begin++];
            node.score = piece.score;
            node.packed = static_cast<std::uint32_t>(piece.id) << 9 | (node.packed & kLabelMask);
        }
        if (range.begin == range.end) return;
        labels_.clear();
        starts_.clear();
        for (std::size_t i = range.begin; i < range.end; ++i) {
            const auto label = static_cast<unsigned char>(bytes_[pieces_[i].begin + range.depth]);
            if (labels_.empty() || labels_.back() != label) labels_.push_back(label), starts_.push_back(i);
        }
        starts_.push_back(range.end);
        const std::size_t base = base_for(labels_);  // may move the nodes
        (range.node == kRoot ? root_ : nodes_[range.node]).children = static_cast<std::uint32_t>(base);
        for (std::size_t i = 0; i < labels_.size(); ++i) {
            const std::size_t child = base ^ labels_[i];
            nodes_[child].packed = static_cast<std::uint32_t>(kNone) << 9 | labels_[i];
            todo.push_back({child, starts_[i], starts_[i + 1], range.depth + 1});
        }
    }

    std::vector<Piece> pieces_;
    std::string bytes_;
    Node root_{};
    std::vector<Node> nodes_;
    std::vector<Block> blocks_;
    std::vector<unsigned char> labels_;
    std::vector<std::size_t> starts_;
};

PieceTrie::PieceTrie(std::span<const Entry> entries) {
    std::size_t num_bytes = 0;
    for (const Entry& entry : entries) {
        if (entry.piece.size() > kMaxBytes) throw std::invalid_argument("a piece is longer than 1024 bytes");
        num_bytes += entry.piece.size();
    }
    if (num_bytes > std::size_t{64} << 20) throw std::invalid_argument("the pieces are longer than 64 MiB");
    const Builder builder(entries);
    auto table = std::make_unique<Table<Node>>(builder.nodes().size());
    std::ranges::copy(builder.nodes(), table->data());
    root_ = builder.root();
    nodes_ = table->data();
    table_ = std::move(table);
}

Id PieceTrie::find(std::string_view piece) const noexcept {
    const Node* node = root();
    for (const char byte : piece) {
        node = child(node, byte);
        if (node == nullptr) return kNone;
    }
    return node->id();
}

}  // namespace penstock::text
