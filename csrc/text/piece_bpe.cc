#include "text/piece_bpe.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

#include "text/known_words.h"
#include "text/utf8.h"

namespace penstock::text {
namespace {

constexpr std::size_t kNumRunes = 0x110000;
constexpr std::size_t kPage = 256;
constexpr std::uint64_t kNoPair = ~std::uint64_t{0};
constexpr std::size_t kKeptBytes = std::size_t{1} << 20;  // of a buffer, from call to call
constexpr std::size_t kMaxText = std::size_t{8} << 20;    // bytes that are copied
constexpr std::size_t kWordsAhead = 32;
constexpr std::string_view kUnderline = "\xe2\x96\x81";  // "▁"

std::uint64_t pair_of(Rune left, Rune right) noexcept { return std::uint64_t{left} << 21 | right; }

std::size_t length_at(const char* at) noexcept { return sequence_length(static_cast<unsigned char>(*at)); }

void replace_all(std::string_view text, std::string_view from, std::string_view to, std::string& out) {
    for (std::size_t at = 0;;) {
        const std::size_t next = text.find(from, at);
        out.append(text, at, next - at);
        if (next == std::string_view::npos) return;
        out.append(to);
        at = next + from.size();
    }
}

}  // namespace

struct PieceBpe::State final : public Memory {
    KnownWords known;
    std::vector<Id> symbols;
    MergeTable::Scratch scratch;
    std::string text;
    std::string head;

    std::size_t num_bytes() const noexcept override {
        return known.num_bytes() + symbols.capacity() * sizeof(Id) + scratch.num_bytes() + text.capacity() +
               head.capacity();
    }

    // Gives memory back that one long text took.
    void trim() {
        if (symbols.capacity() * sizeof(Id) > kKeptBytes) symbols = {};
        scratch.trim();
        for (std::string* const buffer : {&text, &head}) {
            if (buffer->capacity() > kKeptBytes) *buffer = {};
        }
    }
};

PieceBpe::PieceBpe(std::span<const TokenIds::Token> tokens, std::span<const MergePair> merges,
                   const Options& options)
    : options_(options), tokens_(tokens), merges_(resolve_merges(tokens_, merges)) {
    std::vector<Id> ids;
    for (const auto& [token, id] : tokens) {
        if (id < 0 || id > MergeTable::kMaxId)
            throw std::invalid_argument("a token id is negative or too large");
        if (!is_utf8(token)) throw std::invalid_argument("a token is not valid UTF-8");
        ids.push_back(id);
        longest_ = std::max(longest_, token.size());
    }
    std::ranges::sort(ids);
    if (std::ranges::adjacent_find(ids) != ids.end()) throw std::invalid_argument("two tokens have one id");

    if (options_.metaspace.has_value()) {
        const Metaspace& metaspace = *options_.metaspace;
        if (!is_utf8(metaspace.replacement) || metaspace.replacement.empty() ||
            length_at(metaspace.replacement.data()) != metaspace.replacement.size() ||
            decode(metaspace.replacement.data()) <= ' ') {
            throw std::invalid_argument("the replacement of Metaspace is not one printable character");
        }
        if ((options_.replace_spaces || options_.prepend) && metaspace.replacement != kUnderline) {
            throw std::invalid_argument("the normalizer and Metaspace put different things for a space");
        }
        splits_ = metaspace.split;
        space_ = metaspace.replacement;
    } else if (options_.replace_spaces) {
        space_ = kUnderline;
    } else if (options_.prepend) {
        throw std::invalid_argument("a Prepend without a Replace of spaces is not known");
    }
    space_rune_ = decode(space_.data());

    byte_ids_.fill(-1);
    has_all_bytes_ = options_.byte_fallback;
    for (unsigned byte = 0; byte < 256 && options_.byte_fallback; ++byte) {
        static constexpr char kDigits[] = "0123456789ABCDEF";
        const char name[] = {'<', '0', 'x', kDigits[byte >> 4], kDigits[byte & 15], '>'};
        const Id id = tokens_.find({name, sizeof(name)});
        byte_ids_[byte] = id;
        has_all_bytes_ = has_all_bytes_ && id >= 0;
    }
    if (options_.unk_token.has_value()) unk_id_ = tokens_.find(*options_.unk_token);
    drops_ = !has_all_bytes_ && !options_.unk_token.has_value();

    pages_.assign(kNumRunes / kPage, 0);
    symbols_.resize(kPage);  // of characters that have no token
    for (const auto& [token, id] : tokens) {
        if (!token.empty() && length_at(token.data()) == token.size()) {
            symbol_to_set(decode(token.data())).id = tokens_.find(token);
        }
    }
    std::vector<bool> is_special(static_cast<std::size_t>(MergeTable::kMaxId) + 1);
    if (unk_id_ >= 0) is_special[static_cast<std::size_t>(unk_id_)] = true;
    for (const Id id : byte_ids_) {
        if (id >= 0) is_special[static_cast<std::size_t>(id)] = true;
    }
    std::vector<std::uint64_t> pairs;
    std::string product;
    for (const auto& [left, right] : merges) {
        for (const std::string_view part : {left, right}) {
            if (is_special[static_cast<std::size_t>(tokens_.find(part))]) {
                throw std::invalid_argument("a merge takes the unknown token or the token of a byte");
            }
        }
        product.assign(left).append(right);
        const char* const end = product.data() + product.size();
        const char* at = product.data();
        for (const char* next = at + length_at(at); next != end; at = next, next += length_at(next)) {
            symbol_to_set(decode(at)).goes_on = true;
            symbol_to_set(decode(next)).comes_after = true;
            pairs.push_back(pair_of(decode(at), decode(next)));
        }
    }
    std::ranges::sort(pairs);
    pairs.erase(std::unique(pairs.begin(), pairs.end()), pairs.end());
    const auto bits = static_cast<unsigned>(std::bit_width(2 * pairs.size() + 8));
    pair_shift_ = 64 - bits;
    pairs_.assign(std::size_t{1} << bits, kNoPair);
    for (const std::uint64_t pair : pairs) {
        std::size_t at = static_cast<std::size_t>(pair * 0x9e3779b97f4a7c15u >> pair_shift_);
        while (pairs_[at] != kNoPair) at = (at + 1) & (pairs_.size() - 1);
        pairs_[at] = pair;
    }

    is_fast_ = symbol(space_rune_).id >= 0;
    // With ignore_merges a word of Metaspace must be seen whole.
    for (Rune rune = 0; rune < ' ' && !(options_.ignore_merges && splits_); ++rune) {
        const Symbol& known = symbol(rune);
        is_solo_[rune] = known.id >= 0 ? !known.goes_on && !known.comes_after : has_all_bytes_;
    }
}

PieceBpe::~PieceBpe() = default;

const PieceBpe::Symbol& PieceBpe::symbol(Rune rune) const noexcept {
    return symbols_[pages_[rune / kPage] + rune % kPage];
}

PieceBpe::Symbol& PieceBpe::symbol_to_set(Rune rune) {
    std::uint32_t& page = pages_[rune / kPage];
    if (page == 0) {
        page = static_cast<std::uint32_t>(symbols_.size());
        symbols_.resize(symbols_.size() + kPage);
    }
    return symbols_[page + rune % kPage];
}

// Whether these characters stand side by side in what some merge makes.
bool PieceBpe::is_pair(Rune left, Rune right) const noexcept {
    const std::uint64_t pair = pair_of(left, right);
    for (std::size_t at = static_cast<std::size_t>(pair * 0x9e3779b97f4a7c15u >> pair_shift_);;
         at = (at + 1) & (pairs_.size() - 1)) {
        if (pairs_[at] == pair) return true;
        if (pairs_[at] == kNoPair) return false;
    }
}

// Whether the tokens are the same if the text is cut between these characters. Ids and token strings are one to one,
// so a symbol that merges made is the token of the characters that it stands for; and it has at least two. If it
// reached across the cut, its token would have these two characters side by side. None has, so no merge ever
// reaches across, and what is merged on one side changes nothing on the other.
//
// Characters without a token become tokens of bytes, or the unknown token, which no merge takes. Two things are left
// to care for: unknown ones side by side may be one token, and if there is not even an unknown token they vanish,
// so that their neighbours meet.
bool PieceBpe::may_cut(Rune left, const Symbol& left_known, Rune right,
                       const Symbol& right_known) const noexcept {
    if (splits_ && right == space_rune_) return true;
    const bool knows_left = left_known.id >= 0;
    const bool knows_right = right_known.id >= 0;
    if (knows_left && knows_right) {
        return !left_known.goes_on || !right_known.comes_after || !is_pair(left, right);
    }
    return has_all_bytes_ || ((knows_left || knows_right) && !drops_);
}

// The character at `at` as the normalizer or Metaspace makes it.
Rune PieceBpe::rune_at(const char* at) const noexcept { return *at == ' ' ? space_rune_ : decode(at); }

std::unique_ptr<Memory> PieceBpe::new_memory() const { return std::make_unique<State>(); }

bool PieceBpe::encode(std::string_view text, Edges edges, Memory& memory, Ids& out) const {
    if (text.empty()) return true;
    auto& state = static_cast<State&>(memory);
    bool has_prefix = options_.prepend;
    if (options_.metaspace.has_value() && !has_prefix && rune_at(text.data()) != space_rune_) {
        const Metaspace::Prepend prepend = options_.metaspace->prepend;
        has_prefix =
            prepend == Metaspace::Prepend::kAlways || (prepend == Metaspace::Prepend::kFirst && edges.first);
    }
    const bool done = encode_prefixed(text, has_prefix, state, out);
    state.trim();
    return done;
}

// What was normalized has no space any more that is not "▁"; with spaces in their place it goes the same way as text
// that comes as it is.
bool PieceBpe::encode_normalized(std::string_view text, Edges edges, Memory& memory, Ids& out) const {
    if (text.empty()) return true;
    if (text.size() > kMaxText) return false;
    auto& state = static_cast<State&>(memory);
    bool has_prefix = false;
    if (options_.metaspace.has_value() && rune_at(text.data()) != space_rune_) {
        const Metaspace::Prepend prepend = options_.metaspace->prepend;
        has_prefix =
            prepend == Metaspace::Prepend::kAlways || (prepend == Metaspace::Prepend::kFirst && edges.first);
    }
    std::string spaced;
    std::swap(spaced, state.text);
    spaced.clear();
    if (space_ == " ") {
        spaced = text;
    } else {
        replace_all(text, space_, " ", spaced);
    }
    const bool done = encode_prefixed(spaced, has_prefix, state, out);
    std::swap(spaced, state.text);
    state.trim();
    return done;
}

bool PieceBpe::normalize(std::string_view text, std::string& out) const {
    out.clear();
    if (text.empty()) return true;
    if (options_.prepend) out.append(kUnderline);
    if (options_.replace_spaces) {
        replace_all(text, " ", kUnderline, out);
    } else {
        out.append(text);
    }
    return true;
}

// Wherever encode_cut() would cut, as may_cut() asks nothing but the two characters. With ignore_merges there is one
// thing more: what is looked up whole must not end at the place only because the text was cut there. A word of
// Metaspace ends where a "▁" comes; without such words it is the whole stretch.
std::size_t PieceBpe::cut_between(std::string_view text, std::size_t from, std::size_t to) const noexcept {
    if (options_.ignore_merges && !splits_) return std::string_view::npos;
    for (std::size_t at = std::max<std::size_t>(from, 1); at < std::min(to, text.size()); ++at) {
        if (is_continuation(text[at])) continue;
        std::size_t before = at - 1;
        while (is_continuation(text[before])) --before;
        if ((classes(decode(&text[before])) & (kSpace | kStripSpace)) != 0) continue;
        const Rune left = rune_at(&text[before]);
        const Rune right = rune_at(&text[at]);
        if (options_.ignore_merges ? right == space_rune_ : may_cut(left, symbol(left), right, symbol(right)))
            return at;
    }
    return std::string_view::npos;
}

// Where the piece that begins here ends: a control character that stands alone, or any spaces and a word.
const char* PieceBpe::piece_end(const char* at, const char* end) const noexcept {
    const auto is_solo = [this](char byte) {
        return byte != ' ' && is_solo_[static_cast<unsigned char>(byte)];
    };
    if (static_cast<unsigned char>(*at) < ' ' && is_solo(*at)) return at + 1;
    if (*at == ' ') {
        ++at;
        while (at != end && *at == ' ' && !splits_) ++at;
    }
    for (;; ++at) {
        at = find_low(at, end);
        if (at == end || *at == ' ' || is_solo(*at)) return at;
    }
}

// Whether the text may be cut behind this piece, if a space comes there or anything else that ends a piece.
bool PieceBpe::is_closed(std::string_view piece) const noexcept {
    if (piece.back() == ' ') return true;  // all spaces are in the piece
    std::size_t at = piece.size() - 1;
    while (is_continuation(piece[at])) --at;
    return may_cut_before_space(rune_at(&piece[at]));
}

// `text` with "▁" before it, or without.
bool PieceBpe::encode_prefixed(std::string_view text, bool has_prefix, State& state, Ids& out) const {
    if (options_.ignore_merges && !splits_ && text.size() <= longest_) {
        state.head.clear();
        if (has_prefix) state.head.append(space_);
        replace_all(text, " ", space_, state.head);
        if (const Id id = tokens_.find(state.head); id >= 0) {
            out.push(id);
            return true;
        }
    }
    if (!is_fast_) {
        if (!has_prefix) return encode_piece(text, state, out);
        if (text.size() > kMaxText) return false;
        std::string prefixed;
        prefixed.append(" ").append(text);
        return encode_piece(prefixed, state, out);
    }
    if (!has_prefix) return encode_pieces(text, state, out);
    const char* const end = text.data() + text.size();
    const char* stop = text.data();
    const bool begins_alone =
        static_cast<unsigned char>(*stop) < ' ' && is_solo_[static_cast<unsigned char>(*stop)];
    if (!begins_alone && !(splits_ && *stop == ' ')) {
        do stop = piece_end(stop, end);
        while (stop != end && *stop == ' ' &&
               !is_closed({text.data(), static_cast<std::size_t>(stop - text.data())}));
    }
    const auto length = static_cast<std::size_t>(stop - text.data());
    if (length > kMaxText) return false;
    std::string head;
    std::swap(head, state.head);
    head.assign(1, ' ').append(text, 0, length);
    const bool done = encode_pieces(head, state, out) && encode_pieces(text.substr(length), state, out);
    std::swap(head, state.head);
    return done;
}

// Piece by piece. Pieces that are closed are kept: what they become depends on nothing but their bytes, and so does
// that the next piece can begin behind them.
bool PieceBpe::encode_pieces(std::string_view text, State& state, Ids& out) const {
    struct Found {
        const char* at;
        const char* stop;
        WordKey key;
        std::uint64_t hash;
    };
    std::array<Found, kWordsAhead> found;
    const char* const end = text.data() + text.size();
    for (const char* ahead = text.data(); ahead != end;) {
        // Some pieces at a time are found and their places in the cache fetched; then they are looked up.
        std::size_t num_found = 0;
        while (num_found < kWordsAhead && ahead != end) {
            Found& next = found[num_found++];
            next.at = ahead;
            next.stop = piece_end(ahead, end);
            const auto length = static_cast<std::size_t>(next.stop - ahead);
            if (length <= WordKey::kMaxBytes) {
                next.key = WordKey::of(ahead, length, end);
                next.hash = next.key.hash();
                state.known.words.prefetch(next.hash);
            } else if (length <= kLongestWord) {
                next.hash = LongWordCache::hash({ahead, length});
                state.known.long_words.prefetch(next.hash);
            }
            ahead = next.stop;
        }
        for (std::size_t i = 0; i < num_found; ++i) {
            const auto& [at, stop, key, hash] = found[i];
            const std::string_view piece(at, static_cast<std::size_t>(stop - at));
            if (piece.size() <= WordKey::kMaxBytes) {
                if (state.known.find(key, hash, out)) continue;
            } else if (piece.size() <= kLongestWord) {
                if (const auto ids = state.known.long_words.find(piece, hash); ids.data() != nullptr) {
                    out.append(ids);
                    continue;
                }
            }
            const std::size_t mark = out.size();
            if (is_closed(piece)) [[likely]] {
                if (!encode_piece(piece, state, out)) return false;
                const std::span<const Id> ids = out.all().subspan(mark);
                if (piece.size() <= WordKey::kMaxBytes) {
                    state.known.insert(key, ids);
                } else if (piece.size() <= kLongestWord) {
                    state.known.long_words.insert(piece, hash, ids);
                }
                continue;
            }
            const char* last = stop;
            while (last != end && *last == ' ' && !is_closed({at, static_cast<std::size_t>(last - at)})) {
                last = piece_end(last, end);
            }
            if (!encode_piece({at, static_cast<std::size_t>(last - at)}, state, out)) return false;
            if (last != stop) {
                ahead = last;
                break;
            }
        }
    }
    return true;
}

// Any stretch of text, cut wherever it may be.
bool PieceBpe::encode_piece(std::string_view piece, State& state, Ids& out) const {
    const char* const end = piece.data() + piece.size();
    if (options_.ignore_merges && splits_) {
        for (const char* at = piece.data(); at != end;) {
            const char* stop = at + length_at(at);
            while (stop != end && rune_at(stop) != space_rune_) stop += length_at(stop);
            const std::string_view word(at, static_cast<std::size_t>(stop - at));
            Id id = TokenIds::kNone;
            if (word.size() <= longest_) {
                std::string text;
                replace_all(word, " ", space_, text);
                id = tokens_.find(text);
            }
            if (id != TokenIds::kNone) {
                out.push(id);
            } else if (!encode_cut(word, state, out)) {
                return false;
            }
            at = stop;
        }
        return true;
    }
    return encode_cut(piece, state, out);
}

bool PieceBpe::encode_cut(std::string_view text, State& state, Ids& out) const {
    const char* const end = text.data() + text.size();
    Rune rune = rune_at(text.data());
    const Symbol* known = &symbol(rune);
    for (const char* at = text.data(); at != end;) {
        const Symbol* const first = known;
        const char* stop = at + length_at(at);
        const char* const second = stop;
        while (stop != end) {
            const Rune next = rune_at(stop);
            const Symbol* const next_known = &symbol(next);
            const bool cut = may_cut(rune, *known, next, *next_known);
            rune = next;
            known = next_known;
            if (cut) break;
            stop += length_at(stop);
        }
        if (stop == second && first->id >= 0) {
            out.push(first->id);
        } else if (!encode_word({at, static_cast<std::size_t>(stop - at)}, state, out)) {
            return false;
        }
        at = stop;
    }
    return true;
}

// What cannot be cut.
bool PieceBpe::encode_word(std::string_view word, State& state, Ids& out) const {
    std::vector<Id>& symbols = state.symbols;
    symbols.clear();
    bool is_unknown = false;  // the unknown token is to be added before the next one that is known
    for (std::size_t at = 0; at < word.size();) {
        const std::size_t length = length_at(&word[at]);
        if (const Id id = symbol(rune_at(&word[at])).id; id >= 0) {
            if (is_unknown) symbols.push_back(unk_id_);
            is_unknown = false;
            symbols.push_back(id);
        } else {
            const std::string_view bytes =
                word[at] == ' ' ? std::string_view(space_) : word.substr(at, length);
            const auto byte_id = [this](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
            if (std::ranges::all_of(bytes, [&](char byte) { return byte_id(byte) >= 0; })) {
                for (const char byte : bytes) symbols.push_back(byte_id(byte));
            } else if (options_.unk_token.has_value()) {
                if (unk_id_ < 0) return false;  // `tokenizers` says what is wrong
                if (is_unknown && !options_.fuse_unk) symbols.push_back(unk_id_);
                is_unknown = true;
            }
        }
        at += length;
    }
    if (is_unknown) symbols.push_back(unk_id_);
    return merges_.merge(symbols, state.scratch, out);
}

}  // namespace penstock::text
