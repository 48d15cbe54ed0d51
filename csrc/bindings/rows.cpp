// penstock._core.newlines and read_json_strings: bytes of a file to where its lines are, and to strings.

#include "rows/jsonl.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/gil.h"
#include "bindings/register.h"

namespace penstock::bindings {
namespace {

using Positions = py::array_t<std::int64_t, py::array::c_style>;

std::string_view view_of(const py::bytes& data) {
    return {PyBytes_AS_STRING(data.ptr()), static_cast<std::size_t>(PyBytes_GET_SIZE(data.ptr()))};
}

Positions newlines(const py::bytes& data) {
    auto found = std::make_unique<std::vector<std::int64_t>>(rows::newlines(view_of(data)));
    std::int64_t* const first = found->data();
    const auto count = static_cast<py::ssize_t>(found->size());
    const py::capsule owner(found.release(),
                            [](void* dead) { delete static_cast<std::vector<std::int64_t>*>(dead); });
    return Positions(count, first, owner);
}

// The lines follow one another, within the text: what the reader writes is then no more than there is room for.
void check_lines(const rows::Lines& lines) {
    if (lines.starts.size() != lines.ends.size()) throw py::value_error("starts and ends differ in length");
    std::int64_t last = 0;
    for (std::size_t line = 0; line < lines.starts.size(); ++line) {
        if (lines.starts[line] < last || lines.ends[line] < lines.starts[line]) {
            throw py::value_error("line " + std::to_string(line) + " begins or ends before the one above");
        }
        last = lines.ends[line];
    }
    if (last > static_cast<std::int64_t>(lines.text.size())) {
        throw py::value_error("the last line ends behind the data");
    }
}

// A contiguous buffer of at least so many elements.
template <class Element>
Element* memory_of(const py::buffer_info& info, std::size_t least) {
    constexpr auto kSize = static_cast<py::ssize_t>(sizeof(Element));
    if (info.itemsize != kSize || info.ndim != 1 || info.strides[0] != kSize ||
        static_cast<std::size_t>(info.size) < least) {
        throw py::value_error("a buffer must have " + std::to_string(least) + " elements of " +
                              std::to_string(kSize) + " bytes, one behind the other");
    }
    return static_cast<Element*>(info.ptr);
}

bool read_json_strings(const py::bytes& data, const Positions& starts, const Positions& ends,
                       const std::vector<std::string>& names, const std::vector<py::buffer>& strings,
                       const std::vector<py::buffer>& offsets) {
    const rows::Lines lines{.text = view_of(data),
                            .starts = {starts.data(), static_cast<std::size_t>(starts.size())},
                            .ends = {ends.data(), static_cast<std::size_t>(ends.size())}};
    check_lines(lines);
    if (names.size() != strings.size() || names.size() != offsets.size()) {
        throw py::value_error("give one buffer of bytes and one of offsets for each name");
    }
    std::vector<py::buffer_info> held;  // keeps the buffers from being resized
    std::vector<rows::StringField> fields;
    for (std::size_t at = 0; at < names.size(); ++at) {
        const auto& text = held.emplace_back(strings[at].request(true));
        char* const memory = memory_of<char>(text, rows::room_for_strings(lines.text));
        const auto& numbers = held.emplace_back(offsets[at].request(true));
        auto* const ends_of = memory_of<std::int32_t>(numbers, lines.starts.size() + 1);
        fields.push_back({.name = names[at], .bytes = memory, .offsets = ends_of});
    }
    return without_gil([&]() noexcept { return rows::read_strings(lines, fields); });
}

}  // namespace

void register_rows(py::module_& m) {
    m.def("newlines", newlines, py::arg("data"), "Where each newline stands, int64.");
    m.def("read_json_strings", read_json_strings, py::arg("data"), py::arg("starts"), py::arg("ends"),
          py::arg("names"), py::arg("strings"), py::arg("offsets"),
          R"(The fields `names` of lines data[starts[i]:ends[i]], each a JSON object, without the GIL.

For each name a writable buffer of len(data) + 16 bytes, and one of lines + 1 int32, as Arrow wants them. False: some
line is not an object with each of these fields once, all strings, or holds what is rare; the buffers mean nothing.)");
}

}  // namespace penstock::bindings
