#include "text/byte_bpe.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <utility>

#include "text/unicode.h"
#include "text/word_cache.h"

namespace penstock::text {
namespace {

constexpr std::size_t kBatch = 256;                           // words that are looked up together
constexpr unsigned kLog2Slots = 18;                           // 4 MiB
constexpr std::size_t kLongBytes = std::size_t{8} << 20;      // of the cache of long words
constexpr std::size_t kKeptBytes = std::size_t{1} << 20;      // of buffers, from call to call
constexpr std::size_t kMostBytes = std::size_t{1} << 31;      // of a text
constexpr std::uint32_t kElsewhere = WordCache::kMaxIds + 1;  // count of a slot: see the cache of long words

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
    explicit Words(std::size_t most) : mask_(std::bit_ceil(2 * most + 2) - 1), slots_(mask_ + 2) {}

    void add(std::string_view word, Id id) {
        if (word.size() > WordKey::kMaxBytes) {
            long_.emplace_back(std::string(word), id);
            return;
        }
        const WordKey key = WordKey::of(word.data(), word.size(), word.data() + word.size());
        Slot* slot = place(key);
        while (slot->key.high != 0) slot = after(slot);
        *slot = {key, id, 0};
    }
    void finish() {
        std::vector<TokenIds::Token> tokens(long_.begin(), long_.end());
        long_ids_ = TokenIds(tokens);
        long_.clear();
    }

    void prefetch(const WordKey& key) const noexcept { __builtin_prefetch(place(key)); }

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
    Slot* place(const WordKey& key) noexcept { return slots_.data() + at(key); }
    const Slot* place(const WordKey& key) const noexcept { return slots_.data() + at(key); }
    Slot* after(Slot* slot) noexcept { return ++slot == slots_.data() + mask_ + 1 ? slots_.data() : slot; }
    const Slot* after(const Slot* slot) const noexcept {
        return ++slot == slots_.data() + mask_ + 1 ? slots_.data() : slot;
    }

    std::size_t mask_;
    Table<Slot> slots_;  // and one more, never used
    std::vector<std::pair<std::string, Id>> long_;
    TokenIds long_ids_;
};

struct ByteBpe::State : Memory {
    State() : words(kLog2Slots), long_words(kLongBytes) {}

    std::size_t num_bytes() const noexcept override {
        return words.num_bytes() + long_words.num_bytes() + scratch.num_bytes() +
               symbols.capacity() * sizeof(Id) + prefixed.capacity() + normal.capacity() + sizeof(State);
    }

    WordCache words;
    LongWordCache long_words;
    MergeTable::Scratch scratch;
    std::vector<Id> symbols;
    std::string prefixed;  // a text with a space before it
    std::string normal;

    // The words of a batch.
    struct Found {
        const Id* ids;  // four may be read
        std::uint32_t count;
    };
    struct New {
        std::uint32_t word;
        bool is_short;
        std::uint64_t hash;  // of the cache of long words
        std::size_t begin;   // in made
    };
    std::array<std::uint32_t, kBatch> ends;
    std::array<WordKey, kBatch> keys;
    std::array<std::uint64_t, kBatch> hashes;
    std::array<Found, kBatch> found;
    std::array<std::uint32_t, kBatch> missed;
    std::array<New, kBatch> news;
    std::array<MergeTable::Word, MergeTable::kTogether> together;
    Ids made;  // tokens of the new words
};

ByteBpe::ByteBpe(std::span<const TokenIds::Token> tokens, std::span<const MergePair> merges,
                 const Options& options, std::unique_ptr<Normalizer> normalizer)
    : options_(options), normalizer_(std::move(normalizer)), merges_({}) {
    const TokenIds ids(tokens);
    merges_ = MergeTable(checked_merges(tokens, merges, ids));

    const std::array<Rune, 256> chars = byte_chars();
    for (std::size_t byte = 0; byte < 256; ++byte) {
        char text[4];
        const Id id = ids.find({text, text::encode(chars[byte], text)});
        if (id > MergeTable::kMaxId) throw std::invalid_argument("a token id is too large");
        byte_ids_[byte] = id;
    }
    byte_ranks_.resize(std::size_t{1} << 16);
    for (std::size_t left = 0; left < 256; ++left) {
        for (std::size_t right = 0; right < 256; ++right) {
            const bool known = byte_ids_[left] != TokenIds::kNone && byte_ids_[right] != TokenIds::kNone;
            byte_ranks_[left << 8 | right] =
                known ? merges_.rank(byte_ids_[left], byte_ids_[right]) : MergeTable::kNoRank;
        }
    }

    auto words = std::make_unique<Words>(tokens.size());
    const std::array<std::int16_t, kCharsEnd> bytes = bytes_of_chars();
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
            MergeTable::Rank ranks[MergeTable::Word::kMost];
            const std::size_t count = first_symbols(word, next.ids, ranks);
            if (count != word.size()) continue;
            MergeTable::begin(next, count, ranks);
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

bool ByteBpe::encode(std::string_view text, bool first, Memory& memory, Ids& out) const {
    if (normalizer_ == nullptr || normalizer_->is_normal(text))
        return encode_normalized(text, first, memory, out);
    auto& state = static_cast<State&>(memory);
    std::string& normal = state.normal;
    const bool known = normalizer_->apply(text, normal) && encode_normalized(normal, first, memory, out);
    if (normal.capacity() > kKeptBytes) normal = {};
    return known;
}

bool ByteBpe::encode_normalized(std::string_view text, bool, Memory& memory, Ids& out) const {
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

// A letter, and behind it neither a letter nor what may join one (marks, the apostrophe of a contraction), nor
// what a normalizer may join with it: the word ends between them in every scheme.
std::size_t ByteBpe::cut_between(std::string_view text, std::size_t from, std::size_t to) const noexcept {
    if (options_.scheme == Scheme::kNone) return std::string_view::npos;
    to = std::min(to, text.size());
    for (std::size_t at = std::max<std::size_t>(from, 1); at < to; ++at) {
        const auto before = static_cast<unsigned char>(text[at - 1] | 0x20);
        if (text[at] == ' ' && before >= 'a' && before <= 'z') return at;
    }
    for (std::size_t at = std::max<std::size_t>(from, 1); at < to; ++at) {
        if ((text[at] & 0xc0) == 0x80) continue;
        std::size_t last = at - 1;
        while (last > 0 && (text[last] & 0xc0) == 0x80) --last;
        const Rune rune = decode(text.data() + at);
        if (rune == '\'' || (classes(rune) & (kLetter | kNumber | kMark)) != 0) continue;
        if ((classes(rune) & (kPunctuation | kSpace)) != 0 &&
            (classes(decode(text.data() + last)) & kLetter) != 0) {
            return at;
        }
    }
    return std::string_view::npos;
}

bool ByteBpe::encode_words(std::string_view text, State& state, Ids& out) const {
    const char* at = text.data();
    const char* const end = at + text.size();
    static constexpr WordCache::Slot kNothing{};
    const std::uint32_t* const ends = state.ends.data();
    while (at < end) {
        const std::size_t count = find_words(options_.scheme, at, end, state.ends.data(), kBatch);
        std::uint32_t begin = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const std::uint32_t length = ends[i] - begin;
            WordKey& key = state.keys[i];
            if (length <= WordKey::kMaxBytes) {
                key = WordKey::of(at + begin, length, end);
            } else {
                key.high = ~std::uint64_t{0};  // no word's
            }
            state.hashes[i] = key.hash();
            state.words.prefetch(state.hashes[i]);
            begin = ends[i];
        }
        std::size_t num_missed = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const WordCache::Slot* slot = state.words.find(state.keys[i], state.hashes[i]);
            const bool missed = slot == nullptr || slot->count > WordCache::kMaxIds;
            if (slot == nullptr) [[unlikely]]
                slot = &kNothing;
            state.found[i] = {slot->ids, slot->count};
            state.missed[num_missed] = static_cast<std::uint32_t>(i);
            num_missed += missed;
        }
        std::size_t num_new = 0;
        if (num_missed > 0 && !find_missed(at, num_missed, num_new, state)) return false;

        std::size_t total = 0;
        for (std::size_t i = 0; i < count; ++i) total += state.found[i].count;
        Id* to = out.room_for(total + 4);
        out.grow_by(total);
        for (std::size_t i = 0; i < count; ++i) {
            const auto [ids, size] = state.found[i];
            std::memcpy(to, ids, 4 * sizeof(Id));
            if (size > 4) [[unlikely]]
                std::memcpy(to + 4, ids + 4, (size - 4) * sizeof(Id));
            to += size;
        }
        for (std::size_t i = 0; i < num_new; ++i) {
            const State::New& made = state.news[i];
            const State::Found& found = state.found[made.word];
            const std::span<const Id> ids(found.ids, found.count);
            if (made.is_short && ids.size() <= WordCache::kMaxIds) {
                state.words.insert(state.keys[made.word], ids);
                continue;
            }
            const std::uint32_t from = made.word == 0 ? 0 : ends[made.word - 1];
            if (made.is_short) state.words.claim(state.keys[made.word]).count = kElsewhere;
            state.long_words.insert({at + from, ends[made.word] - from}, made.hash, ids);
        }
        at += begin;
    }
    if (state.scratch.num_bytes() > kKeptBytes) state.scratch.trim();
    if (state.symbols.capacity() * sizeof(Id) > kKeptBytes) state.symbols = {};
    return true;
}

// Finds the tokens of the words that are not in the cache of short ones; those that are nowhere yet are `news`.
bool ByteBpe::find_missed(const char* text, std::size_t num_missed, std::size_t& num_new,
                          State& state) const {
    const auto word_at = [text, &state](std::size_t i) {
        const std::uint32_t from = i == 0 ? 0 : state.ends[i - 1];
        return std::string_view(text + from, state.ends[i] - from);
    };
    state.made.clear();
    for (std::size_t m = 0; m < num_missed; ++m) {
        const std::string_view word = word_at(state.missed[m]);
        const std::uint64_t hash = LongWordCache::hash(word);
        state.news[m].hash = hash;
        state.long_words.prefetch(hash);
        if (word.size() <= WordKey::kMaxBytes) words_->prefetch(state.keys[state.missed[m]]);
    }
    std::size_t num_together = 0;
    std::array<std::size_t, MergeTable::kTogether> together;
    const auto merge_together = [&] {
        merges_.merge_together({state.together.data(), num_together});
        for (std::size_t i = 0; i < num_together; ++i) {
            State::New& made = state.news[together[i]];
            made.begin = state.made.size();
            const std::size_t size =
                MergeTable::finish(state.together[i], state.made.room_for(MergeTable::Word::kMost));
            state.made.grow_by(size);
            state.found[made.word].count = static_cast<std::uint32_t>(size);
        }
        num_together = 0;
    };
    for (std::size_t m = 0; m < num_missed; ++m) {
        const std::uint32_t i = state.missed[m];
        const std::string_view word = word_at(i);
        const bool is_short = word.size() <= WordKey::kMaxBytes;
        const std::uint64_t hash = state.news[m].hash;
        const bool elsewhere = state.found[i].count == kElsewhere;
        if (!is_short || elsewhere) {
            if (const std::span<const Id> ids = state.long_words.find(word, hash); ids.data() != nullptr) {
                state.found[i] = {ids.data(), static_cast<std::uint32_t>(ids.size())};
                continue;
            }
        }
        State::New& made = state.news[num_new++];
        made = {i, is_short, hash, 0};
        state.found[i] = {nullptr, 0};
        if (is_short) {
            if (const Id* const id = words_->find(state.keys[i]); id != nullptr) {
                state.found[i] = {id, 1};
                continue;
            }
        } else if (const Id id = words_->find_long(word); id != TokenIds::kNone) {
            made.begin = state.made.size();
            state.made.push(id);
            state.found[i].count = 1;
            continue;
        }
        if (word.size() <= MergeTable::Word::kMost) {
            MergeTable::Word& next = state.together[num_together];
            MergeTable::Rank ranks[MergeTable::Word::kMost];
            const std::size_t count = first_symbols(word, next.ids, ranks);
            if (count == 0) continue;
            MergeTable::begin(next, count, ranks);
            together[num_together++] = num_new - 1;
            if (num_together == MergeTable::kTogether) merge_together();
            continue;
        }
        made.begin = state.made.size();
        if (!encode_bytes(word, state.scratch, state.symbols, state.made)) return false;
        state.found[i].count = static_cast<std::uint32_t>(state.made.size() - made.begin);
    }
    merge_together();
    (void)state.made.room_for(4);
    for (std::size_t n = 0; n < num_new; ++n) {
        State::Found& found = state.found[state.news[n].word];
        if (found.ids == nullptr) found.ids = state.made.data() + state.news[n].begin;
    }
    return true;
}

// Bytes that have no token vanish, as in `tokenizers`.
std::size_t ByteBpe::first_symbols(std::string_view word, Id* ids, MergeTable::Rank* ranks) const noexcept {
    std::size_t count = 0;
    std::size_t last = 0;
    for (const char c : word) {
        const std::size_t byte = static_cast<unsigned char>(c);
        const Id id = byte_ids_[byte];
        if (id == TokenIds::kNone) [[unlikely]]
            continue;
        if (count > 0) ranks[count - 1] = byte_ranks_[last << 8 | byte];
        ids[count++] = id;
        last = byte;
    }
    return count;
}

bool ByteBpe::encode_bytes(std::string_view word, MergeTable::Scratch& scratch, std::vector<Id>& symbols,
                           Ids& out) const {
    constexpr std::size_t kShort = 64;
    if (word.size() <= kShort) {
        Id ids[kShort];
        MergeTable::Rank ranks[kShort];
        const std::size_t count = first_symbols(word, ids, ranks);
        return merges_.merge({ids, count}, {ranks, count > 0 ? count - 1 : 0}, scratch, out);
    }
    if (word.size() > MergeTable::kMaxSymbols) return false;
    symbols.clear();
    for (const char c : word) {
        const Id id = byte_ids_[static_cast<unsigned char>(c)];
        if (id != TokenIds::kNone) symbols.push_back(id);
    }
    return merges_.merge(symbols, scratch, out);
}

}  // namespace penstock::text
