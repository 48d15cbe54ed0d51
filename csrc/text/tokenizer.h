// A tokenizer, whole: added tokens, the model between them, special tokens around, truncation.
//
//     text ─► added tokens ─► model (normalizer, pre-tokenizer, merges) ─► truncate ─► special tokens ─► ids
//
// Immutable and shared by all threads. What a thread needs meanwhile is a Workspace; the tokenizer lends them out
// and keeps them, so that their caches stay warm.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "text/added.h"
#include "text/ids.h"
#include "text/model.h"

namespace penstock::text {

// What one call needs at a time. Belongs to one thread at a time.
struct Workspace {
    std::unique_ptr<Memory> memory;
    std::thread::id user;  // who has it, or had it last
    std::vector<Stretch> stretches;
    std::vector<Stretch> inner;
    std::string normalized;
    Ids first;
    Ids second;
};

// A part of every row: a text (0, or 1 in a pair), or special tokens.
struct Piece {
    static constexpr int kSpecial = -1;

    int text = kSpecial;
    std::vector<Id> ids;
    std::uint8_t type_id = 0;
};

enum class Side { right, left };

// Which text of a pair loses tokens when the row is too long.
enum class PairCut : std::uint8_t { longest_first, only_first, only_second };

// What became of a row. Of one that is not done nothing is left behind.
enum class Outcome : std::uint8_t {
    done,
    inexact,  // a text is not known exactly
    too_long  // the text that may not be cut leaves no room for one token of the other
};

// A text that may have to be made UTF-8 first, as far as it is read.
class Source {
  public:
    Source() = default;
    Source(const Source&) = delete;
    Source& operator=(const Source&) = delete;
    virtual ~Source() = default;

    // The first bytes of the text: at least so many, or all. Valid until the next call.
    virtual std::string_view head(std::size_t num_bytes) = 0;
    // Whether the last head() was the whole text.
    virtual bool is_all() const noexcept = 0;
};

// What rows look like.
struct Frame {
    std::vector<Piece> pieces;
    std::optional<std::size_t> max_length;  // tokens of a row, special ones counted; at least num_special()
    Side truncation = Side::right;
    PairCut pair_cut = PairCut::longest_first;

    std::size_t num_special() const noexcept;
};

class Tokenizer {
  public:
    // `raw` are looked for in the text as it comes, `normalized` in what the model's normalizer made of it.
    // `guards`: as what the latter may stand in a text before it is normalized, so that no text is cut inside one;
    // nullopt: nobody knows, so no text is cut.
    Tokenizer(std::unique_ptr<const Model> model, AddedTokens raw, AddedTokens normalized,
              std::optional<AddedTokens> guards);

    // Never blocks for long: a mutex around a list. A thread gets what it had last, if nobody else took it meanwhile.
    std::unique_ptr<Workspace> borrow() const;
    void give_back(std::unique_ptr<Workspace> workspace) const;

    // Appends the tokens of a text. False: the text is not known exactly; `out` is as it was.
    bool encode(std::string_view text, Workspace& workspace, Ids& out) const;

    // Appends at least the first `limit` tokens of a text, and reads little more of it than they take.
    bool encode_head(Source& text, std::size_t limit, Workspace& workspace, Ids& out) const;

    // Appends one row. `second` only where the frame has two texts.
    Outcome encode_row(Source& first, Source& second, const Frame& frame, Workspace& workspace, Ids& out,
                       std::vector<std::uint8_t>* type_ids) const;

  private:
    Outcome encode_single(Source& text, const Frame& frame, Workspace& workspace, Ids& out,
                          std::vector<std::uint8_t>* type_ids) const;
    Outcome encode_pair(Source& first, Source& second, const Frame& frame, Workspace& workspace, Ids& out,
                        std::vector<std::uint8_t>* type_ids) const;
    Outcome cut_longest(Source& first, Source& second, std::size_t room, Side side,
                        Workspace& workspace) const;
    Outcome cut_only(Source& whole, Source& cut, std::size_t room, Side side, Workspace& workspace,
                     Ids& whole_ids, Ids& cut_ids) const;
    bool encode_end(Source& text, std::size_t limit, Side side, Workspace& workspace, Ids& out) const;
    std::size_t cut_between(std::string_view text, std::size_t from) const noexcept;
    bool encode_text(std::string_view text, bool is_open, Workspace& workspace, Ids& out) const;
    bool encode_all(Source& text, Workspace& workspace, Ids& out) const;
    bool encode_stretch(std::string_view text, Edges edges, Workspace& workspace, Ids& out) const;

    std::unique_ptr<const Model> model_;
    AddedTokens raw_;
    AddedTokens normalized_;
    std::optional<AddedTokens> guards_;
    mutable std::mutex lending_;
    mutable std::vector<std::unique_ptr<Workspace>> idle_;
};

}  // namespace penstock::text
