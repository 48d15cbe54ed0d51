#include "text/pretokenize.h"

#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "check.h"
#include "text/unicode.h"

namespace {

using namespace penstock::text;

using Words = std::vector<std::string>;

constexpr Scheme kAll[] = {Scheme::kGpt2, Scheme::kCl100k, Scheme::kQwen2, Scheme::kO200k};

// Word by word, in a buffer of exactly its size, so that reading past its end is seen.
Words slow(Scheme scheme, std::string_view text) {
    const std::vector<char> copy(text.begin(), text.end());
    Words words;
    const char* const end = copy.data() + copy.size();
    for (const char* at = copy.data(); at < end;) {
        const char* const next = word_end(scheme, at, end);
        CHECK(next > at && next <= end);
        words.emplace_back(at, next);
        at = next;
    }
    return words;
}

Words fast(Scheme scheme, std::string_view text) {
    const std::vector<char> copy(text.begin(), text.end());
    std::vector<std::uint32_t> ends(kLeastWords);
    Words words;
    const char* const end = copy.data() + copy.size();
    for (const char* at = copy.data(); at < end;) {
        const std::size_t count = find_words(scheme, at, end, ends.data(), ends.size());
        CHECK(count > 0 && count <= ends.size());
        std::uint32_t from = 0;
        for (std::size_t i = 0; i < count; ++i) {
            CHECK(ends[i] > from);
            words.emplace_back(at + from, at + ends[i]);
            from = ends[i];
        }
        at += from;
    }
    return words;
}

void check_words(Scheme scheme, std::string_view text, const Words& expected) {
    CHECK(slow(scheme, text) == expected);
    CHECK(fast(scheme, text) == expected);
}

}  // namespace

TEST(gpt2_words) {
    const Scheme scheme = Scheme::kGpt2;
    check_words(scheme, "", {});
    check_words(scheme, "Hello  world, it's 2024!", {"Hello", " ", " world", ",", " it", "'s", " 2024", "!"});
    check_words(scheme, "'s 's 'sx 'S", {"'s", " '", "s", " '", "sx", " '", "S"});
    check_words(scheme, "we'll've'd", {"we", "'ll", "'ve", "'d"});
    check_words(scheme, "a\n\nb \t", {"a", "\n", "\n", "b", " \t"});
    check_words(scheme, "a\t!", {"a", "\t", "!"});
}

TEST(cl100k_words) {
    const Scheme scheme = Scheme::kCl100k;
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

TEST(qwen2_words) { check_words(Scheme::kQwen2, "v12 3", {"v", "1", "2", " ", "3"}); }

TEST(o200k_words) {
    const Scheme scheme = Scheme::kO200k;
    check_words(scheme, "helloWorld HTTPServer", {"hello", "World", " HTTPServer"});
    check_words(scheme, "I'll don'tfoo a's's", {"I'll", " don't", "foo", " a's", "'s"});
    check_words(scheme, "x;\n// y", {"x", ";\n//", " y"});
    check_words(scheme, "\u4e2dAB\u4e2dCD", {"\u4e2dAB\u4e2d", "CD"});
    check_words(scheme, "e\u0301a !\u0301", {"e\u0301a", " !\u0301"});
}

TEST(no_scheme_is_one_word) {
    check_words(Scheme::kNone, "a b", {"a b"});
    check_words(Scheme::kNone, "", {});
}

TEST(regexes_are_known_by_their_text) {
    CHECK(scheme_of(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)") ==
          Scheme::kGpt2);
    CHECK(scheme_of("\\p{N}") == std::nullopt);
    CHECK(scheme_of("") == std::nullopt);
}

TEST(fast_is_slow_on_random_text) {
    std::mt19937 random(7);
    const std::u32string pools[] = {
        U"abcXYZ' \n\r\t.,!/0123456789sStTrReEvVlLmMdD",
        U" \n\r\t\u3000\u00a0\u2028x.'1/",
        U"'s\u017ftrevlmdSTREVLMD \n.aA/",
        U"aAbB\u02b0\u4e2d\u0301\u0e01'.s /1\n",
        U"0123\u0663\u096a\u2163\u00bda. \U0001f600",
        U"\n\n   x;\r\n/",
    };
    for (int round = 0; round < 20000; ++round) {
        const std::u32string& pool = pools[random() % std::size(pools)];
        std::string text;
        for (std::size_t i = random() % 200; i > 0; --i) {
            char bytes[4];
            Rune rune = pool[random() % pool.size()];
            if (random() % 50 == 0) rune = static_cast<Rune>(random() % 0x3000 + 1);
            text.append(bytes, encode(rune, bytes));
        }
        for (const Scheme scheme : kAll) CHECK(fast(scheme, text) == slow(scheme, text));
    }
}

CHECK_MAIN()
