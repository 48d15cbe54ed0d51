// The scanners of whole schemes: many words at a time, 64 bytes at a time.

#pragma once

#include <cstddef>
#include <cstdint>

#include "text/rules.h"

namespace penstock::text {

inline constexpr std::size_t kLeastWords = 64;

// Finds the words of a text that begins with a word: writes where they end, as distances from `base`. Returns how
// many; at least one if there is text. Stops at `end` or when `capacity` (at least kLeastWords) is nearly reached.
// The text is valid UTF-8. `scheme` is one of the first kNumSchemes rules.
std::size_t scan(Rule scheme, const char* base, const char* begin, const char* end, std::uint32_t* ends,
                 std::size_t capacity) noexcept;

}  // namespace penstock::text
