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

// How a stretch of text lies in its document.
struct Edges {
    Edges(bool is_first, bool goes_on = false)  // NOLINT(google-explicit-constructor): most are whole
        : first(is_first), is_open(goes_on) {}

    bool first;    // it begins the document
    bool is_open;  // it goes on behind a place that cut_between() named, with nobody knows what
};

class Model {
  public:
    Model() = default;
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;
    virtual ~Model() = default;

    virtual std::unique_ptr<Memory> new_memory() const = 0;

    // Appends the tokens of one stretch of text between added tokens, normalizer included: valid UTF-8, any
    // length, never read past its end. `memory` is from new_memory(). Of an open stretch only tokens that are the
    // same whatever comes behind it: most of them, and perhaps all.
    // False: the text leaves what this model knows exactly; what was appended is to be thrown away, and
    // `tokenizers` does the document.
    virtual bool encode(std::string_view text, Edges edges, Memory& memory, Ids& out) const = 0;

    // The same for text that went through normalize() already.
    virtual bool encode_normalized(std::string_view text, Edges edges, Memory& memory, Ids& out) const = 0;

    // A place in [from, to) where a long text may be cut instead of being read to its end: what encode() makes of
    // the open stretch before it begins the tokens of every text that begins so. npos: none that is sure. The
    // character before the place is no white space, as an added token behind it may take that along.
    virtual std::size_t cut_between(std::string_view text, std::size_t from, std::size_t to) const noexcept {
        static_cast<void>(text), static_cast<void>(from), static_cast<void>(to);
        return std::string_view::npos;
    }

    // Replaces `out` by the normalized text. Added tokens that are looked for in normalized text need it.
    // False: as encode().
    virtual bool normalize(std::string_view text, std::string& out) const = 0;
};

}  // namespace penstock::text
