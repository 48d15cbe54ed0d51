// penstock._core.Tokenizer: the tokenizer of csrc/text, texts of Python or Arrow in, arrays out.

#include "text/tokenizer.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/gil.h"
#include "bindings/models.h"
#include "bindings/register.h"
#include "bindings/text.h"

namespace penstock::bindings {
namespace {

using text::Frame;
using text::Ids;
using text::Tokenizer;
using Token = py::typing::Tuple<py::str, py::int_, py::bool_, py::bool_, py::bool_>;
using Numbers = py::array_t<std::int64_t>;
using Bytes = py::array_t<std::uint8_t>;
using EncodedRows = py::typing::Tuple<py::array_t<text::Id>, Numbers, py::typing::Optional<Bytes>, Numbers,
                                      py::typing::Optional<Bytes>>;
using CountedRows = py::typing::Tuple<Numbers, py::typing::Optional<Bytes>>;

// What became of a text. The numbers are those that Python reads.
enum Status : std::uint8_t { kDone = 0, kNoText = 1, kInexact = 2, kTooLong = 3 };

Status status_of(text::Outcome outcome, bool is_text) noexcept {
    if (!is_text) return kNoText;
    return outcome == text::Outcome::done ? kDone : outcome == text::Outcome::inexact ? kInexact : kTooLong;
}

// Rows as they grow.
struct Rows {
    Ids ids;
    std::vector<std::int64_t> offsets;
    std::vector<std::uint8_t> type_ids;
    std::vector<std::int64_t> num_bytes;
    std::vector<std::uint8_t> status;
    bool are_done = true;

    explicit Rows(std::size_t count) {
        offsets.reserve(count + 1);
        num_bytes.reserve(count);
        status.reserve(count);
        offsets.push_back(0);
    }
    void close_row(Status how) {
        offsets.push_back(static_cast<std::int64_t>(ids.size()));
        status.push_back(how);
        are_done = are_done && how == kDone;
    }
};

// About as many ids as the texts will make, rather too many: what is not used is given back.
std::size_t likely_ids(const Texts& texts, const Frame& frame) {
    std::size_t count = 0;
    const std::size_t special = frame.num_special();
    const std::size_t room = frame.max_length ? *frame.max_length - special : std::string_view::npos;
    for (std::size_t row = 0; row < texts.size(); ++row) {
        const Text& text = texts[row];
        const bool is_wide = text.kind == Text::Kind::ucs2 || text.kind == Text::Kind::ucs4;
        count += special + std::min(room, is_wide ? text.length / 2 : text.length / 3);
    }
    return count;
}

// An array over memory that `owner` holds; nothing is copied.
template <class Element, class Owner>
py::array_t<Element> array_over(std::unique_ptr<Owner> owner, Element* data, std::size_t size) {
    const py::capsule base(owner.release(), [](void* dead) { delete static_cast<Owner*>(dead); });
    return py::array_t<Element>(static_cast<py::ssize_t>(size), data, base);
}

py::array_t<text::Id> array_of(Ids ids) {
    auto owner = std::make_unique<Ids>(std::move(ids));
    text::Id* const data = owner->data();
    const std::size_t size = owner->size();
    return array_over(std::move(owner), data, size);
}

template <class Element>
py::array_t<Element> array_of(std::vector<Element> values) {
    auto owner = std::make_unique<std::vector<Element>>(std::move(values));
    Element* const data = owner->data();
    const std::size_t size = owner->size();
    return array_over(std::move(owner), data, size);
}

// None: all rows are done.
py::object status_array(std::vector<std::uint8_t> status, bool are_done) {
    return are_done ? py::object(py::none()) : py::object(array_of(std::move(status)));
}

// Borrows a workspace for the time of a call.
class Borrowed {
  public:
    explicit Borrowed(const Tokenizer& tokenizer) : tokenizer_(tokenizer), workspace_(tokenizer.borrow()) {}
    ~Borrowed() { tokenizer_.give_back(std::move(workspace_)); }
    Borrowed(const Borrowed&) = delete;
    Borrowed& operator=(const Borrowed&) = delete;

    text::Workspace& operator*() const noexcept { return *workspace_; }

  private:
    const Tokenizer& tokenizer_;
    std::unique_ptr<text::Workspace> workspace_;
};

// Texts that are tokenized in some ten microseconds.
constexpr std::size_t kFewUnits = 1'024;

bool is_long(const Texts& texts) {
    std::size_t length = 0;
    for (std::size_t at = 0; at < texts.size() && length <= kFewUnits; ++at) length += texts[at].length;
    return length > kFewUnits;
}

// work(), without the GIL if it is long; it may run out of memory, or of what a container can hold.
template <class Work>
void run(bool is_long, Work work) {
    const bool is_done = without_gil_if(is_long, [&]() noexcept {
        try {
            work();
            return true;
        } catch (const std::exception&) {
            return false;
        }
    });
    if (!is_done) throw std::bad_alloc();
}

EncodedRows encode_rows(const Tokenizer& tokenizer, const py::object& texts, const py::object& pairs,
                        const Frame& frame, bool with_types) {
    const Texts first(texts);
    const Texts second(pairs.is_none() ? py::object(py::tuple()) : pairs);
    const bool is_pair = !pairs.is_none();
    if (is_pair && first.size() != second.size()) {
        throw py::value_error("pairs: " + std::to_string(second.size()) + " for " +
                              std::to_string(first.size()) + " texts; give one each");
    }
    Rows rows(first.size());
    run(is_long(first) || is_long(second), [&] {
        const Borrowed workspace(tokenizer);
        Buffer buffers[2];
        rows.ids.reserve(likely_ids(first, frame) + likely_ids(second, frame));
        if (with_types) rows.type_ids.reserve(likely_ids(first, frame) + likely_ids(second, frame));
        for (std::size_t row = 0; row < first.size(); ++row) {
            TextSource one(first[row], buffers[0]);
            TextSource other(is_pair ? second[row] : Text{}, buffers[1]);
            const text::Outcome outcome = tokenizer.encode_row(one, other, frame, *workspace, rows.ids,
                                                               with_types ? &rows.type_ids : nullptr);
            const Status status = status_of(outcome, one.is_valid() && (!is_pair || other.is_valid()));
            if (status != kDone) {
                const auto begin = static_cast<std::size_t>(rows.offsets.back());
                rows.ids.truncate(begin);
                if (with_types) rows.type_ids.resize(begin);
            }
            rows.num_bytes.push_back(static_cast<std::int64_t>((is_pair ? other : one).num_bytes()));
            rows.close_row(status);
        }
        rows.ids.shrink();
    });
    const py::object type_ids = with_types ? py::object(array_of(std::move(rows.type_ids))) : py::none();
    return py::make_tuple(array_of(std::move(rows.ids)), array_of(std::move(rows.offsets)), type_ids,
                          array_of(std::move(rows.num_bytes)),
                          status_array(std::move(rows.status), rows.are_done));
}

CountedRows count_rows(const Tokenizer& tokenizer, const py::object& texts, const Frame& frame) {
    const Texts all(texts);
    std::vector<std::int64_t> counts;
    std::vector<std::uint8_t> status;
    bool are_done = true;
    run(is_long(all), [&] {
        const Borrowed workspace(tokenizer);
        Buffer buffer;
        counts.reserve(all.size());
        status.reserve(all.size());
        Ids ids;
        TextSource none(Text{}, buffer);
        for (std::size_t row = 0; row < all.size(); ++row) {
            ids.clear();
            TextSource one(all[row], buffer);
            const text::Outcome outcome = tokenizer.encode_row(one, none, frame, *workspace, ids, nullptr);
            status.push_back(status_of(outcome, one.is_valid()));
            are_done = are_done && status.back() == kDone;
            counts.push_back(status.back() == kDone ? static_cast<std::int64_t>(ids.size()) : 0);
        }
    });
    return py::make_tuple(array_of(std::move(counts)), status_array(std::move(status), are_done));
}

std::vector<text::AddedToken> added_tokens(const std::vector<Token>& tokens) {
    std::vector<text::AddedToken> all;
    for (const Token& token : tokens) {
        all.push_back({.content = py::cast<std::string>(token[0]),
                       .id = py::cast<text::Id>(token[1]),
                       .single_word = py::cast<bool>(token[2]),
                       .lstrip = py::cast<bool>(token[3]),
                       .rstrip = py::cast<bool>(token[4])});
    }
    return all;
}

Frame frame_from(const std::vector<std::tuple<int, std::vector<text::Id>, int>>& pieces,
                 std::optional<std::size_t> max_length, bool is_left, const std::string& pair_cut) {
    Frame frame;
    for (const auto& [which, ids, type_id] : pieces) {
        if (which < -1 || which > 1) throw py::value_error("a piece is text 0, text 1 or special (-1)");
        frame.pieces.push_back({which, ids, static_cast<std::uint8_t>(type_id)});
    }
    if (max_length && *max_length < frame.num_special()) {
        throw py::value_error("max_length=" + std::to_string(*max_length) +
                              ": the special tokens alone are " + std::to_string(frame.num_special()));
    }
    frame.max_length = max_length;
    frame.truncation = is_left ? text::Side::left : text::Side::right;
    frame.pair_cut = pair_cut == "only_first"    ? text::PairCut::only_first
                     : pair_cut == "only_second" ? text::PairCut::only_second
                                                 : text::PairCut::longest_first;
    return frame;
}

}  // namespace

void register_tokenizer(py::module_& m) {
    py::class_<Frame>(m, "Frame", "What stands around the texts of a row, and how long it may be.")
        .def(
            py::init(&frame_from), py::arg("pieces"), py::arg("max_length"), py::arg("is_left"),
            py::arg("pair_cut") = "longest_first",
            R"(pieces: (text, ids, type_id), text 0 or 1, or -1 for special tokens. pair_cut: longest_first, only_first or
only_second.)");
    py::class_<Tokenizer, std::shared_ptr<Tokenizer>>(
        m, "Tokenizer", "Texts to token ids, exactly as `tokenizers` makes them. Immutable; any thread.")
        .def(
            py::init([](ModelHandle& model, const std::vector<Token>& raw,
                        const std::vector<Token>& normalized,
                        const std::optional<std::vector<Token>>& guards) {
                std::optional<text::AddedTokens> guarded;
                if (guards) guarded.emplace(added_tokens(*guards));
                return std::make_shared<Tokenizer>(model.take(), text::AddedTokens(added_tokens(raw)),
                                                   text::AddedTokens(added_tokens(normalized)),
                                                   std::move(guarded));
            }),
            py::arg("model"), py::arg("raw"), py::arg("normalized"), py::arg("guards"),
            R"(raw, normalized: added tokens, (content, id, single_word, lstrip, rstrip). guards: as what the latter may stand
in a text before it is normalized; None: nobody knows, so no long text is read in part.)")
        .def(
            "encode_rows", encode_rows, py::arg("texts"), py::arg("pairs"), py::arg("frame"),
            py::arg("with_types"),
            R"(Blocks, without the GIL unless it takes but a moment. Texts: a list of str or an Arrow array of strings.

Returns ids int32[n], offsets int64[rows + 1], type ids uint8[n] or None, UTF-8 bytes int64[rows] of the (second)
text as far as it was read, and, if some row is not done, status uint8[rows], else None: 0 done, 1 no text (null, no str, a lone surrogate), 2 not
known exactly: `tokenizers` must do it, 3 the text that may not be cut fills the row. A row that is not done has no
tokens.)")
        .def("count_rows", count_rows, py::arg("texts"), py::arg("frame"),
             "Blocks, as encode_rows() does. How many tokens that would make, int64[rows], and its "
             "status.");
}

}  // namespace penstock::bindings
