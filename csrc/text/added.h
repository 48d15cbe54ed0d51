// Added tokens: strings that are tokens wherever they stand in a text, whatever the model says.
//
// A tokenizer has two sets: one is looked for in the text as it came, the other in what the normalizer made of
// the stretches between.

#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/ids.h"

namespace penstock::text {

struct AddedToken {
    std::string content;  // as it is looked for; not empty
    Id id = 0;
    bool single_word = false;  // not where a letter or digit stands next to it
    bool lstrip = false;       // takes the white space before it along
    bool rstrip = false;       // and behind it
};

// A part of a text: an added token, or what lies between.
struct Stretch {
    static constexpr Id kText = -1;

    std::size_t begin;
    std::size_t end;
    Id id = kText;
};

// Finds the leftmost of all tokens, and of those that begin there the longest. Immutable.
class AddedTokens {
  public:
    // Throws std::invalid_argument for an empty token.
    explicit AddedTokens(std::vector<AddedToken> tokens);

    bool empty() const noexcept { return tokens_.empty(); }
    const std::vector<AddedToken>& tokens() const noexcept { return tokens_; }

    // Replaces `out` by the parts of the text, none of them empty. Of valid UTF-8. Never blocks.
    void split(std::string_view text, std::vector<Stretch>& out) const;

    // Whether a token may lie across this place: begin before it and end behind it. Or end at it, if whether it is one
    // depends on what comes behind. The text may go on: a token that its end cuts short counts as whole.
    bool may_lie_across(std::string_view text, std::size_t at) const noexcept;

  private:
    struct Node {
        std::uint32_t first_edge = 0;
        std::uint32_t num_edges = 0;
        std::int32_t token = -1;  // that ends here
    };
    struct Edge {
        unsigned char byte;
        std::uint32_t node;
    };
    struct Match {
        std::size_t begin;
        std::size_t end;
        std::int32_t token;
    };

    const Node* step(const Node& from, char character) const noexcept;
    bool find(std::string_view text, std::size_t from, Match& match) const noexcept;
    std::size_t candidate(std::string_view text, std::size_t from) const noexcept;

    std::vector<AddedToken> tokens_;
    std::vector<Node> nodes_;
    std::vector<Edge> edges_;
    std::size_t longest_ = 0;
    std::array<bool, 256> begins_{};  // bytes that a token begins with
    std::vector<bool> pairs_;         // [first << 8 | second]: whether some token may begin so
    std::string firsts_;              // the bytes of begins_, if they are few
};

}  // namespace penstock::text
