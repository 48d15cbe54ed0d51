// csrc/text/tokenizer.h over a model whose tokens are easy to see: every byte is one.

#include "text/tokenizer.h"

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"

using penstock::text::AddedToken;
using penstock::text::AddedTokens;
using penstock::text::Edges;
using penstock::text::Frame;
using penstock::text::Id;
using penstock::text::Ids;
using penstock::text::Memory;
using penstock::text::Model;
using penstock::text::Outcome;
using penstock::text::PairCut;
using penstock::text::Side;
using penstock::text::Source;
using penstock::text::Tokenizer;

namespace {

struct NoMemory final : Memory {
    std::size_t num_bytes() const noexcept override { return 0; }
};

// Tokens are bytes; '!' is not known exactly; 'A' becomes 'a'. Counts how much it was given.
class Bytes final : public Model {
  public:
    std::unique_ptr<Memory> new_memory() const override { return std::make_unique<NoMemory>(); }
    bool encode(std::string_view text, Edges edges, Memory& memory, Ids& out) const override {
        std::string normal;
        return normalize(text, normal) && encode_normalized(normal, edges, memory, out);
    }
    bool encode_normalized(std::string_view text, Edges edges, Memory&, Ids& out) const override {
        if (edges.first) out.push(1000);
        for (const char byte : text) {
            if (byte == '!') return false;
            out.push(byte);
        }
        num_read += text.size();
        return true;
    }
    bool normalize(std::string_view text, std::string& out) const override {
        out.assign(text);
        for (char& byte : out) byte = byte == 'A' ? 'a' : byte;
        return true;
    }
    std::size_t cut_between(std::string_view text, std::size_t from, std::size_t to) const noexcept override {
        const std::size_t at = text.find(' ', from);
        return at < to ? at : std::string_view::npos;
    }

    mutable std::size_t num_read = 0;
};

class Whole final : public Source {
  public:
    explicit Whole(std::string_view text) : text_(text) {}
    std::string_view head(std::size_t) override { return text_; }
    bool is_all() const noexcept override { return true; }

  private:
    std::string_view text_;
};

struct Set {
    explicit Set(bool may_cut = true) {
        auto model = std::make_unique<Bytes>();
        bytes = model.get();
        AddedToken raw, normalized;
        raw.content = "<s>";
        raw.id = 2000;
        normalized.content = "<a>";
        normalized.id = 3000;
        std::optional<AddedTokens> guards;
        if (may_cut) guards.emplace(std::vector<AddedToken>{normalized});
        tokenizer = std::make_unique<Tokenizer>(std::move(model), AddedTokens({raw}),
                                                AddedTokens({normalized}), std::move(guards));
    }

    std::vector<Id> row(std::string_view first, std::string_view second, const Frame& frame) {
        Ids out;
        auto workspace = tokenizer->borrow();
        Whole one(first), other(second);
        outcome = tokenizer->encode_row(one, other, frame, *workspace, out, &types);
        tokenizer->give_back(std::move(workspace));
        return {out.data(), out.data() + out.size()};
    }

    Bytes* bytes;
    std::unique_ptr<Tokenizer> tokenizer;
    std::vector<std::uint8_t> types;
    Outcome outcome = Outcome::done;
};

Frame single(std::optional<std::size_t> max_length, Side side = Side::right) {
    return {{{-1, {7}, 0}, {0, {}, 1}, {-1, {8, 9}, 0}}, max_length, side};
}

Frame pair(std::size_t max_length, PairCut cut = PairCut::longest_first, Side side = Side::right) {
    return {{{0, {}, 0}, {-1, {8}, 0}, {1, {}, 1}}, max_length, side, cut};
}

using Row = std::vector<Id>;

}  // namespace

TEST(added_tokens_are_found_before_and_after_the_normalizer) {
    Set set;
    CHECK((set.row("A<s>b<A>", "", Frame{{{0, {}, 0}}, std::nullopt, Side::right}) ==
           Row{1000, 'a', 2000, 'b', 3000}));
    CHECK((set.row("<s>b", "", Frame{{{0, {}, 0}}, std::nullopt, Side::right}) == Row{2000, 'b'}));
    CHECK(set.row("", "", Frame{{{0, {}, 0}}, std::nullopt, Side::right}).empty());
}

TEST(special_tokens_and_truncation) {
    Set set;
    CHECK((set.row("bcd", "", single(std::nullopt)) == Row{7, 1000, 'b', 'c', 'd', 8, 9}));
    CHECK((set.types == std::vector<std::uint8_t>{0, 1, 1, 1, 1, 0, 0}));
    CHECK((set.row("bcd", "", single(5)) == Row{7, 1000, 'b', 8, 9}));
    CHECK((set.row("bcd", "", single(5, Side::left)) == Row{7, 'c', 'd', 8, 9}));
    CHECK((set.row("bcd", "", single(3)) == Row{7, 8, 9}));
}

TEST(of_a_pair_the_longer_text_is_cut_first) {
    Set set;
    CHECK((set.row("bcde", "x", pair(5)) == Row{1000, 'b', 8, 1000, 'x'}));
    CHECK((set.row("bc", "xyzu", pair(6)) == Row{1000, 'b', 8, 1000, 'x', 'y'}));
    CHECK((set.row("bcdefgh", "xy", pair(6)) == Row{1000, 'b', 'c', 8, 1000, 'x'}));
}

TEST(of_a_pair_only_one_text_is_cut) {
    Set set;
    CHECK((set.row("bcde", "x", pair(5, PairCut::only_first)) == Row{1000, 'b', 8, 1000, 'x'}));
    CHECK((set.row("bcde", "x", pair(5, PairCut::only_first, Side::left)) == Row{'d', 'e', 8, 1000, 'x'}));
    CHECK((set.row("b", "xyz", pair(5, PairCut::only_second)) == Row{1000, 'b', 8, 1000, 'x'}));
    CHECK((set.row("b", "xyz", pair(5, PairCut::only_second, Side::left)) == Row{1000, 'b', 8, 'y', 'z'}));
    CHECK((set.row("b", "xyz", pair(50, PairCut::only_second)) == Row{1000, 'b', 8, 1000, 'x', 'y', 'z'}));
    CHECK((set.row("bcd", "", pair(5, PairCut::only_second)) == Row{1000, 'b', 'c', 'd', 8}));
    CHECK((set.row("bcd", "x", pair(1, PairCut::only_second)) == Row{8}));
}

TEST(of_a_pair_the_text_that_may_be_cut_keeps_a_token) {
    Set set;
    const auto is_refused = [&](std::string_view first, std::string_view second, PairCut cut) {
        set.types.clear();
        const Row row = set.row(first, second, pair(5, cut));
        CHECK(set.outcome == (row.empty() ? Outcome::too_long : Outcome::done));
        CHECK(row.size() == set.types.size());
        return row.empty();
    };
    CHECK(!is_refused("bc", "xyz", PairCut::only_second));
    CHECK(is_refused("bcd", "xyz", PairCut::only_second));
    CHECK(!is_refused("bcd", "", PairCut::only_second));
    CHECK(is_refused("bcde", "", PairCut::only_second));
    CHECK(!is_refused("bcd", "xy", PairCut::only_first));
    CHECK(is_refused("bcd", "xyz", PairCut::only_first));
    CHECK(!is_refused("", "xyz", PairCut::only_first));
    CHECK(is_refused("", "xyzu", PairCut::only_first));
}

TEST(what_is_not_exact_leaves_nothing_behind) {
    Set set;
    for (const auto cut : {PairCut::longest_first, PairCut::only_first, PairCut::only_second}) {
        CHECK(set.row("ab!c", "", single(std::nullopt)).empty());
        CHECK(set.outcome == Outcome::inexact);
        CHECK(set.row("ab", "c!", pair(50, cut)).empty());
        CHECK(set.outcome == Outcome::inexact);
        CHECK(set.row("a!b", "c", pair(50, cut)).empty());
        CHECK(set.outcome == Outcome::inexact);
        CHECK(set.types.empty());
        set.row("ab", "c", pair(50, cut));
        CHECK(set.outcome == Outcome::done);
        set.types.clear();
    }
}

TEST(a_long_text_is_read_only_as_far_as_it_is_needed) {
    std::string text;
    while (text.size() < 100'000) text += "word ";
    Set set;
    CHECK(set.row(text, "", single(20)).size() == 20);
    CHECK(set.bytes->num_read < 1'000);
    Set careful(false);
    CHECK(careful.row(text, "", single(20)) == set.row(text, "", single(20)));
    CHECK(careful.bytes->num_read == text.size());
}

TEST(long_texts_of_a_pair_are_read_only_as_far_as_needed) {
    std::string text;
    while (text.size() < 100'000) text += "word ";
    Set set;
    const auto check = [&](std::string_view first, std::string_view second, const Frame& frame) {
        set.bytes->num_read = 0;
        set.row(first, second, frame);
        CHECK(set.bytes->num_read < 5'000);
    };
    check("b", text, pair(20, PairCut::only_second));
    check(text, text, pair(20, PairCut::only_second));
    CHECK(set.outcome == Outcome::too_long);
    check(text, "b", pair(20, PairCut::only_first));
    check(text, text, pair(21));
    check(text, text.substr(0, 300), pair(20));
    Set careful(false);
    for (const std::size_t size : {19u, 20u, 21u, 300u, 5'000u}) {
        for (const std::size_t max_length : {20u, 21u}) {
            const std::string other = text.substr(0, size);
            CHECK(set.row(text, other, pair(max_length)) == careful.row(text, other, pair(max_length)));
            CHECK(set.row(other, text, pair(max_length)) == careful.row(other, text, pair(max_length)));
        }
    }
}

TEST(a_workspace_is_lent_again) {
    Set set;
    auto first = set.tokenizer->borrow();
    const auto* const address = first.get();
    set.tokenizer->give_back(std::move(first));
    CHECK(set.tokenizer->borrow().get() == address);
}

TEST(a_thread_gets_the_workspace_that_it_had) {
    const Set set;
    auto mine = set.tokenizer->borrow();
    const auto* const address = mine.get();
    for (const bool is_mine_last : {true, false}) {
        std::thread([&] {
            auto other = set.tokenizer->borrow();
            if (is_mine_last) set.tokenizer->give_back(std::move(other));
            set.tokenizer->give_back(std::move(mine));
            if (!is_mine_last) set.tokenizer->give_back(std::move(other));
        }).join();
        mine = set.tokenizer->borrow();
        CHECK(mine.get() == address);
    }
}

CHECK_MAIN()
