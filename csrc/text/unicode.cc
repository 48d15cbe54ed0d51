#include "text/unicode.h"

#include "text/lookup.h"

namespace penstock::text {

namespace {

#include "text/unicode_tables.inc"

}  // namespace

const char* const kTokenizersRelease = kRelease;
const char* const kUnicodeVersion = kVersion;

std::uint32_t classes(Rune rune) noexcept {
    return rune < 0x110000 ? kClassBits[look_up(kClassIndex, kClassBlocks, rune)] : 0;
}

}  // namespace penstock::text
