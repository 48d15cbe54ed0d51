#include "text/utf8.h"

#include <cstdint>
#include <cstring>

namespace penstock::text {
namespace {

// The length of the well-formed sequence at the beginning of [at, end), 0 if there is none. The second byte's
// bounds depend on the first: they shut out overlong forms, surrogates and what is over U+10FFFF.
std::size_t well_formed(const char* at, const char* end) noexcept {
    const auto byte = [at](std::size_t i) { return static_cast<unsigned char>(at[i]); };
    const auto left = static_cast<std::size_t>(end - at);
    const unsigned char first = byte(0);
    if (first < 0x80) return 1;
    if (first < 0xc2 || first > 0xf4) return 0;
    if (first < 0xe0) return left >= 2 && is_continuation(at[1]) ? 2 : 0;
    const unsigned char low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    const unsigned char high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    const std::size_t length = first < 0xf0 ? 3 : 4;
    if (left < length || byte(1) < low || byte(1) > high) return 0;
    for (std::size_t i = 2; i < length; ++i) {
        if (!is_continuation(at[i])) return 0;
    }
    return length;
}

}  // namespace

bool is_utf8(std::string_view bytes) noexcept {
    const char* at = bytes.data();
    const char* const end = at + bytes.size();
    while (at != end) {
        for (std::uint64_t eight; end - at >= 8; at += 8) {
            std::memcpy(&eight, at, 8);
            if ((eight & 0x8080808080808080u) != 0) break;
        }
        // A word of another script is a few sequences: stay here while there is one after another.
        do {
            if (at == end) return true;
            const std::size_t length = well_formed(at, end);
            if (length == 0) return false;
            at += length;
        } while (at != end && static_cast<unsigned char>(*at) >= 0x80);
    }
    return true;
}

}  // namespace penstock::text
