// csrc/text/unicode.h: the way to and from UTF-8, and landmarks of the generated classes.

#include "text/unicode.h"

#include <string>

#include "check.h"

using namespace penstock::text;

namespace {

std::size_t count(std::uint32_t bit) {
    std::size_t members = 0;
    for (Rune rune = 0; rune < 0x110000; ++rune) members += (classes(rune) & bit) != 0;
    return members;
}

bool is(Rune rune, std::uint32_t bits) { return (classes(rune) & bits) == bits; }
bool is_none(Rune rune, std::uint32_t bits) { return (classes(rune) & bits) == 0; }

}  // namespace

TEST(every_code_point_goes_to_utf8_and_back) {
    for (Rune rune = 0; rune < 0x110000; ++rune) {
        char bytes[4];
        const std::size_t length = encode(rune, bytes);
        CHECK(length == (rune < 0x80 ? 1u : rune < 0x800 ? 2u : rune < 0x10000 ? 3u : 4u));
        CHECK(sequence_length(static_cast<unsigned char>(bytes[0])) == length);
        CHECK(decode(bytes) == rune);
    }
}

TEST(the_release_and_the_version_are_named) {
    CHECK(std::string(kTokenizersRelease) == "0.23.3");
    CHECK(std::string(kUnicodeVersion) == "16.0.0");
}

// As many as `tokenizers` said; U+1C89 is new in Unicode 16, U+16EA0 in 17.
TEST(the_regex_classes_are_those_of_unicode_16) {
    CHECK(is(0x1c89, kUpper) && is_none(0x16ea0, kLetter));
    CHECK(count(kLetter) == 141028);
    CHECK(count(kNumber) == 1911);
    CHECK(count(kUpper) == 1858);
    CHECK(count(kTitle) == 31);
    CHECK(count(kLower) == 2258);
    CHECK(count(kModifier) == 404);
    CHECK(count(kOther) == 136477);
    CHECK(count(kMark) == 2501);
    CHECK(count(kPunctuation) == 855);
    CHECK(count(kSymbol) == 8514);
    CHECK(count(kSpace) == 25);
}

TEST(letters_are_of_one_of_five_kinds) {
    constexpr std::uint32_t kKinds = kUpper | kTitle | kLower | kModifier | kOther;
    for (Rune rune = 0; rune < 0x110000; ++rune) {
        const std::uint32_t kinds = classes(rune) & kKinds;
        CHECK((kinds & (kinds - 1)) == 0);
        CHECK((kinds != 0) == is(rune, kLetter));
    }
}

TEST(classes_of_well_known_code_points) {
    CHECK(is('a', kLetter | kLower | kWordRune));
    CHECK(is('Z', kLetter | kUpper | kWordRune));
    CHECK(is('7', kNumber | kWordRune));
    CHECK(is('_', kPunctuation | kBertPunctuation | kWordRune));
    CHECK(is('$', kSymbol | kBertPunctuation) && is_none('$', kPunctuation));  // all of ASCII's, for BERT
    CHECK(is(0x4e2d, kLetter | kOther | kBertChinese));
    CHECK(is(0xac00, kLetter) && is_none(0xac00, kBertChinese));
    CHECK(is(0x301, kMark | kNonspacing) && is_none(0x301, kLetter));
    CHECK(is(0x93e, kMark) && is_none(0x93e, kNonspacing));  // a spacing mark
    CHECK(is('7', kDigit) && is(0xbd, kDigit | kNumber) && is_none(0x4e00, kDigit));
    CHECK(is(0x11de0, kDigit) && is_none(0x11de0, kNumber));  // new in Unicode 17
    CHECK(is(0x1c5, kTitle) && is(0x2b0, kModifier) && is(0x661, kNumber));
}

TEST(white_space_differs_from_part_to_part) {
    for (const Rune rune : {0x9, 0xa, 0xd, 0x20, 0xa0, 0x2028, 0x3000}) {
        CHECK(is(rune, kSpace | kBertSpace | kBertSeparator | kStripSpace) && is_none(rune, kBertControl));
    }
    // Control characters to clean_text, white space to the others.
    for (const Rune rune : {0xb, 0xc, 0x85}) {
        CHECK(is(rune, kSpace | kBertControl | kBertSeparator | kStripSpace) && is_none(rune, kBertSpace));
    }
    for (const Rune rune : {0x180e, 0x200b, 0xfeff})
        CHECK(is_none(rune, kSpace | kBertSeparator | kStripSpace));
    for (const Rune rune : {0x0, 0x7f, 0xad, 0x200d, 0xfffd, 0xe000}) CHECK(is(rune, kBertControl));
}

TEST(what_is_no_code_point_has_no_class) {
    for (const Rune rune : {0xd800, 0xdbff, 0xdc00, 0xdfff}) CHECK(classes(rune) == 0);
    for (const std::uint32_t value : {0x110000u, 0x200000u, 0xffffffffu})
        CHECK(classes(static_cast<Rune>(value)) == 0);
    CHECK(classes(0x10ffff) == 0);  // a code point, but nobody's
}

CHECK_MAIN()
