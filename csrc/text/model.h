// What every family of tokenizers is to the rest of the room: text in, ids out.
//
// A Model is immutable once built and shared by all threads. What a thread keeps from call to call (caches,
// buffers) is its Memory, which only that thread uses; it is bounded in bytes.

#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "text/ids.h"

namespace penstock::text {

class Memory {
  public:
    Memory() = default;
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    virtual ~Memory() = default;

    virtual std::size_t num_bytes() const noexcept = 0;
};

class Model {
  public:
    Model() = default;
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;
    virtual ~Model() = default;

    virtual std::unique_ptr<Memory> new_memory() const = 0;

    // Appends the tokens of one stretch of text between added tokens, normalizer included: valid UTF-8, any
    // length, never read past its end. `first`: the stretch begins the document. `memory` is from new_memory().
    // False: the text leaves what this model knows exactly; what was appended is to be thrown away, and
    // `tokenizers` does the document.
    virtual bool encode(std::string_view text, bool first, Memory& memory, Ids& out) const = 0;

    // The same for text that went through normalize() already.
    virtual bool encode_normalized(std::string_view text, bool first, Memory& memory, Ids& out) const = 0;

    // A place in [from, to) before which the tokens of `text` are the same whatever comes behind it, so that a
    // long text may be cut there instead of being read to its end; npos: none that is sure. Both characters at
    // the place are letters, or the first is one.
    virtual std::size_t cut_between(std::string_view text, std::size_t from, std::size_t to) const noexcept {
        static_cast<void>(text), static_cast<void>(from), static_cast<void>(to);
        return std::string_view::npos;
    }

    // Replaces `out` by the normalized text. Added tokens that are looked for in normalized text need it.
    // False: as encode().
    virtual bool normalize(std::string_view text, std::string& out) const = 0;
};

}  // namespace penstock::text
