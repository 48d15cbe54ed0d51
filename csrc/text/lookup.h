// Reading the generated tables, which hold one small value for each code point.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace penstock::text {

inline constexpr std::size_t kBlock = 128;

// Code points in blocks of kBlock; blocks that are equal are kept once. What `index` no longer lists is as its
// last entry. Any code point is allowed.
template <typename Index, std::size_t kIndices, typename Value, std::size_t kValues>
inline Value look_up(const Index (&index)[kIndices], const Value (&blocks)[kValues], char32_t rune) noexcept {
    const std::size_t block = std::min<std::size_t>(rune / kBlock, kIndices - 1);
    return blocks[index[block] * kBlock + rune % kBlock];
}

}  // namespace penstock::text
