#include "text/piece_bpe.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
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
using penstock::text::MergePair;
using penstock::text::Metaspace;
using penstock::text::PieceBpe;
using penstock::text::TokenIds;

namespace {

using List = std::vector<Id>;
using Strings = std::vector<std::string>;

constexpr Id kUnknown = 0;
constexpr Id kBytes = 1;  // the token of byte 0; the others follow

struct Vocabulary {
    Strings strings;
    std::vector<TokenIds::Token> tokens;
    std::vector<std::pair<std::string, std::string>> pairs;
    std::vector<MergePair> merges;

    // The merges make their products. `num_bytes` of the 256 bytes have tokens.
    Vocabulary(const Strings& characters, std::vector<std::pair<std::string, std::string>> list,
               int num_bytes = 256)
        : pairs(std::move(list)) {
        strings.emplace_back("<unk>");
        for (int byte = 0; byte < num_bytes; ++byte) {
            char name[8];
            std::snprintf(name, sizeof(name), "<0x%02X>", static_cast<unsigned>(byte));
            strings.emplace_back(name);
        }
        strings.insert(strings.end(), characters.begin(), characters.end());
        for (const auto& [left, right] : pairs) {
            if (id(left + right) < 0) strings.push_back(left + right);
        }
        for (std::size_t i = 0; i < strings.size(); ++i) tokens.emplace_back(strings[i], static_cast<Id>(i));
        for (const auto& [left, right] : pairs) merges.emplace_back(left, right);
    }
    Vocabulary(const Vocabulary&) = delete;
    Vocabulary& operator=(const Vocabulary&) = delete;

    Id id(std::string_view string) const {
        for (std::size_t i = 0; i < strings.size(); ++i) {
            if (strings[i] == string) return static_cast<Id>(i);
        }
        return -1;
    }
    List ids(const Strings& list) const {
        List result;
        for (const std::string& string : list) result.push_back(id(string));
        return result;
    }
};

const Vocabulary& small() {
    static const Vocabulary vocabulary({"▁", "a", "b", "c", "é", "中", "\n"}, {{"a", "b"},
                                                                               {"▁", "▁"},
                                                                               {"▁", "a"},
                                                                               {"▁▁", "▁▁"},
                                                                               {"▁", "ab"},
                                                                               {"b", "a"},
                                                                               {"ab", "ab"},
                                                                               {"b", "é"},
                                                                               {"▁", "b"}});
    return vocabulary;
}

PieceBpe::Options llama() {
    PieceBpe::Options options;
    options.unk_token = "<unk>";
    options.fuse_unk = true;
    options.byte_fallback = true;
    options.prepend = true;
    options.replace_spaces = true;
    return options;
}

PieceBpe::Options metaspace(Metaspace::Prepend prepend, bool split) {
    PieceBpe::Options options = llama();
    options.prepend = false;
    options.replace_spaces = false;
    options.metaspace = Metaspace{"▁", prepend, split};
    return options;
}

PieceBpe build(const Vocabulary& vocabulary, const PieceBpe::Options& options) {
    return PieceBpe(vocabulary.tokens, vocabulary.merges, options);
}

List encode(const PieceBpe& model, Memory& memory, std::string_view text, bool first = true) {
    // On the heap without a byte behind it, so that a sanitizer sees every read too far.
    const std::vector<char> exact(text.begin(), text.end());
    Ids ids;
    ids.push(77);
    CHECK(model.encode({exact.data(), exact.size()}, first, memory, ids));
    CHECK(ids.data()[0] == 77);
    return {ids.data() + 1, ids.data() + ids.size()};
}

List encode(const PieceBpe& model, std::string_view text, bool first = true) {
    const auto memory = model.new_memory();
    const List fresh = encode(model, *memory, text, first);
    CHECK(encode(model, *memory, text, first) == fresh);  // what the caches say
    CHECK(memory->num_bytes() <= std::size_t{32} << 20);
    std::string normal;
    CHECK(model.normalize(text, normal));
    Ids ids;
    CHECK(model.encode_normalized(normal, first, *memory, ids));
    CHECK(List(ids.data(), ids.data() + ids.size()) == fresh);
    return fresh;
}

// The same by the book: the whole text as one word, the best pair of all, again and again.
List by_the_book(const Vocabulary& vocabulary, const PieceBpe::Options& options, std::string_view text,
                 bool first) {
    const std::string space = "▁";
    if (text.empty()) return {};
    std::string normal = options.prepend ? space : "";
    for (const char c : text) normal += c == ' ' ? space : std::string(1, c);
    Strings words = {normal};
    if (options.metaspace.has_value()) {
        const auto& [replacement, prepend, split] = *options.metaspace;
        const bool wanted =
            prepend == Metaspace::Prepend::kAlways || (prepend == Metaspace::Prepend::kFirst && first);
        if (wanted && !normal.starts_with(space)) normal.insert(0, space);
        words = {normal};
        if (split) {
            words.clear();
            for (std::size_t from = 0; from < normal.size();) {
                const std::size_t next = std::min(normal.find(space, from + 1), normal.size());
                words.push_back(normal.substr(from, next - from));
                from = next;
            }
        }
    }
    std::map<std::pair<Id, Id>, std::pair<std::size_t, Id>> ranks;
    for (std::size_t i = 0; i < vocabulary.pairs.size(); ++i) {
        const auto& [left, right] = vocabulary.pairs[i];
        ranks[{vocabulary.id(left), vocabulary.id(right)}] = {i, vocabulary.id(left + right)};
    }
    List out;
    for (const std::string& word : words) {
        if (options.ignore_merges && vocabulary.id(word) >= 0) {
            out.push_back(vocabulary.id(word));
            continue;
        }
        List symbols;
        bool pending = false;
        for (std::size_t at = 0; at < word.size();) {
            const std::size_t length = penstock::text::sequence_length(static_cast<unsigned char>(word[at]));
            const std::string character = word.substr(at, length);
            at += length;
            if (const Id id = vocabulary.id(character); id >= 0) {
                if (pending) symbols.push_back(kUnknown);
                pending = false;
                symbols.push_back(id);
                continue;
            }
            List bytes;
            for (const char byte : character) {
                char name[8];
                std::snprintf(name, sizeof(name), "<0x%02X>", static_cast<unsigned char>(byte));
                if (const Id id = vocabulary.id(name); id >= 0) bytes.push_back(id);
            }
            if (options.byte_fallback && bytes.size() == length) {
                symbols.insert(symbols.end(), bytes.begin(), bytes.end());
            } else if (options.unk_token.has_value()) {
                if (pending && !options.fuse_unk) symbols.push_back(kUnknown);
                pending = true;
            }
        }
        if (pending) symbols.push_back(kUnknown);
        for (;;) {
            std::size_t best = ~std::size_t{0};
            std::size_t at = 0;
            for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
                const auto found = ranks.find({symbols[i], symbols[i + 1]});
                if (found != ranks.end() && found->second.first < best) best = found->second.first, at = i;
            }
            if (best == ~std::size_t{0}) break;
            symbols[at] = ranks[{symbols[at], symbols[at + 1]}].second;
            symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
        }
        out.insert(out.end(), symbols.begin(), symbols.end());
    }
    return out;
}

TEST(a_space_is_put_before_the_text_and_all_are_merged) {
    const PieceBpe model = build(small(), llama());
    CHECK(encode(model, "") == List{});
    CHECK(encode(model, "ab ab") == small().ids({"▁ab", "▁ab"}));
    CHECK(encode(model, " ab") == small().ids({"▁▁", "ab"}));
    CHECK(encode(model, "   ") == small().ids({"▁▁▁▁"}));
    CHECK(encode(model, "c    ab  ") == small().ids({"▁", "c", "▁▁▁▁", "ab", "▁▁"}));
    CHECK(encode(model, "\n\nab\n ab") == small().ids({"▁", "\n", "\n", "ab", "\n", "▁ab"}));
}

TEST(a_literal_replacement_is_the_same_as_a_space) {
    const PieceBpe model = build(small(), llama());
    for (const char* const text : {"a▁b", "▁a", "a▁ b", "a ▁b", "▁ ▁", "ab▁▁ ab", "▁", "c▁"}) {
        std::string spaced;
        for (std::string_view rest = text; !rest.empty();) {
            const bool is_literal = rest.starts_with("▁");
            spaced += is_literal ? ' ' : rest.front();
            rest.remove_prefix(is_literal ? 3 : 1);
        }
        CHECK(encode(model, text) == encode(model, spaced));
        CHECK(encode(model, text) == by_the_book(small(), llama(), text, true));
    }
}

TEST(what_has_no_token_becomes_its_bytes) {
    const PieceBpe model = build(small(), llama());
    const auto byte = [](int value) { return kBytes + value; };
    CHECK((encode(model, "xa") == List{small().id("▁"), byte('x'), small().id("a")}));
    CHECK((encode(model, "\xc3\x9f") == List{small().id("▁"), byte(0xc3), byte(0x9f)}));
    PieceBpe::Options options = llama();
    options.byte_fallback = false;
    CHECK(encode(build(small(), options), "xya xz") == small().ids({"▁", "<unk>", "a", "▁", "<unk>"}));
    options.fuse_unk = false;
    CHECK(encode(build(small(), options), "xya") == small().ids({"▁", "<unk>", "<unk>", "a"}));
    options.unk_token.reset();
    CHECK(encode(build(small(), options), "axb") == small().ids({"▁ab"}));
}

TEST(metaspace_splits_before_every_space_or_not_at_all) {
    const PieceBpe split = build(small(), metaspace(Metaspace::Prepend::kAlways, true));
    CHECK(encode(split, "ab   ab ") == small().ids({"▁ab", "▁", "▁", "▁ab", "▁"}));
    CHECK(encode(split, " ab") == small().ids({"▁ab"}));
    const PieceBpe whole = build(small(), metaspace(Metaspace::Prepend::kFirst, false));
    CHECK(encode(whole, "ab   ab") == small().ids({"▁ab", "▁▁", "▁ab"}));
    CHECK(encode(whole, "ab", false) == small().ids({"ab"}));
    const PieceBpe never = build(small(), metaspace(Metaspace::Prepend::kNever, true));
    CHECK(encode(never, "ab ab") == small().ids({"ab", "▁ab"}));
}

TEST(a_place_to_cut_is_not_inside_a_product) {
    const PieceBpe model = build(small(), llama());
    CHECK(model.cut_between("ab. ab a b", 1, 10) == 2);
    CHECK(model.cut_between("abab", 1, 4) == std::string::npos);
    CHECK(model.cut_between("中中", 1, 6) == 3);
    CHECK(model.cut_between("a a", 2, 3) == std::string::npos);  // white space is before it
    PieceBpe::Options options = llama();
    options.ignore_merges = true;
    CHECK(build(small(), options).cut_between("中中", 1, 6) == std::string::npos);
}

TEST(a_long_text_without_a_place_to_cut_is_merged_in_time) {
    const PieceBpe model = build(small(), llama());
    std::string text;
    for (int i = 0; i < 100000; ++i) text += "ab";
    const List ids = encode(model, text);
    CHECK(ids.size() == 50001);
    CHECK(ids[1] == small().id("abab") && ids.back() == small().id("ab"));
}

TEST(random_text_and_merges_are_as_by_the_book) {
    const Strings characters = {"▁", "a", "b", "c", "é", "中", "\n", "."};
    const Strings parts = {"a", "b", "c", "é", "中", "\n", ".", " ", "  ", "▁", "x", "ß", "\t", "ab", "    "};
    std::mt19937 random(11);
    std::size_t num_cuts = 0;
    for (int trial = 0; trial < 60; ++trial) {
        std::vector<std::pair<std::string, std::string>> pairs;
        Strings known = characters;
        for (std::size_t i = random() % 40; i > 0; --i) {
            const std::string& left = known[random() % known.size()];
            const std::string& right = known[random() % known.size()];
            if ((left + right).size() > 24) continue;
            pairs.emplace_back(left, right);
            known.push_back(pairs.back().first + pairs.back().second);
        }
        const int num_bytes = trial % 3 == 0 ? 256 : trial % 3 == 1 ? 0xa0 : 0;
        const Vocabulary vocabulary(
            trial % 7 == 0 ? Strings(characters.begin() + 1, characters.end()) : characters,
            trial % 7 == 0 ? decltype(pairs){} : pairs, num_bytes);
        PieceBpe::Options options = llama();
        if (trial % 4 == 1) options = metaspace(Metaspace::Prepend::kAlways, true);
        if (trial % 4 == 2) options = metaspace(Metaspace::Prepend::kFirst, false);
        if (trial % 4 == 3) options.prepend = false;
        options.ignore_merges = trial % 5 == 0;
        options.fuse_unk = random() % 2 == 0;
        options.byte_fallback = random() % 4 != 0;
        if (random() % 4 == 0) options.unk_token.reset();
        const PieceBpe model = build(vocabulary, options);
        const auto memory = model.new_memory();
        for (int round = 0; round < 300; ++round) {
            std::string text;
            for (std::size_t i = random() % 24; i > 0; --i) text += parts[random() % parts.size()];
            const bool first = random() % 2 == 0;
            const List expected = by_the_book(vocabulary, options, text, first);
            CHECK(encode(model, *memory, text, first) == expected);
            CHECK(encode(model, *memory, text, first) == expected);
            for (std::size_t at = 1; at < text.size(); ++at) {
                at = model.cut_between(text, at, text.size());
                if (at == std::string::npos) break;
                const List head = encode(model, *memory, text.substr(0, at), first);
                CHECK(head.size() <= expected.size() &&
                      std::equal(head.begin(), head.end(), expected.begin()));
                ++num_cuts;
            }
            std::string normal;
            CHECK(model.normalize(text, normal));
            Ids ids;
            CHECK(model.encode_normalized(normal, first, *memory, ids));
            CHECK(List(ids.data(), ids.data() + ids.size()) == expected);
        }
    }
    CHECK(num_cuts > 1000);
}

TEST(what_cannot_be_exact_is_refused) {
    const std::vector<TokenIds::Token> twice = {{"a", 1}, {"b", 1}};
    CHECK_THROWS(PieceBpe(twice, {}, llama()), std::invalid_argument, "one id");
    const std::vector<TokenIds::Token> bytes = {{"<0x41>", 0}, {"a", 1}, {"<0x41>a", 2}};
    const std::vector<MergePair> merges = {{"<0x41>", "a"}};
    CHECK_THROWS(PieceBpe(bytes, merges, llama()), std::invalid_argument, "token of a byte");
    PieceBpe::Options options = llama();
    options.replace_spaces = false;
    CHECK_THROWS(build(small(), options), std::invalid_argument, "Prepend");
    options = metaspace(Metaspace::Prepend::kAlways, true);
    options.metaspace->replacement = "";
    CHECK_THROWS(build(small(), options), std::invalid_argument, "replacement");
}

}  // namespace

CHECK_MAIN()
