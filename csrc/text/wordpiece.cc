// Why a word may be looked up by its bytes as they stand in the text.
//
// BertNormalizer takes four steps: clean_text removes or replaces single characters, handle_chinese_chars puts
// spaces around single characters, strip_accents decomposes single characters, sorts combining marks and removes
// single characters, lowercase replaces single characters. So but for the sorting, the normal form of a text is
// that of its characters one by one, joined. Sorting moves a mark only past other marks, never past white space,
// punctuation or a Chinese character; and it changes what is left only where two marks are left that are sorted,
// which is rare, as most of those are removed. Hence:
//
// - A character whose own normal form begins and ends with white space or punctuation (which the pre-tokenizer cuts
//   at) closes the word before it, whatever stands beside it. It may itself be tokens: those of its normal form.
// - Between two of these is a *run*: its normal form is one word or, if all of it is removed, none. It depends on
//   nothing outside the run. (A control character that clean_text removes is part of a run, and so joins two halves
//   of a word, as it should. So is an accent.)
// - The normal form of a run is that of its characters, joined, unless one of them leaves a mark that is sorted
//   (kSorted); the normalizer then does the run as a whole.
//
// Lanes ask the normalizer itself what each character becomes, and whether it is sorted, when they are built.
// A character that fits nowhere here would be kUnknown, and make encode() give the text up; there is none today.
// Where there is a lowercase step, ASCII letters may be lowered before all else, as no other step tells them apart.

#include "text/wordpiece.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <unordered_set>

#include "text/normalize.h"
#include "text/unicode.h"
#include "text/utf8.h"
#include "text/word_cache.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace penstock::text {
namespace {

using Runes = std::vector<Rune>;

// Valid UTF-8 to code points.
void append_runes(std::string_view text, Runes& out) {
    for (std::size_t at = 0; at < text.size(); at += sequence_length(static_cast<unsigned char>(text[at])))
        out.push_back(decode(text.data() + at));
}

bool is_separator(Rune rune) noexcept { return (classes(rune) & kBertSeparator) != 0; }
bool ends_word(Rune rune) noexcept { return (classes(rune) & (kBertSeparator | kBertPunctuation)) != 0; }

// What a character is to the words around it. From kOne on it is a part of a run.
enum Kind : std::uint8_t {
    kSeparator,  // no token, ends words
    kAlone,      // a token of its own: becomes() is its id
    kUnknown,    // never seen; the text is given up
    kOne,        // becomes() is the one character that it is in the normal form
    kNothing,    // is removed
    kSeveral,    // becomes several characters
    kSorted,     // the run must go through the normalizer
};
constexpr bool is_in_run(Kind kind) noexcept { return kind >= kOne; }

// 64 bytes of text, a bit for each.
struct Block {
    std::uint64_t words;    // ASCII letters and digits
    std::uint64_t spaces;   // the space, tab, line feed, carriage return
    std::uint64_t strange;  // not ASCII, or another control character; what is left is ASCII punctuation
};

constexpr std::size_t kBlock = 64;
constexpr std::size_t kReach = kBlock + 16;  // bytes that must be readable where a block begins

#if defined(__SSE2__)

Block classify(const char* text) noexcept {
    Block block{0, 0, 0};
    for (unsigned part = 0; part < kBlock; part += 16) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text + part));
        const auto above = [](__m128i left, char right) {
            return _mm_cmpgt_epi8(left, _mm_set1_epi8(right));
        };
        const auto below = [](__m128i left, char right) {
            return _mm_cmplt_epi8(left, _mm_set1_epi8(right));
        };
        const auto equal = [](__m128i left, char right) {
            return _mm_cmpeq_epi8(left, _mm_set1_epi8(right));
        };
        const auto mask = [part](__m128i bits) {
            return std::uint64_t{static_cast<std::uint32_t>(_mm_movemask_epi8(bits))} << part;
        };
        const __m128i lower = _mm_or_si128(bytes, _mm_set1_epi8(0x20));
        const __m128i letter = _mm_and_si128(above(lower, 'a' - 1), below(lower, 'z' + 1));
        const __m128i digit = _mm_and_si128(above(bytes, '0' - 1), below(bytes, '9' + 1));
        const __m128i space = _mm_or_si128(_mm_or_si128(equal(bytes, ' '), equal(bytes, '\n')),
                                           _mm_or_si128(equal(bytes, '\t'), equal(bytes, '\r')));
        const __m128i odd =
            _mm_or_si128(below(bytes, ' '), equal(bytes, 0x7f));  // signed: not ASCII is below
        block.words |= mask(_mm_or_si128(letter, digit));
        block.spaces |= mask(space);
        block.strange |= mask(_mm_andnot_si128(space, odd));
    }
    return block;
}

bool is_ascii_16(const char* text) noexcept {
    return _mm_movemask_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(text))) == 0;
}

#else

Block classify(const char* text) noexcept {
    Block block{0, 0, 0};
    for (unsigned i = 0; i < kBlock; ++i) {
        const auto byte = static_cast<unsigned char>(text[i]);
        const std::uint64_t bit = std::uint64_t{1} << i;
        const unsigned char lower = byte | 0x20;
        if ((lower >= 'a' && lower <= 'z') || (byte >= '0' && byte <= '9')) {
            block.words |= bit;
        } else if (byte == ' ' || byte == '\n' || byte == '\t' || byte == '\r') {
            block.spaces |= bit;
        } else if (byte < ' ' || byte >= 0x7f) {
            block.strange |= bit;
        }
    }
    return block;
}

bool is_ascii_16(const char* text) noexcept {
    std::uint64_t words[2];
    std::memcpy(words, text, 16);
    return ((words[0] | words[1]) & 0x8080808080808080u) == 0;
}

#endif

// The ASCII capitals among eight bytes, lowered.
constexpr std::uint64_t lowered(std::uint64_t bytes) noexcept {
    constexpr std::uint64_t kOnes = 0x0101010101010101u;
    const std::uint64_t low_bits = bytes & (0x7f * kOnes);
    const std::uint64_t from_a = low_bits + (0x80 - 'A') * kOnes;
    const std::uint64_t past_z = low_bits + (0x7f - 'Z') * kOnes;
    return bytes | ((from_a & ~past_z & ~bytes & (0x80 * kOnes)) >> 2);
}

// The key of a short word. `end` is the end of the memory that may be read.
template <bool kLower>
WordKey key_of(const char* word, std::size_t length, const char* end) noexcept {
    WordKey key = WordKey::of(word, length, end);
    if constexpr (kLower) key.low = lowered(key.low), key.high = lowered(key.high);
    return key;
}

}  // namespace

// The vocabulary as two tries over code points, one for the beginning of a word and one for what continues it.
//
// Nodes are numbered as they are made. An edge is 64 bits in one open-addressed table: the node it leaves (21 bits),
// its code point (21), whether a token ends behind it (1), the node it leads to (21).
class WordPiece::Pieces {
  public:
    Pieces(const std::vector<std::pair<std::string, Id>>& vocabulary, const WordPieceSettings& settings)
        : max_chars_(settings.max_input_chars_per_word), edges_(std::size_t{1} << kFirstLog2), ids_(2) {
        const std::string& prefix = settings.continuing_subword_prefix;
        if (!is_utf8(prefix)) throw std::invalid_argument("continuing_subword_prefix is not UTF-8");
        std::unordered_set<std::string_view> seen;
        seen.reserve(vocabulary.size());
        bool has_unk = false;
        Runes runes;
        for (const auto& [token, id] : vocabulary) {
            if (!is_utf8(token)) throw std::invalid_argument("a token of the vocabulary is not UTF-8");
            if (id < 0) throw std::invalid_argument("the id of a token is negative: " + token);
            if (!seen.insert(token).second)
                throw std::invalid_argument("a token comes twice in the vocabulary: " + token);
            if (token == settings.unk_token) unk_ = id, has_unk = true;
            runes.clear();
            append_runes(token, runes);
            if (runes.size() == 1 || std::none_of(runes.begin(), runes.end(), ends_word))
                add(kBeginning, runes, id);
            if (!token.starts_with(prefix)) continue;
            runes.clear();
            append_runes(std::string_view(token).substr(prefix.size()), runes);
            if (std::none_of(runes.begin(), runes.end(), ends_word)) add(kContinuation, runes, id);
        }
        if (!has_unk)
            throw std::invalid_argument("unk_token is not in the vocabulary: " + settings.unk_token);
    }

    std::size_t max_chars() const noexcept { return max_chars_; }

    // Appends the tokens of a word that is not empty: white space is not in it, punctuation only alone.
    void append_word(std::span<const Rune> word, Ids& out) const {
        if (word.size() > max_chars_) return out.push(unk_);
        const std::size_t before = out.size();
        std::size_t at = 0;
        for (std::uint64_t root = kBeginning; at < word.size(); root = kContinuation) {
            std::uint64_t best = kContinuation;  // no token ends at a root
            std::size_t best_end = at;
            std::uint64_t node = root;
            for (std::size_t i = at; i < word.size(); ++i) {
                const std::uint64_t found = edges_.data()[place(node, word[i])];
                if (found == 0) break;
                node = found & kNodeMask;
                if ((found & kEnds) != 0) best = node, best_end = i + 1;
            }
            if (best == kContinuation) {
                out.truncate(before);
                return out.push(unk_);
            }
            out.push(ids_[best]);
            at = best_end;
        }
    }

  private:
    static constexpr std::uint64_t kBeginning = 0;  // the roots; no edge leads to one, so an edge is never 0
    static constexpr std::uint64_t kContinuation = 1;
    static constexpr std::uint64_t kNodeMask = (1 << 21) - 1;
    static constexpr std::uint64_t kEnds = 1 << 21;
    static constexpr unsigned kToBits = 22;  // of an edge, below where it leaves and its code point
    static constexpr unsigned kFirstLog2 = 12;

    // The place of the edge, or the empty one where it would be.
    std::size_t place(std::uint64_t node, Rune rune) const noexcept {
        const std::uint64_t wanted = node << 21 | rune;
        const std::size_t mask = edges_.size() - 1;
        std::size_t at = (wanted * 0x9e3779b97f4a7c15u) >> shift_;
        const std::uint64_t* const edges = edges_.data();
        while (edges[at] != 0 && edges[at] >> kToBits != wanted) at = (at + 1) & mask;
        return at;
    }

    void add(std::uint64_t node, std::span<const Rune> token, Id id) {
        if (token.empty()) return;
        std::uint64_t from = node;
        for (const Rune rune : token) {
            from = node;
            const std::size_t at = place(from, rune);
            if (edges_.data()[at] != 0) {
                node = edges_.data()[at] & kNodeMask;
                continue;
            }
            node = ids_.size();
            if (node > kNodeMask) throw std::invalid_argument("the vocabulary is too large for WordPiece");
            edges_.data()[at] = (from << 21 | rune) << kToBits | node;
            ids_.push_back(0);
            if (2 * ids_.size() > edges_.size()) grow();
        }
        edges_.data()[place(from, token.back())] |= kEnds;
        ids_[node] = id;
    }

    void grow() {
        const Table<std::uint64_t> old = std::exchange(edges_, Table<std::uint64_t>(2 * edges_.size()));
        --shift_;
        for (const std::uint64_t edge : std::span(old.data(), old.size())) {
            if (edge == 0) continue;
            const std::uint64_t from = edge >> kToBits;
            edges_.data()[place(from >> 21, static_cast<Rune>(from & 0x1fffff))] = edge;
        }
    }

    std::size_t max_chars_;
    Id unk_ = 0;
    unsigned shift_ = 64 - kFirstLog2;
    Table<std::uint64_t> edges_;
    std::vector<Id> ids_;  // of the token that ends at a node
};

// What one lane keeps for a thread.
struct WordPiece::Kept final : Memory {
    struct Lane {
        explicit Lane(const std::vector<WordCache::Slot>& seeds) : words(kWordsLog2), long_words(kLongBytes) {
            for (const WordCache::Slot& seed : seeds) words.insert(seed.key, {seed.ids, seed.count});
        }

        std::size_t num_bytes() const noexcept { return words.num_bytes() + long_words.num_bytes(); }

        WordCache words;
        LongWordCache long_words;
    };
    static constexpr unsigned kWordsLog2 = 17;
    static constexpr std::size_t kLongBytes = 4 << 20;

    std::size_t num_bytes() const noexcept override {
        return (raw ? raw->num_bytes() : 0) + (normal ? normal->num_bytes() : 0);
    }

    std::optional<Lane> raw;  // each is made when it is first needed
    std::optional<Lane> normal;
    Runes runes;         // the word at hand
    std::string buffer;  // a run that went through the normalizer
};

// Text to ids, with the normalizer or without.
class WordPiece::Lane {
  public:
    Lane(const Pieces& pieces, const std::vector<std::pair<std::string, Id>>& vocabulary,
         std::unique_ptr<const Normalizer> normalizer, bool lowers)
        : pieces_(pieces),
          normalizer_(std::move(normalizer)),
          lowers_(lowers),
          kinds_(kTableEnd),
          becomes_(kTableEnd) {
        for (Rune rune = 0; rune < kTableEnd; ++rune) {
            if (rune >= 0xd800 && rune < 0xe000) continue;
            Character character = ask(rune);
            kinds_[rune] = character.kind;
            becomes_[rune] = character.becomes;
            if (character.kind != kSeveral) continue;
            becomes_[rune] = static_cast<std::uint32_t>(several_.size());
            several_.push_back(std::move(character.several));
        }
        // Words of the vocabulary, the most frequent ones (the lowest ids, in all that we know) last.
        Kept kept;
        Ids ids;
        for (auto entry = vocabulary.rbegin(); entry != vocabulary.rend(); ++entry) {
            const std::string_view word = entry->first;
            const char* const end = word.data() + word.size();
            if (word.size() > WordKey::kMaxBytes || end_of_run(word.data(), end) != end) continue;
            ids.clear();
            if (!append_run(word, kept, ids) || ids.size() > WordCache::kMaxIds) continue;
            WordCache::Slot& seed = seeds_.emplace_back();
            seed.key = key(word.data(), word.size(), end);
            seed.count = static_cast<std::uint32_t>(ids.size());
            std::copy(ids.all().begin(), ids.all().end(), seed.ids);
        }
        check_ascii();
    }

    const std::vector<WordCache::Slot>& seeds() const noexcept { return seeds_; }

    bool encode(std::string_view text, Kept& kept, Kept::Lane& caches, Ids& out) const {
        return lowers_ ? encode<true>(text, kept, caches, out) : encode<false>(text, kept, caches, out);
    }

    bool normalize(std::string_view text, std::string& out) const {
        if (normalizer_) return normalizer_->apply(text, out);
        out = text;
        return true;
    }

    // Whether no word, however the text goes on behind, lies across the place between these.
    bool is_cut(Rune before, Rune behind) const noexcept {
        if (before >= kTableEnd || behind >= kTableEnd) return false;
        return (classes(before) & kLetter) != 0 &&
               !(is_in_run(kind_of(before)) && is_in_run(kind_of(behind)));
    }

  private:
    static constexpr Rune kTableEnd = 0x20000;

    struct Character {
        Kind kind = kUnknown;
        std::uint32_t becomes = 0;
        Runes several;
    };

    bool normal_form(std::string_view text, Runes& out) const {
        out.clear();
        if (!normalizer_) return append_runes(text, out), true;
        std::string normal;
        if (!normalizer_->apply(text, normal)) return false;
        append_runes(normal, out);
        return true;
    }

    // What a character is, found out by asking.
    Character ask(Rune rune) const {
        Character character;
        char bytes[4];
        const std::string text(bytes, text::encode(rune, bytes));
        Runes normal;
        if (!normal_form(text, normal)) return character;
        if (normal.empty()) {
            character.kind = kNothing;
        } else if (std::all_of(normal.begin(), normal.end(), is_separator)) {
            character.kind = kSeparator;
        } else if (std::none_of(normal.begin(), normal.end(), ends_word)) {
            character.kind = normal.size() == 1 ? kOne : kSeveral;
            character.becomes = normal[0];
            if (std::any_of(normal.begin(), normal.end(), [](Rune r) { return (classes(r) & kMark) != 0; }) &&
                is_sorted(text, normal))
                character.kind = kSorted;
        } else if (ends_word(normal.front()) && ends_word(normal.back())) {
            std::erase_if(normal, is_separator);
            if (normal.size() != 1) return character;
            Ids ids;
            pieces_.append_word(normal, ids);
            character.kind = kAlone;
            character.becomes = static_cast<std::uint32_t>(ids.data()[0]);
        }
        character.several = std::move(normal);
        return character;
    }

    // Whether the normalizer sorts a character among marks that it leaves: whether it changes places with one
    // that is sorted to the front (class 9), or with one that is sorted to the back (class 226).
    bool is_sorted(const std::string& text, const Runes& normal) const {
        constexpr Rune kFront = 0x1b44, kBack = 0x1d16d;
        Runes found;
        Runes expected = normal;
        expected.push_back(kFront);
        if (!normal_form(text + "\u1b44", found) || found != expected) return true;
        expected = normal;
        expected.insert(expected.begin(), kBack);
        return !normal_form("\U0001d16d" + text, found) || found != expected;
    }

    // That ASCII is what append_ascii() takes it for.
    void check_ascii() const {
        const auto are = [this](std::string_view characters, Kind kind) {
            return std::all_of(characters.begin(), characters.end(),
                               [&](char c) { return kinds_[static_cast<unsigned char>(c)] == kind; });
        };
        if (!are(" \t\n\r", kSeparator) || !are("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", kAlone) ||
            !are("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", kOne))
            throw std::logic_error("the normalizer changes what ASCII characters are");
    }

    Kind kind_of(Rune rune) const { return rune < kTableEnd ? Kind{kinds_[rune]} : ask(rune).kind; }

    // Behind the last character of the run that begins here.
    const char* end_of_run(const char* at, const char* end) const {
        while (at != end) {
            const Rune rune = decode(at);
            if (!is_in_run(kind_of(rune))) break;
            at += sequence_length(static_cast<unsigned char>(*at));
        }
        return at;
    }

    WordKey key(const char* word, std::size_t length, const char* end) const noexcept {
        return lowers_ ? key_of<true>(word, length, end) : key_of<false>(word, length, end);
    }

    // Appends the tokens of a run. False: the normalizer gives it up.
    bool append_run(std::string_view run, Kept& kept, Ids& out) const {
        Runes& word = kept.runes;
        word.clear();
        bool sorted = false;
        for (std::size_t at = 0; at < run.size() && word.size() <= pieces_.max_chars();) {
            const Rune rune = decode(run.data() + at);
            at += sequence_length(static_cast<unsigned char>(run[at]));
            Kind kind;
            std::uint32_t becomes = 0;
            if (rune < kTableEnd) {
                kind = Kind{kinds_[rune]};
                becomes = becomes_[rune];
            } else {
                const Character character = ask(rune);
                kind = character.kind == kSeveral ? kSorted : character.kind;
                becomes = character.becomes;
            }
            if (kind == kOne) {
                word.push_back(becomes);
            } else if (kind == kSeveral) {
                word.insert(word.end(), several_[becomes].begin(), several_[becomes].end());
            } else if (kind == kAlone) {  // punctuation, which comes here by itself
                return out.push(static_cast<Id>(becomes)), true;
            } else if (kind == kSorted) {
                sorted = true;
                break;
            }
        }
        if (sorted) {
            if (!normalizer_->apply(run, kept.buffer)) return false;
            word.clear();
            append_runes(kept.buffer, word);
        }
        if (!word.empty()) pieces_.append_word(word, out);
        if (word.capacity() > kLargest) Runes().swap(word);
        if (kept.buffer.capacity() > kLargest) std::string().swap(kept.buffer);
        return true;
    }

    static constexpr std::size_t kLargest = 1 << 16;

    // Appends the tokens of a run that is not among the short words.
    bool append_miss(std::string_view run, Kept& kept, Kept::Lane& caches, Ids& out) const {
        if (run.size() > kLongest) return append_run(run, kept, out);
        const std::uint64_t hash = LongWordCache::hash(run);
        const std::span<const Id> known = caches.long_words.find(run, hash);
        if (known.data() != nullptr) return out.append(known), true;
        const std::size_t before = out.size();
        if (!append_run(run, kept, out)) return false;
        const std::span<const Id> ids = out.all().subspan(before);
        if (run.size() <= WordKey::kMaxBytes && ids.size() <= WordCache::kMaxIds) {
            caches.words.insert(key(run.data(), run.size(), run.data() + run.size()), ids);
        } else {
            caches.long_words.insert(run, hash, ids);
        }
        return true;
    }

    static constexpr std::size_t kLongest = 256;  // bytes; what is longer seldom comes again

    // ASCII words and punctuation from `at`, in blocks that begin before `last`; kReach bytes from each must be
    // readable. Returns where it came to: at something strange or the word before it, at a word longer than a
    // block, or where no further block begins.
    template <bool kLower>
    const char* append_ascii(const char* at, const char* last, Kept& kept, Kept::Lane& caches,
                             Ids& out) const;

    template <bool kLower>
    bool encode(std::string_view text, Kept& kept, Kept::Lane& caches, Ids& out) const;

    const Pieces& pieces_;
    std::unique_ptr<const Normalizer> normalizer_;  // null: none
    bool lowers_;
    std::vector<std::uint8_t> kinds_;
    std::vector<std::uint32_t> becomes_;
    std::vector<Runes> several_;
    std::vector<WordCache::Slot> seeds_;  // words that a cache begins with
};

template <bool kLower>
const char* WordPiece::Lane::append_ascii(const char* at, const char* last, Kept& kept, Kept::Lane& caches,
                                          Ids& out) const {
    constexpr std::size_t kMostIds = kBlock * WordCache::kMaxIds;
    constexpr WordKey kNoKey{~std::uint64_t{0}, ~std::uint64_t{0}};  // of a word that is too long for a key
    struct Word {
        WordKey key;
        std::uint64_t hash;
        unsigned begin;
        unsigned length;
    };
    std::array<Word, kBlock> found_words;
    while (at < last) {
        const Block block = classify(at);
        const unsigned stop = static_cast<unsigned>(std::countr_zero(block.strange));  // 64: nothing strange
        const std::uint64_t known = stop == kBlock ? ~std::uint64_t{0} : (std::uint64_t{1} << stop) - 1;
        const std::uint64_t inner = block.words & block.words << 1;  // in a word, and not its first byte
        std::uint64_t starts = ~inner & ~block.spaces & known;
        const std::uint64_t ends = ~inner;  // the first of these behind a start is the end of its word

        // First all keys of the block, then what they lead to, which has arrived from memory by then.
        std::size_t count = 0;
        const char* next = at + stop;
        while (starts != 0) {
            const unsigned begin = static_cast<unsigned>(std::countr_zero(starts));
            starts &= starts - 1;
            // What follows in the block, and its end, which ends punctuation in its last byte.
            const std::uint64_t behind = ends >> begin >> 1 | std::uint64_t{1} << (kBlock - 1 - begin);
            const std::size_t length = static_cast<std::size_t>(std::countr_zero(behind)) + 1;
            const char* const word = at + begin;
            if (begin + length >= stop && (block.words >> (stop - 1) & 1) != 0) [[unlikely]] {
                next = word;
                break;
            }
            Word& found = found_words[count++];
            found.key =
                length <= WordKey::kMaxBytes ? key_of<kLower>(word, length, last + kReach - 1) : kNoKey;
            found.hash = found.key.hash();
            found.begin = begin;
            found.length = static_cast<unsigned>(length);
            caches.words.prefetch(found.hash);
        }
        Id* room = out.room_for(kMostIds);
        std::size_t num_ids = 0;
        for (const Word& word : std::span(found_words.data(), count)) {
            if (const WordCache::Slot* const slot = caches.words.find(word.key, word.hash)) [[likely]] {
                std::memcpy(room + num_ids, slot->ids, sizeof slot->ids);
                num_ids += slot->count;
                continue;
            }
            out.grow_by(num_ids);
            num_ids = 0;
            append_miss({at + word.begin, word.length}, kept, caches, out);
            room = out.room_for(kMostIds);
        }
        out.grow_by(num_ids);
        const bool is_stuck = stop != kBlock || next == at;
        at = next;
        if (is_stuck) break;
    }
    return at;
}

template <bool kLower>
bool WordPiece::Lane::encode(std::string_view text, Kept& kept, Kept::Lane& caches, Ids& out) const {
    const char* at = text.data();
    const char* const end = at + text.size();
    std::array<char, 2 * kReach> tail;
    bool was_ascii = false;  // append_ascii() has just come here
    while (at != end) {
        const Rune rune = decode(at);
        Kind kind;
        std::uint32_t becomes;
        if (rune < kTableEnd) [[likely]] {
            kind = Kind{kinds_[rune]};
            becomes = becomes_[rune];
        } else {
            const Character character = ask(rune);
            kind = character.kind;
            becomes = character.becomes;
        }
        if (is_in_run(kind)) {
            if (!was_ascii && end - at >= 16 && is_ascii_16(at)) {
                if (end - at >= static_cast<std::ptrdiff_t>(kReach))
                    at = append_ascii<kLower>(at, end - (kReach - 1), kept, caches, out);
                const auto left = static_cast<std::size_t>(end - at);
                if (left < kReach) {
                    // What is left goes where enough bytes can be read; the spaces behind it are no tokens.
                    std::memcpy(tail.data(), at, left);
                    std::memset(tail.data() + left, ' ', tail.size() - left);
                    const char* const last = tail.data() + left;
                    at += std::min(append_ascii<kLower>(tail.data(), last, kept, caches, out), last) -
                          tail.data();
                }
                was_ascii = true;
                continue;
            }
            const char* const run = at;
            at = end_of_run(run, end);
            const auto length = static_cast<std::size_t>(at - run);
            const WordCache::Slot* slot = nullptr;
            if (length <= WordKey::kMaxBytes) slot = caches.words.find(key_of<kLower>(run, length, end));
            if (slot != nullptr) {
                std::memcpy(out.room_for(WordCache::kMaxIds), slot->ids, sizeof slot->ids);
                out.grow_by(slot->count);
            } else if (!append_miss({run, length}, kept, caches, out)) {
                return false;
            }
        } else {
            if (kind == kAlone) out.push(static_cast<Id>(becomes));
            if (kind == kUnknown) return false;
            at += sequence_length(static_cast<unsigned char>(*at));
        }
        was_ascii = false;
    }
    return true;
}

WordPiece::WordPiece(const std::vector<std::pair<std::string, Id>>& vocabulary,
                     const WordPieceSettings& settings)
    : pieces_(std::make_unique<Pieces>(vocabulary, settings)) {
    std::unique_ptr<const Normalizer> normalizer;
    if (settings.normalizer) {
        const BertSteps& steps = *settings.normalizer;
        normalizer = make_bert(steps.clean_text, steps.chinese_chars, steps.strip_accents, steps.lowercase);
    }
    const bool lowers = settings.normalizer && settings.normalizer->lowercase;
    raw_ = std::make_unique<Lane>(*pieces_, vocabulary, std::move(normalizer), lowers);
    normal_ = std::make_unique<Lane>(*pieces_, vocabulary, nullptr, false);
}

WordPiece::~WordPiece() = default;

std::unique_ptr<Memory> WordPiece::new_memory() const { return std::make_unique<Kept>(); }

bool WordPiece::encode(std::string_view text, bool, Memory& memory, Ids& out) const {
    Kept& kept = static_cast<Kept&>(memory);
    if (!kept.raw) kept.raw.emplace(raw_->seeds());
    return raw_->encode(text, kept, *kept.raw, out);
}

bool WordPiece::encode_normalized(std::string_view text, bool, Memory& memory, Ids& out) const {
    Kept& kept = static_cast<Kept&>(memory);
    if (!kept.normal) kept.normal.emplace(normal_->seeds());
    return normal_->encode(text, kept, *kept.normal, out);
}

std::size_t WordPiece::cut_between(std::string_view text, std::size_t from, std::size_t to) const noexcept {
    for (std::size_t at = std::max<std::size_t>(from, 1); at < std::min(to, text.size()); ++at) {
        if (is_continuation(text[at])) continue;
        std::size_t before = at - 1;
        while (is_continuation(text[before])) --before;
        if (raw_->is_cut(decode(text.data() + before), decode(text.data() + at))) return at;
    }
    return std::string_view::npos;
}

bool WordPiece::normalize(std::string_view text, std::string& out) const {
    return raw_->normalize(text, out);
}

}  // namespace penstock::text
