#include "text/tokenizer.h"

#include <algorithm>
#include <utility>

namespace penstock::text {
namespace {

constexpr std::size_t kBytesPerToken = 6;  // a first guess, on the generous side for most texts
constexpr std::size_t kSample = 512;       // bytes that say how long tokens are
constexpr std::size_t kFewTokens = 16;     // which say little
constexpr std::size_t kSearch = 512;       // bytes in which a place to cut is looked for

// How many tokens of each of two texts stay. The longer text loses tokens until both are of one length, then
// both lose in turn.
std::pair<std::size_t, std::size_t> longest_first(std::size_t first, std::size_t second, std::size_t room) {
    if (first + second <= room) return {first, second};
    const std::size_t shorter = std::min(first, second);
    const std::size_t half = room / 2;
    const std::size_t keep_shorter = 2 * shorter > room ? half : shorter;
    const std::size_t keep_longer = room - keep_shorter;
    return first > second ? std::pair(keep_longer, keep_shorter) : std::pair(keep_shorter, keep_longer);
}

}  // namespace

std::size_t Frame::num_special() const noexcept {
    std::size_t count = 0;
    for (const Piece& piece : pieces) count += piece.ids.size();
    return count;
}

Tokenizer::Tokenizer(std::unique_ptr<const Model> model, AddedTokens raw, AddedTokens normalized,
                     std::optional<AddedTokens> guards)
    : model_(std::move(model)),
      raw_(std::move(raw)),
      normalized_(std::move(normalized)),
      guards_(std::move(guards)) {}

std::unique_ptr<Workspace> Tokenizer::borrow() const {
    const std::thread::id me = std::this_thread::get_id();
    {
        const std::lock_guard lock(lending_);
        if (!idle_.empty()) {
            // Its own, if it has one here: that is what this thread's core has in its caches. Else the last one.
            auto found = std::ranges::find(idle_, me, [](const auto& idle) { return idle->user; });
            if (found == idle_.end()) --found;
            std::swap(*found, idle_.back());
            std::unique_ptr<Workspace> workspace = std::move(idle_.back());
            idle_.pop_back();
            workspace->user = me;
            return workspace;
        }
    }
    auto workspace = std::make_unique<Workspace>();
    workspace->memory = model_->new_memory();
    workspace->user = me;
    return workspace;
}

void Tokenizer::give_back(std::unique_ptr<Workspace> workspace) const {
    const std::lock_guard lock(lending_);
    idle_.push_back(std::move(workspace));
}

bool Tokenizer::encode(std::string_view text, Workspace& workspace, Ids& out) const {
    return encode_text(text, false, workspace, out);
}

// `is_open`: the text was cut where cut_between() said.
bool Tokenizer::encode_text(std::string_view text, bool is_open, Workspace& workspace, Ids& out) const {
    const std::size_t size = out.size();
    if (raw_.empty()) {
        if (text.empty() || encode_stretch(text, {true, is_open}, workspace, out)) return true;
        out.truncate(size);
        return false;
    }
    raw_.split(text, workspace.stretches);
    for (const Stretch& part : workspace.stretches) {
        if (part.id != Stretch::kText) {
            out.push(part.id);
        } else if (!encode_stretch(text.substr(part.begin, part.end - part.begin),
                                   {part.begin == 0, is_open && part.end == text.size()}, workspace, out)) {
            out.truncate(size);
            return false;
        }
    }
    return true;
}

bool Tokenizer::encode_stretch(std::string_view text, Edges edges, Workspace& workspace, Ids& out) const {
    if (normalized_.empty()) return model_->encode(text, edges, *workspace.memory, out);
    if (!model_->normalize(text, workspace.normalized)) return false;
    const std::string_view normal = workspace.normalized;
    normalized_.split(normal, workspace.inner);
    for (const Stretch& part : workspace.inner) {
        if (part.id != Stretch::kText) {
            out.push(part.id);
            continue;
        }
        const std::string_view piece = normal.substr(part.begin, part.end - part.begin);
        const Edges inner(edges.first && part.begin == 0, edges.is_open && part.end == normal.size());
        if (!model_->encode_normalized(piece, inner, *workspace.memory, out)) return false;
    }
    return true;
}

std::size_t Tokenizer::cut_between(std::string_view text, std::size_t from) const noexcept {
    constexpr std::size_t kNone = std::string_view::npos;
    if (!guards_ || from == 0) return kNone;
    // The place itself must be behind a whole character, and there must be one behind it.
    const std::size_t to = std::min(text.size(), from + kSearch);
    for (std::size_t at = model_->cut_between(text, from, to); at != kNone;
         at = model_->cut_between(text, at + 1, to)) {
        if (!raw_.may_lie_across(text, at) && !guards_->may_lie_across(text, at)) return at;
    }
    return kNone;
}

bool Tokenizer::encode_all(Source& text, Workspace& workspace, Ids& out) const {
    return encode(text.head(std::string_view::npos), workspace, out);
}

// A text that is not much longer than its tokens may be is read whole. Of others a little is read first: it says how
// many bytes a token takes here, and so how much is to be read.
bool Tokenizer::encode_head(Source& text, std::size_t limit, Workspace& workspace, Ids& out) const {
    const std::size_t size = out.size();
    std::size_t guess = kBytesPerToken * limit + 64;
    std::string_view head = text.head(guess + kSearch);
    if (text.is_all() && head.size() <= guess) return encode(head, workspace, out);
    if (guess > 4 * kSample) guess = kSample;
    for (;;) {
        if (head.size() < guess + kSearch && !text.is_all()) head = text.head(guess + kSearch);
        if (text.is_all() && head.size() <= guess) return encode(head, workspace, out);
        const std::size_t cut = cut_between(head, guess);
        if (cut == std::string_view::npos) {
            guess *= 4;
            continue;
        }
        if (!encode_text(head.substr(0, cut), true, workspace, out)) return false;
        const std::size_t count = out.size() - size;
        if (count >= limit) return true;
        out.truncate(size);
        const std::size_t enough = count < kFewTokens ? 8 * cut
                                                      : static_cast<std::size_t>(static_cast<double>(cut) /
                                                                                 static_cast<double>(count) *
                                                                                 static_cast<double>(limit));
        guess = std::max(enough + enough / 8, cut + cut / 4 + 64);
    }
}

// At least `limit` tokens of the end of a text that stays, or all.
bool Tokenizer::encode_end(Source& text, std::size_t limit, Side side, Workspace& workspace, Ids& out) const {
    return side == Side::right ? encode_head(text, limit, workspace, out) : encode_all(text, workspace, out);
}

Outcome Tokenizer::encode_row(Source& first, Source& second, const Frame& frame, Workspace& workspace,
                              Ids& out, std::vector<std::uint8_t>* type_ids) const {
    const bool is_pair =
        std::ranges::any_of(frame.pieces, [](const Piece& piece) { return piece.text == 1; });
    return is_pair ? encode_pair(first, second, frame, workspace, out, type_ids)
                   : encode_single(first, frame, workspace, out, type_ids);
}

// Written in place: special tokens, one text, special tokens.
Outcome Tokenizer::encode_single(Source& text, const Frame& frame, Workspace& workspace, Ids& out,
                                 std::vector<std::uint8_t>* type_ids) const {
    const std::size_t row = out.size();
    const bool is_cut = frame.max_length.has_value();
    const std::size_t room = is_cut ? *frame.max_length - frame.num_special() : 0;
    for (const Piece& piece : frame.pieces) {
        const std::size_t begin = out.size();
        if (piece.text == Piece::kSpecial) {
            out.append(piece.ids);
        } else {
            if (is_cut ? !encode_end(text, room, frame.truncation, workspace, out)
                       : !encode_all(text, workspace, out)) {
                if (type_ids != nullptr) type_ids->resize(type_ids->size() - (begin - row));
                out.truncate(row);
                return Outcome::inexact;
            }
            if (is_cut && out.size() - begin > room) {
                if (frame.truncation == Side::left) {
                    std::copy(out.data() + out.size() - room, out.data() + out.size(), out.data() + begin);
                }
                out.truncate(begin + room);
            }
        }
        if (type_ids != nullptr) type_ids->insert(type_ids->end(), out.size() - begin, piece.type_id);
    }
    return Outcome::done;
}

Outcome Tokenizer::encode_pair(Source& first, Source& second, const Frame& frame, Workspace& workspace,
                               Ids& out, std::vector<std::uint8_t>* type_ids) const {
    Ids* const texts[2] = {&workspace.first, &workspace.second};
    workspace.first.clear();
    workspace.second.clear();
    Outcome outcome = Outcome::done;
    if (!frame.max_length.has_value()) {
        const bool is_exact =
            encode_all(first, workspace, workspace.first) && encode_all(second, workspace, workspace.second);
        if (!is_exact) outcome = Outcome::inexact;
    } else {
        const std::size_t room = *frame.max_length - frame.num_special();
        outcome = frame.pair_cut == PairCut::longest_first
                      ? cut_longest(first, second, room, frame.truncation, workspace)
                  : frame.pair_cut == PairCut::only_first
                      ? cut_only(second, first, room, frame.truncation, workspace, *texts[1], *texts[0])
                      : cut_only(first, second, room, frame.truncation, workspace, *texts[0], *texts[1]);
    }
    if (outcome != Outcome::done) return outcome;
    for (const Piece& piece : frame.pieces) {
        const std::span<const Id> ids = piece.text == Piece::kSpecial ? piece.ids : texts[piece.text]->all();
        out.append(ids);
        if (type_ids != nullptr) type_ids->insert(type_ids->end(), ids.size(), piece.type_id);
    }
    return Outcome::done;
}

Outcome Tokenizer::cut_longest(Source& first, Source& second, std::size_t room, Side side,
                               Workspace& workspace) const {
    Ids& one = workspace.first;
    Ids& other = workspace.second;
    for (std::size_t limit = room;; limit = 4 * limit + 1) {
        one.clear();
        other.clear();
        if (!encode_end(first, limit, side, workspace, one) ||
            !encode_end(second, limit, side, workspace, other))
            return Outcome::inexact;
        // An odd token goes to the longer text: read on until the end of one is seen.
        if (room % 2 == 0 || side == Side::left || std::min(one.size(), other.size()) < limit) break;
    }
    const auto [keep_first, keep_second] = longest_first(one.size(), other.size(), room);
    one.keep(keep_first, side == Side::left);
    other.keep(keep_second, side == Side::left);
    return Outcome::done;
}

Outcome Tokenizer::cut_only(Source& whole, Source& cut, std::size_t room, Side side, Workspace& workspace,
                            Ids& whole_ids, Ids& cut_ids) const {
    // One token more than there is room for shows that the text does not fit, whatever comes behind it.
    if (!encode_head(whole, room + 1, workspace, whole_ids)) return Outcome::inexact;
    const std::size_t left = room - std::min(room, whole_ids.size());
    // A token more than stays, again: whether there is a token at all decides where none can stay.
    if (!encode_end(cut, left + 1, side, workspace, cut_ids)) return Outcome::inexact;
    const bool fits = whole_ids.size() + cut_ids.size() <= room;
    if (!fits && left == 0 && room > 0) return Outcome::too_long;
    whole_ids.keep(std::min(whole_ids.size(), room), false);
    cut_ids.keep(std::min(cut_ids.size(), left), side == Side::left);
    return Outcome::done;
}

}  // namespace penstock::text
