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

#include "text/blocks.h"
#include "text/normalize.h"
#include "text/piece_trie.h"
#include "text/unicode.h"
#include "text/utf8.h"
#include "text/word_cache.h"

namespace penstock::text {
namespace {

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
    Lane(const PieceTrie& pieces, const std::vector<std::pair<std::string, Id>>& vocabulary,
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

    const PieceTrie& pieces_;
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
    constexpr std::size_t kMostIds = kBlockBytes * WordCache::kMaxIds;
    constexpr WordKey kNoKey{~std::uint64_t{0}, ~std::uint64_t{0}};  // of a word that is too long for a key
    struct Word {
        WordKey key;
        std::uint64_t hash;
        unsigned begin;
        unsigned length;
    };
    std::array<Word, kBlockBytes> found_words;
    while (at < last) {
        const Block block = classify(at);
        const unsigned stop = static_cast<unsigned>(std::countr_zero(block.strange));  // 64: nothing strange
        const std::uint64_t known = stop == kBlockBytes ? ~std::uint64_t{0} : (std::uint64_t{1} << stop) - 1;
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
            const std::uint64_t behind = ends >> begin >> 1 | std::uint64_t{1} << (kBlockBytes - 1 - begin);
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
        const bool is_stuck = stop != kBlockBytes || next == at;
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
    : pieces_(std::make_unique<PieceTrie>(vocabulary, settings.unk_token, settings.continuing_subword_prefix,
                                          settings.max_input_chars_per_word)) {
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
