// The pieces of a Unigram vocabulary, as what a text is walked through.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "text/ids.h"
#include "text/table.h"

namespace penstock::text {

// The pieces of a vocabulary as a trie in one array. Immutable once built.
class PieceTrie {
  public:
    static constexpr Id kNone = (1 << 23) - 1;
    static constexpr std::size_t kMaxBytes = 1024;  // of one piece: what bounds the work per byte of text

    struct Node {
        double score;
        std::uint32_t children;  // the child for a byte is at children ^ byte, if its label is the byte
        std::uint32_t packed;    // id << 9 | label

        Id id() const noexcept { return static_cast<Id>(packed >> 9); }
    };

    struct Entry {
        std::string_view piece;
        double score;
        Id id;
    };

    PieceTrie() = default;
    // No piece is empty; of equal ones the last counts. Throws std::invalid_argument for a piece that is too long.
    explicit PieceTrie(std::span<const Entry> entries);

    // Null: no piece goes on so. The root is `root()`.
    const Node* child(const Node* node, char byte) const noexcept {
        const std::uint32_t label = static_cast<unsigned char>(byte);
        const Node* const next = &nodes_[node->children ^ label];
        return (next->packed & kLabelMask) == label ? next : nullptr;
    }
    const Node* root() const noexcept { return &root_; }

    // kNone, if it is no piece.
    Id find(std::string_view piece) const noexcept;

  private:
    class Builder;
    static constexpr std::uint32_t kLabelMask = (1u << 9) - 1;
    static constexpr std::uint32_t kNoLabel = kLabelMask;

    Node root_{};
    std::unique_ptr<const Table<Node>> table_;
    const Node* nodes_ = nullptr;
};

}  // namespace penstock::text
