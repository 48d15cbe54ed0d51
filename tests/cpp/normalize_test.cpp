// csrc/text/normalize.h: cases by hand, properties over every code point and over random text, and charsmaps that
// are made here, whole and damaged.

#include "text/normalize.h"

#include <cstdint>
#include <random>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "text/charsmap.h"

using namespace penstock::text;

namespace {

std::string applied(const Normalizer& normalizer, std::string_view text) {
    // In memory of its own, so that a sanitizer sees reading past the end.
    const std::vector<char> exact(text.begin(), text.end());
    const std::string_view view(exact.data(), exact.size());
    std::string out = "what was here before";
    CHECK(normalizer.apply(view, out));
    if (normalizer.is_normal(view)) CHECK(out == text);
    return out;
}

std::string utf8(std::u32string_view runes) {
    std::string text;
    for (const Rune rune : runes) {
        char bytes[4];
        text.append(bytes, encode(rune, bytes));
    }
    return text;
}

struct Forms {
    std::unique_ptr<Normalizer> nfc = make_form(Form::kNfc), nfd = make_form(Form::kNfd),
                                nfkc = make_form(Form::kNfkc), nfkd = make_form(Form::kNfkd);
};

const Forms& forms() {
    static const Forms all;
    return all;
}

// What holds of any text.
void check_forms(const std::string& text) {
    const Forms& form = forms();
    const std::string c = applied(*form.nfc, text), d = applied(*form.nfd, text);
    const std::string kc = applied(*form.nfkc, text), kd = applied(*form.nfkd, text);
    CHECK(applied(*form.nfc, c) == c);
    CHECK(applied(*form.nfd, d) == d);
    CHECK(applied(*form.nfkc, kc) == kc);
    CHECK(applied(*form.nfkd, kd) == kd);
    CHECK(applied(*form.nfc, d) == c);
    CHECK(applied(*form.nfd, c) == d);
    CHECK(applied(*form.nfkc, kd) == kc);
    CHECK(applied(*form.nfkd, kc) == kd);
    CHECK(applied(*form.nfkd, d) == kd);
}

// A charsmap with these keys, each replaced by the string beside it: a row of 256 units for the followers of
// every beginning of a key.
std::string charsmap_of(const std::vector<std::pair<std::string, std::string>>& entries) {
    std::vector<std::uint32_t> units(512, 0);
    units[0] = 256 << 10;
    std::string contents;
    for (const auto& [key, content] : entries) {
        std::size_t row = 256, at = 0;
        for (const char each : key) {
            const auto byte = static_cast<unsigned char>(each);
            at = row ^ byte;
            if (units[at] == 0) {
                const std::size_t next = units.size();
                units.resize(next + 256, 0);
                units[at] = static_cast<std::uint32_t>((at ^ next) << 10) | byte;
            }
            row = at ^ (units[at] >> 10);
        }
        units[at] |= 1u << 8;
        units[row] = 1u << 31 | static_cast<std::uint32_t>(contents.size());
        contents += content + '\0';
    }
    std::string bytes;
    const auto put = [&bytes](std::size_t value) {
        for (int i = 0; i < 4; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
    };
    put(4 * units.size());
    for (const std::uint32_t unit : units) put(unit);
    return bytes + contents;
}

}  // namespace

TEST(composed_and_decomposed) {
    const Forms& form = forms();
    CHECK(applied(*form.nfc, "e\u0301") == "\u00e9");
    CHECK(applied(*form.nfd, "\u00e9") == "e\u0301");
    CHECK(applied(*form.nfc, "") == "" && applied(*form.nfd, "") == "");
    CHECK(applied(*form.nfc, "plain") == "plain");
    CHECK(applied(*form.nfkc, "\ufb01\u2460\uff21\u00bd") == "fi1A1\u20442");
    CHECK(applied(*form.nfc, "\ufb01\u2460") == "\ufb01\u2460");
}

TEST(singletons_and_exclusions_are_not_composed_again) {
    const Forms& form = forms();
    CHECK(applied(*form.nfc, "\u212b\u2126\u212a") == "\u00c5\u03a9K");
    CHECK(applied(*form.nfc, "\u0958\ufb1d\u2adc") == "\u0915\u093c\u05d9\u05b4\u2add\u0338");
    CHECK(applied(*form.nfc, "\u0344\u0343\u0340") == "\u0308\u0301\u0313\u0300");
    CHECK(applied(*form.nfc, "\uf900\U0002f800") == "\u8c48\u4e3d");
}

TEST(hangul_is_arithmetic) {
    const Forms& form = forms();
    CHECK(applied(*form.nfd, "\ud55c\uae00\uac00") == "\u1112\u1161\u11ab\u1100\u1173\u11af\u1100\u1161");
    CHECK(applied(*form.nfc, "\u1112\u1161\u11ab\u1100\u1173\u11af") == "\ud55c\uae00");
    CHECK(applied(*form.nfc, "\uac00\u11a8") == "\uac01");
    CHECK(applied(*form.nfc, "\uac00\u11a7") == "\uac00\u11a7");              // no trailing jamo
    CHECK(applied(*form.nfc, "\uac01\u11a8") == "\uac01\u11a8");              // has one
    CHECK(applied(*form.nfc, "\u1161\u11a8") == "\u1161\u11a8");              // no leading one
    CHECK(applied(*form.nfc, "\u1100\u0301\u1161") == "\u1100\u0301\u1161");  // something is between
    for (Rune rune = 0xac00; rune < 0xd7a4; ++rune) {
        const std::string text = utf8({&rune, 1});
        const std::string apart = applied(*form.nfd, text);
        CHECK(apart.size() == ((rune - 0xac00) % 28 == 0 ? 6u : 9u));
        CHECK(applied(*form.nfc, apart) == text);
    }
}

TEST(marks_are_put_in_order) {
    const Forms& form = forms();
    CHECK(applied(*form.nfd, "a\u0301\u0323\u0334") == "a\u0334\u0323\u0301");
    CHECK(applied(*form.nfd, "a\u0301\u0300") == "a\u0301\u0300");  // of one class: as they came
    CHECK(applied(*form.nfc, "\u00e2\u0323") == "\u1ead");  // though nothing is a, dot below, circumflex
    CHECK(applied(*form.nfc, "a\u0334\u0301") == "\u00e1\u0334");
    CHECK(applied(*form.nfc, "a\u0305\u0301") == "a\u0305\u0301");  // blocked by one of its own class
    CHECK(applied(*form.nfd, "\u0323a\u0301") == "\u0323a\u0301");
    CHECK(applied(*form.nfd, "\u0301\u0323") == "\u0323\u0301");  // with nothing to stand on
}

TEST(very_many_marks) {
    const Forms& form = forms();
    std::string text = "a", sorted = "a", below;
    for (int i = 0; i < 50'000; ++i) text += "\u0301\u0323";
    for (int i = 0; i < 50'000; ++i) sorted += "\u0323";
    for (int i = 0; i < 50'000; ++i) sorted += "\u0301";
    CHECK(applied(*form.nfd, text) == sorted);
    check_forms(text);
}

TEST(forms_agree_about_every_code_point) {
    for (Rune rune = 0; rune < 0x110000; ++rune) {
        if (rune >= 0xd800 && rune < 0xe000) continue;
        if (rune >= 0x30000 && rune % 0x100 != 0) continue;  // nothing is there
        check_forms(utf8({&rune, 1}));
    }
}

TEST(forms_agree_about_random_text) {
    std::mt19937 random(7);
    const std::vector<std::pair<Rune, Rune>> ranges = {
        {0x20, 0x7f},       {0xc0, 0x250},     {0x300, 0x370},   {0x370, 0x530},   {0x5b0, 0x670},
        {0x900, 0xe00},     {0xe00, 0x1000},   {0x1100, 0x1200}, {0x1e00, 0x2000}, {0x2100, 0x2200},
        {0x3040, 0x3130},   {0x4e00, 0x5000},  {0xac00, 0xad00}, {0xf900, 0xfb50}, {0xff00, 0xfff0},
        {0x11000, 0x11200}, {0x1d100, 0x1d200}};
    for (int round = 0; round < 20'000; ++round) {
        std::u32string runes;
        const auto size = random() % 24;
        while (runes.size() < size) {
            const auto [first, last] = ranges[random() % ranges.size()];
            for (auto count = 1 + random() % 4; count > 0; --count)
                runes += first + static_cast<Rune>(random()) % (last - first);
        }
        check_forms(utf8(runes));
    }
}

TEST(lower_case_goes_code_point_by_code_point) {
    const auto lowercase = make_lowercase();
    CHECK(applied(*lowercase, "A long text in ASCII, WITH CAPITALS and so on") ==
          "a long text in ascii, with capitals and so on");
    CHECK(applied(*lowercase, "\u0391\u03a3 \u03a3") == "\u03b1\u03c3 \u03c3");  // no final sigma
    CHECK(applied(*lowercase, "\u0130I\u0131") == "i\u0307i\u0131");
    CHECK(applied(*lowercase, "\u00c9\u0416\U00010400\u01c5\u1e9e") == "\u00e9\u0436\U00010428\u01c6\u00df");
}

TEST(accents_alone_are_stripped) {
    const auto strip_accents = make_strip_accents();
    CHECK(applied(*strip_accents, "e\u0301\u00e9\u093f") == "e\u00e9");
    CHECK(strip_accents->is_normal("\u00e9"));
}

TEST(strip_takes_white_space_from_the_ends) {
    CHECK(applied(*make_strip(true, true), "\u3000 a b\u00a0\n") == "a b");
    CHECK(applied(*make_strip(true, false), " a ") == "a ");
    CHECK(applied(*make_strip(false, true), " a ") == " a");
    CHECK(applied(*make_strip(false, false), " a ") == " a ");
    CHECK(applied(*make_strip(true, true), " \t ") == "");
}

TEST(prepend_and_replace) {
    CHECK(applied(*make_prepend("\u2581"), "a") == "\u2581a");
    CHECK(applied(*make_prepend("\u2581"), "") == "");
    CHECK(applied(*make_replace(" ", "\u2581"), " a  b") == "\u2581a\u2581\u2581b");
    CHECK(applied(*make_replace("aa", "b"), "aaaaa") == "bba");
    CHECK(applied(*make_replace("a", ""), "aaa") == "");
    CHECK(applied(*make_replace("a", "aa"), "aba") == "aabaa");
    CHECK_THROWS(make_replace("", "x"), std::invalid_argument, "empty");
}

TEST(bert_takes_its_steps_in_order) {
    CHECK(applied(*make_bert(true, true, true, true), "H\u00e9LLO\t\u4e2dx\u200d\u0007 \u0130 \ufffd!") ==
          "hello  \u4e2d x i !");
    CHECK(applied(*make_bert(true, true, false, false), "\u00c9\u4e2d\u4e2d\n") == "\u00c9 \u4e2d  \u4e2d  ");
    CHECK(applied(*make_bert(false, false, false, false), "\u0007\u00c9\u4e2d") == "\u0007\u00c9\u4e2d");
    CHECK(applied(*make_bert(false, false, true, false), "\u00c9e\u0301\uac00") == "Ee\u1100\u1161");
    CHECK(applied(*make_bert(false, false, false, true), "\u0130") == "i\u0307");
    // A spacing mark stays, and moves before another that a control character separated from it.
    CHECK(applied(*make_bert(true, false, true, false), "a\U0001d16d\u0007\U0001d165") ==
          applied(*forms().nfd, "a\U0001d16d\U0001d165"));
}

TEST(a_sequence_is_its_steps) {
    std::vector<std::unique_ptr<Normalizer>> steps;
    steps.push_back(make_form(Form::kNfd));
    steps.push_back(make_strip_accents());
    steps.push_back(make_lowercase());
    steps.push_back(make_strip(true, true));
    steps.push_back(make_replace(" ", "_"));
    const auto sequence = make_sequence(std::move(steps));
    CHECK(applied(*sequence, " \u00c9t\u00e9 1 ") == "ete_1");
    CHECK(sequence->is_normal("ete_1") && !sequence->is_normal("\u00c9") && !sequence->is_normal("a b"));
    CHECK(applied(*make_sequence({}), "As it is") == "As it is");
}

TEST(plain_text_is_normal_wherever_it_ends) {
    const auto lowercase = make_lowercase();
    for (std::size_t size = 0; size < 70; ++size) {
        for (std::size_t at = 0; at < size; ++at) {
            std::string text(size, 'x');
            CHECK(forms().nfc->is_normal(text) && lowercase->is_normal(text));
            text[at] = 'X';
            CHECK(!lowercase->is_normal(text));
            CHECK(applied(*lowercase, text) == std::string(size, 'x'));
            text.replace(at, 1, "\u0958");
            CHECK(!forms().nfc->is_normal(text));
        }
    }
}

TEST(a_charsmap_replaces_short_clusters_whole) {
    const auto map = make_precompiled(charsmap_of({{"a", "#"},
                                                   {"b\u0301", "B"},
                                                   {"\r", "<cr>"},
                                                   {"\u0915", "ka"},
                                                   {"\u0301\u0302", "two"},
                                                   {"\u2460", ""}}));
    CHECK(applied(*map, "xay") == "x#y");
    CHECK(applied(*map, "a\u0301.") == "#.");                              // the mark goes too
    CHECK(applied(*map, "a\u0301\u0301\u0301") == "#\u0301\u0301\u0301");  // 7 bytes: one by one
    CHECK(applied(*map, "b\u0301 b\u0301\u0302 b") == "B B b");
    CHECK(applied(*map, "\r\n\r.\n") == "<cr><cr>.\n");
    CHECK(applied(*map, "\n\u0301\u0302") ==
          "\n"
          "two");
    CHECK(applied(*map, "\u2460x") == "x");
    CHECK(map->is_normal("xyz e\u0301 \u4e2d") && !map->is_normal("xaz") && !map->is_normal("b\u0301"));
    CHECK(!map->plain().contains('a') && map->plain().contains('b') && !map->plain().contains(0x301));
}

// Where clusters follow rules that are not followed here, and it matters, the charsmap says so.
TEST(a_charsmap_refuses_what_it_does_not_know) {
    const auto map = make_precompiled(charsmap_of({{"\u0600", "#"}, {"\u0937", "ssa"}, {"\u00a9", "(c)"}}));
    std::string out;
    CHECK(!map->apply("\u0600a", out));
    CHECK(!map->apply("\u0915\u094d\u0937\u0301", out));
    CHECK(!map->apply("\u00a9\u200d\u00a9", out));
    CHECK(applied(*map, "\u0601\u0937") == "\u0601ssa");
    CHECK(applied(*map, "\u0915\u094d\u0937") == "\u0915\u094dssa");
}

TEST(damaged_charsmaps) {
    const std::string whole = charsmap_of({{"a", "#"}, {"\u4e2d", "middle"}});
    CHECK_THROWS(make_precompiled(""), std::invalid_argument, "shorter than its header");
    CHECK_THROWS(make_precompiled("abc"), std::invalid_argument, "shorter than its header");
    CHECK_THROWS(make_precompiled(std::string(4, '\0')), std::invalid_argument, "no trie");
    CHECK_THROWS(make_precompiled(whole.substr(0, 100)), std::invalid_argument, "than its header says");
    CHECK_THROWS(make_precompiled(whole + '\xff'), std::invalid_argument, "not UTF-8");
    std::string cut = whole.substr(0, 4 + 4 * 256);  // the root's followers are gone
    cut[0] = 0, cut[1] = 4;
    CHECK_THROWS(make_precompiled(cut), std::invalid_argument, "outside itself");

    const std::size_t trie = whole.size() - 4 - sizeof "#" - sizeof "middle";
    std::mt19937 random(11);
    for (int round = 0; round < 60; ++round) {
        std::string bytes = whole;
        for (int change = 0; change < 40; ++change) {
            bytes[4 + random() % trie] = static_cast<char>(random() % 256);
        }
        try {
            const auto map = make_precompiled(bytes);
            std::string out;
            map->apply("a\u0301 \u4e2d\u0301 xyz \u0600a", out);
        } catch (const std::invalid_argument&) {
        }
    }
}

// Where a normalizer splits, it works on both sides apart, and the character on the left stays.
TEST(both_sides_of_a_split_are_apart) {
    const std::u32string pool =
        U"aAe\u00e9 \u0301\u0338=\u0958\uac00\u1100\u1161\u212b\uff21\u2163\u4e2d.bx\u0130";
    std::vector<std::unique_ptr<Normalizer>> all;
    for (const Form form : {Form::kNfc, Form::kNfd, Form::kNfkc, Form::kNfkd}) all.push_back(make_form(form));
    all.push_back(make_lowercase());
    all.push_back(make_strip_accents());
    all.push_back(make_strip(true, true));
    all.push_back(make_prepend("ab"));
    all.push_back(make_replace("ab", "c"));
    all.push_back(make_bert(true, true, true, true));
    std::vector<std::unique_ptr<Normalizer>> steps;
    steps.push_back(make_form(Form::kNfkd));
    steps.push_back(make_replace("xa", "b"));
    all.push_back(make_sequence(std::move(steps)));
    std::mt19937 random(5);
    for (std::size_t which = 0; which < all.size(); ++which) {
        const Normalizer& normalizer = *all[which];
        std::size_t num_places = 0, num_others = 0;
        for (int round = 0; round < 4000; ++round) {
            std::u32string text;
            for (std::size_t i = 2 + random() % 8; i > 0; --i) text += pool[random() % pool.size()];
            const std::size_t at = 1 + random() % (text.size() - 1);
            const auto normal = [&](std::size_t from, std::size_t to) {
                return applied(normalizer, utf8(text.substr(from, to)));
            };
            const std::string left = utf8(text.substr(at - 1, 1));
            const std::string head = normal(0, at), whole = normal(0, text.size());
            const bool is_apart = head.ends_with(left) && whole.starts_with(head);
            if (normalizer.splits(text[at - 1], text[at])) {
                CHECK(is_apart);
                ++num_places;
            }
            num_others += !is_apart;
        }
        CHECK(num_places > 100);
        CHECK(num_others > 10 || which == 7);  // Prepend does nothing else
    }
}

CHECK_MAIN()
