#include "batch/collate.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace penstock {
namespace {

// Where the tokens of a row lie within its padded line: [begin, end).
struct Extent {
    std::int64_t begin;
    std::int64_t end;
};

// The loops below are written for the compiler's vectoriser: no branch inside, no aliasing.
template <class Source, class Element>
void convert(const Source* __restrict source, std::int64_t count, Element* __restrict target) noexcept {
    for (std::int64_t i = 0; i < count; ++i) target[i] = static_cast<Element>(source[i]);
}

template <class Element>
void count_up(std::int64_t first, std::int64_t count, Element* __restrict target) noexcept {
    for (std::int64_t i = 0; i < count; ++i) target[i] = static_cast<Element>(first + i);
}

// The token types of tokens [start, start + count).
template <class Element>
void write_types(const Ragged& rows, std::int64_t start, std::int64_t count, Element* target) noexcept {
    if (rows.type_ids.empty()) {
        std::fill(target, target + count, Element{0});
    } else {
        convert(rows.type_ids.data() + start, count, target);
    }
}

template <class Element>
void pad(Element* line, Extent tokens, std::int64_t width, std::int64_t value) noexcept {
    std::fill(line, line + tokens.begin, static_cast<Element>(value));
    std::fill(line + tokens.end, line + width, static_cast<Element>(value));
}

template <class Element>
void write_line(const Ragged& rows, std::size_t row, const Padded<Element>& out,
                const Padding& padding) noexcept {
    const std::int64_t start = rows.starts[row];
    const std::int64_t count = rows.stops[row] - start;
    const std::int64_t begin = padding.left ? out.width - count : 0;
    const Extent tokens{begin, begin + count};
    const std::int64_t offset = static_cast<std::int64_t>(row) * out.width;

    Element* line = out.input_ids + offset;
    convert(rows.ids.data() + start, count, line + begin);
    pad(line, tokens, out.width, padding.id);

    if (out.attention_mask) {
        line = out.attention_mask + offset;
        std::fill(line + tokens.begin, line + tokens.end, Element{1});
        pad(line, tokens, out.width, 0);
    }
    if (out.token_type_ids) {
        line = out.token_type_ids + offset;
        write_types(rows, start, count, line + begin);
        pad(line, tokens, out.width, padding.type_id);
    }
    if (out.position_ids) {
        line = out.position_ids + offset;
        count_up(0, count, line + begin);
        pad(line, tokens, out.width, 0);
    }
}

}  // namespace

void check_rows(const Ragged& rows, std::int64_t width) {
    const auto num_ids = static_cast<std::int64_t>(rows.ids.size());
    for (std::size_t row = 0; row < rows.num_rows(); ++row) {
        const std::int64_t start = rows.starts[row];
        const std::int64_t stop = rows.stops[row];
        if (0 <= start && start <= stop && stop <= num_ids && stop - start <= width) continue;
        const std::string where = "row [" + std::to_string(row) + "] is ids[" + std::to_string(start) + ":" +
                                  std::to_string(stop) + "], ";
        if (0 <= start && start <= stop && stop <= num_ids) {
            throw std::invalid_argument(where + std::to_string(stop - start) + " tokens; the matrices hold " +
                                        std::to_string(width) + " to a row");
        }
        throw std::invalid_argument(where + "which is not within the " + std::to_string(num_ids) +
                                    " ids given");
    }
}

template <class Element>
void collate(const Ragged& rows, const Padded<Element>& out, const Padding& padding) noexcept {
    for (std::size_t row = 0; row < rows.num_rows(); ++row) write_line(rows, row, out, padding);
}

template <class Element>
void pack(const Ragged& rows, const Packed<Element>& out) noexcept {
    std::int64_t at = 0;
    if (out.cu_seqlens) out.cu_seqlens[0] = 0;
    for (std::size_t row = 0; row < rows.num_rows(); ++row) {
        const std::int64_t start = rows.starts[row];
        const std::int64_t count = rows.stops[row] - start;
        if (out.input_ids) convert(rows.ids.data() + start, count, out.input_ids + at);
        if (out.token_type_ids) write_types(rows, start, count, out.token_type_ids + at);
        if (out.position_ids) count_up(out.first_position, count, out.position_ids + at);
        at += count;
        if (out.cu_seqlens) out.cu_seqlens[row + 1] = static_cast<std::int32_t>(at);
    }
}

template void collate(const Ragged&, const Padded<std::int32_t>&, const Padding&) noexcept;
template void collate(const Ragged&, const Padded<std::int64_t>&, const Padding&) noexcept;
template void pack(const Ragged&, const Packed<std::int32_t>&) noexcept;
template void pack(const Ragged&, const Packed<std::int64_t>&) noexcept;

}  // namespace penstock
