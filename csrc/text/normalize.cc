#include "text/normalize.h"

#include <cstring>
#include <stdexcept>
#include <utility>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "text/lookup.h"
#include "text/utf8.h"

namespace penstock::text {

namespace {

#include "text/normalize_tables.inc"

// Code points that are not inert in a normal form, and those that StripAccents removes. What is inert is its own
// normal form, and text may be cut before it: nothing moves or joins over that place.
enum Trait : std::uint8_t {
    kNotNfc = 1 << 0,
    kNotNfd = 1 << 1,
    kNotNfkc = 1 << 2,
    kNotNfkd = 1 << 3,
    kCombining = 1 << 4,
};

std::uint8_t trait(Rune rune) noexcept { return look_up(kTraitIndex, kTraitBlocks, rune); }

bool is_space(Rune rune) noexcept { return (classes(rune) & kBertSeparator) != 0; }

void put(std::string& out, Rune rune) {
    char bytes[4];
    out.append(bytes, encode(rune, bytes));
}

const char* next_rune(const char* at) noexcept {
    return at + sequence_length(static_cast<unsigned char>(*at));
}

// The beginning of the code point that ends at `at`.
const char* previous_rune(const char* at) noexcept {
    do {
        --at;
    } while (is_continuation(*at));
    return at;
}

// ---- lower case ----------------------------------------------------------------------------------

constexpr Rune kDottedI = 0x130;  // becomes i and a dot above it; all others become one code point

Rune lower(Rune rune) noexcept {
    const auto delta = kLowerDeltas[look_up(kLowerIndex, kLowerBlocks, rune)];
    return static_cast<Rune>(static_cast<std::int32_t>(rune) + delta);
}

bool is_lower(Rune rune) noexcept { return rune != kDottedI && lower(rune) == rune; }

void put_lower(std::string& out, Rune rune) {
    if (rune == kDottedI) {
        out += "i\u0307";
    } else {
        put(out, lower(rune));
    }
}

// ---- normal forms --------------------------------------------------------------------------------

// Hangul syllables are made of a leading, a vowel and perhaps a trailing jamo, by counting.
constexpr Rune kSyllables = 0xac00, kLeads = 0x1100, kVowels = 0x1161, kTrails = 0x11a7;
constexpr Rune kNumLeads = 19, kNumVowels = 21, kNumTrails = 28;

bool is_syllable(Rune rune) noexcept {
    return rune - kSyllables < kNumLeads * kNumVowels * kNumTrails;  // unsigned: less than kSyllables is more
}

std::uint8_t combining_class(Rune rune) noexcept {
    return kCombiningClass[look_up(kRecordIndex, kRecordBlocks, rune)];
}

// What two code points make, or 0.
Rune composed(Rune first, Rune second) noexcept {
    if (first - kLeads < kNumLeads && second - kVowels < kNumVowels) {
        return kSyllables + ((first - kLeads) * kNumVowels + (second - kVowels)) * kNumTrails;
    }
    if (is_syllable(first) && (first - kSyllables) % kNumTrails == 0 && second > kTrails &&
        second - kTrails < kNumTrails) {
        return first + (second - kTrails);
    }
    const std::uint64_t pair = std::uint64_t{first} << 32 | second;
    const auto* const found = std::lower_bound(std::begin(kPairs), std::end(kPairs), pair);
    return found != std::end(kPairs) && *found == pair ? kComposed[found - std::begin(kPairs)] : 0;
}

struct Part {
    Rune rune;
    std::uint8_t combining;
};

// Appends the full decomposition, not yet in order.
void decompose(Rune rune, bool compatible, std::vector<Part>& parts) {
    if (is_syllable(rune)) {
        const Rune place = rune - kSyllables;
        parts.push_back({kLeads + place / (kNumVowels * kNumTrails), 0});
        parts.push_back({kVowels + place / kNumTrails % kNumVowels, 0});
        if (place % kNumTrails != 0) parts.push_back({kTrails + place % kNumTrails, 0});
        return;
    }
    const std::size_t record = look_up(kRecordIndex, kRecordBlocks, rune);
    const std::size_t length = compatible ? kCompatibleLength[record] : kCanonicalLength[record];
    if (length == 0) {
        parts.push_back({rune, kCombiningClass[record]});
        return;
    }
    const auto* const at = kDecomposed + (compatible ? kCompatibleAt[record] : kCanonicalAt[record]);
    for (std::size_t i = 0; i < length; ++i) parts.push_back({at[i], combining_class(at[i])});
}

// Marks stand by their class, those of one class as they came.
void put_in_order(std::vector<Part>& parts) {
    for (auto from = parts.begin(); from != parts.end();) {
        if (from->combining == 0) {
            ++from;
            continue;
        }
        const auto to = std::find_if(from, parts.end(), [](Part part) { return part.combining == 0; });
        if (to - from > 1) {
            std::stable_sort(from, to, [](Part a, Part b) { return a.combining < b.combining; });
        }
        from = to;
    }
}

// Joins each part with the last one of class 0 before it, unless one of its own class or higher is between.
void compose(std::vector<Part>& parts) {
    constexpr std::size_t kNone = static_cast<std::size_t>(-1);
    std::size_t starter = kNone, size = 0;
    for (const Part part : parts) {
        const bool adjacent = starter + 1 == size;
        if (starter != kNone && (adjacent || parts[size - 1].combining < part.combining)) {
            if (const Rune both = composed(parts[starter].rune, part.rune)) {
                parts[starter].rune = both;
                continue;
            }
        }
        if (part.combining == 0) starter = size;
        parts[size++] = part;
    }
    parts.resize(size);
}

class FormNormalizer final : public Normalizer {
  public:
    explicit FormNormalizer(Form form)
        : Normalizer(RuneSet([form](Rune rune) { return (trait(rune) & bit(form)) == 0; })),
          composes_(form == Form::kNfc || form == Form::kNfkc),
          compatible_(form == Form::kNfkc || form == Form::kNfkd) {}

    bool is_normal(std::string_view text) const noexcept override {
        const char* at = text.data();
        const char* const end = at + text.size();
        while (true) {
            const char* const found = plain().skip(at, end);
            if (found == end) return true;
            const char* const to = cluster_end(found, end);
            if (!is_normal_cluster(found == at ? found : previous_rune(found), to)) return false;
            at = to;
        }
    }

    bool apply(std::string_view text, std::string& out) const override {
        out.clear();
        out.reserve(text.size() + text.size() / 8);
        std::vector<Part> parts;
        const char *at = text.data(), *copied = at;
        const char* const end = at + text.size();
        while (true) {
            const char* const found = plain().skip(at, end);
            if (found == end) break;
            const char* const from = found == at ? found : previous_rune(found);
            const char* const to = cluster_end(found, end);
            at = to;
            if (is_normal_cluster(from, to)) continue;
            out.append(copied, from);
            copied = to;
            parts.clear();
            for (const char* each = from; each < to; each = next_rune(each)) {
                decompose(decode(each), compatible_, parts);
            }
            put_in_order(parts);
            if (composes_) compose(parts);
            for (const Part part : parts) put(out, part.rune);
        }
        out.append(copied, end);
        return true;
    }

  private:
    static std::uint8_t bit(Form form) {
        switch (form) {
            case Form::kNfc:
                return kNotNfc;
            case Form::kNfd:
                return kNotNfd;
            case Form::kNfkc:
                return kNotNfkc;
            default:
                return kNotNfkd;
        }
    }

    const char* cluster_end(const char* at, const char* end) const noexcept {
        while (at < end && !plain().contains(decode(at))) at = next_rune(at);
        return at;
    }

    // Of a cluster: a code point that is plain, if there is one, and those after it that are not. In doubt, false.
    bool is_normal_cluster(const char* at, const char* to) const noexcept {
        Rune starter = 0;  // the last of class 0; none yet
        std::uint8_t last = 0,
                     tail = 0;  // the class of the one before, and of the end of the starter's parts
        for (; at < to; at = next_rune(at)) {
            const Rune rune = decode(at);
            const std::size_t record = look_up(kRecordIndex, kRecordBlocks, rune);
            if (changes_alone(rune, record)) return false;
            const std::uint8_t combining = kCombiningClass[record];
            if (combining != 0 && combining < last) return false;
            if (composes_ && starter != 0 && kIsSecond[record] != 0 && (last == 0 || last < combining)) {
                if (combining != 0 && combining < tail) return false;
                if (composed(starter, rune) != 0) return false;
            }
            last = combining;
            if (combining == 0) {
                starter = rune;
                tail = last_class(record);
            }
        }
        return true;
    }

    // Whether a single code point is not its own normal form.
    bool changes_alone(Rune rune, std::size_t record) const noexcept {
        const bool decomposes = (compatible_ ? kCompatibleLength : kCanonicalLength)[record] != 0;
        if (!composes_) return decomposes || is_syllable(rune);
        // One that decomposes and is plain is composed again; one that is not plain is looked at no closer.
        return decomposes && !plain().contains(rune);
    }

    // The class of the last part of a code point of class 0.
    std::uint8_t last_class(std::size_t record) const noexcept {
        const std::size_t length = compatible_ ? kCompatibleLength[record] : kCanonicalLength[record];
        if (length == 0) return 0;
        const std::size_t at = compatible_ ? kCompatibleAt[record] : kCanonicalAt[record];
        return combining_class(kDecomposed[at + length - 1]);
    }

    bool composes_;
    bool compatible_;
};

// ---- one code point at a time --------------------------------------------------------------------

// Copies ASCII text 16 bytes at a time: in lower case, if `lowercase`, and with tab, line feed and carriage return
// made spaces, if `clean`. Stops before 16 bytes that have other things in them, or at fewer than 16.
const char* copy_ascii(const char* at, const char* end, bool clean, bool lowercase, std::string& out) {
#if defined(__SSE2__)
    const auto all = [](char byte) { return _mm_set1_epi8(byte); };
    for (; end - at >= 16; at += 16) {
        __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
        if (_mm_movemask_epi8(bytes) != 0) break;
        if (clean) {
            const __m128i blank = _mm_or_si128(
                _mm_cmpeq_epi8(bytes, all('\r')),
                _mm_or_si128(_mm_cmpeq_epi8(bytes, all('\t')), _mm_cmpeq_epi8(bytes, all('\n'))));
            bytes = _mm_or_si128(_mm_andnot_si128(blank, bytes), _mm_and_si128(blank, all(' ')));
            const __m128i control =
                _mm_or_si128(_mm_cmplt_epi8(bytes, all(' ')), _mm_cmpeq_epi8(bytes, all('\x7f')));
            if (_mm_movemask_epi8(control) != 0) break;
        }
        if (lowercase) {
            const __m128i upper =
                _mm_and_si128(_mm_cmpgt_epi8(bytes, all('A' - 1)), _mm_cmplt_epi8(bytes, all('Z' + 1)));
            bytes = _mm_or_si128(bytes, _mm_and_si128(upper, all(' ')));
        }
        char block[16];
        _mm_storeu_si128(reinterpret_cast<__m128i*>(block), bytes);
        out.append(block, sizeof block);
    }
#else
    (void)end, (void)clean, (void)lowercase, (void)out;
#endif
    return at;
}

class Lowercase final : public Normalizer {
  public:
    Lowercase() : Normalizer(RuneSet(is_lower)) {}

    bool is_normal(std::string_view text) const noexcept override { return is_plain(text); }

    bool apply(std::string_view text, std::string& out) const override {
        out.clear();
        out.reserve(text.size());
        const char* at = text.data();
        const char* const end = at + text.size();
        while ((at = copy_ascii(at, end, false, true, out)) < end) {
            const char* const found = plain().skip(at, end);
            out.append(at, found);
            at = found;
            if (at == end) break;
            put_lower(out, decode(at));
            at = next_rune(at);
        }
        return true;
    }
};

class StripAccents final : public Normalizer {
  public:
    StripAccents() : Normalizer(RuneSet([](Rune rune) { return (trait(rune) & kCombining) == 0; })) {}

    bool is_normal(std::string_view text) const noexcept override { return is_plain(text); }

    bool apply(std::string_view text, std::string& out) const override {
        out.clear();
        out.reserve(text.size());
        const char* at = text.data();
        const char* const end = at + text.size();
        while (at < end) {
            const char* const found = plain().skip(at, end);
            out.append(at, found);
            at = found == end ? end : next_rune(found);
        }
        return true;
    }
};

// BertNormalizer: its steps one after another, done in one walk over the text.
class Bert final : public Normalizer {
  public:
    Bert(bool clean_text, bool chinese_chars, bool strip_accents, bool lowercase)
        : Normalizer(RuneSet([=](Rune rune) {
              const std::uint32_t bits = classes(rune);
              return !(clean_text && (bits & (kBertControl | kBertSpace)) != 0 && rune != ' ') &&
                     !(chinese_chars && (bits & kBertChinese) != 0) &&
                     !(strip_accents && ((bits & kNonspacing) != 0 || (trait(rune) & kNotNfd) != 0)) &&
                     !(lowercase && !is_lower(rune));
          })),
          clean_text_(clean_text),
          chinese_chars_(chinese_chars),
          strip_accents_(strip_accents),
          lowercase_(lowercase) {}

    bool is_normal(std::string_view text) const noexcept override { return is_plain(text); }

    bool apply(std::string_view text, std::string& out) const override {
        out.clear();
        out.reserve(text.size() + text.size() / 8);
        std::vector<Part> waiting;  // for the marks that may have to move before them
        const char* at = text.data();
        const char* const end = at + text.size();
        while (at < end) {
            const Rune rune = decode(at);
            if (plain().contains(rune)) {
                flush(waiting, out);
                const char* const from = at;
                at = copy_ascii(at, end, clean_text_, lowercase_, out);
                if (at != from) continue;
                at = plain().skip(at, end);
                out.append(from, at);
                continue;
            }
            at = next_rune(at);
            const std::uint32_t bits = classes(rune);
            if (clean_text_ && (bits & kBertControl) != 0) continue;
            if (clean_text_ && (bits & kBertSpace) != 0) {
                flush(waiting, out);
                out += ' ';
            } else if (chinese_chars_ && (bits & kBertChinese) != 0) {
                flush(waiting, out);
                out += ' ';
                take(rune, waiting, out);
                flush(waiting, out);
                out += ' ';
            } else {
                take(rune, waiting, out);
            }
        }
        flush(waiting, out);
        return true;
    }

  private:
    void take(Rune rune, std::vector<Part>& waiting, std::string& out) const {
        if (strip_accents_ && (trait(rune) & kNotNfd) != 0) {
            decompose(rune, false, waiting);
        } else {
            flush(waiting, out);
            finish(rune, out);
        }
    }

    void flush(std::vector<Part>& waiting, std::string& out) const {
        if (waiting.empty()) return;
        put_in_order(waiting);
        for (const Part part : waiting) finish(part.rune, out);
        waiting.clear();
    }

    void finish(Rune rune, std::string& out) const {
        if (strip_accents_ && (classes(rune) & kNonspacing) != 0) return;
        if (lowercase_) {
            put_lower(out, rune);
        } else {
            put(out, rune);
        }
    }

    bool clean_text_;
    bool chinese_chars_;
    bool strip_accents_;
    bool lowercase_;
};

// ---- whole text ----------------------------------------------------------------------------------

class Strip final : public Normalizer {
  public:
    Strip(bool left, bool right)
        : Normalizer(RuneSet([=](Rune rune) { return !(left || right) || !is_space(rune); })),
          left_(left),
          right_(right) {}

    bool is_normal(std::string_view text) const noexcept override { return kept(text).size() == text.size(); }

    bool apply(std::string_view text, std::string& out) const override {
        out.assign(kept(text));
        return true;
    }

    // What is taken off at the end may be all that is behind the place.
    bool splits(Rune left, Rune) const noexcept override { return !is_space(left); }

  private:
    std::string_view kept(std::string_view text) const noexcept {
        const char *from = text.data(), *to = from + text.size();
        while (left_ && from < to && is_space(decode(from))) from = next_rune(from);
        while (right_ && from < to && is_space(decode(previous_rune(to)))) to = previous_rune(to);
        return {from, static_cast<std::size_t>(to - from)};
    }

    bool left_;
    bool right_;
};

class Prepend final : public Normalizer {
  public:
    explicit Prepend(std::string text)
        : Normalizer(RuneSet([&](Rune) { return text.empty(); })), text_(std::move(text)) {}

    bool is_normal(std::string_view text) const noexcept override { return text.empty() || text_.empty(); }

    bool apply(std::string_view text, std::string& out) const override {
        out.clear();
        if (text.empty()) return true;
        out.reserve(text_.size() + text.size());
        out.append(text_).append(text);
        return true;
    }

    bool splits(Rune, Rune) const noexcept override { return true; }

  private:
    std::string text_;
};

class Replace final : public Normalizer {
  public:
    Replace(std::string pattern, std::string content)
        : Normalizer(RuneSet([first = decode(pattern.c_str())](Rune rune) { return rune != first; })),
          pattern_(std::move(pattern)),
          content_(std::move(content)) {}

    // No match has either.
    bool splits(Rune left, Rune right) const noexcept override {
        for (const char* at = pattern_.data(); at != pattern_.data() + pattern_.size(); at = next_rune(at)) {
            if (decode(at) == left || decode(at) == right) return false;
        }
        return true;
    }

    bool is_normal(std::string_view text) const noexcept override {
        return text.find(pattern_) == std::string_view::npos;
    }

    bool apply(std::string_view text, std::string& out) const override {
        out.clear();
        out.reserve(text.size() + text.size() / 2);
        std::size_t at = 0;
        while (true) {
            const std::size_t found = text.find(pattern_, at);
            if (found == std::string_view::npos) break;
            out.append(text, at, found - at).append(content_);
            at = found + pattern_.size();
        }
        out.append(text, at);
        return true;
    }

  private:
    std::string pattern_;
    std::string content_;
};

class Sequence final : public Normalizer {
  public:
    explicit Sequence(std::vector<std::unique_ptr<Normalizer>> steps)
        : Normalizer(RuneSet([&](Rune rune) {
              return std::all_of(steps.begin(), steps.end(),
                                 [rune](const auto& step) { return step->plain().contains(rune); });
          })),
          steps_(std::move(steps)) {}

    bool is_normal(std::string_view text) const noexcept override {
        return is_plain(text) || std::all_of(steps_.begin(), steps_.end(),
                                             [text](const auto& step) { return step->is_normal(text); });
    }

    bool splits(Rune left, Rune right) const noexcept override {
        return std::ranges::all_of(steps_, [=](const auto& step) { return step->splits(left, right); });
    }

    bool apply(std::string_view text, std::string& out) const override {
        std::string last;
        bool written = false;  // to `out`
        for (const auto& step : steps_) {
            const std::string_view now = written ? std::string_view(out) : text;
            if (step->is_normal(now)) continue;
            if (!step->apply(now, last)) return false;
            out.swap(last);
            written = true;
        }
        if (!written) out.assign(text);
        return true;
    }

  private:
    std::vector<std::unique_ptr<Normalizer>> steps_;
};

}  // namespace

// ---- RuneSet -------------------------------------------------------------------------------------

void RuneSet::find_good_bytes() {
    is_good_.fill(true);
    for (Rune rune = 0; rune < kNumRunes; ++rune) {
        if (contains(rune) || (rune >= 0xd800 && rune < 0xe000)) continue;
        char bytes[4];
        encode(rune, bytes);
        is_good_[static_cast<unsigned char>(bytes[0])] = false;
    }
    for (std::size_t at = 0; at < 256 && num_ranges_ < kMaxRanges;) {
        if (!is_good_[at]) {
            ++at;
            continue;
        }
        const std::size_t first = at;
        while (at < 256 && is_good_[at]) ++at;
        ranges_[num_ranges_++] = {static_cast<signed char>(static_cast<int>(first) - 0x80),
                                  static_cast<signed char>(static_cast<int>(at) - 1 - 0x80)};
        if (first < 0x80) ++num_ascii_ranges_;
    }
    all_ascii_ = std::all_of(is_good_.begin(), is_good_.begin() + 0x80, [](bool good) { return good; });
}

const char* RuneSet::skip(const char* at, const char* end) const noexcept {
    while (at < end) {
        // One by one, until they are good.
        for (int good = 0; at < end && good < 4;) {
            const auto first = static_cast<unsigned char>(*at);
            if (is_good_[first]) {
                ++good;
            } else if (contains(decode(at))) {
                good = 0;
            } else {
                return at;
            }
            at += sequence_length(first);
        }
#if defined(__SSE2__)
        for (; end - at >= 16; at += 16) {
            const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
            const bool is_ascii = _mm_movemask_epi8(bytes) == 0;
            if (is_ascii && all_ascii_) continue;
            const __m128i order = _mm_xor_si128(bytes, _mm_set1_epi8(static_cast<char>(0x80)));
            __m128i outside = _mm_set1_epi8(-1);
            const std::size_t num_ranges = is_ascii ? num_ascii_ranges_ : num_ranges_;
            for (std::size_t i = 0; i < num_ranges; ++i) {
                const __m128i below = _mm_cmplt_epi8(order, _mm_set1_epi8(ranges_[i].first));
                const __m128i above = _mm_cmpgt_epi8(order, _mm_set1_epi8(ranges_[i].last));
                outside = _mm_and_si128(outside, _mm_or_si128(below, above));
            }
            const int others = _mm_movemask_epi8(outside);
            if (others != 0) {
                at += __builtin_ctz(static_cast<unsigned>(others));
                break;
            }
        }
        while (at < end && is_continuation(*at)) ++at;  // the rest of a good one
#endif
    }
    return end;
}

// ---- the makers ----------------------------------------------------------------------------------

std::unique_ptr<Normalizer> make_form(Form form) { return std::make_unique<FormNormalizer>(form); }

std::unique_ptr<Normalizer> make_lowercase() { return std::make_unique<Lowercase>(); }

std::unique_ptr<Normalizer> make_strip_accents() { return std::make_unique<StripAccents>(); }

std::unique_ptr<Normalizer> make_strip(bool left, bool right) { return std::make_unique<Strip>(left, right); }

std::unique_ptr<Normalizer> make_prepend(std::string text) {
    return std::make_unique<Prepend>(std::move(text));
}

std::unique_ptr<Normalizer> make_replace(std::string pattern, std::string content) {
    if (pattern.empty()) throw std::invalid_argument("Replace: the pattern is empty");
    return std::make_unique<Replace>(std::move(pattern), std::move(content));
}

std::unique_ptr<Normalizer> make_bert(bool clean_text, bool chinese_chars, bool strip_accents,
                                      bool lowercase) {
    return std::make_unique<Bert>(clean_text, chinese_chars, strip_accents, lowercase);
}

std::unique_ptr<Normalizer> make_sequence(std::vector<std::unique_ptr<Normalizer>> steps) {
    return std::make_unique<Sequence>(std::move(steps));
}

}  // namespace penstock::text
