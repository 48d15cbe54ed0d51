// Rows of unequal length in one flat array. A view: owns nothing, checks nothing.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace penstock {

// Row r is ids[starts[r], stops[r]). Rows may overlap, repeat, and come in any order.
struct Ragged {
    std::span<const std::int32_t> ids;
    std::span<const std::int64_t> starts;
    std::span<const std::int64_t> stops;
    std::span<const std::uint8_t> type_ids;  // as long as ids, or empty: every type is 0

    std::size_t num_rows() const { return starts.size(); }
};

}  // namespace penstock
