// penstock._core.collate: checks that the arrays are what they must be, then lets csrc/batch write.

#include "batch/collate.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <limits>
#include <optional>
#include <string>

#include "bindings/gil.h"
#include "bindings/register.h"

namespace penstock::bindings {
namespace {

using MaybeArray = std::optional<py::array>;

std::string shape_of(const py::array& array) { return py::str(array.attr("shape")); }

// The array's memory. Nothing is converted: a silent copy of an output would be written to and thrown away.
template <class Element>
Element* memory_of(const char* name, const py::array& array, int num_dims) {
    using Plain = std::remove_const_t<Element>;
    const bool contiguous = (array.flags() & py::array::c_style) != 0;
    if (!array.dtype().equal(py::dtype::of<Plain>()) || array.ndim() != num_dims || !contiguous) {
        throw py::value_error("collate: " + std::string(name) + " must be a C-contiguous " +
                              std::string(py::str(py::dtype::of<Plain>())) + " array of " +
                              std::to_string(num_dims) + (num_dims == 1 ? " dimension" : " dimensions") +
                              "; it is " + (contiguous ? "" : "a strided view, ") +
                              std::string(py::str(array.dtype())) + " of shape " + shape_of(array));
    }
    if constexpr (std::is_const_v<Element>) {
        return static_cast<Element*>(array.data());
    } else {
        if (!array.writeable())
            throw py::value_error("collate: " + std::string(name) + " is read-only; it is written to");
        return static_cast<Element*>(const_cast<void*>(array.data()));
    }
}

template <class Element>
std::span<const Element> span_of(const char* name, const py::array& array) {
    const Element* const first = memory_of<const Element>(name, array, 1);
    return {first, static_cast<std::size_t>(array.size())};
}

std::int64_t* matrix(const char* name, const py::array& array, const py::array& input_ids) {
    std::int64_t* const first = memory_of<std::int64_t>(name, array, 2);
    if (array.shape(0) == input_ids.shape(0) && array.shape(1) == input_ids.shape(1)) return first;
    throw py::value_error("collate: " + std::string(name) + " has the shape " + shape_of(array) +
                          "; input_ids has " + shape_of(input_ids));
}

std::int64_t* matrix(const char* name, const MaybeArray& array, const py::array& input_ids) {
    return array ? matrix(name, *array, input_ids) : nullptr;
}

void collate_arrays(const py::array& ids, const py::array& starts, const py::array& stops,
                    const py::array& input_ids, const MaybeArray& attention_mask,
                    const MaybeArray& token_type_ids, const MaybeArray& position_ids,
                    const MaybeArray& type_ids, std::int64_t pad_id, std::int64_t pad_type_id,
                    bool pad_left) {
    Ragged rows{.ids = span_of<std::int32_t>("ids", ids),
                .starts = span_of<std::int64_t>("starts", starts),
                .stops = span_of<std::int64_t>("stops", stops),
                .type_ids = {}};
    if (type_ids) rows.type_ids = span_of<std::uint8_t>("type_ids", *type_ids);
    Padded out{.width = 0,
               .input_ids = matrix("input_ids", input_ids, input_ids),
               .attention_mask = matrix("attention_mask", attention_mask, input_ids),
               .token_type_ids = matrix("token_type_ids", token_type_ids, input_ids),
               .position_ids = matrix("position_ids", position_ids, input_ids)};
    out.width = input_ids.shape(1);

    const auto num_rows = static_cast<std::size_t>(input_ids.shape(0));
    if (rows.starts.size() != num_rows || rows.stops.size() != num_rows) {
        throw py::value_error("collate: starts, stops and input_ids must have as many rows, not " +
                              std::to_string(rows.starts.size()) + ", " + std::to_string(rows.stops.size()) +
                              " and " + std::to_string(num_rows));
    }
    if (type_ids && rows.type_ids.size() != rows.ids.size()) {
        throw py::value_error("collate: type_ids must be as long as ids, " + std::to_string(rows.ids.size()) +
                              ", not " + std::to_string(rows.type_ids.size()));
    }
    check_rows(rows, out.width);
    const Padding padding{.id = pad_id, .type_id = pad_type_id, .left = pad_left};
    // Safe without the GIL: from here on only plain memory, which the caller's arguments keep alive.
    without_gil([&] {
        collate(rows, out, padding);
        return true;
    });
}

}  // namespace

void register_collate(py::module_& m) {
    // noconvert: a list given for an output would be copied into an array that nobody sees.
    const auto array = [](const char* name) { return py::arg(name).noconvert(); };
    m.def("collate", collate_arrays, array("ids"), array("starts"), array("stops"), array("input_ids"),
          array("attention_mask"), array("token_type_ids"), array("position_ids"), array("type_ids"),
          py::arg("pad_id"), py::arg("pad_type_id") = 0, py::arg("pad_left") = false,
          R"(Writes rows ids[starts[r]:stops[r]] into padded int64 matrices, without the GIL.

Every matrix has the shape of input_ids, (rows, width); None: not wanted. attention_mask is 1 for
tokens; token_type_ids come from type_ids (None: 0); position_ids count from each row's first token.
Padding is pad_id, 0, pad_type_id and 0. ValueError names the array, or the row, that does not fit.)");
}

}  // namespace penstock::bindings
