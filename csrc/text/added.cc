#include "text/added.h"

#include <algorithm>
#include <map>
#include <stdexcept>
#include <utility>

#include "text/unicode.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace penstock::text {
namespace {

constexpr std::size_t kFew = 4;  // so many different first bytes are looked for 16 places at a time

std::size_t before(std::string_view text, std::size_t at) noexcept {
    do --at;
    while ((static_cast<unsigned char>(text[at]) & 0xc0) == 0x80);
    return at;
}

bool is_word_before(std::string_view text, std::size_t at) noexcept {
    return at > 0 && (classes(decode(&text[before(text, at)])) & kWordRune) != 0;
}

bool is_word_at(std::string_view text, std::size_t at) noexcept {
    return at < text.size() && (classes(decode(&text[at])) & kWordRune) != 0;
}

std::size_t spaces_begin(std::string_view text, std::size_t end) noexcept {
    while (end > 0) {
        const std::size_t at = before(text, end);
        if ((classes(decode(&text[at])) & kStripSpace) == 0) break;
        end = at;
    }
    return end;
}

std::size_t spaces_end(std::string_view text, std::size_t begin) noexcept {
    while (begin < text.size() && (classes(decode(&text[begin])) & kStripSpace) != 0) {
        begin += sequence_length(static_cast<unsigned char>(text[begin]));
    }
    return begin;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
    std::vector<std::map<unsigned char, std::uint32_t>> tree(1);
    std::vector<std::int32_t> ends{-1};
    pairs_.assign(tokens_.empty() ? 0 : 1u << 16, false);
    for (std::size_t number = 0; number < tokens_.size(); ++number) {
        const std::string& content = tokens_[number].content;
        if (content.empty()) throw std::invalid_argument("an added token is empty");
        std::uint32_t node = 0;
        for (const char character : content) {
            const auto byte = static_cast<unsigned char>(character);
            const auto [edge, is_new] = tree[node].emplace(byte, static_cast<std::uint32_t>(tree.size()));
            node = edge->second;
            if (is_new) {
                tree.emplace_back();
                ends.push_back(-1);
            }
        }
        if (ends[node] < 0) ends[node] = static_cast<std::int32_t>(number);  // of twins the first counts
        longest_ = std::max(longest_, content.size());
        const auto first = static_cast<unsigned char>(content[0]);
        begins_[first] = true;
        for (std::size_t second = 0; second < 256; ++second) {
            if (content.size() == 1 || static_cast<unsigned char>(content[1]) == second) {
                pairs_[std::size_t{first} << 8 | second] = true;
            }
        }
    }
    for (std::size_t node = 0; node < tree.size(); ++node) {
        nodes_.push_back({static_cast<std::uint32_t>(edges_.size()),
                          static_cast<std::uint32_t>(tree[node].size()), ends[node]});
        for (const auto& [byte, next] : tree[node]) edges_.push_back({byte, next});
    }
    for (std::size_t byte = 0; byte < 256; ++byte) {
        if (begins_[byte]) firsts_.push_back(static_cast<char>(byte));
    }
    if (firsts_.size() > kFew) firsts_.clear();
}

// The first place from here on where a token may begin.
std::size_t AddedTokens::candidate(std::string_view text, std::size_t from) const noexcept {
    if (firsts_.size() == 1) return std::min(text.find(firsts_[0], from), text.size());
#if defined(__SSE2__)
    if (!firsts_.empty()) {
        __m128i wanted[kFew];
        for (std::size_t i = 0; i < kFew; ++i)
            wanted[i] = _mm_set1_epi8(firsts_[std::min(i, firsts_.size() - 1)]);
        for (; text.size() - from >= 16; from += 16) {
            const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text.data() + from));
            const __m128i found = _mm_or_si128(
                _mm_or_si128(_mm_cmpeq_epi8(bytes, wanted[0]), _mm_cmpeq_epi8(bytes, wanted[1])),
                _mm_or_si128(_mm_cmpeq_epi8(bytes, wanted[2]), _mm_cmpeq_epi8(bytes, wanted[3])));
            if (_mm_movemask_epi8(found) != 0) break;
        }
    }
#endif
    while (from < text.size() && !begins_[static_cast<unsigned char>(text[from])]) ++from;
    return from;
}

const AddedTokens::Node* AddedTokens::step(const Node& from, char character) const noexcept {
    const auto byte = static_cast<unsigned char>(character);
    const Edge* const edges = edges_.data() + from.first_edge;
    const Edge* const end = edges + from.num_edges;
    const Edge* const edge = std::find_if(edges, end, [byte](const Edge& each) { return each.byte == byte; });
    return edge == end ? nullptr : &nodes_[edge->node];
}

bool AddedTokens::may_lie_across(std::string_view text, std::size_t at) const noexcept {
    for (std::size_t begin = at - std::min(at, longest_); begin < at; ++begin) {
        if (!begins_[static_cast<unsigned char>(text[begin])]) continue;
        const Node* node = nodes_.data();
        for (std::size_t end = begin; end < text.size() && node != nullptr; ++end) {
            node = step(*node, text[end]);
            if (node == nullptr || node->token < 0 || end + 1 < at) continue;
            if (end >= at || tokens_[static_cast<std::size_t>(node->token)].single_word) return true;
        }
        if (node != nullptr && node->num_edges != 0) return true;
    }
    return false;
}

bool AddedTokens::find(std::string_view text, std::size_t from, Match& match) const noexcept {
    for (std::size_t at = candidate(text, from); at < text.size(); at = candidate(text, at + 1)) {
        const auto first = static_cast<unsigned char>(text[at]);
        const auto second = at + 1 < text.size() ? static_cast<unsigned char>(text[at + 1]) : 0u;
        if (at + 1 < text.size() && !pairs_[std::size_t{first} << 8 | second]) continue;
        match.token = -1;
        const Node* node = nodes_.data();
        for (std::size_t end = at; end < text.size(); ++end) {
            node = step(*node, text[end]);
            if (node == nullptr) break;
            if (node->token >= 0) match = {at, end + 1, node->token};
        }
        if (match.token >= 0) return true;
    }
    return false;
}

void AddedTokens::split(std::string_view text, std::vector<Stretch>& out) const {
    out.clear();
    std::size_t done = 0;
    Match match{};
    for (std::size_t from = 0; !tokens_.empty() && find(text, from, match); from = match.end) {
        const AddedToken& token = tokens_[static_cast<std::size_t>(match.token)];
        std::size_t begin = match.begin, end = match.end;
        if (token.single_word && (is_word_before(text, begin) || is_word_at(text, end))) continue;
        if (token.lstrip) begin = std::max(spaces_begin(text, begin), done);
        if (token.rstrip) end = spaces_end(text, end);
        if (done < begin) out.push_back({done, begin});
        out.push_back({begin, end, token.id});
        done = end;
    }
    if (done < text.size()) out.push_back({done, text.size()});
}

}  // namespace penstock::text
