#include "text/tokenizer.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace penstock::text {
namespace {

constexpr std::size_t kBytesPerToken = 6;  // a first guess, on the generous side for most texts
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

std::span<const Id> kept(const Ids& ids, std::size_t count, Side side) {
    const std::span<const Id> all = ids.all();
    return side == Side::right ? all.first(count) : all.last(count);
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
    {
        const std::lock_guard lock(lending_);
        if (!idle_.empty()) {
            std::unique_ptr<Workspace> workspace = std::move(idle_.back());
            idle_.pop_back();
            return workspace;
        }
    }
    auto workspace = std::make_unique<Workspace>();
    workspace->memory = model_->new_memory();
    return workspace;
}

void Tokenizer::give_back(std::unique_ptr<Workspace> workspace) const {
    const std::lock_guard lock(lending_);
    idle_.push_back(std::move(workspace));
}

bool Tokenizer::encode(std::string_view text, Workspace& workspace, Ids& out) const {
    const std::size_t size = out.size();
    if (raw_.empty()) {
        if (text.empty() || encode_stretch(text, true, workspace, out)) return true;
        out.truncate(size);
        return false;
    }
    raw_.split(text, workspace.stretches);
    for (const Stretch& part : workspace.stretches) {
        if (part.id != Stretch::kText) {
            out.push(part.id);
        } else if (!encode_stretch(text.substr(part.begin, part.end - part.begin), part.begin == 0, workspace,
                                   out)) {
            out.truncate(size);
            return false;
        }
    }
    return true;
}

bool Tokenizer::encode_stretch(std::string_view text, bool first, Workspace& workspace, Ids& out) const {
    if (normalized_.empty()) return model_->encode(text, first, *workspace.memory, out);
    if (!model_->normalize(text, workspace.normalized)) return false;
    const std::string_view normal = workspace.normalized;
    normalized_.split(normal, workspace.inner);
    for (const Stretch& part : workspace.inner) {
        if (part.id != Stretch::kText) {
            out.push(part.id);
            continue;
        }
        const std::string_view piece = normal.substr(part.begin, part.end - part.begin);
        if (!model_->encode_normalized(piece, first && part.begin == 0, *workspace.memory, out)) return false;
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

bool Tokenizer::encode_head(Source& text, std::size_t limit, Workspace& workspace, Ids& out) const {
    const std::size_t size = out.size();
    for (std::size_t guess = kBytesPerToken * limit + 64;; guess *= 4) {
        const std::string_view head = text.head(guess + kSearch);
        if (text.is_all() && head.size() <= guess) return encode(head, workspace, out);
        const std::size_t cut = cut_between(head, guess);
        if (cut == std::string_view::npos) continue;
        if (!encode(head.substr(0, cut), workspace, out)) return false;
        if (out.size() - size >= limit) return true;
        out.truncate(size);
    }
}

bool Tokenizer::encode_row(Source& first, Source& second, const Frame& frame, Workspace& workspace, Ids& out,
                           std::vector<std::uint8_t>* type_ids) const {
    // The usual case is written in place: special tokens, one text, special tokens.
    const std::size_t row = out.size();
    const std::size_t special = frame.num_special();
    const bool is_cut = frame.max_length.has_value();
    const std::size_t room = is_cut ? *frame.max_length - special : 0;
    const bool is_pair =
        std::ranges::any_of(frame.pieces, [](const Piece& piece) { return piece.text == 1; });
    const auto encode_text = [&](Source& text, Ids& ids) {
        return is_cut && frame.truncation == Side::right ? encode_head(text, room, workspace, ids)
                                                         : encode_all(text, workspace, ids);
    };
    if (!is_pair) {
        for (const Piece& piece : frame.pieces) {
            const std::size_t begin = out.size();
            if (piece.text == Piece::kSpecial) {
                out.append(piece.ids);
            } else {
                if (!encode_text(first, out)) {
                    out.truncate(row);
                    return false;
                }
                const std::size_t count = out.size() - begin;
                if (is_cut && count > room) {
                    if (frame.truncation == Side::left) {
                        std::copy(out.data() + out.size() - room, out.data() + out.size(),
                                  out.data() + begin);
                    }
                    out.truncate(begin + room);
                }
            }
            if (type_ids != nullptr) type_ids->insert(type_ids->end(), out.size() - begin, piece.type_id);
        }
        return true;
    }
    workspace.first.clear();
    workspace.second.clear();
    if (!encode_text(first, workspace.first) || !encode_text(second, workspace.second)) return false;
    if (is_cut && room % 2 == 1 && std::min(workspace.first.size(), workspace.second.size()) >= room) {
        // The odd token goes to the longer text, and of neither is the whole length known.
        workspace.first.clear();
        workspace.second.clear();
        if (!encode_all(first, workspace, workspace.first) ||
            !encode_all(second, workspace, workspace.second))
            return false;
    }
    std::size_t keep[2] = {workspace.first.size(), workspace.second.size()};
    if (is_cut) std::tie(keep[0], keep[1]) = longest_first(keep[0], keep[1], room);
    for (const Piece& piece : frame.pieces) {
        const std::size_t begin = out.size();
        if (piece.text == Piece::kSpecial) {
            out.append(piece.ids);
        } else {
            const Ids& ids = piece.text == 0 ? workspace.first : workspace.second;
            out.append(kept(ids, keep[piece.text], frame.truncation));
        }
        if (type_ids != nullptr) type_ids->insert(type_ids->end(), out.size() - begin, piece.type_id);
    }
    return true;
}

}  // namespace penstock::text
