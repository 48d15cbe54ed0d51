// csrc/text/utf8.h against the table of well-formed sequences in the Unicode standard (table 3-7).

#include "text/utf8.h"

#include <cstdint>
#include <string>

#include "check.h"
#include "text/unicode.h"

using penstock::text::encode;
using penstock::text::is_utf8;
using penstock::text::Rune;

TEST(every_code_point_but_the_surrogates_is_well_formed) {
    for (Rune rune = 0; rune < 0x110000; ++rune) {
        char bytes[4];
        const std::string_view text(bytes, encode(rune, bytes));
        CHECK(is_utf8(text) == (rune < 0xd800 || rune > 0xdfff));
    }
}

TEST(a_sequence_that_is_cut_short_is_not) {
    for (const Rune rune : {U'\u00e9', U'\u6c34', U'\U0001f30a'}) {
        char bytes[4];
        const std::size_t length = encode(rune, bytes);
        for (std::size_t cut = 1; cut < length; ++cut) {
            CHECK(!is_utf8({bytes, cut}));
            CHECK(!is_utf8(std::string(bytes, cut) + "abcdefgh"));
        }
    }
}

TEST(neither_overlong_forms_nor_stray_bytes_nor_what_is_too_large) {
    for (const char* wrong : {"\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
                              "\xf5\x80\x80\x80", "\x80", "\xbf", "\xff", "\xed\xa0\x80"}) {
        CHECK(!is_utf8(wrong));
        CHECK(!is_utf8(std::string("eight ASCII bytes before it, and more: ") + wrong));
    }
    CHECK(is_utf8(""));
    CHECK(is_utf8(std::string_view("\0", 1)));
}

CHECK_MAIN()
