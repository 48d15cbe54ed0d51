// csrc/text/wordpiece.h against small vocabularies written out by hand.

#include "text/wordpiece.h"

#include <algorithm>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "check.h"

using penstock::text::BertSteps;
using penstock::text::Id;
using penstock::text::Ids;
using penstock::text::WordPiece;
using penstock::text::WordPieceSettings;

namespace {

using Tokens = std::vector<std::string>;
using Vocabulary = std::vector<std::pair<std::string, Id>>;

Vocabulary numbered(const Tokens& tokens) {
    Vocabulary vocabulary;
    for (const std::string& token : tokens)
        vocabulary.emplace_back(token, static_cast<Id>(100 + vocabulary.size()));
    return vocabulary;
}

const Tokens kTokens = {"[UNK]",  "un",       "##aff",    "##able", "##a",       "the", "cafe", "e",
                        "##e",    "!",        "?",        "'",      "=",         ";",   "中",   "国",
                        "##中",   "ab",       "##\u0301", "café",   "caf\u00e9", "ß",   "i",    "##i",
                        "\u1112", "##\u1161", "##\u11ab", "한",     "σ",         "##σ", "x",    "##x",
                        "1",      "##2",      "😀",       "##😀"};

// The tokens that a text becomes, by name. What is looked up the second time must be the same, and so must what
// was normalized before.
class Subject {
  public:
    explicit Subject(WordPieceSettings settings = {}, Tokens tokens = unique(kTokens))
        : tokens_(std::move(tokens)), model_(numbered(tokens_), settings), memory_(model_.new_memory()) {}

    Tokens operator()(const std::string& text) {
        const Tokens first = once(text);
        CHECK(once(text) == first);
        std::string normal;
        CHECK(model_.normalize(text, normal));
        CHECK(tokens_of([&](Ids& ids) { return model_.encode_normalized(normal, true, *memory_, ids); }) ==
              first);
        return first;
    }

    const WordPiece& model() const { return model_; }
    std::size_t num_bytes() const { return memory_->num_bytes(); }

  private:
    static Tokens unique(const Tokens& tokens) {
        Tokens result;
        for (const std::string& token : tokens)
            if (std::find(result.begin(), result.end(), token) == result.end()) result.push_back(token);
        return result;
    }

    Tokens once(const std::string& text) {
        return tokens_of([&](Ids& ids) { return model_.encode(text, true, *memory_, ids); });
    }

    template <typename Encode>
    Tokens tokens_of(Encode encode) {
        Ids ids;
        CHECK(encode(ids));
        Tokens result;
        for (const Id id : ids.all()) result.push_back(tokens_.at(static_cast<std::size_t>(id - 100)));
        return result;
    }

    Tokens tokens_;
    WordPiece model_;
    std::unique_ptr<penstock::text::Memory> memory_;
};

WordPieceSettings with_steps(bool clean_text, bool chinese_chars, bool strip_accents, bool lowercase) {
    WordPieceSettings settings;
    settings.normalizer = BertSteps{clean_text, chinese_chars, strip_accents, lowercase};
    return settings;
}

WordPieceSettings without_normalizer() {
    WordPieceSettings settings;
    settings.normalizer.reset();
    return settings;
}

std::string repeated(const std::string& text, int times) {
    std::string result;
    for (int i = 0; i < times; ++i) result += text;
    return result;
}

// The longest piece first, as one would write it down: the twin of tries, caches and blocks. A word is its letters.
Tokens slowly(const Tokens& tokens, const Tokens& word) {
    Tokens result;
    for (std::size_t at = 0; at < word.size();) {
        std::string piece, longest;
        std::size_t end = at;
        if (at != 0) piece = "##";
        for (std::size_t next = at; next < word.size(); ++next) {
            piece += word[next];
            if (std::find(tokens.begin(), tokens.end(), piece) != tokens.end())
                longest = piece, end = next + 1;
        }
        if (end == at) return {"[UNK]"};
        result.push_back(longest);
        at = end;
    }
    return result;
}

// Texts of random words, of what stands between words, and of characters that are words by themselves, against slowly().
void agrees_with_the_twin(const WordPieceSettings& settings, const Tokens& letters, const Tokens& spaces,
                          const Tokens& alone) {
    std::mt19937 random(7);
    const auto below = [&random](std::size_t end) { return static_cast<std::size_t>(random() % end); };
    const auto word_of = [&](std::size_t length) {
        const std::size_t script = below(2);  // most words keep to one
        Tokens word;
        for (std::size_t i = 0; i < length; ++i)
            word.push_back(letters[(below(12) == 0 ? below(2) : script) * letters.size() / 2 +
                                   below(letters.size() / 2)]);
        return word;
    };
    Tokens tokens = {"[UNK]"};
    const auto add = [&tokens](const std::string& token) {
        if (std::find(tokens.begin(), tokens.end(), token) == tokens.end()) tokens.push_back(token);
    };
    for (std::size_t i = 0; i + 1 < letters.size(); ++i) add(letters[i]), add("##" + letters[i]);
    for (std::size_t i = 0; i + 1 < alone.size(); ++i) add(alone[i]);
    for (int i = 0; i < 60; ++i) {
        std::string piece;
        for (const std::string& letter : word_of(2 + below(5))) piece += letter;
        add(i % 2 == 0 ? piece : "##" + piece);
    }
    Subject encode(settings, tokens);
    for (int round = 0; round < 3000; ++round) {
        std::string text;
        Tokens expected;
        const auto extend = [&](const Tokens& more) {
            expected.insert(expected.end(), more.begin(), more.end());
        };
        for (std::size_t words = below(30); words > 0; --words) {
            const Tokens word = word_of(1 + (below(9) == 0 ? below(90) : below(9)));
            for (const std::string& letter : word) text += letter;
            extend(slowly(tokens, word));
            for (std::size_t between = 1 + below(3); between > 0; --between) {
                if (below(3) != 0) {
                    text += spaces[below(spaces.size())];
                } else {
                    const std::string one = alone[below(alone.size())];
                    text += one;
                    extend(slowly(tokens, {one}));
                }
            }
        }
        CHECK(encode(text) == expected);
    }
}

}  // namespace

TEST(the_longest_piece_comes_first) {
    Subject encode;
    CHECK((encode("unaffable") == Tokens{"un", "##aff", "##able"}));
    CHECK((encode("una") == Tokens{"un", "##a"}));
    CHECK((encode("The THE the") == Tokens{"the", "the", "the"}));
}

TEST(nothing_gives_nothing) {
    Subject encode;
    CHECK(encode("").empty());
    CHECK(encode(" \t\r\n  \u00a0\u3000").empty());
    CHECK(encode(std::string(1, '\0') + "\x01\u200b\ufffd").empty());
    CHECK(encode("\u0301\u0302").empty());
}

TEST(a_word_with_a_part_that_is_no_token_is_unknown_as_a_whole) {
    Subject encode;
    CHECK((encode("unq the") == Tokens{"[UNK]", "the"}));
    CHECK((encode("qun") == Tokens{"[UNK]"}));
    CHECK((encode("~") == Tokens{"[UNK]"}));
    CHECK((encode("ж") == Tokens{"[UNK]"}));
}

TEST(a_word_may_have_max_chars_and_no_more) {
    for (const std::size_t most :
         {std::size_t{0}, std::size_t{1}, std::size_t{5}, std::size_t{100}, std::size_t{1000}}) {
        WordPieceSettings settings;
        settings.max_input_chars_per_word = most;
        Subject encode(settings);
        for (const std::string letter : {"e", "É", "😀"}) {
            for (const std::size_t length : {1, 5, 6, 15, 16, 64, 65, 100, 101, 1000, 1001}) {
                const Tokens tokens = encode("! " + repeated(letter, static_cast<int>(length)) + " the");
                CHECK(tokens.size() == 2 + (length > most ? 1 : length));
                CHECK(tokens[1] == (length > most ? "[UNK]" : letter == "😀" ? letter : "e"));
            }
        }
    }
    WordPieceSettings settings;  // counted as they are after the normalizer
    settings.max_input_chars_per_word = 3;
    CHECK((Subject(settings)("한") == Tokens{"\u1112", "##\u1161", "##\u11ab"}));
    settings.max_input_chars_per_word = 2;
    CHECK((Subject(settings)("한 e\u0301e") == Tokens{"[UNK]", "e", "##e"}));
}

TEST(prefixes) {
    for (const std::string prefix : {"@", "é", ""}) {
        WordPieceSettings settings;
        settings.continuing_subword_prefix = prefix;
        settings.unk_token = "?";
        Subject encode(settings, {"?", "a", prefix + "b", prefix + "bb", "ab"});
        CHECK((encode("abbb") == Tokens{"ab", prefix + "bb"}));
        CHECK((encode("a abb") == Tokens{"a", "ab", prefix + "b"}));
        CHECK((encode("ba") == (prefix.empty() ? Tokens{"b", "a"} : Tokens{"?"})));
    }
}

TEST(punctuation_is_a_word) {
    Subject encode;
    CHECK((encode("the!!un'e") == Tokens{"the", "!", "!", "un", "'", "e"}));
    CHECK((encode("!") == Tokens{"!"}));
    CHECK((encode("e…e") == Tokens{"e", "[UNK]", "e"}));
    CHECK((encode("e\u037ee") == Tokens{"e", ";", "e"}));  // the Greek question mark is decomposed to ;
    CHECK((encode("e\u2260e") == Tokens{"e", "=", "e"}));  // not equal, to = and a mark
    CHECK((encode(repeated("!", 200)) == Tokens(200, "!")));
    for (int before = 0; before < 200; before += 3)
        CHECK((encode(repeated(" ", before) + "un!the") == Tokens{"un", "!", "the"}));
}

TEST(chinese) {
    CHECK((Subject()("中国 e中e") == Tokens{"中", "国", "e", "中", "e"}));
    CHECK((Subject(with_steps(true, false, true, true))("中国 e中e") == Tokens{"[UNK]", "e", "##中", "##e"}));
    CHECK((Subject()("\u9f8e") == Tokens{"[UNK]"}));
}

TEST(control_characters_join_words) {
    const std::string text = std::string("th\x01") + "e t\u200dh\u00ade" + std::string("\0un", 3);
    CHECK((Subject()(text) == Tokens{"the", "[UNK]"}));
    CHECK((Subject()("th\x01"
                     "e") == Tokens{"the"}));
    CHECK((Subject()("th\x0b"
                     "e") == Tokens{"the"}));
    CHECK((Subject(with_steps(false, true, true, true))("th\x01"
                                                        "e") == Tokens{"[UNK]"}));
    CHECK((Subject(with_steps(false, true, true, true))("the\x0b"
                                                        "the\x0c!") == Tokens{"the", "the", "!"}));
}

TEST(accents) {
    CHECK((Subject()("Café cafe\u0301 CAFÉ") == Tokens{"cafe", "cafe", "cafe"}));
    CHECK((Subject(with_steps(true, true, false, true))("CAFÉ cafe\u0301") ==
           Tokens{"café", "cafe", "##\u0301"}));
    CHECK((Subject(with_steps(true, true, true, false))("café CAFÉ") == Tokens{"cafe", "[UNK]"}));
    CHECK((Subject(with_steps(true, true, false, false))("café cafe 한") == Tokens{"café", "cafe", "한"}));
    CHECK((Subject()("İi") == Tokens{"i", "##i"}));
    CHECK((Subject()("Σς") == Tokens{"[UNK]"}));  // the final sigma is another letter
    CHECK((Subject()("ΣΣ 한") == Tokens{"σ", "##σ", "\u1112", "##\u1161", "##\u11ab"}));
}

TEST(marks_that_stay_are_sorted) {
    // U+302E (class 224) and U+1B44 (class 9) are marks, but not nonspacing ones.
    const Tokens tokens = {"[UNK]", "e\u1b44\u302e", "e\u302e\u1b44"};
    CHECK((Subject({}, tokens)("e\u302e\u1b44 e\u1b44\u302e") == Tokens{tokens[1], tokens[1]}));
    CHECK((Subject({}, tokens)("e\u302e\u0301\u200b\u1b44") == Tokens{tokens[1]}));
    CHECK((Subject(without_normalizer(), tokens)("e\u302e\u1b44") == Tokens{tokens[2]}));
}

TEST(without_a_normalizer) {
    Subject encode(without_normalizer());
    CHECK((encode("the The caf\u00e9 中 e中!") == Tokens{"the", "[UNK]", "café", "中", "e", "##中", "!"}));
}

TEST(words_before_and_behind_do_not_matter) {
    Subject encode;
    const std::vector<std::pair<std::string, Tokens>> parts = {{"unaffable", {"un", "##aff", "##able"}},
                                                               {"É", {"e"}},
                                                               {"中", {"中"}},
                                                               {"!", {"!"}},
                                                               {"12", {"1", "##2"}},
                                                               {repeated("x", 70),
                                                                [] {
                                                                    Tokens all(70, "##x");
                                                                    return all[0] = "x", all;
                                                                }()},
                                                               {"th\x01"
                                                                "e",
                                                                {"the"}},
                                                               {"😀", {"😀"}}};
    for (const auto& [left, left_tokens] : parts) {
        for (const auto& [right, right_tokens] : parts) {
            for (int spaces = 1; spaces < 70; spaces += 7) {
                Tokens expected = left_tokens;
                expected.insert(expected.end(), right_tokens.begin(), right_tokens.end());
                CHECK(encode(left + repeated(" ", spaces) + right) == expected);
                expected.insert(expected.end(), left_tokens.begin(), left_tokens.end());
                CHECK(encode(left + "\n" + right + repeated(" ", spaces) + left) == expected);
            }
        }
    }
}

TEST(texts_of_many_scripts_are_as_the_twin_says) {
    // In each half of the letters one kind of script; the last letter, and the last that stands alone, is in no token.
    const Tokens letters = {"a", "b", "c", "d", "1", "\u0434", "\u0e01", "\U0001f600", "\u0639", "\u044f"};
    const Tokens spaces = {" ", "\n", "\u00a0", "\u3000", "\u2028", "\t "};
    const Tokens alone = {"!", "\u201c", "\u3002", "\u4e2d", "\U00020bb7", "\u00bf"};
    agrees_with_the_twin({}, letters, spaces, alone);
    const Tokens more = {"a", "B", "c", "D", "1", "\u0434", "\u00c9", "\U00020bb7", "\u4e2d", "\u044f"};
    agrees_with_the_twin(without_normalizer(), more, spaces, {"!", "\u201c", "\u3002", "\u00bf"});
}

TEST(a_text_may_be_cut_between_words) {
    Subject encode;
    const std::string text = "the é 中国 un!e\u0301x the";
    CHECK(encode.model().cut_between(text, 0, text.size()) == 3);
    CHECK(encode.model().cut_between("thethe", 0, 6) == std::string_view::npos);
    CHECK(encode.model().cut_between("e\u0301e", 0, 4) == std::string_view::npos);
    CHECK(encode.model().cut_between("中国", 0, 6) == 3);
    CHECK(encode.model().cut_between("", 0, 0) == std::string_view::npos);
    for (std::size_t from = 0; from < text.size(); ++from) {
        const std::size_t cut = encode.model().cut_between(text, from, text.size());
        if (cut == std::string_view::npos) continue;
        CHECK(cut >= from && cut < text.size());
        Tokens both = encode(text.substr(0, cut));
        for (const std::string& token : encode(text.substr(cut))) both.push_back(token);
        CHECK(both == encode(text));
    }
}

TEST(memory_is_bounded) {
    Subject encode;
    for (int i = 0; i < 20000; ++i) (void)encode("ab" + std::to_string(i) + repeated("x", i % 300));
    CHECK(encode.num_bytes() <= std::size_t{32} << 20);
}

TEST(what_cannot_be_exact_is_refused) {
    const auto build = [](const Vocabulary& vocabulary) { WordPiece(vocabulary, {}); };
    CHECK_THROWS(build({}), std::invalid_argument, "unk_token");
    CHECK_THROWS(build({{"a", 1}}), std::invalid_argument, "unk_token");
    CHECK_THROWS(build({{"[UNK]", 1}, {"a", 1}, {"a", 2}}), std::invalid_argument, "twice");
    CHECK_THROWS(build({{"[UNK]", 1}, {"a", -1}}), std::invalid_argument, "negative");
    CHECK_THROWS(build({{"[UNK]", 1}, {"\xff", 2}}), std::invalid_argument, "UTF-8");
    WordPieceSettings settings;
    settings.continuing_subword_prefix = "\xc3";
    CHECK_THROWS(WordPiece({{"[UNK]", 1}}, settings), std::invalid_argument, "UTF-8");
    build({{"[UNK]", 1}, {"", 2}, {"##", 3}});  // tokens that no word can have are no harm
}

CHECK_MAIN()
