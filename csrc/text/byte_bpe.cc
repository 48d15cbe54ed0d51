#include "text/byte_bpe.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <utility>

#include "text/unicode.h"
#include "text/utf8.h"
#include "text/word_cache.h"

namespace penstock::text {
namespace {

constexpr std::size_t kBatch = 256;                       // words that are looked up together
constexpr std::size_t kFewMissed = 48;                    // missed words that more are waited for
constexpr unsigned kLog2Slots = 18;                       // 8 MiB
constexpr unsigned kLog2WideSlots = 17;                   // 8 MiB
constexpr std::size_t kLongBytes = std::size_t{8} << 20;  // of the cache of long words
constexpr std::size_t kKeptBytes = std::size_t{1} << 20;  // of buffers, from call to call
constexpr std::size_t kMostBytes = std::size_t{1} << 31;  // of a text
// Counts of slots that only say where the ids are: of no packed ones.
constexpr std::uint32_t kInWide = WordCache::kMaxIds + 1;
constexpr std::uint32_t kInLong = WordCache::kMaxIds + 2;

static_assert(MergeTable::kMaxId < Id{1} << WordCache::kPackedBits);

std::uint64_t wide_hash(const WordKey& key) noexcept { return WideCache::hash(key.bytes()); }

// The characters that stand for bytes in tokenizer.json: printable ones for themselves, others from U+0100 on.
constexpr Rune kCharsEnd = 0x100 + 68;

std::array<Rune, 256> byte_chars() {
    std::array<Rune, 256> chars{};
    Rune next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
        const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
        chars[byte] = printable ? byte : next++;
    }
    return chars;
}

std::array<std::int16_t, kCharsEnd> bytes_of_chars() {
    std::array<std::int16_t, kCharsEnd> bytes;
    bytes.fill(-1);
    const std::array<Rune, 256> chars = byte_chars();
    for (std::size_t byte = 0; byte < 256; ++byte) bytes[chars[byte]] = static_cast<std::int16_t>(byte);
    return bytes;
}

// False, if a character stands for no byte: such a token is never met in text.
bool to_bytes(std::string_view token, const std::array<std::int16_t, kCharsEnd>& bytes, std::string& out) {
    out.clear();
    for (std::size_t at = 0; at < token.size();) {
        const std::size_t length = sequence_length(static_cast<unsigned char>(token[at]));
        if (at + length > token.size()) return false;
        const Rune rune = decode(token.data() + at);
        if (rune >= kCharsEnd || bytes[rune] < 0) return false;
        out.push_back(static_cast<char>(bytes[rune]));
        at += length;
    }
    return true;
}

// What the bytes of a part of a merge begin and end with.
BytePairs::Ends ends_of(std::string_view part, const std::array<std::int16_t, kCharsEnd>& bytes) {
    const auto byte_at = [&](std::size_t at) {
        const Rune rune = decode(part.data() + at);
        return rune < kCharsEnd ? int{bytes[rune]} : -1;
    };
    std::size_t last = part.size() - 1;
    while (last > 0 && (part[last] & 0xc0) == 0x80) --last;
    return {byte_at(0), byte_at(last)};
}

std::vector<Merge> checked_merges(std::span<const TokenIds::Token> tokens, std::span<const MergePair> merges,
                                  const TokenIds& ids) {
    std::vector<Id> sorted;
    sorted.reserve(tokens.size());
    for (const auto& token : tokens) {
        if (token.second < 0) throw std::invalid_argument("a token id is negative");
        sorted.push_back(token.second);
    }
    std::ranges::sort(sorted);
    if (std::ranges::adjacent_find(sorted) != sorted.end()) {
        throw std::invalid_argument("two tokens of the vocabulary have one id");
    }
    return resolve_merges(ids, merges);
}

}  // namespace

// Words that are one token: what merging makes of them was computed once. Immutable.
class ByteBpe::Words {
  public:
    explicit Words(std::size_t most)
        : mask_(std::bit_ceil(2 * most + 2) - 1), slots_(mask_ + 2), hints_(mask_ / 16 + 1) {}

    void add(std::string_view word, Id id) {
        if (word.size() > WordKey::kMaxBytes) {
            long_.emplace_back(std::string(word), id);
            return;
        }
        const WordKey key = WordKey::of(word.data(), word.size(), word.data() + word.size());
        hints_.data()[hint_of(key) / 64] |= std::uint64_t{1} << hint_of(key) % 64;
        Slot* slot = place(key);
        while (slot->key.high != 0) slot = after(slot);
        *slot = {key, id, 0};
    }
    void finish() {
        std::vector<TokenIds::Token> tokens(long_.begin(), long_.end());
        long_ids_ = TokenIds(tokens);
        long_.clear();
    }

    // Whether it may be here: no, for nearly all words that are not. Fetches what find() will look at.
    bool may_hold(const WordKey& key) const noexcept {
        if ((hints_.data()[hint_of(key) / 64] >> hint_of(key) % 64 & 1) == 0) return false;
        __builtin_prefetch(place(key));
        return true;
    }

    // Where the word's id is (and 12 bytes more that may be read), or null.
    const Id* find(const WordKey& key) const noexcept {
        for (const Slot* slot = place(key); slot->key.high != 0; slot = after(slot)) {
            if (slot->key == key) return &slot->id;
        }
        return nullptr;
    }
    Id find_long(std::string_view word) const noexcept { return long_ids_.find(word); }

  private:
    struct Slot {
        WordKey key;
        Id id;
        std::uint32_t unused;
    };

    std::size_t at(const WordKey& key) const noexcept {
        const std::uint64_t hash = key.hash();
        return static_cast<std::size_t>((hash ^ hash >> 20) & mask_);
    }
    std::size_t hint_of(const WordKey& key) const noexcept {
        return static_cast<std::size_t>((key.hash() >> 7) & (4 * mask_ + 3));
    }
    Slot* place(const WordKey& key) noexcept { return slots_.data() + at(key); }
    const Slot* place(const WordKey& key) const noexcept { return slots_.data() + at(key); }
    Slot* after(Slot* slot) noexcept { return ++slot == slots_.data() + mask_ + 1 ? slots_.data() : slot; }
    const Slot* after(const Slot* slot) const noexcept {
        return ++slot == slots_.data() + mask_ + 1 ? slots_.data() : slot;
    }

    std::size_t mask_;
    Table<Slot> slots_;           // and one more, never used
    Table<std::uint64_t> hints_;  // eight bits or more for a word, small enough to stay near
    std::vector<std::pair<std::string, Id>> long_;
    TokenIds long_ids_;
};

// A word of a batch that was not found at once.
struct ByteBpe::Missed {
    std::string_view word;
    WordKey key;         // if it is short
    std::uint64_t hash;  // of the cache that it belongs in; set by find_missed()
    std::size_t before;  // how many ids of found words of the batch stand before it
    const Id* ids;       // null: at `begin` of the new ones, once these are whole
    std::size_t begin;
    std::uint32_t count;
    std::uint32_t where;  // kInWide or kInLong, if it is short and known there; else 0
    bool is_new;
    bool may_be_token;  // if it is short and was nowhere

    bool is_short() const noexcept { return word.size() <= WordKey::kMaxBytes; }
};

struct ByteBpe::State : Memory {
    State() : words(kLog2Slots), wide_words(kLog2WideSlots), long_words(kLongBytes) {}

    std::size_t num_bytes() const noexcept override {
        return words.num_bytes() + wide_words.num_bytes() + long_words.num_bytes() + scratch.num_bytes() +
               symbols.capacity() * sizeof(Id) + prefixed.capacity() + normal.capacity() + sizeof(State);
    }

    WordCache words;
    WideCache wide_words;
    LongWordCache long_words;
    MergeTable::Scratch scratch;
    std::vector<Id> symbols;
    std::string prefixed;  // a text with a space before it
    std::string normal;

    std::array<std::uint32_t, kBatch> ends;
    std::array<WordKey, kBatch> keys;
    std::array<std::uint64_t, kBatch> hashes;
    std::array<Missed, kFewMissed + kBatch> missed;
    std::array<MergeTable::Word, MergeTable::kTogether> together;
    Ids made;  // tokens of the new words
};

ByteBpe::ByteBpe(std::span<const TokenIds::Token> tokens, std::span<const MergePair> merges,
                 const Options& options, std::unique_ptr<Normalizer> normalizer)
    : options_(options), normalizer_(std::move(normalizer)), merges_({}) {
    const TokenIds ids(tokens);
    const std::vector<Merge> resolved = checked_merges(tokens, merges, ids);
    merges_ = MergeTable(resolved);

    std::array<Id, 256> byte_ids{};
    const std::array<Rune, 256> chars = byte_chars();
    for (std::size_t byte = 0; byte < 256; ++byte) {
        char text[4];
        byte_ids[byte] = ids.find({text, text::encode(chars[byte], text)});
        if (byte_ids[byte] > MergeTable::kMaxId) throw std::invalid_argument("a token id is too large");
    }
    const std::array<std::int16_t, kCharsEnd> bytes = bytes_of_chars();
    pairs_ = std::make_unique<const BytePairs>(merges, resolved, merges_, byte_ids,
                                               [&](std::string_view part) { return ends_of(part, bytes); });

    auto words = std::make_unique<Words>(tokens.size());
    MergeTable::Scratch scratch;
    std::vector<Id> symbols;
    Ids made;
    std::string word;
    std::vector<MergeTable::Word> together(MergeTable::kTogether);
    std::vector<std::pair<std::string, Id>> expected(MergeTable::kTogether);
    std::size_t num_together = 0;
    const auto add_together = [&] {
        merges_.merge_together({together.data(), num_together});
        for (std::size_t i = 0; i < num_together; ++i) {
            Id result[MergeTable::Word::kMost];
            const auto& [bytes_of_word, id] = expected[i];
            if (MergeTable::finish(together[i], result) == 1 && result[0] == id)
                words->add(bytes_of_word, id);
        }
        num_together = 0;
    };
    const bool may_repeat = ids.size() != tokens.size();
    for (const auto& [text, id] : tokens) {
        if (text.empty() || !to_bytes(text, bytes, word) || (may_repeat && ids.find(text) != id)) continue;
        if (options_.ignore_merges) {
            words->add(word, id);
        } else if (word.size() <= MergeTable::Word::kMost) {
            MergeTable::Word& next = together[num_together];
            MergeTable::Rank ranks[MergeTable::Word::kMost + 1];
            const BytePairs::Symbols first = pairs_->first_symbols(word, next.ids, ranks);
            if (first.count == 0) continue;
            merges_.begin(next, first.count, ranks, first.unknown);
            expected[num_together++] = {word, id};
            if (num_together == MergeTable::kTogether) add_together();
        } else {
            made.clear();
            if (encode_bytes(word, scratch, symbols, made) && made.size() == 1 && *made.data() == id)
                words->add(word, id);
        }
    }
    add_together();
    words->finish();
    words_ = std::move(words);
}

ByteBpe::~ByteBpe() = default;

std::unique_ptr<Memory> ByteBpe::new_memory() const { return std::make_unique<State>(); }

bool ByteBpe::normalize(std::string_view text, std::string& out) const {
    if (normalizer_ != nullptr && !normalizer_->is_normal(text)) return normalizer_->apply(text, out);
    out.assign(text);
    return true;
}

bool ByteBpe::encode(std::string_view text, Edges edges, Memory& memory, Ids& out) const {
    if (normalizer_ == nullptr || normalizer_->is_normal(text))
        return encode_normalized(text, edges, memory, out);
    auto& state = static_cast<State&>(memory);
    std::string& normal = state.normal;
    const bool known = normalizer_->apply(text, normal) && encode_normalized(normal, edges, memory, out);
    if (normal.capacity() > kKeptBytes) normal = {};
    return known;
}

bool ByteBpe::encode_normalized(std::string_view text, Edges, Memory& memory, Ids& out) const {
    auto& state = static_cast<State&>(memory);
    if (text.empty()) return true;
    if (text.size() >= kMostBytes) return false;
    if (!options_.add_prefix_space || text.front() == ' ') return encode_words(text, state, out);
    std::string& prefixed = state.prefixed;
    prefixed.assign(1, ' ').append(text);
    const bool known = encode_words(prefixed, state, out);
    if (prefixed.capacity() > kKeptBytes) prefixed = {};
    return known;
}

// Where a word ends, and the words before are the same whatever comes behind: see Scheme::splits(). The normalizer, if
// there is one, must work on both sides apart and keep the two characters.
std::size_t ByteBpe::cut_between(std::string_view text, std::size_t from, std::size_t to) const noexcept {
    for (std::size_t at = std::max<std::size_t>(from, 1); at < std::min(to, text.size()); ++at) {
        if (is_continuation(text[at])) continue;
        std::size_t before = at - 1;
        while (is_continuation(text[before])) --before;
        const Rune left = decode(&text[before]);
        const Rune right = decode(&text[at]);
        if (!options_.scheme.splits(left, right)) continue;
        if (normalizer_ == nullptr) return at;
        const std::size_t behind = at + sequence_length(static_cast<unsigned char>(text[at]));
        if (normalizer_->splits(left, right) && behind < text.size() &&
            normalizer_->splits(right, decode(&text[behind])))
            return at;
    }
    return std::string_view::npos;
}

bool ByteBpe::encode_words(std::string_view text, State& state, Ids& out) const {
    const char* at = text.data();
    const char* const end = at + text.size();
    const std::uint32_t* const ends = state.ends.data();
    WordFinder finder(options_.scheme, text);
    std::size_t num_missed = 0;
    std::size_t from = out.size();  // where the tokens begin that missed words stand between
    while (at < end) {
        const std::size_t count = finder.next(state.ends.data(), kBatch);
        std::uint32_t begin = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const char* const word = at + begin;
            const std::size_t length = ends[i] - begin;
            begin = ends[i];
            if (length <= WordKey::kMaxBytes) [[likely]] {
                state.keys[i] = WordKey::of(word, length, end);
                state.hashes[i] = state.keys[i].hash();
                state.words.prefetch(state.hashes[i]);
            } else if (length <= WideCache::kMaxBytes) {
                state.hashes[i] = WideCache::hash({word, length});
                state.wide_words.prefetch(state.hashes[i]);
            }
        }
        // Words that are found are written at once; what is missed comes between them later.
        constexpr std::size_t kMost = WideCache::kMaxIds;
        Id* const first = out.room_for(kBatch * kMost + 1);
        Id* to = first;
        const std::size_t before = out.size() - from;
        begin = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const std::size_t length = ends[i] - begin;
            const char* const word = at + begin;
            begin = ends[i];
            std::uint32_t where = 0;
            if (length <= WordKey::kMaxBytes) [[likely]] {
                if (const WordCache::Slot* const slot = state.words.find(state.keys[i], state.hashes[i])) {
                    if (slot->count <= WordCache::kMaxIds) [[likely]] {
                        std::memcpy(to, slot->ids, 4 * sizeof(Id));
                        to += slot->count;
                        continue;
                    }
                    if (slot->is_packed()) {
                        slot->unpack(to);
                        to += slot->num_packed();
                        continue;
                    }
                    where = slot->count;
                }
            } else if (length <= WideCache::kMaxBytes) {
                if (const WideCache::Slot* const slot =
                        state.wide_words.find({word, length}, state.hashes[i])) {
                    std::memcpy(to, slot->ids(), (kMost + 1) * sizeof(Id));
                    to += slot->count;
                    continue;
                }
            }
            Missed& missed = state.missed[num_missed++];
            missed.word = {word, length};
            missed.key = state.keys[i];
            missed.before = before + static_cast<std::size_t>(to - first);
            missed.where = where;
            missed.may_be_token = true;
        }
        out.grow_by(static_cast<std::size_t>(to - first));
        at += begin;
        // Many together take less time, as their waits for memory overlap.
        if (num_missed < kFewMissed && at < end) continue;
        if (num_missed > 0) {
            const std::span<Missed> missed(state.missed.data(), num_missed);
            if (!find_missed(missed, state)) return false;
            insert_missed(missed, from, out);
            keep_new(missed, state);
        }
        num_missed = 0;
        from = out.size();
    }
    if (state.scratch.num_bytes() > kKeptBytes) state.scratch.trim();
    if (state.symbols.capacity() * sizeof(Id) > kKeptBytes) state.symbols = {};
    return true;
}

// Puts the tokens of missed words between those of the others, which stand in `out` from `from` on.
void ByteBpe::insert_missed(std::span<const Missed> missed, std::size_t from, Ids& out) {
    std::size_t shift = 0;
    for (const Missed& each : missed) shift += each.count;
    std::size_t end = out.size() - from;
    (void)out.room_for(shift);
    out.grow_by(shift);
    Id* const first = out.data() + from;
    for (std::size_t m = missed.size(); m-- > 0;) {
        const Missed& each = missed[m];
        std::memmove(first + each.before + shift, first + each.before, (end - each.before) * sizeof(Id));
        shift -= each.count;
        if (each.count != 0) std::memcpy(first + each.before + shift, each.ids, each.count * sizeof(Id));
        end = each.before;
    }
}

// Finds the tokens of words that were missed.
bool ByteBpe::find_missed(std::span<Missed> missed, State& state) const {
    state.made.clear();
    for (Missed& each : missed) {
        if (each.is_short()) {
            if (each.where == 0) {
                each.may_be_token = words_->may_hold(each.key);
                continue;
            }
            each.hash = each.where == kInWide ? wide_hash(each.key) : LongWordCache::hash(each.word);
            if (each.where == kInWide) {
                state.wide_words.prefetch(each.hash);
                continue;
            }
        } else {
            each.hash = LongWordCache::hash(each.word);
        }
        state.long_words.prefetch(each.hash);
    }
    std::size_t num_together = 0;
    std::array<Missed*, MergeTable::kTogether> together;
    const auto merge_together = [&] {
        merges_.merge_together({state.together.data(), num_together});
        for (std::size_t i = 0; i < num_together; ++i) {
            Missed& each = *together[i];
            each.begin = state.made.size();
            const std::size_t size =
                MergeTable::finish(state.together[i], state.made.room_for(MergeTable::Word::kMost));
            state.made.grow_by(size);
            each.count = static_cast<std::uint32_t>(size);
        }
        num_together = 0;
    };
    for (Missed& each : missed) {
        each.ids = nullptr;
        each.count = 0;
        each.is_new = false;
        if (each.is_short() && each.where != kInLong) {
            if (each.where == kInWide) {
                if (const auto* const slot = state.wide_words.find(each.key.bytes(), each.hash, true)) {
                    each.ids = slot->ids_of_key();
                    each.count = slot->count;
                    continue;
                }
            }
        } else if (const std::span<const Id> ids = state.long_words.find(each.word, each.hash);
                   ids.data() != nullptr) {
            each.ids = ids.data();
            each.count = static_cast<std::uint32_t>(ids.size());
            continue;
        }
        each.is_new = true;
        if (each.is_short()) {
            if (const Id* const id = each.may_be_token ? words_->find(each.key) : nullptr; id != nullptr) {
                each.ids = id;
                each.count = 1;
                continue;
            }
        } else if (const Id id = words_->find_long(each.word); id != TokenIds::kNone) {
            each.begin = state.made.size();
            state.made.push(id);
            each.count = 1;
            continue;
        }
        if (each.word.size() <= BytePairs::kMost) {
            // First symbols go where they are merged, if they fit in whatever they become.
            const bool fits = each.word.size() <= MergeTable::Word::kMost;
            MergeTable::Word& next = state.together[num_together];
            Id ids[BytePairs::kMost + 1];
            MergeTable::Rank ranks[BytePairs::kMost + 1];
            const BytePairs::Symbols first = pairs_->first_symbols(each.word, fits ? next.ids : ids, ranks);
            each.begin = state.made.size();
            if (first.count == 0) continue;
            if (first.count <= MergeTable::Word::kMost) {
                if (!fits) std::copy_n(ids, first.count, next.ids);
                merges_.begin(next, first.count, ranks, first.unknown);
                together[num_together++] = &each;
                if (num_together == MergeTable::kTogether) merge_together();
                continue;
            }
        }
        each.begin = state.made.size();
        if (!encode_bytes(each.word, state.scratch, state.symbols, state.made)) return false;
        each.count = static_cast<std::uint32_t>(state.made.size() - each.begin);
    }
    merge_together();
    for (Missed& each : missed) {
        if (each.ids == nullptr) each.ids = state.made.data() + each.begin;
    }
    return true;
}

// Keeps the new ones of missed words for the next time.
void ByteBpe::keep_new(std::span<const Missed> missed, State& state) {
    for (const Missed& each : missed) {
        if (!each.is_new) continue;
        const std::span<const Id> ids(each.ids, each.count);
        if (!each.is_short()) {
            if (ids.size() <= WideCache::kMaxIds && each.word.size() <= WideCache::kMaxBytes) {
                state.wide_words.insert(each.word, WideCache::hash(each.word), ids);
            } else {
                state.long_words.insert(each.word, each.hash, ids);
            }
        } else if (ids.size() <= WordCache::kMaxIds) {
            state.words.insert(each.key, ids);
        } else if (ids.size() <= WordCache::kMaxPacked) {
            state.words.insert_packed(each.key, ids);
        } else if (ids.size() <= WideCache::kMaxIdsOfKey) {
            state.words.claim(each.key).count = kInWide;
            state.wide_words.insert(each.key.bytes(), wide_hash(each.key), ids, true);
        } else {
            state.words.claim(each.key).count = kInLong;
            state.long_words.insert(each.word, LongWordCache::hash(each.word), ids);
        }
    }
}

bool ByteBpe::encode_bytes(std::string_view word, MergeTable::Scratch& scratch, std::vector<Id>& symbols,
                           Ids& out) const {
    if (word.size() > MergeTable::kMaxSymbols) return false;
    symbols.resize(word.size() + 1);
    const std::size_t count = pairs_->first_symbols(word, symbols.data());
    return merges_.merge({symbols.data(), count}, scratch, out);
}

}  // namespace penstock::text
