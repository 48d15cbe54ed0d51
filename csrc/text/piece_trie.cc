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
}

void PieceTrie::append_word(std::span<const Rune> word, Ids& out) const {
    if (word.size() > max_chars_) return out.push(unk_);
    const std::size_t before = out.size();
    std::size_t at = 0;
    for (std::uint64_t root = kBeginning; at < word.size(); root = kContinuation) {
        std::uint64_t best = kContinuation;  // no token ends at a root
        std::size_t best_end = at;
        std::uint64_t node = root;
        for (std::size_t i = at; i < word.size(); ++i) {
            const std::uint64_t found = edges_.data()[place(node, word[i])];
            if (found == 0) break;
            node = found & kNodeMask;
            if ((found & kEnds) != 0) best = node, best_end = i + 1;
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
std::size_t PieceTrie::place(std::uint64_t node, Rune rune) const noexcept {
    const std::uint64_t wanted = node << 21 | rune;
    const std::size_t mask = edges_.size() - 1;
    std::size_t at = (wanted * 0x9e3779b97f4a7c15u) >> shift_;
    const std::uint64_t* const edges = edges_.data();
    while (edges[at] != 0 && edges[at] >> kToBits != wanted) at = (at + 1) & mask;
    return at;
}

void PieceTrie::add(std::uint64_t node, std::span<const Rune> token, Id id) {
    if (token.empty()) return;
    std::uint64_t from = node;
    for (const Rune rune : token) {
        from = node;
        const std::size_t at = place(from, rune);
        if (edges_.data()[at] != 0) {
            node = edges_.data()[at] & kNodeMask;
            continue;
        }
        node = ids_.size();
        if (node > kNodeMask) throw std::invalid_argument("the vocabulary is too large for WordPiece");
        edges_.data()[at] = (from << 21 | rune) << kToBits | node;
        ids_.push_back(0);
        if (2 * ids_.size() > edges_.size()) grow();
    }
    edges_.data()[place(from, token.back())] |= kEnds;
    ids_[node] = id;
}

void PieceTrie::grow() {
    const Table<std::uint64_t> old = std::exchange(edges_, Table<std::uint64_t>(2 * edges_.size()));
    --shift_;
    for (const std::uint64_t edge : std::span(old.data(), old.size())) {
        if (edge == 0) continue;
        const std::uint64_t from = edge >> kToBits;
        edges_.data()[place(from >> 21, static_cast<Rune>(from & 0x1fffff))] = edge;
    }
}

}  // namespace penstock::text
