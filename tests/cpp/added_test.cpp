// csrc/text/added.h by hand, and against a slow search.

#include "text/added.h"

#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"

using penstock::text::AddedToken;
using penstock::text::AddedTokens;
using penstock::text::Stretch;

namespace {

// "a|<7>|b": what lies between, and tokens as their ids.
std::string parts(const AddedTokens& tokens, const std::string& text) {
    std::vector<Stretch> stretches;
    tokens.split(text, stretches);
    std::string shown;
    for (const Stretch& part : stretches) {
        if (!shown.empty()) shown += '|';
        shown += part.id == Stretch::kText ? text.substr(part.begin, part.end - part.begin)
                                           : '<' + std::to_string(part.id) + '>';
    }
    return shown;
}

AddedToken token(std::string content, int id) {
    AddedToken made;
    made.content = std::move(content);
    made.id = id;
    return made;
}

}  // namespace

TEST(a_text_without_tokens_is_one_part) {
    CHECK(parts(AddedTokens({}), "plain") == "plain");
    CHECK(parts(AddedTokens({token("<s>", 1)}), "plain") == "plain");
    CHECK(parts(AddedTokens({token("<s>", 1)}), "").empty());
}

TEST(the_leftmost_then_the_longest) {
    const AddedTokens tokens(
        {token("<a>", 1), token("<a><b>", 2), token("<b>", 3), token("  ", 4), token("   ", 5)});
    CHECK(parts(tokens, "x<a><b>y") == "x|<2>|y");
    CHECK(parts(tokens, "<a><a><b>") == "<1>|<2>");
    CHECK(parts(tokens, "p   q  r s") == "p|<5>|q|<4>|r s");
    CHECK(parts(tokens, "<a") == "<a");
}

TEST(white_space_goes_with_tokens_that_strip) {
    AddedToken left = token("<m>", 1), right = token("<r>", 2);
    left.lstrip = true;
    right.rstrip = true;
    const AddedTokens tokens({left, right});
    CHECK(parts(tokens, "a \t<m> b") == "a|<1>| b");
    CHECK(parts(tokens, "a <r>  b") == "a |<2>|b");
    CHECK(parts(tokens, "<r>  <m>") == "<2>|<1>");
}

TEST(single_words_stand_alone) {
    AddedToken word = token("dam", 1);
    word.single_word = true;
    const AddedTokens tokens({word});
    CHECK(parts(tokens, "dam madam dams dam") == "<1>| madam dams |<1>");
    CHECK(parts(tokens,
                "\xc3\xa9"
                "dam") ==
          "\xc3\xa9"
          "dam");
    CHECK(parts(tokens, "(dam)") == "(|<1>|)");
}

TEST(an_empty_token_is_refused) {
    bool is_refused = false;
    try {
        AddedTokens({token("", 1)});
    } catch (const std::invalid_argument&) {
        is_refused = true;
    }
    CHECK(is_refused);
}

TEST(what_may_lie_across_a_place) {
    const AddedTokens tokens({token("ab c", 1)});
    CHECK(tokens.may_lie_across("xab cy", 2));
    CHECK(tokens.may_lie_across("xab cy", 4));
    CHECK(!tokens.may_lie_across("xab cy", 1));
    CHECK(!tokens.may_lie_across("xab cy", 5));
    AddedToken word = token("ab", 1);
    word.single_word = true;  // not in "abc"
    CHECK(AddedTokens({word}).may_lie_across("xab cy", 3));
    CHECK(!AddedTokens({word}).may_lie_across("xab cy", 4));
    // The text may go on.
    CHECK(tokens.may_lie_across("xab", 2));
    CHECK(!tokens.may_lie_across("xac", 2));
}

TEST(any_set_finds_what_a_slow_search_finds) {
    std::mt19937 random(7);
    const auto letters = [&](std::size_t count) {
        std::string text;
        for (std::size_t i = 0; i < count; ++i) text += static_cast<char>('a' + random() % 3);
        return text;
    };
    for (int round = 0; round < 2000; ++round) {
        std::vector<AddedToken> all;
        for (std::size_t i = 0; i < 1 + random() % 6; ++i)
            all.push_back(token(letters(1 + random() % 4), static_cast<int>(i)));
        const std::string text = letters(random() % 40);
        std::string want;
        std::string between;
        const auto close = [&] {
            if (between.empty()) return;
            want += (want.empty() ? "" : "|") + between;
            between.clear();
        };
        for (std::size_t at = 0; at < text.size();) {
            const AddedToken* longest = nullptr;
            for (const AddedToken& each : all) {
                if (text.compare(at, each.content.size(), each.content) != 0) continue;
                if (longest == nullptr || each.content.size() > longest->content.size()) longest = &each;
            }
            if (longest == nullptr) {
                between += text[at++];
                continue;
            }
            close();
            want += (want.empty() ? "<" : "|<") + std::to_string(longest->id) + ">";
            at += longest->content.size();
        }
        close();
        CHECK(parts(AddedTokens(all), text) == want);
    }
}

CHECK_MAIN()
