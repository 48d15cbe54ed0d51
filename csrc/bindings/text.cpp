// Texts: what Python and Arrow keep strings in.

#include "bindings/text.h"

#include <algorithm>
#include <cstring>

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

// Writes the UTF-8 of a unit, and up to three bytes behind it that are to be written over; returns where it ends. Without
// a branch: in most texts letters of two or three bytes and ASCII spaces alternate, which no processor foretells.
template <class Unit>
[[gnu::always_inline]] inline char* put(Unit unit, char* at) noexcept {
    const std::uint32_t rune = unit;
    const auto tail = [rune](unsigned drop) { return 0x80 | (rune >> drop & 0x3f); };
    const std::uint32_t two = (0xc0 | rune >> 6) | tail(0) << 8;
    if constexpr (sizeof(Unit) == 1) {
        const std::uint32_t bytes = rune < 0x80 ? rune : two;
        std::memcpy(at, &bytes, 2);
        return at + 1 + (rune >= 0x80);
    }
    const std::uint32_t three = (0xe0 | rune >> 12) | tail(6) << 8 | tail(0) << 16;
    std::uint32_t bytes = rune < 0x800 ? two : three;
    bytes = rune < 0x80 ? rune : bytes;
    std::size_t length = std::size_t{1} + (rune >= 0x80) + (rune >= 0x800);
    if constexpr (sizeof(Unit) == 4) {
        const std::uint32_t four = (0xf0 | rune >> 18) | tail(12) << 8 | tail(6) << 16 | tail(0) << 24;
        bytes = rune < 0x10000 ? bytes : four;
        length += rune >= 0x10000;
    }
    std::memcpy(at, &bytes, 4);
    return at + length;
}

// Writes the UTF-8 of units [0, count), and says where it ends; null at a lone surrogate. There is room for the
// longest that these may take, and a byte more.
template <class Unit>
char* transcode(const Unit* units, std::size_t count, char* at) noexcept {
    constexpr std::size_t kBlock = 16;
    while (count > 0) {
        const std::size_t size = std::min(count, kBlock);
        if (size == kBlock) {
            // For the compiler's vectoriser: most texts of any script hold long stretches of ASCII.
            Unit all = 0;
            for (std::size_t i = 0; i < kBlock; ++i) all = static_cast<Unit>(all | units[i]);
            if (all < 0x80) {
                for (std::size_t i = 0; i < kBlock; ++i) at[i] = static_cast<char>(units[i]);
                at += kBlock, units += kBlock, count -= kBlock;
                continue;
            }
        }
        unsigned surrogates = 0;
        for (const Unit* const end = units + size; units != end; ++units) {
            if constexpr (sizeof(Unit) > 1) surrogates |= (*units & ~Unit{0x7ff}) == 0xd800;
            at = put(*units, at);
        }
        if (surrogates != 0) return nullptr;
        count -= size;
    }
    return at;
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

TextSource::TextSource(const Text& text, Buffer& buffer) : text_(text), buffer_(buffer) {}

template <class Unit>
std::string_view TextSource::transcoded() {
    constexpr std::size_t kLongest = sizeof(Unit) == 1 ? 2 : sizeof(Unit) == 2 ? 3 : 4;
    char* const begin = buffer_.room_for(kLongest * num_read_ + 1);
    char* const end = transcode(static_cast<const Unit*>(text_.data), num_read_, begin);
    is_valid_ = end != nullptr;
    return is_valid_ ? std::string_view(begin, end) : std::string_view();
}

std::string_view TextSource::head(std::size_t num_bytes) {
    // Each unit makes one byte at least.
    num_read_ = text_.kind == Text::Kind::ascii ? text_.length : std::min(text_.length, num_bytes);
    std::string_view bytes;
    switch (text_.kind) {
        case Text::Kind::ascii:
            bytes = {static_cast<const char*>(text_.data), text_.length};
            break;
        case Text::Kind::bytes: {
            const std::string_view all(static_cast<const char*>(text_.data), text_.length);
            while (num_read_ < all.size() && text::is_continuation(all[num_read_])) ++num_read_;
            is_valid_ = text::is_utf8(all.substr(0, num_read_));
            if (is_valid_) bytes = all.substr(0, num_read_);
            break;
        }
        case Text::Kind::latin1:
            bytes = transcoded<std::uint8_t>();
            break;
        case Text::Kind::ucs2:
            bytes = transcoded<std::uint16_t>();
            break;
        case Text::Kind::ucs4:
            bytes = transcoded<std::uint32_t>();
            break;
        case Text::Kind::none:
            is_valid_ = false;
            break;
    }
    if (!is_valid_) num_read_ = text_.length;
    num_bytes_ = bytes.size();
    return bytes;
}

bool TextSource::is_all() const noexcept { return num_read_ == text_.length; }

}  // namespace penstock::bindings
