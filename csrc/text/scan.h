// The scanners of whole schemes: many words at a time, 64 bytes at a time.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "text/rules.h"

namespace penstock::text {

inline constexpr std::size_t kLeastWords = 64;

struct Scanner {
    // Finds the words of a text that begins with a word: writes where they end, as distances from `base`. Returns how
    // many; at least one if there is text. Stops at `end` or when `capacity` (at least kLeastWords) is nearly reached.
    // The text is valid UTF-8.
    using Find = std::size_t (*)(const char* base, const char* begin, const char* end, std::uint32_t* ends,
                                 std::size_t capacity) noexcept;

    const char* name;   // of the instruction set
    const Find* finds;  // of each of the first kNumSchemes rules
};

// Those that this machine can run: the plain one first, the best one last. They find the same words.
std::span<const Scanner> scanners() noexcept;

}  // namespace penstock::text
