// Texts of Python or Arrow as UTF-8, without a copy where they are UTF-8 already.

#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace penstock::bindings {

namespace py = pybind11;

// One text. Reading it needs no GIL while its owner is alive.
struct Text {
    enum class Kind : std::uint8_t { ascii, latin1, ucs2, ucs4, bytes, none };  // bytes: said to be UTF-8

    const void* data = nullptr;
    std::size_t length = 0;  // in units of the kind
    Kind kind = Kind::none;
};

// A batch of texts, and references to all that they lie in. Made and destroyed with the GIL.
class Texts {
  public:
    // A list or tuple of str, or an object with __arrow_c_array__ that holds strings. What is no text has
    // Kind::none. Throws TypeError for anything else.
    explicit Texts(const py::object& source);

    std::size_t size() const noexcept { return texts_.size(); }
    const Text& operator[](std::size_t at) const noexcept { return texts_[at]; }

  private:
    void read_sequence(const py::object& source);
    void read_arrow(const py::object& source);

    std::vector<Text> texts_;
    std::vector<py::object> owners_;
};

// Memory to write a text to: nothing is zeroed, and nothing kept when it grows.
class Buffer {
  public:
    char* room_for(std::size_t size) {
        if (size > capacity_) {
            bytes_.reset();
            capacity_ = 0;
            bytes_ = std::make_unique_for_overwrite<char[]>(size);
            capacity_ = size;
        }
        return bytes_.get();
    }

  private:
    std::unique_ptr<char[]> bytes_;
    std::size_t capacity_ = 0;
};

// A text as UTF-8: its own memory, or transcoded into a buffer as far as it is read. Needs no GIL.
class TextSource final : public text::Source {
  public:
    TextSource(const Text& text, Buffer& buffer);

    std::string_view head(std::size_t num_bytes) override;
    bool is_all() const noexcept override;

    // False: there is a lone surrogate in what was read, or what is no UTF-8, or this is no text; head() was empty then.
    bool is_valid() const noexcept { return is_valid_; }

    // UTF-8 bytes of what was read.
    std::size_t num_bytes() const noexcept { return num_bytes_; }

  private:
    template <class Unit>
    std::string_view transcoded();

    Text text_;
    Buffer& buffer_;
    std::size_t num_read_ = 0;  // in units
    std::size_t num_bytes_ = 0;
    bool is_valid_ = true;
};

}  // namespace penstock::bindings
