// penstock._core.collate and pack: check that the arrays are what they must be, then let csrc/batch write.

#include "batch/collate.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "bindings/gil.h"
#include "bindings/register.h"

namespace penstock::bindings {
namespace {

using MaybeArray = std::optional<py::array>;

// Tokens that are written in a few microseconds.
constexpr py::ssize_t kFewTokens = 4'096;

std::string shape_of(const py::array& array) { return py::str(array.attr("shape")); }

// The array's memory. Nothing is converted: a silent copy of an output would be written to and thrown away.
template <class Element>
Element* memory_of(const char* name, const py::array& array, int num_dims) {
    using Plain = std::remove_const_t<Element>;
    const bool contiguous = (array.flags() & py::array::c_style) != 0;
    if (!array.dtype().equal(py::dtype::of<Plain>()) || array.ndim() != num_dims || !contiguous) {
        throw py::value_error(std::string(name) + " must be a C-contiguous " +
                              std::string(py::str(py::dtype::of<Plain>())) + " array of " +
                              std::to_string(num_dims) + (num_dims == 1 ? " dimension" : " dimensions") +
                              "; it is " + (contiguous ? "" : "a strided view, ") +
                              std::string(py::str(array.dtype())) + " of shape " + shape_of(array));
    }
    if constexpr (std::is_const_v<Element>) {
        return static_cast<Element*>(array.data());
    } else {
        if (!array.writeable()) throw py::value_error(std::string(name) + " is read-only; it is written to");
        return static_cast<Element*>(const_cast<void*>(array.data()));
    }
}

template <class Element>
std::span<const Element> span_of(const char* name, const py::array& array) {
    const Element* const first = memory_of<const Element>(name, array, 1);
    return {first, static_cast<std::size_t>(array.size())};
}

// Of the shape of input_ids.
template <class Element>
Element* matching(const char* name, const MaybeArray& array, const py::array& input_ids) {
    if (!array) return nullptr;
    Element* const first = memory_of<Element>(name, *array, static_cast<int>(input_ids.ndim()));
    if (std::equal(array->shape(), array->shape() + array->ndim(), input_ids.shape())) return first;
    throw py::value_error(std::string(name) + " has the shape " + shape_of(*array) + "; input_ids has " +
                          shape_of(input_ids));
}

Ragged rows_of(const py::array& ids, const py::array& starts, const py::array& stops,
               const MaybeArray& type_ids) {
    Ragged rows{.ids = span_of<std::int32_t>("ids", ids),
                .starts = span_of<std::int64_t>("starts", starts),
                .stops = span_of<std::int64_t>("stops", stops),
                .type_ids = {}};
    if (!type_ids) return rows;
    rows.type_ids = span_of<std::uint8_t>("type_ids", *type_ids);
    if (rows.type_ids.size() != rows.ids.size()) {
        throw py::value_error("type_ids must be as long as ids, " + std::to_string(rows.ids.size()) +
                              ", not " + std::to_string(rows.type_ids.size()));
    }
    return rows;
}

void check_num_rows(const Ragged& rows, std::int64_t num_rows, const char* where) {
    const auto count = static_cast<std::size_t>(num_rows);
    if (rows.starts.size() == count && rows.stops.size() == count) return;
    throw py::value_error("starts, stops and " + std::string(where) + " must have as many rows, not " +
                          std::to_string(rows.starts.size()) + ", " + std::to_string(rows.stops.size()) +
                          " and " + std::to_string(count));
}

template <class Element>
void check_fits(const char* name, std::int64_t value) {
    if (std::in_range<Element>(value)) return;
    throw py::value_error(std::string(name) + "=" + std::to_string(value) + " does not fit into int32");
}

bool is_int32(const py::array& array) { return array.dtype().equal(py::dtype::of<std::int32_t>()); }

template <class Element>
void collate_into(const Ragged& rows, const py::array& input_ids, const MaybeArray& attention_mask,
                  const MaybeArray& token_type_ids, const MaybeArray& position_ids, const Padding& padding) {
    Padded<Element> out;
    out.input_ids = memory_of<Element>("input_ids", input_ids, 2);
    out.attention_mask = matching<Element>("attention_mask", attention_mask, input_ids);
    out.token_type_ids = matching<Element>("token_type_ids", token_type_ids, input_ids);
    out.position_ids = matching<Element>("position_ids", position_ids, input_ids);
    out.width = input_ids.shape(1);
    check_num_rows(rows, input_ids.shape(0), "input_ids");
    check_rows(rows, out.width);
    check_fits<Element>("pad_id", padding.id);
    check_fits<Element>("pad_type_id", padding.type_id);
    // Safe without the GIL: from here on only plain memory, which the caller's arguments keep alive.
    without_gil_if(input_ids.size() > kFewTokens, [&] {
        collate(rows, out, padding);
        return true;
    });
}

void collate_arrays(const py::array& ids, const py::array& starts, const py::array& stops,
                    const py::array& input_ids, const MaybeArray& attention_mask,
                    const MaybeArray& token_type_ids, const MaybeArray& position_ids,
                    const MaybeArray& type_ids, std::int64_t pad_id, std::int64_t pad_type_id,
                    bool pad_left) {
    const Ragged rows = rows_of(ids, starts, stops, type_ids);
    const Padding padding{.id = pad_id, .type_id = pad_type_id, .left = pad_left};
    const auto write = is_int32(input_ids) ? collate_into<std::int32_t> : collate_into<std::int64_t>;
    write(rows, input_ids, attention_mask, token_type_ids, position_ids, padding);
}

template <class Element>
void pack_into(const Ragged& rows, const py::array& input_ids, const MaybeArray& token_type_ids,
               const MaybeArray& position_ids, const py::array& cu_seqlens, std::int64_t first_position) {
    Packed<Element> out;
    out.input_ids = memory_of<Element>("input_ids", input_ids, 1);
    out.token_type_ids = matching<Element>("token_type_ids", token_type_ids, input_ids);
    out.position_ids = matching<Element>("position_ids", position_ids, input_ids);
    out.cu_seqlens = memory_of<std::int32_t>("cu_seqlens", cu_seqlens, 1);
    out.first_position = first_position;
    check_num_rows(rows, std::max<std::int64_t>(cu_seqlens.size(), 1) - 1, "cu_seqlens but its first");
    if (cu_seqlens.size() == 0) throw py::value_error("cu_seqlens has no room for its first entry");
    check_rows(rows, static_cast<std::int64_t>(rows.ids.size()));
    std::int64_t total = 0, longest = 0;
    for (std::size_t row = 0; row < rows.num_rows(); ++row) {
        const std::int64_t count = rows.stops[row] - rows.starts[row];
        total += count;
        longest = std::max(longest, count);
    }
    if (total != input_ids.size()) {
        throw py::value_error("input_ids has " + std::to_string(input_ids.size()) + " places for " +
                              std::to_string(total) + " tokens");
    }
    check_fits<std::int32_t>("the number of tokens", total);
    check_fits<Element>("the last position", first_position + longest);
    without_gil_if(input_ids.size() > kFewTokens, [&] {
        pack(rows, out);
        return true;
    });
}

void pack_arrays(const py::array& ids, const py::array& starts, const py::array& stops,
                 const py::array& input_ids, const MaybeArray& token_type_ids, const MaybeArray& position_ids,
                 const py::array& cu_seqlens, const MaybeArray& type_ids, std::int32_t first_position) {
    const Ragged rows = rows_of(ids, starts, stops, type_ids);
    const auto write = is_int32(input_ids) ? pack_into<std::int32_t> : pack_into<std::int64_t>;
    write(rows, input_ids, token_type_ids, position_ids, cu_seqlens, first_position);
}

}  // namespace

void register_collate(py::module_& m) {
    // noconvert: a list given for an output would be copied into an array that nobody sees.
    const auto array = [](const char* name) { return py::arg(name).noconvert(); };
    m.def("collate", collate_arrays, array("ids"), array("starts"), array("stops"), array("input_ids"),
          array("attention_mask"), array("token_type_ids"), array("position_ids"), array("type_ids"),
          py::arg("pad_id"), py::arg("pad_type_id") = 0, py::arg("pad_left") = false,
          R"(Writes rows ids[starts[r]:stops[r]] into padded matrices; larger ones without the GIL.

Every matrix has the shape of input_ids, (rows, width), and its dtype, int64 or int32; None: not wanted.
attention_mask is 1 for tokens; token_type_ids come from type_ids (None: 0); position_ids count from each row's
first token. Padding is pad_id, 0, pad_type_id and 0. ValueError names the array, or the row, that does not fit.)");
    m.def("pack", pack_arrays, array("ids"), array("starts"), array("stops"), array("input_ids"),
          array("token_type_ids"), array("position_ids"), array("cu_seqlens"), array("type_ids"),
          py::arg("first_position") = 0,
          R"(Writes rows ids[starts[r]:stops[r]] behind one another, without padding; many without the GIL.

input_ids has a place for each token, int64 or int32; the others are like it, or None: not wanted. position_ids begin
with first_position in each row; cu_seqlens, int32[rows + 1], says where each row begins and the last one ends.
ValueError names the array, or the row, that does not fit.)");
}

}  // namespace penstock::bindings
