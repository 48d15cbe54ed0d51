#include "text/bpe.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "text/byte_bpe.h"
#include "text/byte_pairs.h"
#include "text/unicode.h"

namespace {

using namespace penstock::text;

std::vector<Id> merged(const MergeTable& table, const std::vector<Id>& symbols) {
    MergeTable::Scratch scratch;
    Ids out;
    CHECK(table.merge(symbols, scratch, out));
    return {out.data(), out.data() + out.size()};
}

// The definition, word for word.
std::vector<Id> naive(const std::vector<Merge>& merges, std::vector<Id> symbols) {
    std::map<std::pair<Id, Id>, std::size_t> ranks;
    for (std::size_t i = 0; i < merges.size(); ++i) ranks[{merges[i].left, merges[i].right}] = i;
    for (;;) {
        std::size_t best = merges.size();
        std::size_t place = 0;
        for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
            const auto found = ranks.find({symbols[i], symbols[i + 1]});
            if (found == ranks.end() || found->second >= best) continue;
            best = found->second;
            place = i;
        }
        if (best == merges.size()) return symbols;
        symbols[place] = merges[best].product;
        symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(place) + 1);
    }
}

// Any merges among a few symbols: ranks in no order, several ways to one token.
std::vector<Merge> random_merges(std::mt19937& random) {
    std::vector<std::string> tokens = {"a", "b", "c"};
    std::map<std::string, Id> ids = {{"a", 0}, {"b", 1}, {"c", 2}};
    std::vector<Merge> merges;
    for (int i = 0; i < 60; ++i) {
        const std::string left = tokens[random() % tokens.size()];
        const std::string right = tokens[random() % tokens.size()];
        if (left.size() + right.size() > 12) continue;
        const auto [found, is_new] = ids.emplace(left + right, static_cast<Id>(ids.size()));
        if (is_new) tokens.push_back(left + right);
        merges.push_back({ids[left], ids[right], found->second});
    }
    std::shuffle(merges.begin(), merges.end(), random);
    return merges;
}

// A vocabulary of the 256 bytes and two merges more.
struct Vocabulary {
    std::vector<std::string> texts;
    std::vector<TokenIds::Token> tokens;

    explicit Vocabulary(const std::vector<std::string>& more) {
        char32_t next = 0x100;
        for (unsigned byte = 0; byte < 256; ++byte) {
            const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
            char text[4];
            texts.emplace_back(text, encode(printable ? byte : next++, text));
        }
        texts.insert(texts.end(), more.begin(), more.end());
        for (std::size_t i = 0; i < texts.size(); ++i) tokens.emplace_back(texts[i], static_cast<Id>(i));
    }
};

std::vector<Id> encoded(const ByteBpe& model, std::string_view text) {
    const auto memory = model.new_memory();
    std::vector<Id> first;
    for (int round = 0; round < 2; ++round) {  // from the merges, then from the caches
        Ids out;
        CHECK(model.encode(text, true, *memory, out));
        const std::vector<Id> ids(out.data(), out.data() + out.size());
        CHECK(round == 0 || ids == first);
        first = ids;
    }
    return first;
}

}  // namespace

TEST(lowest_rank_first_then_leftmost) {
    // aa before ab: "aaab" is aa, ab; greedy longest match would not know.
    const MergeTable table(std::vector<Merge>{{0, 0, 2}, {0, 1, 3}});
    CHECK((merged(table, {0, 0, 0, 1}) == std::vector<Id>{2, 3}));
    CHECK((merged(table, {0, 0, 0}) == std::vector<Id>{2, 0}));
    CHECK((merged(table, {1}) == std::vector<Id>{1}));
    CHECK(merged(table, {}).empty());
}

TEST(of_equal_pairs_the_last_counts) {
    const MergeTable table(std::vector<Merge>{{0, 1, 2}, {1, 1, 3}, {0, 1, 4}});
    CHECK((merged(table, {0, 1, 1}) == std::vector<Id>{0, 3}));
    CHECK((merged(table, {0, 1}) == std::vector<Id>{4}));
}

TEST(merge_is_naive_merge) {
    std::mt19937 random(3);
    for (int round = 0; round < 300; ++round) {
        const std::vector<Merge> merges = random_merges(random);
        const MergeTable table(merges);
        std::vector<MergeTable::Word> words(MergeTable::kTogether);
        std::vector<std::vector<Id>> expected;
        for (const std::size_t most : {5u, 16u, 32u, 64u, 65u, 200u, 2000u}) {
            std::vector<Id> symbols(most <= 65 ? most - random() % 3 : random() % most);
            for (Id& id : symbols) id = static_cast<Id>(random() % 3);
            const std::vector<Id> result = naive(merges, symbols);
            CHECK(merged(table, symbols) == result);
            if (symbols.empty() || symbols.size() > MergeTable::Word::kMost) continue;
            MergeTable::Rank ranks[MergeTable::Word::kMost];
            for (std::size_t i = 0; i + 1 < symbols.size(); ++i)
                ranks[i] = table.rank(symbols[i], symbols[i + 1]);
            MergeTable::Word& word = words[expected.size()];
            std::copy(symbols.begin(), symbols.end(), word.ids);
            // Some ranks are left for merge_together() to find.
            const std::size_t pairs = symbols.size() - 1;
            const std::uint64_t unknown = random() & ((std::uint64_t{1} << pairs) - 1);
            for (std::size_t i = 0; i < pairs; ++i)
                if ((unknown >> i & 1) != 0) ranks[i] = MergeTable::kNoRank;
            table.begin(word, symbols.size(), ranks, unknown);
            expected.push_back(result);
        }
        std::vector<MergeTable::Word> same = words;
        table.merge_together({words.data(), expected.size()});
        table.merge_together_plainly({same.data(), expected.size()});
        for (std::size_t i = 0; i < expected.size(); ++i) {
            Id ids[MergeTable::Word::kMost];
            std::size_t count = MergeTable::finish(words[i], ids);
            CHECK(std::vector<Id>(ids, ids + count) == expected[i]);
            count = MergeTable::finish(same[i], ids);
            CHECK(std::vector<Id>(ids, ids + count) == expected[i]);
        }
    }
}

TEST(a_word_of_a_million_letters_takes_no_quadratic_time) {
    std::vector<Merge> merges;
    for (Id id = 0; id < 8; ++id) merges.push_back({id, id, id + 1});
    const MergeTable table(merges);
    const std::vector<Id> result = merged(table, std::vector<Id>(std::size_t{1} << 20, 0));
    CHECK(result == std::vector<Id>(std::size_t{1} << 12, 8));
}

TEST(limits_are_refused) {
    CHECK_THROWS(MergeTable(std::vector<Merge>{{0, -1, 2}}), std::invalid_argument, "token id");
    CHECK_THROWS(MergeTable(std::vector<Merge>{{0, 1, 1 << 20}}), std::invalid_argument, "token id");
    const MergeTable table(std::vector<Merge>{});
    MergeTable::Scratch scratch;
    Ids out;
    CHECK(!table.merge(std::vector<Id>(MergeTable::kMaxSymbols + 1, 0), scratch, out));
    CHECK(out.empty());
}

TEST(token_strings_and_merges_are_resolved) {
    const std::vector<TokenIds::Token> tokens = {{"a", 5}, {"b", 7}, {"ab", 9}, {"", 11}};
    const TokenIds ids(tokens);
    CHECK(ids.find("ab") == 9);
    CHECK(ids.find("ba") == TokenIds::kNone);
    CHECK(ids.find("") == 11);
    const std::vector<MergePair> good = {{"a", "b"}};
    CHECK(resolve_merges(ids, good).front().product == 9);
    const std::vector<MergePair> bad = {{"b", "a"}};
    CHECK_THROWS(resolve_merges(ids, bad), std::invalid_argument, "not in the vocabulary");
    const std::vector<MergePair> empty = {{"", "a"}};
    CHECK_THROWS(resolve_merges(ids, empty), std::invalid_argument, "empty");
}

TEST(bytes_become_tokens) {
    const Vocabulary vocabulary({"\u0120h", "\u0120hi", "hi\u0120there", "xy"});
    const std::vector<MergePair> merges = {{"\u0120", "h"}, {"\u0120h", "i"}};
    const ByteBpe model(vocabulary.tokens, merges, {.scheme = Scheme::kGpt2}, nullptr);
    CHECK((encoded(model, "hi hi") == std::vector<Id>{'h', 'i', 257}));
    CHECK((encoded(model, "xy") == std::vector<Id>{'x', 'y'}));
    CHECK(encoded(model, "").empty());
    CHECK((encoded(model, std::string(40, 'z')) == std::vector<Id>(40, 'z')));
    CHECK((encoded(model, "abcdefg") == std::vector<Id>{'a', 'b', 'c', 'd', 'e', 'f', 'g'}));

    const ByteBpe whole(vocabulary.tokens, merges, {.scheme = Scheme::kGpt2, .ignore_merges = true}, nullptr);
    CHECK((encoded(whole, "xy") == std::vector<Id>{259}));

    const ByteBpe prefixed(vocabulary.tokens, merges, {.scheme = Scheme::kGpt2, .add_prefix_space = true},
                           nullptr);
    CHECK((encoded(prefixed, "hi hi") == std::vector<Id>{257, 257}));
    CHECK((encoded(prefixed, " hi") == std::vector<Id>{257}));
}

// Pairs of bytes that are made at once change nothing: a few bytes, any merges of theirs, in any order, so that many
// pairs must wait for a neighbour, or for a merge that uses them before its parts are there.
TEST(pairs_made_at_once_are_naive_merges) {
    std::mt19937 random(11);
    std::size_t num_made = 0;
    for (int round = 0; round < 150; ++round) {
        const std::size_t num_bytes = 2 + random() % 4;
        std::vector<std::string> texts;
        for (std::size_t i = 0; i < num_bytes; ++i) texts.emplace_back(1, static_cast<char>('a' + i));
        std::vector<std::pair<std::string, std::string>> parts;
        for (std::size_t i = 0; i < 4 + random() % 40; ++i) {
            const std::string left = texts[random() % texts.size()];
            const std::string right = texts[random() % texts.size()];
            if (left.size() + right.size() > 10) continue;
            parts.emplace_back(left, right);
            if (std::ranges::find(texts, left + right) == texts.end()) texts.push_back(left + right);
        }
        if (round % 2 == 0) std::shuffle(parts.begin(), parts.end(), random);
        const Vocabulary vocabulary({texts.begin() + static_cast<std::ptrdiff_t>(num_bytes), texts.end()});
        const TokenIds ids(vocabulary.tokens);
        const std::vector<MergePair> pairs(parts.begin(), parts.end());
        const std::vector<Merge> merges = resolve_merges(ids, pairs);
        const ByteBpe model(vocabulary.tokens, pairs, {.scheme = Scheme::kNone}, nullptr);
        const auto memory = model.new_memory();
        for (const std::size_t most : {3u, 6u, 15u, 31u, 32u, 33u, 48u, 64u, 65u, 200u}) {
            std::string word;
            std::vector<Id> symbols;
            for (std::size_t i = 0; i < most; ++i) {
                word.push_back(static_cast<char>('a' + random() % num_bytes));
                symbols.push_back(ids.find(word.substr(i)));
            }
            const std::vector<Id> result = naive(merges, symbols);
            num_made += word.size() - result.size();
            for (int turn = 0; turn < 2; ++turn) {  // from the merges, then from one of the caches
                Ids out;
                CHECK(model.encode(word, true, *memory, out));
                CHECK(std::vector<Id>(out.data(), out.data() + out.size()) == result);
            }
        }
    }
    CHECK(num_made > 5000);
}

TEST(a_pair_that_a_neighbour_may_take_is_not_made_at_once) {
    const auto symbols_of = [](const std::vector<std::string>& more, const std::vector<MergePair>& merges,
                               std::string_view word) {
        const Vocabulary vocabulary(more);
        const TokenIds ids(vocabulary.tokens);
        std::array<Id, 256> byte_ids;
        for (std::size_t byte = 0; byte < 256; ++byte) byte_ids[byte] = static_cast<Id>(byte);
        const std::vector<Merge> resolved = resolve_merges(ids, merges);
        const auto ends_of = [](std::string_view part) {
            return BytePairs::Ends{static_cast<unsigned char>(part.front()),
                                   static_cast<unsigned char>(part.back())};
        };
        const BytePairs pairs(merges, resolved, MergeTable(resolved), byte_ids, ends_of);
        std::vector<Id> made(word.size() + 1);
        std::vector<MergeTable::Rank> ranks(word.size() + 1);
        const BytePairs::Symbols first = pairs.first_symbols(word, made.data(), ranks.data());
        CHECK(pairs.first_symbols(word, made.data()) == first.count);
        made.resize(first.count);
        return made;
    };
    // Merged last of all, but nothing else takes either byte; the others wait.
    CHECK((symbols_of({"ab"}, {{"a", "b"}}, "xabx") == std::vector<Id>{'x', 256, 'x'}));
    CHECK((symbols_of({"bc", "ab"}, {{"b", "c"}, {"a", "b"}}, "abc") == std::vector<Id>{'a', 256}));
    CHECK((symbols_of({"bc", "ab"}, {{"b", "c"}, {"a", "b"}}, "abx") == std::vector<Id>{257, 'x'}));
    CHECK((symbols_of({"aa"}, {{"a", "a"}}, "aaa") == std::vector<Id>{'a', 'a', 'a'}));
    // A longer symbol that ends in x takes the a first.
    CHECK((symbols_of({"yx", "yxa", "ab"}, {{"y", "x"}, {"yx", "a"}, {"a", "b"}}, "yxab") ==
           std::vector<Id>{256, 'a', 'b'}));
    // What is made of ab comes before ab itself: it must wait for its turn.
    CHECK((symbols_of({"ab", "abx"}, {{"ab", "x"}, {"a", "b"}}, "abx") == std::vector<Id>{'a', 'b', 'x'}));
}

TEST(bytes_without_tokens_vanish) {
    const std::vector<TokenIds::Token> tokens = {{"a", 0}, {"b", 1}, {"ab", 2}};
    const std::vector<MergePair> merges = {{"a", "b"}};
    const ByteBpe model(tokens, merges, {.scheme = Scheme::kNone}, nullptr);
    CHECK((encoded(model, "axb") == std::vector<Id>{2}));
    CHECK(encoded(model, "x").empty());
    CHECK((encoded(model, std::string(70, 'x') + "ab" + std::string(20, 'x')) == std::vector<Id>{2}));
    CHECK((encoded(model, std::string(40, 'x') + "ab") == std::vector<Id>{2}));
    CHECK(encoded(model, std::string(64, 'x')).empty());
}

TEST(two_tokens_of_one_id_are_refused) {
    const std::vector<TokenIds::Token> tokens = {{"a", 0}, {"b", 0}};
    CHECK_THROWS(ByteBpe(tokens, {}, {}, nullptr), std::invalid_argument, "one id");
}

TEST(a_cut_is_behind_a_letter) {
    const Vocabulary vocabulary({});
    const ByteBpe model(vocabulary.tokens, {}, {.scheme = Scheme::kCl100k}, nullptr);
    const std::string text = "ab cd  ef\u4e2d\u3002x";
    CHECK(model.cut_between(text, 0, text.size()) == 2);
    CHECK(model.cut_between(text, 3, text.size()) == 5);
    CHECK(model.cut_between(text, 6, text.size()) == 12);
    CHECK(model.cut_between(text, 13, text.size()) == std::string_view::npos);
}

CHECK_MAIN()
