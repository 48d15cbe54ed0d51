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

// The number of a code point that is in some token, from 1; 0: of one that is in none, so no word has it that is known.
using Symbol = std::uint32_t;
using Symbols = std::vector<Symbol>;

// Two tries over symbols, one for the beginning of a word and one for what continues it.
//
// Nodes are numbered as they are made. An edge is 64 bits in one open-addressed table: the node it leaves (21 bits),
// its symbol (20), whether edges leave the node it leads to (1), whether a token ends there (1), that node (21). Edges
// that leave a root, which every piece begins with, also lie in an array by their symbols, and beside each stands which
// symbols may come next: most often it is none, and the table need not be asked.
class PieceTrie {
  public:
    // Throws std::invalid_argument: see WordPiece.
    PieceTrie(const std::vector<std::pair<std::string, Id>>& vocabulary, std::string_view unk_token,
              std::string_view prefix, std::size_t max_chars);

    std::size_t max_chars() const noexcept { return max_chars_; }
    Id unk() const noexcept { return unk_; }
    Symbol symbol(Rune rune) const noexcept { return rune < symbols_.size() ? symbols_[rune] : 0; }

    // Appends the tokens of a word that is not empty: white space is not in it, punctuation only alone.
    void append_word(std::span<const Symbol> word, Ids& out) const;

  private:
    static constexpr std::uint64_t kBeginning = 0;  // the roots; no edge leads to one, so an edge is never 0
    static constexpr std::uint64_t kContinuation = 1;
    static constexpr std::uint64_t kNodeMask = (1 << 21) - 1;
    static constexpr std::uint64_t kEnds = 1 << 21;
    static constexpr std::uint64_t kGoesOn = 1 << 22;
    static constexpr unsigned kToBits = 23;  // of an edge, below where it leaves and its symbol
    static constexpr unsigned kSymbolBits = 20;
    static constexpr std::uint64_t kSymbolMask = (1 << kSymbolBits) - 1;
    static constexpr unsigned kFirstLog2 = 12;

    struct First {
        std::uint64_t edge = 0;
        std::uint64_t next = 0;  // bit s % 64 for each symbol s behind it
    };

    std::size_t place(std::uint64_t node, Symbol symbol) const noexcept;
    void add(std::uint64_t node, std::span<const Rune> token, Id id);
    Symbol number(Rune rune);
    void grow();
    void find_firsts();

    std::size_t max_chars_;
    Id unk_ = 0;
    unsigned shift_ = 64 - kFirstLog2;
    Table<std::uint64_t> edges_;
    std::vector<First> firsts_;    // two for each symbol: that of kBeginning, that of kContinuation
    std::vector<Id> ids_;          // of the token that ends at a node
    std::vector<Symbol> symbols_;  // by code point
    Symbol num_symbols_ = 0;
};

}  // namespace penstock::text
