#include "text/piece_trie.h"

#include <algorithm>
#include <stdexcept>
#include <unordered_set>

#include "text/utf8.h"

namespace penstock::text {

void append_runes(std::string_view text, Runes& out) {
    for (std::size_t at = 0; at < text.size(); at += sequence_length(static_cast<unsigned char>(text[at])))
        out.push_back(decode(text.data() + at));
}

PieceTrie::PieceTrie(const std::vector<std::pair<std::string, Id>>& vocabulary, std::string_view unk_token,
                     std::string_view prefix, std::size_t max_chars)
    : max_chars_(max_chars), edges_(std::size_t{1} << kFirstLog2), ids_(2) {
    if (!is_utf8(prefix)) throw std::invalid_argument("continuing_subword_prefix is not UTF-8");
    std::unordered_set<std::string_view> seen;
    seen.reserve(vocabulary.size());
    bool has_unk = false;
    Runes runes;
    for (const auto& [token, id] : vocabulary) {
        if (!is_utf8(token)) throw std::invalid_argument("a token of the vocabulary is not UTF-8");
        if (id < 0) throw std::invalid_argument("the id of a token is negative: " + token);
        if (!seen.insert(token).second)
            throw std::invalid_argument("a token comes twice in the vocabulary: " + token);
        if (token == unk_token) unk_ = id, has_unk = true;
        runes.clear();
        append_runes(token, runes);
        if (runes.size() == 1 || std::none_of(runes.begin(), runes.end(), ends_word))
            add(kBeginning, runes, id);
        if (!token.starts_with(prefix)) continue;
        runes.clear();
        append_runes(std::string_view(token).substr(prefix.size()), runes);
        if (std::none_of(runes.begin(), runes.end(), ends_word)) add(kContinuation, runes, id);
    }
    if (!has_unk)
        throw std::invalid_argument("unk_token is not in the vocabulary: " + std::string(unk_token));
    find_firsts();
}

void PieceTrie::append_word(std::span<const Symbol> word, Ids& out) const {
    if (word.size() > max_chars_) return out.push(unk_);
    const std::size_t before = out.size();
    std::size_t at = 0;
    for (std::uint64_t root = kBeginning; at < word.size(); root = kContinuation) {
        std::uint64_t best = kContinuation;  // no token ends at a root
        std::size_t best_end = at;
        std::size_t next = at;
        const First& first = firsts_[2 * word[at] + root];
        std::uint64_t edge = first.edge;
        if (next + 1 < word.size() && (first.next >> (word[next + 1] % 64) & 1) == 0) edge &= ~kGoesOn;
        while (edge != 0) {
            ++next;
            const std::uint64_t node = edge & kNodeMask;
            if ((edge & kEnds) != 0) best = node, best_end = next;
            if ((edge & kGoesOn) == 0 || next == word.size()) break;
            edge = edges_.data()[place(node, word[next])];
        }
        if (best == kContinuation) {
            out.truncate(before);
            return out.push(unk_);
        }
        out.push(ids_[best]);
        at = best_end;
    }
}

// The place of the edge, or the empty one where it would be.
std::size_t PieceTrie::place(std::uint64_t node, Symbol symbol) const noexcept {
    const std::uint64_t wanted = node << kSymbolBits | symbol;
    const std::size_t mask = edges_.size() - 1;
    std::size_t at = (wanted * 0x9e3779b97f4a7c15u) >> shift_;
    const std::uint64_t* const edges = edges_.data();
    while (edges[at] != 0 && edges[at] >> kToBits != wanted) at = (at + 1) & mask;
    return at;
}

void PieceTrie::add(std::uint64_t node, std::span<const Rune> token, Id id) {
    if (token.empty()) return;
    constexpr std::size_t kNone = static_cast<std::size_t>(-1);
    std::size_t last = kNone;  // the place of the edge before
    for (const Rune rune : token) {
        const Symbol symbol = number(rune);
        if (2 * (ids_.size() + 1) > edges_.size()) {
            const std::uint64_t edge = last == kNone ? 0 : edges_.data()[last] >> kToBits;
            grow();
            if (last != kNone) last = place(edge >> kSymbolBits, static_cast<Symbol>(edge & kSymbolMask));
        }
        if (last != kNone) edges_.data()[last] |= kGoesOn;
        last = place(node, symbol);
        if (edges_.data()[last] == 0) {
            const std::uint64_t made = ids_.size();
            if (made > kNodeMask) throw std::invalid_argument("the vocabulary is too large for WordPiece");
            edges_.data()[last] = (node << kSymbolBits | symbol) << kToBits | made;
            ids_.push_back(0);
        }
        node = edges_.data()[last] & kNodeMask;
    }
    edges_.data()[last] |= kEnds;
    ids_[node] = id;
}

Symbol PieceTrie::number(Rune rune) {
    if (rune >= symbols_.size()) symbols_.resize(rune + 1);
    if (symbols_[rune] == 0) symbols_[rune] = ++num_symbols_;
    if (num_symbols_ > kSymbolMask)
        throw std::invalid_argument("the vocabulary has too many characters for WordPiece");
    return symbols_[rune];
}

void PieceTrie::grow() {
    const Table<std::uint64_t> old = std::exchange(edges_, Table<std::uint64_t>(2 * edges_.size()));
    --shift_;
    for (const std::uint64_t edge : std::span(old.data(), old.size())) {
        if (edge == 0) continue;
        const std::uint64_t from = edge >> kToBits;
        edges_.data()[place(from >> kSymbolBits, static_cast<Symbol>(from & kSymbolMask))] = edge;
    }
}

void PieceTrie::find_firsts() {
    std::vector<std::uint64_t> next(ids_.size());  // by node
    for (const std::uint64_t edge : std::span(edges_.data(), edges_.size())) {
        const std::uint64_t from = edge >> kToBits;
        if (edge != 0) next[from >> kSymbolBits] |= std::uint64_t{1} << (from & kSymbolMask) % 64;
    }
    firsts_.resize(2 * (std::size_t{num_symbols_} + 1));
    for (Symbol symbol = 1; symbol <= num_symbols_; ++symbol) {
        for (const std::uint64_t root : {kBeginning, kContinuation}) {
            const std::uint64_t edge = edges_.data()[place(root, symbol)];
            firsts_[2 * std::size_t{symbol} + root] = {edge, next[edge & kNodeMask]};
        }
    }
}

}  // namespace penstock::text
