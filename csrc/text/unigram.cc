#include "text/unigram.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

#include "text/known_words.h"
#include "text/unicode.h"
#include "text/utf8.h"

namespace penstock::text {
namespace {

constexpr double kUnknownPenalty = 10;                     // below the lowest score of a piece
constexpr double kMaxScore = 1e15;                         // sums of these stay finite
constexpr std::size_t kMaxPiece = std::size_t{1} << 20;    // bytes between two places where text is split
constexpr std::size_t kMaxSegment = std::size_t{4} << 20;  // bytes that are normalized at once
constexpr std::size_t kKeptBytes = std::size_t{1} << 20;   // of a buffer, from call to call
constexpr std::size_t kWordsAhead = 32;

bool is_space(Rune rune) noexcept {
    if (rune < 0x80) return rune == ' ' || (rune >= 9 && rune <= 13);
    return (classes(rune) & kBertSeparator) != 0;
}

Rune last_rune(std::string_view text) noexcept {
    std::size_t at = text.size() - 1;
    while (is_continuation(text[at])) --at;
    return decode(text.data() + at);
}

std::string_view strip(std::string_view text, bool left, bool right) noexcept {
    while (left && !text.empty() && is_space(decode(text.data()))) {
        text.remove_prefix(sequence_length(static_cast<unsigned char>(text.front())));
    }
    while (right && !text.empty() && is_space(last_rune(text))) {
        while (is_continuation(text.back())) text.remove_suffix(1);
        text.remove_suffix(1);
    }
    return text;
}

// Whether white space before this character, or behind it, may be one grapheme with it, which a charsmap sees as one
// thing: marks and joiners go with what is before them, a few characters with what comes behind them. True in doubt.
bool joins_before(Rune rune) noexcept {
    if (rune < 0x80) return false;
    const std::uint32_t what = classes(rune);
    if ((what & (kLetter | kNumber | kPunctuation | kSymbol)) == 0 || (what & (kMark | kModifier)) != 0)
        return true;
    return rune == 0xe33 || rune == 0xeb3 || (rune >= 0x1f3fb && rune <= 0x1f3ff) ||
           (rune >= 0x11000 && rune < 0x12000);
}
bool joins_behind(Rune rune) noexcept {
    if (rune < 0x80) return false;
    const std::uint32_t what = classes(rune);
    if ((what & kMark) != 0) return false;
    if ((what & (kLetter | kNumber | kPunctuation | kSymbol)) == 0) return true;
    return rune == 0xd4e || (rune >= 0x11000 && rune < 0x12000);
}

}  // namespace

// How a text is cut into words. There is one for text as it comes and one for text that is normalized.
struct Unigram::Lane {
    bool has_steps = false;
    bool is_fast = false;     // words are independent of each other, see encode_words()
    bool has_edges = false;   // a step looks at more than words: strips, or replaces runs of spaces
    bool any_length = false;  // several gap characters are as one
    bool loose = false;       // and gaps at the ends of the text are nothing
    std::array<bool, 256> gap{};
    std::size_t index = 0;  // of its caches
};

// Where a segment lies.
struct Unigram::Place {
    bool at_begin;  // of the stretch
    bool at_end;
    Edges stretch;

    bool is_open() const noexcept { return at_end && stretch.is_open; }
};

struct Unigram::State final : public Memory {
    struct Best {  // the best path to a place
        double score;
        std::uint32_t from;
        Id id;
    };

    struct Walk {  // through the trie
        const PieceTrie::Node* node;
        std::uint32_t from;
        double score;  // of the best path to `from`
    };

    std::unique_ptr<KnownWords> caches[2];
    std::vector<Best> best;
    std::unique_ptr<Walk[]> walks{new Walk[PieceTrie::kMaxBytes + 1]};  // each began at another place
    std::string normal;
    std::string spare;
    std::string piece;
    bool is_plain = false;  // what encode_segment() says of its text: it may be kept, see there
    bool needs_whole = false;

    KnownWords& of(const Lane& lane) {
        if (caches[lane.index] == nullptr) caches[lane.index] = std::make_unique<KnownWords>();
        return *caches[lane.index];
    }

    std::size_t num_bytes() const noexcept override {
        std::size_t result =
            best.capacity() * sizeof(Best) + normal.capacity() + spare.capacity() + piece.capacity();
        for (const auto& of_lane : caches) {
            if (of_lane != nullptr) result += of_lane->num_bytes();
        }
        return result;
    }

    // Gives memory back that one long text took.
    void trim() {
        if (best.capacity() * sizeof(Best) > kKeptBytes) best = {};
        for (std::string* const buffer : {&normal, &spare, &piece}) {
            if (buffer->capacity() > kKeptBytes) *buffer = {};
        }
    }
};

Unigram::Unigram(std::span<const Piece> pieces, std::vector<Step> steps, const Options& options)
    : steps_(std::move(steps)), options_(options) {
    if (pieces.size() >= static_cast<std::size_t>(PieceTrie::kNone)) {
        throw std::invalid_argument("there are more than 8 million pieces");
    }
    if (options_.unk_id.has_value() && *options_.unk_id >= pieces.size()) {
        throw std::invalid_argument("unk_id is not in the vocabulary");
    }
    // Of equal pieces the last counts, but the lowest score is that of all.
    std::vector<PieceTrie::Entry> entries;
    entries.reserve(pieces.size());
    double lowest = std::numeric_limits<double>::infinity();
    for (std::size_t id = 0; id < pieces.size(); ++id) {
        const auto& [piece, score] = pieces[id];
        if (!(std::abs(score) <= kMaxScore))
            throw std::invalid_argument("the score of a piece is not finite");
        if (!is_utf8(piece)) throw std::invalid_argument("a piece is not valid UTF-8");
        lowest = std::min(lowest, score);
        if (!piece.empty()) entries.push_back({piece, score, static_cast<Id>(id)});
    }
    trie_ = PieceTrie(entries);
    unk_score_ = pieces.empty() ? 0 : lowest - kUnknownPenalty;

    byte_ids_.fill(-1);
    has_byte_ids_ = options_.byte_fallback;
    for (unsigned byte = 0; byte < 256; ++byte) {
        static constexpr char kDigits[] = "0123456789ABCDEF";
        const char name[] = {'<', '0', 'x', kDigits[byte >> 4], kDigits[byte & 15], '>'};
        const Id id = trie_.find({name, sizeof(name)});
        if (id != PieceTrie::kNone) byte_ids_[byte] = id;
    }

    if (options_.metaspace.has_value()) {
        const std::string& replacement = options_.metaspace->replacement;
        if (!is_utf8(replacement) || replacement.empty() || is_space(decode(replacement.data())) ||
            static_cast<unsigned char>(replacement.front()) <= 0x20 ||
            sequence_length(static_cast<unsigned char>(replacement.front())) != replacement.size()) {
            throw std::invalid_argument("the replacement of Metaspace is not one printable character");
        }
    }
    bool in_order = true;  // words, then what looks at white space; Strip is good anywhere
    for (const Step& step : steps_) {
        if (step.kind == Step::Kind::kWords && step.words == nullptr) {
            throw std::invalid_argument("a step of the normalizer is missing");
        }
        if (step.kind == Step::Kind::kWords && has_spaces_) in_order = false;
        if (step.kind == Step::Kind::kSpaces) {
            has_spaces_ = true;
            // What stands for spaces in a word is no white space to split at.
            const bool is_known = options_.metaspace.has_value() &&
                                  (step.content == " " || (step.content == options_.metaspace->replacement &&
                                                           !options_.whitespace_split));
            in_order = in_order && is_known;
        }
        if (step.kind != Step::Kind::kWords) has_edges_ = true;
    }

    const bool splits =
        options_.metaspace.has_value() ? options_.metaspace->split : options_.whitespace_split;
    auto normal = std::make_unique<Lane>();
    normal->index = 1;
    normal->is_fast = splits;
    normal->any_length = normal->loose = options_.whitespace_split;
    for (const char gap : {' ', '\t', '\n', '\r'}) {
        normal->gap[static_cast<unsigned char>(gap)] = gap == ' ' || options_.whitespace_split;
    }
    normal_ = std::move(normal);

    auto raw = std::make_unique<Lane>();
    raw->has_steps = !steps_.empty();
    raw->has_edges = has_edges_;
    raw->loose = options_.whitespace_split && !has_edges_;
    raw->any_length = options_.whitespace_split || has_spaces_;
    const auto is_gap = [this](std::string_view gap) {
        std::string kept;
        std::string spare;
        std::string_view text = gap;
        for (const Step& step : steps_) {
            if (step.kind != Step::Kind::kWords) continue;
            if (!step.words->apply(text, spare)) return false;
            std::swap(kept, spare);
            text = kept;
        }
        return options_.whitespace_split ? !text.empty() && strip(text, true, false).empty() : text == " ";
    };
    for (const char gap : {' ', '\t', '\n', '\r'})
        raw->gap[static_cast<unsigned char>(gap)] = is_gap({&gap, 1});
    if (!is_gap("\r\n")) raw->gap['\r'] = false;
    raw->is_fast = splits && in_order && raw->gap[' '];
    raw_ = std::move(raw);
}

Unigram::~Unigram() = default;

std::unique_ptr<Memory> Unigram::new_memory() const { return std::make_unique<State>(); }

bool Unigram::encode(std::string_view text, Edges edges, Memory& memory, Ids& out) const {
    return encode_lane(text, edges, static_cast<State&>(memory), *raw_, out);
}

bool Unigram::encode_normalized(std::string_view text, Edges edges, Memory& memory, Ids& out) const {
    // Where a word lay in the document before it was normalized, nobody can say any more.
    if (edges.first && !steps_.empty() && options_.metaspace.has_value() &&
        options_.metaspace->prepend == Metaspace::Prepend::kFirst)
        return false;
    return encode_lane(text, edges, static_cast<State&>(memory), *normal_, out);
}

bool Unigram::normalize(std::string_view text, std::string& out) const {
    std::string kept;
    std::string spare;
    std::string_view result;
    bool is_shorter;
    if (!run_steps(text, true, true, spare, kept, result, is_shorter)) return false;
    out.assign(result);
    return true;
}

// Whether every step of the normalizer works apart on what is before and behind this place. A step sees what the one
// before it left: kWords steps that split here and behind the next character keep the characters at the place, kStrip and
// kSpaces look at white space alone, of which there is none before the place. If it is behind the place, kSpaces may make
// something else of it: no kWords step may come then.
bool Unigram::splits(std::string_view text, std::size_t at) const noexcept {
    const Rune left = last_rune(text.substr(0, at));
    const Rune right = decode(&text[at]);
    const std::size_t behind = at + sequence_length(static_cast<unsigned char>(text[at]));
    if (is_space(left) || (classes(left) & (kSpace | kStripSpace)) != 0) return false;
    if (options_.metaspace.has_value() && left == decode(options_.metaspace->replacement.data()))
        return false;
    if (has_spaces_ && !raw_->is_fast && right == ' ') return false;
    return std::ranges::all_of(steps_, [&](const Step& step) {
        return step.kind != Step::Kind::kWords || (step.words->splits(left, right) && behind < text.size() &&
                                                   step.words->splits(right, decode(&text[behind])));
    });
}

// Where the normalizer splits; encode_piece() finds the tokens that are sure.
std::size_t Unigram::cut_between(std::string_view text, std::size_t from, std::size_t to) const noexcept {
    for (std::size_t at = std::max<std::size_t>(from, 1); at < std::min(to, text.size()); ++at) {
        if (!is_continuation(text[at]) && splits(text, at)) return at;
    }
    return std::string_view::npos;
}

bool Unigram::encode_lane(std::string_view text, Edges edges, State& state, const Lane& lane,
                          Ids& out) const {
    if (text.empty()) return true;
    const std::size_t size = out.size();
    state.needs_whole = !lane.is_fast;
    bool done = lane.is_fast && encode_words(text, edges, state, lane, out);
    if (state.needs_whole) {
        out.truncate(size);
        done = encode_segment(text, {true, true, edges}, state, lane, out);
    }
    state.trim();
    return done;
}

// Word by word. A segment is a word and the gap before it; what a segment becomes does not depend on its
// neighbours, and so not on anything but its bytes:
//
//   - The steps of the normalizer: a charsmap works on one grapheme after another, the other kWords steps on
//     characters or on patterns without white space. A grapheme ends at a gap, unless the character before the gap
//     joins what follows or the one behind the gap is a mark: joins_before(), joins_behind(). There both words and
//     the gap are one segment. kStrip works at the ends of the text; kSpaces only on runs of spaces, and no segment ends with
//     one (encode_segment() looks).
//   - The pre-tokenizer splits before the white space or the "▁" that the segment begins with (encode_segment()
//     looks), and what lies between two splits is a path of its own, whose score begins at 0.
//
// The segment before is remembered, because what comes may show that it was not whole: it is then done again with
// all that belongs to it, and as that is done as far as it goes, no word is done more than twice.
bool Unigram::encode_words(std::string_view text, Edges edges, State& state, const Lane& lane,
                           Ids& out) const {
    KnownWords& known = state.of(lane);
    const char* const begin = text.data();
    const char* const end = begin + text.size();
    const auto is_gap = [&lane](char byte) { return lane.gap[static_cast<unsigned char>(byte)]; };
    const auto behind_gap = [&](const char* from) {
        while (from != end && is_gap(*from)) ++from;
        return from;
    };
    const auto word_end = [&](const char* from) {
        for (;; ++from) {
            from = find_low(from, end);
            if (from == end || is_gap(*from)) return from;
        }
    };
    const auto joins_gap = [](const char* word) { return joins_before(decode(word)); };
    const auto is_joined_by_gap = [begin](const char* stop) {
        return joins_behind(last_rune({begin, static_cast<std::size_t>(stop - begin)}));
    };
    // Words that get no "▁", or one that others do not get, are not looked up.
    bool begin_is_usual = true;
    if (options_.metaspace.has_value()) {
        const bool is_first = edges.first && options_.metaspace->prepend == Metaspace::Prepend::kFirst;
        begin_is_usual = options_.whitespace_split
                             ? !is_first
                             : is_first || options_.metaspace->prepend == Metaspace::Prepend::kAlways;
    }

    const char* previous = begin;
    std::size_t mark = out.size();  // of ids before the previous segment

    // Some words at a time are found and their places in the cache fetched; then they are looked up.
    struct Found {
        const char* at;
        const char* word;
        const char* stop;
        WordKey key;
        std::uint64_t hash;
        bool is_usual;
    };
    std::array<Found, kWordsAhead> found;
    for (const char* ahead = begin; ahead != end;) {
        std::size_t num_found = 0;
        while (num_found < kWordsAhead && ahead != end) {
            Found& next = found[num_found++];
            next.at = ahead;
            next.word = behind_gap(ahead);
            next.stop = next.word == end ? end : word_end(next.word);
            const auto gap = static_cast<std::size_t>(next.word - ahead);
            const auto length = static_cast<std::size_t>(next.stop - next.word);
            next.is_usual =
                ahead == begin ? begin_is_usual && (gap == 0 || lane.loose) : gap == 1 || lane.any_length;
            if (length <= WordKey::kMaxBytes) {
                next.key = WordKey::of(next.word, length, end);
                next.hash = next.key.hash();
                known.words.prefetch(next.hash);
            } else if (length <= kLongestWord) {
                next.hash = LongWordCache::hash({next.word, length});
                known.long_words.prefetch(next.hash);
            } else {
                next.is_usual = false;
            }
            if (next.stop == end && edges.is_open) next.is_usual = false;
            ahead = next.stop;
        }
        for (std::size_t i = 0; i < num_found; ++i) {
            const Found& now = found[i];
            const char* at = now.at;
            const char* stop = now.stop;
            const std::string_view word(now.word, static_cast<std::size_t>(stop - now.word));
            if (word.empty()) {
                if (lane.loose) break;
                out.truncate(mark);
                return encode_segment({previous, static_cast<std::size_t>(end - previous)},
                                      {previous == begin, true, edges}, state, lane, out);
            }
            const bool is_short = word.size() <= WordKey::kMaxBytes;
            if (now.is_usual) {
                if (is_short) {
                    const std::size_t before = out.size();
                    if (known.find(now.key, now.hash, out)) {
                        previous = at;
                        mark = before;
                        continue;
                    }
                } else if (const auto ids = known.long_words.find(word, now.hash); ids.data() != nullptr) {
                    previous = at;
                    mark = out.size();
                    out.append(ids);
                    continue;
                }
            }
            bool is_alone = true;
            if (at != now.word && joins_gap(now.word)) {
                is_alone = false;
                at = previous;
                out.truncate(mark);
            }
            while (stop != end) {
                const char* const next = behind_gap(stop);
                if (next == end ? !is_joined_by_gap(stop) : !is_joined_by_gap(stop) && !joins_gap(next))
                    break;
                is_alone = false;
                stop = next == end ? end : word_end(next);
            }
            previous = at;
            mark = out.size();
            if (!encode_segment({at, static_cast<std::size_t>(stop - at)}, {at == begin, stop == end, edges},
                                state, lane, out))
                return false;
            if (stop != now.stop) {
                ahead = stop;
                break;
            }
            if (!now.is_usual || !is_alone || !state.is_plain) continue;
            // At the begin or the end of a text it stands alone, but behind or before a gap it would be joined.
            if (joins_gap(now.word) || is_joined_by_gap(stop)) continue;
            // At an end of the text a step could take it off.
            if (lane.has_edges && (is_space(decode(word.data())) || is_space(last_rune(word)))) continue;
            const std::span<const Id> ids = out.all().subspan(mark);
            if (is_short) {
                known.insert(now.key, ids);
            } else {
                known.long_words.insert(word, now.hash, ids);
            }
        }
    }
    return true;
}

// False: not exact, or state.needs_whole: the segment is not independent of its neighbours.
bool Unigram::encode_segment(std::string_view raw, const Place& place, State& state, const Lane& lane,
                             Ids& out) const {
    if (raw.size() > kMaxSegment) return false;
    std::string_view text = raw;
    bool is_shorter = false;
    if (lane.has_steps && !run_steps(raw, place.at_begin, place.at_end && !place.is_open(), state.spare,
                                     state.normal, text, is_shorter))
        return false;

    const bool has_metaspace = options_.metaspace.has_value();
    const auto begins_new = [&] {
        if (text.empty()) return false;
        if (options_.whitespace_split && is_space(decode(text.data()))) return true;
        return has_metaspace && (text.front() == ' ' || text.starts_with(options_.metaspace->replacement));
    };
    // A run of spaces that goes on in the next segment may be the replacement by now.
    const auto ends_open = [&] {
        return is_space(last_rune(text)) ||
               (has_metaspace && text.ends_with(options_.metaspace->replacement));
    };
    if ((!place.at_begin && !begins_new()) ||
        (lane.has_edges && !(place.at_begin && place.at_end) && text.empty()) ||
        (lane.has_edges && !place.at_end && ends_open())) {
        state.needs_whole = true;
        return false;
    }
    // A word that becomes the same with any usual gap before it, also where the text begins or ends with it.
    state.is_plain = true;
    if (!lane.loose || has_metaspace) {
        std::string_view rest = text;
        if (!rest.empty() && !place.at_begin) {
            rest.remove_prefix(rest.front() == ' ' || !has_metaspace ? 1 : 0);
        }
        state.is_plain = !rest.empty() && !is_shorter;
        for (std::size_t i = 0; i < rest.size() && !lane.loose;
             i += sequence_length(static_cast<unsigned char>(rest[i]))) {
            if (is_space(decode(&rest[i]))) state.is_plain = false;
        }
        if (has_metaspace && !options_.whitespace_split &&
            rest.starts_with(options_.metaspace->replacement)) {
            state.is_plain = false;
        }
    }

    const bool first = place.stretch.first && place.at_begin;
    if (first && has_metaspace && options_.metaspace->prepend == Metaspace::Prepend::kFirst &&
        text.data() != raw.data()) {
        // Whether what is now the first word was the document's first is only sure if its first character stayed.
        if (text.empty() || text.front() != raw.front() || text.front() <= 0x20) return false;
    }
    return pre_tokenize(text, {first, place.is_open()}, state, out);
}

// `result` is in `raw`, or in `kept`. `is_shorter`: a step took white space away.
bool Unigram::run_steps(std::string_view raw, bool at_begin, bool at_end, std::string& spare,
                        std::string& kept, std::string_view& result, bool& is_shorter) const {
    result = raw;
    is_shorter = false;
    for (const Step& step : steps_) {
        const std::size_t size = result.size();
        switch (step.kind) {
            case Step::Kind::kWords:
                if (step.words->is_normal(result)) continue;
                if (!step.words->apply(result, spare)) return false;
                break;
            case Step::Kind::kStrip:
                result = strip(result, step.left && at_begin, step.right && at_end);
                is_shorter = is_shorter || result.size() != size;
                continue;
            case Step::Kind::kSpaces: {
                std::size_t from = 0;
                std::size_t run = result.find("  ");
                if (run == std::string_view::npos) continue;
                is_shorter = true;
                spare.clear();
                while (run != std::string_view::npos) {
                    spare.append(result, from, run - from).append(step.content);
                    from = std::min(result.find_first_not_of(' ', run), result.size());
                    run = result.find("  ", from);
                }
                spare.append(result, from);
                break;
            }
        }
        std::swap(spare, kept);
        result = kept;
    }
    return true;
}

bool Unigram::pre_tokenize(std::string_view text, Edges edges, State& state, Ids& out) const {
    if (!options_.whitespace_split) return encode_metaspace(text, edges, state, out);
    const char* const end = text.data() + text.size();
    const auto length_at = [](const char* at) { return sequence_length(static_cast<unsigned char>(*at)); };
    for (const char* at = text.data(); at != end;) {
        if (is_space(decode(at))) {
            at += length_at(at);
            continue;
        }
        const char* stop = at;
        while (stop != end && !is_space(decode(stop))) stop += length_at(stop);
        if (!encode_metaspace({at, static_cast<std::size_t>(stop - at)},
                              {edges.first && at == text.data(), edges.is_open && stop == end}, state, out)) {
            return false;
        }
        at = stop;
    }
    return true;
}

bool Unigram::encode_metaspace(std::string_view text, Edges edges, State& state, Ids& out) const {
    if (text.empty()) return true;
    if (!options_.metaspace.has_value()) return encode_piece(text, edges.is_open, state, out);
    const auto& [replacement, prepend, split] = *options_.metaspace;
    std::string& piece = state.piece;
    piece.clear();
    const bool begins_with_it = text.front() == ' ' || text.starts_with(replacement);
    const bool wants_it =
        prepend == Metaspace::Prepend::kAlways || (prepend == Metaspace::Prepend::kFirst && edges.first);
    if (wants_it && !begins_with_it) piece.append(replacement);
    for (std::size_t from = 0;;) {
        const std::size_t space = text.find(' ', from);
        piece.append(text, from, space - from);
        if (space == std::string_view::npos) break;
        piece.append(replacement);
        from = space + 1;
    }
    if (!split) return encode_piece(piece, edges.is_open, state, out);
    const std::string_view all = piece;
    for (std::size_t from = 0; from < all.size();) {
        const std::size_t next = std::min(all.find(replacement, from + 1), all.size());
        const bool is_open = edges.is_open && next == all.size();
        if (!encode_piece(all.substr(from, next - from), is_open, state, out)) return false;
        from = next;
    }
    return true;
}

// The path with the highest sum of scores. Sums are added up from the left and only a higher one wins, as in
// `tokenizers`: of equal paths to a place it keeps the one whose last piece begins first.
//
// Place by place, from left to right: all walks through the trie that are still going make one step each, so that
// their reads of memory do not wait for each other. `walks` is in the order of where they began.
//
// `is_open`: more may come behind the text. The best path to a place does not depend on what is behind it, and the best
// path through a longer text goes on from the end of this one, or from where a walk began that is still going there:
// no other piece reaches over the end. What the best paths to these places have in common is sure then. Of that, unknown
// pieces at its end may be one with what comes next.
bool Unigram::encode_piece(std::string_view text, bool is_open, State& state, Ids& out) const {
    if (text.size() > kMaxPiece) return false;
    const Id unk_id = options_.unk_id.has_value() ? static_cast<Id>(*options_.unk_id) : -1;
    const std::size_t size = text.size();
    if (state.best.size() <= size) state.best.resize(size + 1);
    State::Best* const best = state.best.data();
    State::Walk* const walks = state.walks.get();
    std::size_t num_walks = 0;
    best[0].score = 0;
    for (std::size_t from = 0; from < size;) {
        const std::size_t length = sequence_length(static_cast<unsigned char>(text[from]));
        const double score = best[from].score;
        walks[num_walks++] = {trie_.root(), static_cast<std::uint32_t>(from), score};
        const std::size_t to = from + length;
        // No piece ends within a character.
        for (std::size_t at = from; at < to; ++at) {
            std::size_t kept = 0;
            for (std::size_t i = 0; i < num_walks; ++i) {
                State::Walk walk = walks[i];
                walk.node = trie_.child(walk.node, text[at]);
                walks[kept] = walk;
                kept += walk.node != nullptr;
            }
            num_walks = kept;
        }
        State::Best target{-std::numeric_limits<double>::infinity(), 0, 0};
        for (std::size_t i = 0; i < num_walks; ++i) {
            const State::Walk& walk = walks[i];
            // The score of what is no piece is less than any.
            if (const double sum = walk.node->score + walk.score; sum > target.score) {
                target = {sum, walk.from, walk.node->id()};
            }
        }
        const bool has_single = num_walks != 0 && walks[num_walks - 1].from == from &&
                                walks[num_walks - 1].node->id() != PieceTrie::kNone;
        if (!has_single) {
            if (unk_id < 0) return false;
            const double sum = unk_score_ + score;
            if (sum > target.score) target = {sum, static_cast<std::uint32_t>(from), unk_id};
        }
        best[to] = target;
        from = to;
    }
    std::size_t sure = size;
    if (is_open) {
        for (std::size_t i = 0; i < num_walks; ++i) {
            for (std::size_t other = walks[i].from; other != sure;) {
                std::size_t& later = other > sure ? other : sure;
                later = best[later].from;
            }
        }
        while (sure != 0 && best[sure].id == unk_id) sure = best[sure].from;
    }
    // Backwards along the path, then turned round. Unknown pieces side by side are one.
    const std::size_t mark = out.size();
    for (std::size_t to = sure; to != 0;) {
        std::size_t from = best[to].from;
        if (best[to].id != unk_id) {
            out.push(best[to].id);
        } else {
            while (from != 0 && best[from].id == unk_id) from = best[from].from;
            emit_unknown(text.substr(from, to - from), out);
        }
        to = from;
    }
    std::reverse(out.data() + mark, out.data() + out.size());
    return true;
}

// Appends the tokens of unknown text, last one first.
void Unigram::emit_unknown(std::string_view text, Ids& out) const {
    const Id id = trie_.find(text);
    const auto byte_id = [this](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
    if (id != PieceTrie::kNone) {
        out.push(id);
    } else if (has_byte_ids_ && std::ranges::all_of(text, [&](char byte) { return byte_id(byte) >= 0; })) {
        for (std::size_t i = text.size(); i-- > 0;) out.push(byte_id(text[i]));
    } else {
        out.push(static_cast<Id>(*options_.unk_id));
    }
}

}  // namespace penstock::text
