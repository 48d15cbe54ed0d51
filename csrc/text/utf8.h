// Is this UTF-8? For text that comes from files and arrays: str of Python is checked by Python.

#pragma once

#include <string_view>

namespace penstock::text {

inline bool is_continuation(char byte) noexcept { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

// Whether the bytes are well-formed UTF-8: no overlong form, no surrogate, nothing over U+10FFFF.
bool is_utf8(std::string_view bytes) noexcept;

}  // namespace penstock::text
