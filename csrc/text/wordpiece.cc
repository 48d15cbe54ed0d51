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
#include <string_view>
#include <utility>
#include <vector>

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

// Whether a key is of a word in ASCII.
constexpr bool is_ascii(const WordKey& key) noexcept {
    return ((key.low | key.high) & 0x8080808080808080u) == 0;
}

// The key of a short word. `end` is the end of the memory that may be read.
template <bool kLower>
WordKey key_of(const char* word, std::size_t length, const char* end) noexcept {
    WordKey key = WordKey::of(word, length, end);
    if constexpr (kLower) key.low = lowered(key.low), key.high = lowered(key.high);
    return key;
}

// A word of the text, and where it is looked for.
struct Word {
    enum class Where : std::uint8_t {
        kShort,  // ASCII, at most WordKey::kMaxBytes: among the short words, by its key
        kWide,   // among the wide words: by its key, or if it is too long for one by its bytes
        kLong,   // among the long words
        kKnown,  // nowhere: it is one character, and `id` its token
    };

    const char* begin = nullptr;
    std::size_t length = 0;
    Where where = Where::kKnown;
    Id id = 0;
    WordKey key;
    std::uint64_t hash = 0;

    std::string_view bytes() const noexcept { return {begin, length}; }
    bool has_key() const noexcept { return length <= WordKey::kMaxBytes; }
    // What it is called among the wide words.
    std::string_view wide_bytes() const noexcept { return has_key() ? key.bytes() : bytes(); }
};

}  // namespace

// What one lane keeps for a thread.
struct WordPiece::Kept final : Memory {
    struct Lane {
        explicit Lane(const std::vector<WordCache::Slot>& seeds)
            : words(kWordsLog2), wide_words(kWideLog2), long_words(kLongBytes) {
            for (const WordCache::Slot& seed : seeds) words.insert(seed.key, {seed.ids, seed.count});
        }

        std::size_t num_bytes() const noexcept {
            return words.num_bytes() + wide_words.num_bytes() + long_words.num_bytes();
        }

        // A slot of the first two whose count is kMany says that the ids are among the long words.
        WordCache words;
        WideCache wide_words;
        LongWordCache long_words;
    };
    static constexpr std::uint8_t kMany = 0xff;
    static constexpr unsigned kWordsLog2 = 17;
    static constexpr unsigned kWideLog2 = 16;
    static constexpr std::size_t kLongBytes = 4 << 20;

    std::size_t num_bytes() const noexcept override {
        return (raw ? raw->num_bytes() : 0) + (normal ? normal->num_bytes() : 0);
    }

    std::optional<Lane> raw;  // each is made when it is first needed
    std::optional<Lane> normal;
    static constexpr std::size_t kBatch = 32;
    std::array<Word, kBatch + kBlockBytes> words;  // of the blocks at hand
    Symbols word;                                  // the word at hand
    std::string buffer;                            // a run that went through the normalizer
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
            if (character.several.size() >= kMostSeveral) {
                kinds_[rune] = kSorted;  // slow, and right
                continue;
            }
            becomes_[rune] =
                static_cast<std::uint32_t>(several_.size() * kMostSeveral + character.several.size());
            for (const Rune part : character.several) several_.push_back(pieces_.symbol(part));
        }
        // Words of the vocabulary, the most frequent ones (the lowest ids, in all that we know) last.
        Kept kept;
        Ids ids;
        for (auto entry = vocabulary.rbegin(); entry != vocabulary.rend(); ++entry) {
            const std::string_view word = entry->first;
            const char* const end = word.data() + word.size();
            if (word.size() > WordKey::kMaxBytes || end_of_run(word.data(), end) != end) continue;
            if (!is_ascii(key(word.data(), word.size(), end))) continue;
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

    // Whether no word, however the text goes on behind, lies across the place between these: a run is a word, or several,
    // by itself, and only where two characters of runs stand side by side is a place inside one.
    bool is_cut(Rune before, Rune behind) const noexcept {
        if (before >= kTableEnd || behind >= kTableEnd || (classes(before) & (kSpace | kStripSpace)) != 0)
            return false;
        const Kind left = kind_of(before);
        const Kind right = kind_of(behind);
        return left != kUnknown && right != kUnknown && !(is_in_run(left) && is_in_run(right));
    }

  private:
    static constexpr Rune kTableEnd = 0x20000;
    static constexpr std::uint32_t kMostSeveral = 16;

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
            character.becomes = pieces_.symbol(normal[0]);
            if (std::any_of(normal.begin(), normal.end(), [](Rune r) { return (classes(r) & kMark) != 0; }) &&
                is_sorted(text, normal))
                character.kind = kSorted;
        } else if (ends_word(normal.front()) && ends_word(normal.back())) {
            std::erase_if(normal, is_separator);
            if (normal.size() != 1) return character;
            Ids ids;
            const Symbol symbol = pieces_.symbol(normal[0]);
            pieces_.append_word({&symbol, 1}, ids);
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

    // That ASCII is what blocks take it for.
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

    template <bool kLower>
    static void set_word(Word& word, const char* begin, std::size_t length, const char* end,
                         const Kept::Lane& caches) noexcept {
        word.begin = begin;
        word.length = length;
        word.where = Word::Where::kLong;
        if (word.has_key()) {
            word.key = key_of<kLower>(begin, length, end);
            if (is_ascii(word.key)) [[likely]] {
                word.where = Word::Where::kShort;
                word.hash = word.key.hash();
                caches.words.prefetch(word.hash);
                return;
            }
        }
        if (length > WideCache::kMaxBytes) return;
        word.where = Word::Where::kWide;
        word.hash = WideCache::hash(word.wide_bytes());
        caches.wide_words.prefetch(word.hash);
    }

    // Appends the tokens of a run. False: the normalizer gives it up.
    bool append_run(std::string_view run, Kept& kept, Ids& out) const {
        Symbols& word = kept.word;
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
                if (becomes == 0) return out.push(pieces_.unk()), true;  // no token holds it
                word.push_back(becomes);
            } else if (kind == kSeveral) {
                const auto several = several_.begin() + becomes / kMostSeveral;
                word.insert(word.end(), several, several + becomes % kMostSeveral);
            } else if (kind == kAlone) {  // punctuation, which comes here by itself
                return out.push(static_cast<Id>(becomes)), true;
            } else if (kind == kSorted) {
                sorted = true;
                break;
            }
        }
        if (sorted && !sort(run, kept)) return false;
        if (!word.empty()) pieces_.append_word(word, out);
        if (word.capacity() > kLargest) Symbols().swap(word);
        if (kept.buffer.capacity() > kLargest) std::string().swap(kept.buffer);
        return true;
    }

    static constexpr std::size_t kLargest = 1 << 16;

    // Puts into kept.word what the normalizer makes of the whole run.
    bool sort(std::string_view run, Kept& kept) const {
        if (!normalizer_->apply(run, kept.buffer)) return false;
        const std::string_view normal = kept.buffer;
        kept.word.clear();
        for (std::size_t at = 0; at < normal.size();
             at += sequence_length(static_cast<unsigned char>(normal[at])))
            kept.word.push_back(pieces_.symbol(decode(normal.data() + at)));
        return true;
    }

    // Appends the tokens of words, in their order. False: the normalizer gives one up.
    bool append_words(std::span<const Word> words, Kept& kept, Kept::Lane& caches, Ids& out) const;

    // Appends the tokens of a word that append_words() did not find. `is_long`: they may be among the long words.
    bool append_miss(const Word& word, bool is_long, Kept& kept, Kept::Lane& caches, Ids& out) const {
        const std::uint64_t hash = is_long ? LongWordCache::hash(word.bytes()) : 0;
        if (is_long) {
            const std::span<const Id> known = caches.long_words.find(word.bytes(), hash);
            if (known.data() != nullptr) return out.append(known), true;
        }
        const std::size_t before = out.size();
        if (!append_run(word.bytes(), kept, out)) return false;
        keep(word, out.all().subspan(before), caches);
        return true;
    }

    static void keep(const Word& word, std::span<const Id> ids, Kept::Lane& caches) {
        using enum Word::Where;
        if (word.where == kShort && ids.size() <= WordCache::kMaxIds)
            return caches.words.insert(word.key, ids);
        if (word.where == kWide && ids.size() <= WideCache::kMaxIds)
            return caches.wide_words.insert(word.wide_bytes(), word.hash, ids, word.has_key());
        if (word.length > kLongest) return;
        caches.long_words.insert(word.bytes(), LongWordCache::hash(word.bytes()), ids);
        if (word.where == kShort) caches.words.claim(word.key).count = Kept::kMany;
        if (word.where == kWide)
            caches.wide_words.claim(word.wide_bytes(), word.hash, word.has_key()).count = Kept::kMany;
    }

    static constexpr std::size_t kLongest = 256;  // bytes; what is longer seldom comes again

    // Finds out what those characters of a block are that classify() did not: it puts their bytes among the words or
    // the spaces, or returns the first bytes of those that are tokens by themselves. `stop` becomes where the block
    // must end before its end. False: there stands a character that no block can have.
    bool look_up(const char* at, Block& block, std::uint64_t& alone, unsigned& stop) const noexcept {
        for (std::uint64_t firsts = block.firsts; firsts != 0; firsts &= firsts - 1) {
            const auto place = static_cast<unsigned>(std::countr_zero(firsts));
            const Rune rune = decode(at + place);
            const auto length = static_cast<unsigned>(sequence_length(static_cast<unsigned char>(at[place])));
            const std::uint64_t bytes = ((std::uint64_t{1} << length) - 1) << place;
            const Kind kind = rune < kTableEnd ? Kind{kinds_[rune]} : kUnknown;
            if (is_in_run(kind)) [[likely]] {
                block.words |= bytes;
                continue;
            }
            if (kind == kUnknown || place + length > kBlockBytes) {
                stop = place;
                return kind != kUnknown;
            }
            if (kind == kAlone) {
                alone |= std::uint64_t{1} << place;
            } else {
                block.spaces |= bytes;
            }
        }
        return true;
    }

    // The words of a text from `at`, in blocks that begin before `last`; kReach bytes from each must be readable.
    // Returns where it came to: at a character that no block can have or the word before it, at a word longer than a
    // block, or where no further block begins; null: the normalizer gives the text up.
    template <bool kLower>
    const char* append_blocks(const char* at, const char* last, Kept& kept, Kept::Lane& caches,
                              Ids& out) const;

    // Appends what begins at `at`, a word or a character that is none, however long. Null as above.
    template <bool kLower>
    const char* append_one(const char* at, const char* end, Kept& kept, Kept::Lane& caches, Ids& out) const;

    template <bool kLower>
    bool encode(std::string_view text, Kept& kept, Kept::Lane& caches, Ids& out) const;

    const PieceTrie& pieces_;
    std::unique_ptr<const Normalizer> normalizer_;  // null: none
    bool lowers_;
    std::vector<std::uint8_t> kinds_;
    std::vector<std::uint32_t> becomes_;
    Symbols several_;                     // those of all that are kSeveral, which say where theirs begin
    std::vector<WordCache::Slot> seeds_;  // words that a cache begins with
};

bool WordPiece::Lane::append_words(std::span<const Word> words, Kept& kept, Kept::Lane& caches,
                                   Ids& out) const {
    using enum Word::Where;
    const std::size_t most_ids = words.size() * WideCache::kMaxIds + 1;
    Id* room = out.room_for(most_ids);
    std::size_t num_ids = 0;
    for (const Word& word : words) {
        bool is_long = word.where == kLong && word.length <= kLongest;
        if (word.where == kShort) [[likely]] {
            if (const WordCache::Slot* const slot = caches.words.find(word.key, word.hash)) [[likely]] {
                std::memcpy(room + num_ids, slot->ids, sizeof slot->ids);
                is_long = slot->count == Kept::kMany;
                num_ids += is_long ? 0 : slot->count;
                if (!is_long) continue;
            }
        } else if (word.where == kWide) {
            const WideCache::Slot* const slot =
                caches.wide_words.find(word.wide_bytes(), word.hash, word.has_key());
            if (slot != nullptr) [[likely]] {
                std::memcpy(room + num_ids, slot->ids(), WideCache::kMaxIds * sizeof(Id));
                is_long = slot->count == Kept::kMany;
                num_ids += is_long ? 0 : slot->count;
                if (!is_long) continue;
            }
        } else if (word.where == kKnown) {
            room[num_ids++] = word.id;
            continue;
        }
        out.grow_by(num_ids);
        num_ids = 0;
        if (!append_miss(word, is_long, kept, caches, out)) return false;
        room = out.room_for(most_ids);
    }
    out.grow_by(num_ids);
    return true;
}

template <bool kLower>
const char* WordPiece::Lane::append_blocks(const char* at, const char* last, Kept& kept, Kept::Lane& caches,
                                           Ids& out) const {
    // Words are collected from several blocks, so that what they lead to has arrived from memory by then.
    std::span<Word> words = kept.words;
    std::size_t count = 0;
    bool goes_on = true;
    while (goes_on && at < last) {
        Block block = classify(at);
        unsigned stop = kBlockBytes;
        std::uint64_t alone = 0;
        if (block.firsts != 0) goes_on = look_up(at, block, alone, stop);
        const std::uint64_t known = stop == kBlockBytes ? ~std::uint64_t{0} : (std::uint64_t{1} << stop) - 1;
        // In a word or a character, and not its first byte.
        const std::uint64_t inner = (block.words & block.words << 1) | block.others;
        std::uint64_t starts = ~inner & ~block.spaces & known;
        const std::uint64_t ends = ~inner;  // the first of these behind a start is the end of its word
        const char* next = at + stop;
        while (starts != 0) {
            const auto begin = static_cast<unsigned>(std::countr_zero(starts));
            starts &= starts - 1;
            // What follows in the block, and its end, which ends what is no word in its last byte.
            const std::uint64_t behind = ends >> begin >> 1 | std::uint64_t{1} << (kBlockBytes - 1 - begin);
            const std::size_t length = static_cast<std::size_t>(std::countr_zero(behind)) + 1;
            const char* const word = at + begin;
            if (begin + length >= stop && (block.words >> (stop - 1) & 1) != 0) [[unlikely]] {
                next = word;
                break;
            }
            Word& found = words[count++];
            if ((alone >> begin & 1) == 0) [[likely]] {
                set_word<kLower>(found, word, length, last + kReach - 1, caches);
            } else {
                found.where = Word::Where::kKnown;
                found.id = static_cast<Id>(becomes_[decode(word)]);
            }
        }
        goes_on = goes_on && next != at;
        at = next;
        if (count >= Kept::kBatch) {
            if (!append_words(words.first(count), kept, caches, out)) return nullptr;
            count = 0;
        }
    }
    return append_words(words.first(count), kept, caches, out) ? at : nullptr;
}

template <bool kLower>
const char* WordPiece::Lane::append_one(const char* at, const char* end, Kept& kept, Kept::Lane& caches,
                                        Ids& out) const {
    const Rune rune = decode(at);
    const Kind kind = kind_of(rune);
    if (is_in_run(kind)) {
        const char* const behind = end_of_run(at, end);
        Word word;
        set_word<kLower>(word, at, static_cast<std::size_t>(behind - at), end, caches);
        return append_words({&word, 1}, kept, caches, out) ? behind : nullptr;
    }
    if (kind == kUnknown) return nullptr;
    if (kind == kAlone) out.push(static_cast<Id>(rune < kTableEnd ? becomes_[rune] : ask(rune).becomes));
    return at + sequence_length(static_cast<unsigned char>(*at));
}

template <bool kLower>
bool WordPiece::Lane::encode(std::string_view text, Kept& kept, Kept::Lane& caches, Ids& out) const {
    const char* at = text.data();
    const char* const end = at + text.size();
    std::array<char, 2 * kReach> tail;
    while (at != end) {
        if (end - at >= static_cast<std::ptrdiff_t>(kReach)) {
            at = append_blocks<kLower>(at, end - (kReach - 1), kept, caches, out);
            if (at == nullptr) return false;
        }
        const auto left = static_cast<std::size_t>(end - at);
        if (left < kReach) {
            // What is left goes where enough bytes can be read; the spaces behind it are no tokens.
            std::memcpy(tail.data(), at, left);
            std::memset(tail.data() + left, ' ', tail.size() - left);
            const char* const last = tail.data() + left;
            const char* const to = append_blocks<kLower>(tail.data(), last, kept, caches, out);
            if (to == nullptr) return false;
            at += std::min(to, last) - tail.data();
            if (at == end) break;
        }
        at = append_one<kLower>(at, end, kept, caches, out);
        if (at == nullptr) return false;
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

bool WordPiece::encode(std::string_view text, Edges, Memory& memory, Ids& out) const {
    Kept& kept = static_cast<Kept&>(memory);
    if (!kept.raw) kept.raw.emplace(raw_->seeds());
    return raw_->encode(text, kept, *kept.raw, out);
}

bool WordPiece::encode_normalized(std::string_view text, Edges, Memory& memory, Ids& out) const {
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
