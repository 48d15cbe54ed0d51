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
template <class Source>
void widen(const Source* __restrict source, std::int64_t count, std::int64_t* __restrict target) noexcept {
    for (std::int64_t i = 0; i < count; ++i) target[i] = source[i];
}

void count_up(std::int64_t count, std::int64_t* __restrict target) noexcept {
    for (std::int64_t i = 0; i < count; ++i) target[i] = i;
}

void pad(std::int64_t* line, Extent tokens, std::int64_t width, std::int64_t value) noexcept {
    std::fill(line, line + tokens.begin, value);
    std::fill(line + tokens.end, line + width, value);
}

void write_line(const Ragged& rows, std::size_t row, const Padded& out, const Padding& padding) noexcept {
    const std::int64_t start = rows.starts[row];
    const std::int64_t count = rows.stops[row] - start;
    const std::int64_t begin = padding.left ? out.width - count : 0;
    const Extent tokens{begin, begin + count};
    const std::int64_t offset = static_cast<std::int64_t>(row) * out.width;

    std::int64_t* line = out.input_ids + offset;
    widen(rows.ids.data() + start, count, line + begin);
    pad(line, tokens, out.width, padding.id);

    if (out.attention_mask) {
        line = out.attention_mask + offset;
        std::fill(line + tokens.begin, line + tokens.end, 1);
        pad(line, tokens, out.width, 0);
    }
    if (out.token_type_ids) {
        line = out.token_type_ids + offset;
        if (rows.type_ids.empty()) {
            std::fill(line + tokens.begin, line + tokens.end, 0);
        } else {
            widen(rows.type_ids.data() + start, count, line + begin);
        }
        pad(line, tokens, out.width, padding.type_id);
    }
    if (out.position_ids) {
        line = out.position_ids + offset;
        count_up(count, line + begin);
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
        const std::string where = "collate: row [" + std::to_string(row) + "] is ids[" +
                                  std::to_string(start) + ":" + std::to_string(stop) + "], ";
        if (0 <= start && start <= stop && stop <= num_ids) {
            throw std::invalid_argument(where + std::to_string(stop - start) + " tokens; the matrices hold " +
                                        std::to_string(width) + " to a row");
        }
        throw std::invalid_argument(where + "which is not within the " + std::to_string(num_ids) +
                                    " ids given");
    }
}

void collate(const Ragged& rows, const Padded& out, const Padding& padding) noexcept {
    for (std::size_t row = 0; row < rows.num_rows(); ++row) write_line(rows, row, out, padding);
}

}  // namespace penstock
