// The vocabulary of a WordPiece: from the code points of a word to its tokens, the longest piece first.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/ids.h"
#include "text/table.h"
#include "text/unicode.h"

namespace penstock::text {

using Runes = std::vector<Rune>;

// Valid UTF-8 to code points.
void append_runes(std::string_view text, Runes& out);

inline bool is_separator(Rune rune) noexcept { return (classes(rune) & kBertSeparator) != 0; }
inline bool ends_word(Rune rune) noexcept {
    return (classes(rune) & (kBertSeparator | kBertPunctuation)) != 0;
}

// Two tries over code points, one for the beginning of a word and one for what continues it.
//
// Nodes are numbered as they are made. An edge is 64 bits in one open-addressed table: the node it leaves (21 bits),
// its code point (21), whether a token ends behind it (1), the node it leads to (21).
class PieceTrie {
  public:
    // Throws std::invalid_argument: see WordPiece.
    PieceTrie(const std::vector<std::pair<std::string, Id>>& vocabulary, std::string_view unk_token,
              std::string_view prefix, std::size_t max_chars);

    std::size_t max_chars() const noexcept { return max_chars_; }

    // Appends the tokens of a word that is not empty: white space is not in it, punctuation only alone.
    void append_word(std::span<const Rune> word, Ids& out) const;

  private:
    static constexpr std::uint64_t kBeginning = 0;  // the roots; no edge leads to one, so an edge is never 0
    static constexpr std::uint64_t kContinuation = 1;
    static constexpr std::uint64_t kNodeMask = (1 << 21) - 1;
    static constexpr std::uint64_t kEnds = 1 << 21;
    static constexpr unsigned kToBits = 22;  // of an edge, below where it leaves and its code point
    static constexpr unsigned kFirstLog2 = 12;

    std::size_t place(std::uint64_t node, Rune rune) const noexcept;
    void add(std::uint64_t node, std::span<const Rune> token, Id id);
    void grow();

    std::size_t max_chars_;
    Id unk_ = 0;
    unsigned shift_ = 64 - kFirstLog2;
    Table<std::uint64_t> edges_;
    std::vector<Id> ids_;  // of the token that ends at a node
};

}  // namespace penstock::text
