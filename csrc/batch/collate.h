// Ragged rows into the shapes that models take: padded matrices, or one packed row.

#pragma once

#include <cstdint>

#include "batch/ragged.h"

namespace penstock {

// Elements are int32 or int64. Row-major [rows, width]. A null pointer: not wanted; only input_ids must be there.
template <class Element>
struct Padded {
    std::int64_t width = 0;
    Element* input_ids = nullptr;
    Element* attention_mask = nullptr;  // 1 for a token, 0 for padding
    Element* token_type_ids = nullptr;
    Element* position_ids = nullptr;  // 0, 1, 2, ... from the row's first token; 0 for padding
};

struct Padding {
    std::int64_t id = 0;
    std::int64_t type_id = 0;
    bool left = false;
};

// All rows behind one another, no padding: [tokens]. A null pointer: not wanted.
template <class Element>
struct Packed {
    Element* input_ids = nullptr;
    Element* token_type_ids = nullptr;
    Element* position_ids = nullptr;     // from `first_position` on in each row
    std::int32_t* cu_seqlens = nullptr;  // [rows + 1]: where each row begins, and where the last one ends
    std::int64_t first_position = 0;
};

// Throws std::invalid_argument, naming the row, unless every row lies within ids and fits into width.
void check_rows(const Ragged& rows, std::int64_t width);

// Writes every element of every wanted matrix, once. The rows must have passed check_rows(), and the padding be
// numbers of that type.
template <class Element>
void collate(const Ragged& rows, const Padded<Element>& out, const Padding& padding) noexcept;

// Writes every element of every wanted array, once. The rows must have passed check_rows().
template <class Element>
void pack(const Ragged& rows, const Packed<Element>& out) noexcept;

}  // namespace penstock
