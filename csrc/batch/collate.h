// Ragged rows into padded matrices, the shape that models take.

#pragma once

#include <cstdint>

#include "batch/ragged.h"

namespace penstock {

// Row-major int64[rows, width]. A null pointer: not wanted; only input_ids must be there.
struct Padded {
    std::int64_t width = 0;
    std::int64_t* input_ids = nullptr;
    std::int64_t* attention_mask = nullptr;  // 1 for a token, 0 for padding
    std::int64_t* token_type_ids = nullptr;
    std::int64_t* position_ids = nullptr;  // 0, 1, 2, ... from the row's first token; 0 for padding
};

struct Padding {
    std::int64_t id = 0;
    std::int64_t type_id = 0;
    bool left = false;
};

// Throws std::invalid_argument, naming the row, unless every row lies within ids and fits into width.
void check_rows(const Ragged& rows, std::int64_t width);

// Writes every element of every wanted matrix, once. The rows must have passed check_rows().
void collate(const Ragged& rows, const Padded& out, const Padding& padding) noexcept;

}  // namespace penstock
