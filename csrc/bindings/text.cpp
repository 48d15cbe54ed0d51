// Texts: what Python and Arrow keep strings in.

#include "bindings/text.h"

#include <algorithm>
#include <cstring>

#include "text/unicode.h"
#include "text/utf8.h"

namespace penstock::bindings {
namespace {

// The C data interface of Arrow, as its specification lays it out.
struct ArrowSchema {
    const char* format;
    const char* name;
    const char* metadata;
    std::int64_t flags;
    std::int64_t num_children;
    ArrowSchema** children;
    ArrowSchema* dictionary;
    void (*release)(ArrowSchema*);
    void* private_data;
};

struct ArrowArray {
    std::int64_t length;
    std::int64_t null_count;
    std::int64_t offset;
    std::int64_t num_buffers;
    std::int64_t num_children;
    const void** buffers;
    ArrowArray** children;
    ArrowArray* dictionary;
    void (*release)(ArrowArray*);
    void* private_data;
};

Text text_of(PyObject* object) {
    if (!PyUnicode_Check(object)) return {};
#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(object) != 0) throw py::error_already_set();
#endif
    const auto length = static_cast<std::size_t>(PyUnicode_GET_LENGTH(object));
    const void* const data = PyUnicode_DATA(object);
    if (PyUnicode_IS_COMPACT_ASCII(object)) return {data, length, Text::Kind::ascii};
    switch (PyUnicode_KIND(object)) {
        case PyUnicode_1BYTE_KIND:
            return {data, length, Text::Kind::latin1};
        case PyUnicode_2BYTE_KIND:
            return {data, length, Text::Kind::ucs2};
        default:
            return {data, length, Text::Kind::ucs4};
    }
}

template <class Offset>
void read_strings(const ArrowArray& array, std::vector<Text>& out) {
    const auto* const valid = static_cast<const std::uint8_t*>(array.buffers[0]);
    const auto* const offsets = static_cast<const Offset*>(array.buffers[1]) + array.offset;
    const auto* const bytes = static_cast<const char*>(array.buffers[2]);
    for (std::int64_t row = 0; row < array.length; ++row) {
        const std::int64_t bit = array.offset + row;
        const bool is_null = valid != nullptr && (valid[bit >> 3] >> (bit & 7) & 1) == 0;
        const auto length = static_cast<std::size_t>(offsets[row + 1] - offsets[row]);
        out.push_back(is_null ? Text{} : Text{bytes + offsets[row], length, Text::Kind::bytes});
    }
}

// Writes the UTF-8 of units [0, count); false at a lone surrogate.
template <class Unit>
bool transcode(const Unit* units, std::size_t count, std::string& out) {
    constexpr std::size_t kLongest = sizeof(Unit) == 1 ? 2 : sizeof(Unit) == 2 ? 3 : 4;
    out.resize(kLongest * count);  // keeps its memory from text to text
    char* at = out.data();
    std::size_t i = 0;
    while (i < count) {
        if constexpr (sizeof(Unit) == 1) {
            for (std::uint64_t eight; count - i >= 8; i += 8, at += 8) {
                std::memcpy(&eight, units + i, 8);
                if ((eight & 0x8080808080808080u) != 0) break;
                std::memcpy(at, &eight, 8);
            }
            if (i == count) break;
        }
        const auto rune = static_cast<text::Rune>(units[i++]);
        if constexpr (sizeof(Unit) > 1) {
            if (rune >= 0xd800 && rune < 0xe000) return false;
        }
        at += text::encode(rune, at);
    }
    out.resize(static_cast<std::size_t>(at - out.data()));
    return true;
}

}  // namespace

Texts::Texts(const py::object& source) {
    if (PyList_Check(source.ptr()) || PyTuple_Check(source.ptr())) {
        read_sequence(source);
    } else if (py::hasattr(source, "__arrow_c_array__")) {
        read_arrow(source);
    } else {
        throw py::type_error("texts must be a list of str or an Arrow array of strings, not " +
                             std::string(py::str(py::type::of(source).attr("__name__"))));
    }
}

void Texts::read_sequence(const py::object& source) {
    // The caller may change its list while we read without the GIL: a tuple of our own keeps the strings alive.
    py::object items = py::reinterpret_steal<py::object>(PySequence_Tuple(source.ptr()));
    if (!items) throw py::error_already_set();
    const Py_ssize_t count = PyTuple_GET_SIZE(items.ptr());
    texts_.reserve(static_cast<std::size_t>(count));
    for (Py_ssize_t at = 0; at < count; ++at) texts_.push_back(text_of(PyTuple_GET_ITEM(items.ptr(), at)));
    owners_.push_back(std::move(items));
}

void Texts::read_arrow(const py::object& source) {
    const auto capsules = py::cast<py::tuple>(source.attr("__arrow_c_array__")());
    const py::object schema_capsule = capsules[0], array_capsule = capsules[1];
    const auto* const schema =
        static_cast<const ArrowSchema*>(PyCapsule_GetPointer(schema_capsule.ptr(), "arrow_schema"));
    const auto* const array =
        static_cast<const ArrowArray*>(PyCapsule_GetPointer(array_capsule.ptr(), "arrow_array"));
    if (schema == nullptr || array == nullptr) throw py::error_already_set();
    const std::string_view format = schema->format;
    texts_.reserve(static_cast<std::size_t>(array->length));
    if (format == "u") {
        read_strings<std::int32_t>(*array, texts_);
    } else if (format == "U") {
        read_strings<std::int64_t>(*array, texts_);
    } else if (format == "n") {
        texts_.resize(static_cast<std::size_t>(array->length));
    } else {
        throw py::type_error("the Arrow array must hold strings (format u or U), not " + std::string(format));
    }
    owners_.push_back(capsules);
}

TextSource::TextSource(const Text& text, std::string& buffer) : text_(text), buffer_(buffer) {}

std::string_view TextSource::head(std::size_t num_bytes) {
    // Each unit makes one byte at least.
    num_read_ = text_.kind == Text::Kind::ascii ? text_.length : std::min(text_.length, num_bytes);
    switch (text_.kind) {
        case Text::Kind::ascii:
            num_bytes_ = text_.length;
            return {static_cast<const char*>(text_.data), text_.length};
        case Text::Kind::bytes: {
            const std::string_view all(static_cast<const char*>(text_.data), text_.length);
            while (num_read_ < all.size() && text::is_continuation(all[num_read_])) ++num_read_;
            is_valid_ = text::is_utf8(all.substr(0, num_read_));
            num_bytes_ = num_read_;
            if (is_valid_) return all.substr(0, num_read_);
            break;
        }
        case Text::Kind::latin1:
            is_valid_ = transcode(static_cast<const std::uint8_t*>(text_.data), num_read_, buffer_);
            break;
        case Text::Kind::ucs2:
            is_valid_ = transcode(static_cast<const std::uint16_t*>(text_.data), num_read_, buffer_);
            break;
        case Text::Kind::ucs4:
            is_valid_ = transcode(static_cast<const std::uint32_t*>(text_.data), num_read_, buffer_);
            break;
        case Text::Kind::none:
            is_valid_ = false;
            break;
    }
    if (is_valid_) {
        num_bytes_ = buffer_.size();
        return buffer_;
    }
    num_read_ = text_.length;
    return {};
}

bool TextSource::is_all() const noexcept { return num_read_ == text_.length; }

}  // namespace penstock::bindings
