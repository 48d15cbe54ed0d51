#include "text/pretokenize.h"

#include <algorithm>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "check.h"
#include "text/unicode.h"

namespace {

using namespace penstock::text;

using Words = std::vector<std::string>;

// Every whole scheme alone, and the chains of real tokenizers (with some that nobody has).
const std::vector<Scheme>& all() {
    using enum Rule;
    static const std::vector<Scheme> schemes{
        kGpt2,
        kCl100k,
        kQwen2,
        kO200k,
        kQwen35,
        kMiniCpm,
        kTekken,
        kDeepSeekV3,
        Scheme({kDigit, kGpt2}),
        Scheme({kDigits, kGpt2}),
        Scheme({kNumber, kTekken}),
        Scheme({kThreeDigits, kO200k}),
        Scheme({kThreeNumbers, kMiniCpm}),
        Scheme({kKana, kQwen2}),
        Scheme({kThreeNumbers, kKana, kDeepSeekV3}),
        Scheme({kNewline, kLetters, kStops, kHangul, kDigit}),
        Scheme({kNewline, kAlphabets, kSigns, kTrailing, kHangul, kDigit}),
        Scheme({kTrailing, kPunctuation, kCl100k}),
        Scheme({kPunctuations, kGpt2, kByteDigits, kThreeDigits}),
        Scheme({kPunctuations, kGpt2, kByteDigit}),
    };
    return schemes;
}

// Piece by piece and rule by rule, each piece in a buffer of exactly its size, so that reading past its end is
// seen.
Words slow(const Scheme& scheme, std::string_view text) {
    Words pieces;
    if (!text.empty()) pieces.emplace_back(text);
    for (const Rule rule : scheme.rules()) {
        Words cut;
        for (const std::string& piece : pieces) {
            const std::vector<char> copy(piece.begin(), piece.end());
            const char* const end = copy.data() + copy.size();
            for (const char* at = copy.data(); at < end;) {
                const char* const next = rule_end(rule, at, end);
                CHECK(next > at && next <= end);
                cut.emplace_back(at, next);
                at = next;
            }
        }
        pieces = std::move(cut);
    }
    return pieces;
}

Words fast(const Scheme& scheme, std::string_view text, const Scanner& scanner = scanners().back()) {
    const std::vector<char> copy(text.begin(), text.end());
    std::vector<std::uint32_t> ends(kLeastWords);
    Words words;
    const char* at = copy.data();
    WordFinder finder(scheme, {at, copy.size()}, scanner);
    while (const std::size_t count = finder.next(ends.data(), ends.size())) {
        CHECK(count <= ends.size());
        std::uint32_t from = 0;
        for (std::size_t i = 0; i < count; ++i) {
            CHECK(ends[i] > from);
            words.emplace_back(at + from, at + ends[i]);
            from = ends[i];
        }
        at += from;
    }
    CHECK(at == copy.data() + copy.size());
    return words;
}

// Every scanner finds the words that the rules find one by one. For chains one scanner will do.
void check_words(const Scheme& scheme, std::string_view text) {
    const Words expected = slow(scheme, text);
    for (const Scanner& scanner : scheme.rules().size() == 1 ? scanners() : scanners().last(1))
        CHECK(fast(scheme, text, scanner) == expected);
}

void check_words(const Scheme& scheme, std::string_view text, const Words& expected) {
    CHECK(slow(scheme, text) == expected);
    check_words(scheme, text);
}

}  // namespace

TEST(gpt2_words) {
    const Scheme scheme = Rule::kGpt2;
    check_words(scheme, "", {});
    check_words(scheme, "Hello  world, it's 2024!", {"Hello", " ", " world", ",", " it", "'s", " 2024", "!"});
    check_words(scheme, "'s 's 'sx 'S", {"'s", " '", "s", " '", "sx", " '", "S"});
    check_words(scheme, "we'll've'd", {"we", "'ll", "'ve", "'d"});
    check_words(scheme, "a\n\nb \t", {"a", "\n", "\n", "b", " \t"});
    check_words(scheme, "a\t!", {"a", "\t", "!"});
}

TEST(cl100k_words) {
    const Scheme scheme = Rule::kCl100k;
    check_words(scheme, "a  b\tc", {"a", " ", " b", "\tc"});
    check_words(scheme, "1234567", {"123", "456", "7"});
    check_words(scheme, "x = (y);\n\n  z", {"x", " =", " (", "y", ");\n\n", " ", " z"});
    check_words(scheme, "a \n \n  b", {"a", " \n \n", " ", " b"});
    check_words(scheme, "I'M don'tX 's", {"I", "'M", " don", "'t", "X", " '", "s"});
    check_words(scheme, "a'\u017fb", {"a", "'\u017f", "b"});
    check_words(scheme, "(a !b \u4e2d\u6587\u3002", {"(a", " !", "b", " \u4e2d\u6587", "\u3002"});
    check_words(scheme, "\u0663\u0663\u0663\u0663x", {"\u0663\u0663\u0663", "\u0663", "x"});
    check_words(scheme, "a\u00a0\u3000b", {"a", "\u00a0", "\u3000b"});
}

TEST(qwen2_words) { check_words(Rule::kQwen2, "v12 3", {"v", "1", "2", " ", "3"}); }

TEST(o200k_words) {
    const Scheme scheme = Rule::kO200k;
    check_words(scheme, "helloWorld HTTPServer", {"hello", "World", " HTTPServer"});
    check_words(scheme, "I'll don'tfoo a's's", {"I'll", " don't", "foo", " a's", "'s"});
    check_words(scheme, "x;\n// y", {"x", ";\n//", " y"});
    check_words(scheme, "\u4e2dAB\u4e2dCD", {"\u4e2dAB\u4e2d", "CD"});
    check_words(scheme, "e\u0301a !\u0301", {"e\u0301a", " !\u0301"});
}

TEST(no_scheme_is_one_word) {
    check_words(Rule::kNone, "a b", {"a b"});
    check_words(Rule::kNone, "", {});
}

TEST(qwen35_words) {
    check_words(Rule::kQwen35, "e\u0301a !\u0301.1", {"e\u0301a", " !", "\u0301", ".", "1"});
    check_words(Rule::kQwen35, "'\u0301s \u0301x", {"'\u0301s", " \u0301x"});
}

TEST(tekken_words) {
    check_words(Rule::kTekken, "helloWorld don't 12", {"hello", "World", " don", "'t", " ", "1", "2"});
}

TEST(minicpm_words) {
    check_words(Rule::kMiniCpm, "a 1234567'S", {"a", " ", "1234567", "'S"});
    check_words(Scheme({Rule::kThreeNumbers, Rule::kMiniCpm}), "a  1234567", {"a", "  ", "123", "456", "7"});
}

TEST(deepseek_v3_words) {
    const Scheme scheme = Rule::kDeepSeekV3;
    check_words(scheme, "(a !a !!a \u3002a", {"(a", " !", "a", " !!", "a", " \u3002", "a"});
    check_words(scheme, ".ab\u00e9!\n\nx  y", {".ab", "\u00e9", "!\n\n", "x", " ", " y"});
    check_words(scheme, "12a3", {"1", "2a", "3"});
    check_words(scheme, std::string_view("\0\0a  \0", 6),
                {std::string(1, '\0'), std::string("\0a", 2), " ", " ", std::string(1, '\0')});
    check_words(Scheme({Rule::kThreeNumbers, Rule::kKana, Rule::kDeepSeekV3}), "x1234\u4e2d\u30a2\uac00 5",
                {"x", "123", "4", "\u4e2d\u30a2", "\uac00", " ", "5"});
}

TEST(digits_and_punctuation_words) {
    check_words(Scheme({Rule::kDigit, Rule::kGpt2}), "ab  12 c", {"ab", "  ", "1", "2", " c"});
    check_words(Scheme({Rule::kDigits, Rule::kGpt2}), "ab  12 c", {"ab", "  ", "12", " c"});
    check_words(Scheme({Rule::kPunctuation, Rule::kGpt2}), "a,, 's", {"a", ",", ",", " ", "'", "s"});
    check_words(Scheme({Rule::kPunctuations, Rule::kGpt2}), "a,, 's", {"a", ",,", " ", "'", "s"});
}

// Characters are cut between their bytes, as `tokenizers` does.
TEST(falcon_words) {
    const Scheme scheme({Rule::kPunctuations, Rule::kGpt2, Rule::kByteDigits, Rule::kThreeDigits});
    check_words(scheme, "a 12345 \u00bd2 \u00e9",
                {"a", " ", "123", "45", " \xc2",
                 "\xbd"
                 "2",
                 " \u00e9"});
}

TEST(deepseek_coder_words) {
    const Scheme scheme({Rule::kNewline, Rule::kLetters, Rule::kStops, Rule::kHangul, Rule::kDigit});
    check_words(scheme, "a  b.. ..12\n\n+\u00a0x",
                {"a", " ", " b", "..", " ..", "1", "2", "\n", "\n", "+", "\u00a0x"});
    check_words(Rule::kTrailing, "a  \n b  ", {"a", "  ", "\n b", "  "});
    check_words(Scheme({Rule::kAlphabets, Rule::kSigns}), "a \u4e2d!\u3000,", {"a", " \u4e2d", "!\u3000,"});
}

TEST(a_scheme_has_at_least_one_rule) {
    for (const std::size_t size : {std::size_t{0}, Scheme::kMostRules + 1}) {
        bool thrown = false;
        try {
            const Scheme scheme(std::vector<Rule>(size, Rule::kGpt2));
        } catch (const std::invalid_argument&) {
            thrown = true;
        }
        CHECK(thrown);
    }
}

TEST(regexes_are_known_by_their_text) {
    constexpr std::string_view kText =
        R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
    CHECK(rule_of("Split", kText) == Rule::kGpt2);
    CHECK(rule_of("Matches", kText) == Rule::kGpt2);
    CHECK(rule_of("Split of bytes", kText) == std::nullopt);
    CHECK(rule_of("Split", "\\p{N}") == Rule::kNumber);
    CHECK(rule_of("Matches", "\\p{N}") == std::nullopt);  // would drop what is between
    CHECK(rule_of("Split", "[\r\n]") == Rule::kNewline);
    CHECK(rule_of("Split", "[\\r\\n]") == Rule::kNewline);
    CHECK(rule_of("Split", "[\\\r\\n]") == std::nullopt);
    CHECK(rule_of("Split", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+") == Rule::kKana);
    CHECK(rule_of("Split", "one") == std::nullopt);
    CHECK(rule_of("Digits", "one") == Rule::kDigit);
    CHECK(rule_of("Split", "") == std::nullopt);
}

// Where a scheme splits, the words on both sides are those of each side alone; elsewhere they often are not.
TEST(words_end_where_a_scheme_splits) {
    const std::u32string pools[] = {
        U"aZ\u4e2d\u30a2 \n\u3000.\u30fb'1\u0663\u0301\u00bd+\x01",
        U"aZ\u00e9\u0416\u3042\uac00\u0e01\u0e31\u01c5\u02b0 \u2003,!-_\u3001\u2019\u00bf(",
        U"sStTdD'1 /\n\r\t.",
        U"0123\u0663\u2163 ,.\x01\u200d\U0001f600",
        U" \n\r\t\u3000\u0085\u00a0x1.",
    };
    const auto text_of = [](std::u32string_view runes) {
        std::string text;
        for (const Rune rune : runes) {
            char bytes[4];
            text.append(bytes, encode(rune, bytes));
        }
        return text;
    };
    std::mt19937 random(9);
    for (const Scheme& scheme : all()) {
        std::size_t num_places = 0, num_others = 0;
        for (int round = 0; round < 4000; ++round) {
            const std::u32string& pool = pools[random() % std::size(pools)];
            std::u32string text;
            for (std::size_t i = 2 + random() % 14; i > 0; --i) text += pool[random() % pool.size()];
            const std::size_t at = 1 + random() % (text.size() - 1);
            Words both = fast(scheme, text_of(text.substr(0, at)));
            for (std::string& word : fast(scheme, text_of(text.substr(at)))) both.push_back(std::move(word));
            const bool are_same = fast(scheme, text_of(text)) == both;
            const bool splits = scheme.splits(text[at - 1], text[at]);
            CHECK(are_same || !splits);
            num_places += splits;
            num_others += !are_same;
        }
        const bool is_whole =
            std::ranges::any_of(scheme.rules(), [](Rule rule) { return rule < Rule::kNone; });
        CHECK(!is_whole || num_places > 100);
        CHECK(!is_whole || num_others > 100);
    }
    CHECK(!Scheme(Rule::kNone).splits('a', ' '));
    CHECK(!Scheme(
               {Rule::kNewline, Rule::kAlphabets, Rule::kSigns, Rule::kTrailing, Rule::kHangul, Rule::kDigit})
               .splits('a', ' '));
}

TEST(fast_is_slow_on_random_text) {
    std::mt19937 random(7);
    const std::u32string pools[] = {
        U"abcXYZ' \n\r\t.,!/0123456789sStTrReEvVlLmMdD",
        U" \n\r\t\u3000\u00a0\u2028x.'1/",
        U"'s\u017ftrevlmdSTREVLMD \n.aA/",
        U"aAbB\u02b0\u4e2d\u0301\u0e01'.s /1\n",
        U"0123\u0663\u096a\u2163\u00bda. \U0001f600",
        U"a\u00e9\u0301.!'\u3002 \n\x01\u200d1\u4e2d\u30a2",
        U"\n\n   x;\r\n/",
    };
    for (int round = 0; round < 8000; ++round) {
        const std::u32string& pool = pools[random() % std::size(pools)];
        std::string text;
        for (std::size_t i = random() % 200; i > 0; --i) {
            char bytes[4];
            Rune rune = pool[random() % pool.size()];
            if (random() % 50 == 0) rune = static_cast<Rune>(random() % 0x3000 + 1);
            text.append(bytes, encode(rune, bytes));
        }
        for (const Scheme& scheme : all()) check_words(scheme, text);
    }
}

TEST(fast_is_slow_on_every_code_point) {
#if defined(__SANITIZE_THREAD__)
    constexpr Rune kStep = 31;  // one thread: there is nothing for ThreadSanitizer to see, only time to lose
#else
    constexpr Rune kStep = 1;
#endif
    std::string text;
    const auto check_all = [&text] {
        for (std::size_t rule = 0; rule < kNumSchemes; ++rule) check_words(static_cast<Rule>(rule), text);
        text.clear();
    };
    for (Rune rune = 0; rune < 0x110000; rune += kStep) {
        if (rune >= 0xd800 && rune < 0xe000) continue;
        char bytes[4];
        const std::string_view one(bytes, encode(rune, bytes));
        text.append("a").append(one).append("A ").append(one).append(".");
        if (text.size() >= 4096) check_all();
    }
    check_all();
}

TEST(scanners_are_told_apart) {
    CHECK(std::string_view(scanners().front().name) == "plain");
#if defined(__x86_64__)
    CHECK(std::string_view(scanners()[1].name) == "sse2");
    CHECK(scanners().size() == (__builtin_cpu_supports("avx2") ? 3 : 2));
#elif defined(__aarch64__)
    CHECK(std::string_view(scanners().back().name) == "neon");
#endif
}

CHECK_MAIN()
