#include "text/unigram.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "check.h"

using penstock::text::Id;
using penstock::text::Ids;
using penstock::text::Memory;
using penstock::text::Metaspace;
using penstock::text::PieceTrie;
using penstock::text::Unigram;

namespace {

using List = std::vector<Id>;
using Pieces = std::vector<Unigram::Piece>;

const Pieces kPieces = {{"<unk>", 0},   {"▁", -2},     {"a", -3},     {"b", -3},      {"ab", -4},
                        {"▁a", -3.5},   {"▁ab", -5},   {"abab", -6},  {"▁▁", -2.5},   {"é", -4},
                        {"bé", -5},     {"中", -5},    {"中a", -6.5}, {"<0x78>", -9}, {"<0xC3>", -9},
                        {"<0x9F>", -9}, {"a b", -0.1}, {" ", -1}};

Unigram::Options words(Metaspace::Prepend prepend = Metaspace::Prepend::kAlways) {
    Unigram::Options options;
    options.unk_id = 0;
    options.whitespace_split = true;
    options.metaspace.emplace();
    options.metaspace->prepend = prepend;
    return options;
}

Unigram::Options metaspace(Metaspace::Prepend prepend = Metaspace::Prepend::kAlways) {
    Unigram::Options options = words(prepend);
    options.whitespace_split = false;
    return options;
}

Unigram::Options bare() {
    Unigram::Options options;
    options.unk_id = 0;
    return options;
}

Unigram::Step strip(bool left, bool right) {
    Unigram::Step step;
    step.kind = Unigram::Step::Kind::kStrip;
    step.left = left;
    step.right = right;
    return step;
}

Unigram::Step spaces(std::string content) {
    Unigram::Step step;
    step.kind = Unigram::Step::Kind::kSpaces;
    step.content = std::move(content);
    return step;
}

List encode(const Unigram& model, Memory& memory, std::string_view text, bool first = true) {
    // On the heap without a byte behind it, so that a sanitizer sees every read too far.
    const std::vector<char> exact(text.begin(), text.end());
    Ids ids;
    ids.push(77);
    CHECK(model.encode({exact.data(), exact.size()}, first, memory, ids));
    CHECK(ids.data()[0] == 77);
    return {ids.data() + 1, ids.data() + ids.size()};
}

List encode(const Unigram& model, std::string_view text, bool first = true) {
    const auto memory = model.new_memory();
    const List fresh = encode(model, *memory, text, first);
    CHECK(encode(model, *memory, text, first) == fresh);  // what the caches say
    CHECK(memory->num_bytes() <= std::size_t{32} << 20);
    return fresh;
}

bool is_space(char c) { return c == ' ' || (c >= 9 && c <= 13); }

// The same by the book: every place, every length, a map; for words() only.
List by_the_book(const Pieces& pieces, std::string_view text, bool byte_fallback) {
    std::map<std::string, Id, std::less<>> ids;
    double lowest = std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        ids[std::string(pieces[i].piece)] = static_cast<Id>(i);
        lowest = std::min(lowest, pieces[i].score);
    }
    const std::string replacement = "▁";
    List out;
    const auto path = [&](const std::string& word) {
        struct Best {
            double score = 0;
            std::size_t from = 0;
            Id id = -1;
        };
        std::vector<Best> best(word.size() + 1);
        for (std::size_t from = 0; from < word.size();) {
            const std::size_t length =
                penstock::text::sequence_length(static_cast<unsigned char>(word[from]));
            bool has_single = false;
            const auto offer = [&](std::size_t to, double score, Id id) {
                if (best[to].id < 0 || score + best[from].score > best[to].score) {
                    best[to] = {score + best[from].score, from, id};
                }
            };
            for (std::size_t to = from + 1; to <= word.size(); ++to) {
                const auto found = ids.find(word.substr(from, to - from));
                if (found == ids.end()) continue;
                has_single = has_single || to == from + length;
                offer(to, pieces[static_cast<std::size_t>(found->second)].score, found->second);
            }
            if (!has_single) offer(from + length, lowest - 10, 0);
            from += length;
        }
        std::vector<std::pair<std::string, bool>> parts;  // and whether it is unknown
        for (std::size_t to = word.size(); to != 0; to = best[to].from) {
            const std::string part = word.substr(best[to].from, to - best[to].from);
            if (best[to].id == 0 && !parts.empty() && parts.back().second) {
                parts.back().first.insert(0, part);
            } else {
                parts.emplace_back(part, best[to].id == 0);
            }
        }
        for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
            if (const auto found = ids.find(part->first); found != ids.end()) {
                out.push_back(found->second);
                continue;
            }
            List bytes;
            for (const char byte : part->first) {
                char name[8];
                std::snprintf(name, sizeof(name), "<0x%02X>", static_cast<unsigned char>(byte));
                if (const auto found = ids.find(std::string_view(name)); found != ids.end())
                    bytes.push_back(found->second);
            }
            if (byte_fallback && bytes.size() == part->first.size()) {
                out.insert(out.end(), bytes.begin(), bytes.end());
            } else {
                out.push_back(0);
            }
        }
    };
    for (std::size_t at = 0; at < text.size();) {
        if (is_space(text[at])) {
            ++at;
            continue;
        }
        std::string word;
        for (; at < text.size() && !is_space(text[at]); ++at) word += text[at];
        if (!word.starts_with(replacement)) word.insert(0, replacement);
        for (std::size_t from = 0; from < word.size();) {
            const std::size_t next = std::min(word.find(replacement, from + 1), word.size());
            path(word.substr(from, next - from));
            from = next;
        }
    }
    return out;
}

TEST(the_best_path_wins_and_a_word_begins_with_the_replacement) {
    const Unigram model(kPieces, {}, words());
    CHECK(encode(model, "") == List{});
    CHECK(encode(model, " \t\r\n ") == List{});
    CHECK((encode(model, "a") == List{5}));
    CHECK((encode(model, "ab") == List{6}));
    CHECK((encode(model, "  ab\n\ta  ") == List{6, 5}));
    CHECK((encode(model, "babab") == List{1, 3, 7}));
    CHECK((encode(model, "aaaaaaaaaaaaaaaaaaaaaaaa bé") == [] {
        List ids = {5};
        ids.insert(ids.end(), 23, 2);
        ids.insert(ids.end(), {1, 10});
        return ids;
    }()));
}

TEST(of_equal_sums_the_one_with_the_earlier_beginning_stays) {
    const Pieces pieces = {{"u", -9}, {"a", -1}, {"b", -1}, {"c", -1}, {"ab", -2}, {"bc", -2}, {"abc", -3}};
    const Unigram model(pieces, {}, bare());
    CHECK((encode(model, "ab") == List{4}));
    CHECK((encode(model, "abc") == List{6}));
    CHECK((encode(model, "bcab") == List{5, 4}));
}

TEST(unknown_characters_side_by_side_are_one_token) {
    const Unigram model(kPieces, {}, words());
    CHECK((encode(model, "xyz") == List{1, 0}));
    CHECK((encode(model, "axyb\xc3\x9f") == List{5, 0, 3, 0}));
    CHECK((encode(model, "x<unk>y") == List{1, 0}));
    Pieces fused = {{"<unk>", 0}, {"a", -1}, {"xy", -100}};
    CHECK((encode(Unigram(fused, {}, bare()), "axya") == List{1, 2, 1}));
    fused[2].score = 1000;
    fused.push_back({"z", -1000});
    CHECK((encode(Unigram(fused, {}, bare()), "axya") == List{1, 2, 1}));
}

TEST(bytes_stand_in_only_if_all_are_there) {
    Unigram::Options options = words();
    options.byte_fallback = true;
    const Unigram model(kPieces, {}, options);
    CHECK((encode(model, "xx") == List{1, 13, 13}));
    CHECK((encode(model, "x\xc3\x9f") == List{1, 13, 14, 15}));
    CHECK((encode(model, "xy") == List{1, 0}));
}

TEST(without_an_unknown_token_the_text_is_given_back) {
    Unigram::Options options = bare();
    options.unk_id.reset();
    const Unigram model(kPieces, {}, options);
    Ids ids;
    CHECK(!model.encode("axa", true, *model.new_memory(), ids));
    CHECK((encode(model, "aba") == List{4, 2}));
}

TEST(metaspace_keeps_every_space) {
    const Unigram model(kPieces, {}, metaspace());
    CHECK((encode(model, "a") == List{5}));
    CHECK((encode(model, " a") == List{5}));
    CHECK((encode(model, "  a ab  ") == List{1, 5, 6, 1, 1}));
    CHECK((encode(model, " ") == List{1}));
    CHECK((encode(model, "a\nb") == List{5, 0, 3}));
    CHECK((encode(model, "a▁b ▁a") == List{5, 1, 3, 1, 5}));
    Unigram::Options whole = metaspace();
    whole.metaspace->split = false;
    CHECK((encode(Unigram(kPieces, {}, whole), "a  a ") == List{5, 1, 5, 1}));
}

TEST(prepend_schemes) {
    const Unigram first(kPieces, {}, metaspace(Metaspace::Prepend::kFirst));
    CHECK((encode(first, "a a") == List{5, 5}));
    CHECK((encode(first, "a a", false) == List{2, 5}));
    const Unigram never(kPieces, {}, metaspace(Metaspace::Prepend::kNever));
    CHECK((encode(never, "a a") == List{2, 5}));
    const Unigram first_word(kPieces, {}, words(Metaspace::Prepend::kFirst));
    CHECK((encode(first_word, "a a a") == List{5, 2, 2}));
    CHECK((encode(first_word, " a a") == List{2, 2}));
    CHECK((encode(first_word, "a a", false) == List{2, 2}));
}

TEST(no_pre_tokenizer_and_white_space_alone) {
    CHECK((encode(Unigram(kPieces, {}, bare()), "a b a") == List{16, 17, 2}));
    Unigram::Options options = bare();
    options.whitespace_split = true;
    CHECK((encode(Unigram(kPieces, {}, options), " a b  ab") == List{2, 3, 4}));
}

TEST(strips_and_runs_of_spaces) {
    const auto model = [](const Unigram::Options& options, bool left, bool right, const char* content) {
        std::vector<Unigram::Step> steps;
        steps.push_back(strip(left, right));
        steps.push_back(spaces(content));
        return Unigram(kPieces, std::move(steps), options);
    };
    CHECK((encode(model(metaspace(), false, true, "▁"), "  a   b  a ") == List{5, 1, 3, 5}));
    CHECK((encode(model(metaspace(), true, true, " "), "  a   b  ") == List{5, 1, 3}));
    CHECK((encode(model(metaspace(Metaspace::Prepend::kNever), true, false, " "), "  a   b  ") ==
           List{2, 1, 3, 1}));
    CHECK((encode(model(words(), false, false, "▁"), " a   b  ") == List{5, 1, 3, 1}));
    CHECK(encode(model(metaspace(), true, true, " "), "    ") == List{});
    std::string normal;
    CHECK(model(metaspace(), true, false, "▁").normalize("  a   b  ", normal) && normal == "a▁b▁");
}

TEST(a_run_of_spaces_that_a_step_makes_is_one_run) {
    std::vector<Unigram::Step> steps(1);
    steps[0].words = penstock::text::make_replace("▁", " ");
    steps.push_back(spaces("▁"));
    const Unigram model(kPieces, std::move(steps), metaspace());
    CHECK((encode(model, "a ▁ b") == List{5, 1, 3}));
    CHECK((encode(model, "a ▁") == List{5, 1}));
}

TEST(a_word_that_a_strip_would_shorten_is_not_kept) {
    std::vector<Unigram::Step> steps;
    steps.push_back(strip(true, true));
    steps.emplace_back().words = penstock::text::make_replace("\v", " ");
    steps.push_back(spaces(" "));
    const Unigram model(kPieces, std::move(steps), metaspace(Metaspace::Prepend::kFirst));
    const auto memory = model.new_memory();
    CHECK((encode(model, *memory, "b \va b") == List{1, 3, 5, 1, 3}));
    Ids ids;
    CHECK(!model.encode("\va b", true, *memory, ids));  // which word was the first is not known
    CHECK((encode(model, *memory, "\va b", false) == List{2, 1, 3}));
}

TEST(a_mark_behind_a_gap_belongs_to_it) {
    std::vector<Unigram::Step> steps(1);
    steps[0].words = penstock::text::make_replace("b", "a");
    const Unigram model(kPieces, std::move(steps), words());
    const List once = encode(model, "a b");
    CHECK((once == List{5, 5}));
    CHECK((encode(model,
                  "a \xcc\x81"
                  "b a") == List{5, 1, 0, 2, 5}));
    CHECK((encode(model, "a \xcc\x81 \xcc\x81 a") == List{5, 1, 0, 1, 0, 5}));
    CHECK((encode(model, "a\xd8\x80 b") == List{5, 0, 5}));
}

TEST(normalized_text_goes_its_own_way) {
    std::vector<Unigram::Step> steps(1);
    steps[0].words = penstock::text::make_replace("b", "a");
    const Unigram model(kPieces, std::move(steps), words());
    const auto memory = model.new_memory();
    CHECK((encode(model, *memory, "b") == List{5}));
    Ids ids;
    CHECK(model.encode_normalized("b b", true, *memory, ids));
    CHECK((List(ids.data(), ids.data() + ids.size()) == List{1, 3, 1, 3}));
}

// What an open stretch becomes begins the tokens of every text that begins so, and is not much less than all.
TEST(a_cut_changes_nothing_before_it) {
    const std::vector<std::string> parts = {"a",  "b",  "ab", "é", "中", "▁", " ", "abab",
                                            "  ", "\n", "x",  "ß", "y",  "A", ",", "\u3000"};
    std::mt19937 random(3);
    std::size_t num_sure = 0, num_all = 0, num_wrong = 0;
    for (int trial = 0; trial < 60; ++trial) {
        Pieces pieces = kPieces;
        for (auto& piece : pieces) piece.score = -static_cast<double>(random() % 8) / 4;  // many ties
        std::vector<Unigram::Step> steps;
        if (trial % 4 == 1) {
            steps.emplace_back().words = penstock::text::make_lowercase();
            steps.push_back(spaces("▁"));
        }
        if (trial % 4 == 2) {
            steps.emplace_back().words = penstock::text::make_form(penstock::text::Form::kNfkc);
            steps.push_back(strip(true, true));
        }
        Unigram::Options options = trial % 3 == 0 ? words() : trial % 3 == 1 ? metaspace() : bare();
        options.byte_fallback = trial % 2 == 0;
        const Unigram model(pieces, std::move(steps), options);
        const auto memory = model.new_memory();
        for (int round = 0; round < 200; ++round) {
            std::string text;
            for (std::size_t i = 2 + random() % 40; i > 0; --i) text += parts[random() % parts.size()];
            const std::size_t at = model.cut_between(text, random() % text.size(), text.size());
            if (at == std::string::npos) continue;
            const List whole = encode(model, *memory, text);
            Ids ids;
            CHECK(model.encode(std::string_view(text).substr(0, at), {true, true}, *memory, ids));
            const List sure(ids.data(), ids.data() + ids.size());
            CHECK(sure.size() <= whole.size() && std::equal(sure.begin(), sure.end(), whole.begin()));
            const List closed = encode(model, *memory, text.substr(0, at));
            num_wrong +=
                closed.size() > whole.size() || !std::equal(closed.begin(), closed.end(), whole.begin());
            num_sure += sure.size();
            num_all += closed.size();
        }
    }
    CHECK(3 * num_sure > 2 * num_all);
    CHECK(num_wrong > 100);  // tokens at the end are not sure
}

TEST(a_path_that_depends_on_the_end_is_not_sure) {
    // "aaa" and "a": which comes first depends on the length of the text.
    const Pieces pieces = {{"<unk>", 0}, {"aaa", -1}, {"aa", -1.5}, {"a", -2}};
    const Unigram model(pieces, {}, bare());
    const auto memory = model.new_memory();
    Ids ids;
    CHECK(model.encode(std::string(300, 'a'), {true, true}, *memory, ids));
    CHECK(ids.empty());
    CHECK(encode(model, *memory, std::string(300, 'a')).front() == 1);
    CHECK(encode(model, *memory, std::string(301, 'a')).front() != 1);
}

TEST(random_text_is_as_by_the_book) {
    const std::vector<std::string> parts = {"a",  "b",  "ab", "é", "中",    "▁", " ",
                                            "  ", "\n", "x",  "ß", "<unk>", "y", "abab"};
    std::mt19937 random(7);
    for (const bool byte_fallback : {false, true}) {
        Pieces pieces = kPieces;
        for (auto& piece : pieces) piece.score = -static_cast<double>(random() % 8) / 4;  // many ties
        Unigram::Options options = words();
        options.byte_fallback = byte_fallback;
        const Unigram model(pieces, {}, options);
        const auto memory = model.new_memory();
        for (int round = 0; round < 4000; ++round) {
            std::string text;
            for (std::size_t i = random() % 30; i > 0; --i) text += parts[random() % parts.size()];
            const List expected = by_the_book(pieces, text, byte_fallback);
            CHECK(encode(model, *memory, text) == expected);
            CHECK(encode(model, *memory, text) == expected);
        }
    }
}

TEST(the_trie_finds_what_was_put_in) {
    std::mt19937 random(3);
    std::map<std::string, Id> expected;
    for (Id id = 0; id < 20000; ++id) {
        std::string piece;
        for (std::size_t i = 1 + random() % 5; i > 0; --i)
            piece += static_cast<char>(random() % (id % 2 == 0 ? 3 : 256));
        expected.try_emplace(piece, id);
    }
    std::vector<PieceTrie::Entry> entries;
    for (const auto& [piece, id] : expected) entries.push_back({piece, -1.0, id});
    const PieceTrie trie(entries);
    for (const auto& [piece, id] : expected) CHECK(trie.find(piece) == id);
    for (int i = 0; i < 20000; ++i) {
        std::string piece;
        for (std::size_t left = 1 + random() % 4; left > 0; --left)
            piece += static_cast<char>(random() % 256);
        const auto found = expected.find(piece);
        CHECK(trie.find(piece) == (found == expected.end() ? PieceTrie::kNone : found->second));
    }
}

TEST(what_cannot_be_exact_is_refused) {
    const auto build = [](const Pieces& pieces, const Unigram::Options& options) {
        Unigram(pieces, {}, options);
    };
    CHECK_THROWS(build({{"a", std::numeric_limits<double>::quiet_NaN()}}, bare()), std::invalid_argument,
                 "not finite");
    CHECK_THROWS(build({{"\xff", 0}}, bare()), std::invalid_argument, "UTF-8");
    CHECK_THROWS(build({}, bare()), std::invalid_argument, "unk_id");
    const std::string long_piece(2000, 'a');
    CHECK_THROWS(build({{long_piece, 0}}, bare()), std::invalid_argument, "longer");
    Unigram::Options options = words();
    options.metaspace->replacement = "ab";
    CHECK_THROWS(build(kPieces, options), std::invalid_argument, "replacement");
}

}  // namespace

CHECK_MAIN()
