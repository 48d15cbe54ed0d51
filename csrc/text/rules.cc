#include "text/rules.h"

#include <array>
#include <limits>
#include <string>

#include "text/chars.h"

namespace penstock::text {

std::uint8_t compute_kind(Rune rune) noexcept {
    const std::uint32_t bits = classes(rune);
    unsigned kind = 0;
    if (bits & kLetter) kind |= kIsLetter;
    if (bits & kNumber) kind |= kIsNumber;
    if (bits & kSpace) kind |= kIsSpace;
    if (bits & (kUpper | kTitle)) kind |= kIsUpper;
    if (bits & kLower) kind |= kIsLower;
    if (bits & kMark) kind |= kIsMark;
    if (bits & (kPunctuation | kSymbol)) kind |= kIsSign;
    return static_cast<std::uint8_t>(kind);
}

const std::uint8_t* kinds() noexcept {
    static const auto* const table = [] {
        auto* const made = new std::array<std::uint8_t, kKindsEnd>;
        for (Rune rune = 0; rune < kKindsEnd; ++rune) (*made)[rune] = compute_kind(rune);
        return made;
    }();
    return table->data();
}

std::size_t contraction(const char* at, const char* end, bool fold) noexcept {
    if (end - at < 2) return 0;
    const auto lower = [fold](char c) {
        return fold && c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
    };
    const char first = lower(at[1]);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
    if (end - at < 3) return 0;
    const char second = lower(at[2]);
    if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
        (first == 'l' && second == 'l')) {
        return 3;
    }
    // U+017F, the long s, folds to s.
    if (fold && at[1] == '\xc5' && at[2] == '\xbf') return 3;
    return 0;
}

namespace {

// --- whole schemes ---

template <typename Predicate>
const char* skip(const std::uint8_t* table, const char* at, const char* end, Predicate&& wanted) noexcept {
    while (at < end) {
        const Char c = char_at(table, at);
        if (!wanted(c)) break;
        at += c.length;
    }
    return at;
}

// \s*[\r\n]+|\s+(?!\S)|\s+, or without its first alternative, where white space stands.
const char* space_end(const std::uint8_t* table, const char* at, const char* end, bool newlines) noexcept {
    const char* behind_newline = nullptr;
    const char* last = at;
    const char* now = at;
    while (now < end) {
        const Char c = char_at(table, now);
        if (!c.is(kIsSpace)) break;
        last = now;
        now += c.length;
        if (newlines && is_newline(*last)) behind_newline = now;
    }
    if (behind_newline != nullptr) return behind_newline;
    return now == end || last == at ? now : last;
}

const char* word_end_gpt2(const std::uint8_t* table, const char* at, const char* end) noexcept {
    if (*at == '\'') {
        if (const std::size_t length = contraction(at, end, false); length != 0) return at + length;
    }
    const char* const behind_space = *at == ' ' && at + 1 < end ? at + 1 : at;
    const Char c = char_at(table, behind_space);
    if (c.is(kIsSpace)) return space_end(table, at, end, false);
    const unsigned kind = c.kind & (kIsLetter | kIsNumber | kIsSpace);
    return skip(table, behind_space, end, [kind](const Char& next) {
        return (next.kind & (kIsLetter | kIsNumber | kIsSpace)) == kind;
    });
}

//  ?[...]+[\r\n]* (`slash`: [\r\n/]*), or null. `wanted` says what the brackets hold.
template <typename Predicate>
const char* other_end(const std::uint8_t* table, const char* at, const char* end, bool slash,
                      Predicate&& wanted) noexcept {
    const char* const begin = *at == ' ' ? at + 1 : at;
    at = skip(table, begin, end, wanted);
    if (at == begin) return nullptr;
    while (at < end && (is_newline(*at) || (slash && *at == '/'))) ++at;
    return at;
}

const char* number_end(const std::uint8_t* table, const char* at, const char* end, int most) noexcept {
    return skip(table, at, end, [most](const Char& c) mutable { return c.is(kIsNumber) && most-- > 0; });
}

constexpr int kAnyNumber = std::numeric_limits<int>::max();

// `letters`: what counts as one, kIsLetter or kIsLetter | kIsMark.
const char* word_end_cl100k(const std::uint8_t* table, const char* at, const char* end, int digits,
                            unsigned letters) noexcept {
    if (*at == '\'') {
        if (const std::size_t length = contraction(at, end, true); length != 0) return at + length;
    }
    const Char c = char_at(table, at);
    const auto is_letter = [letters](const Char& next) { return next.is(letters); };
    const auto is_other = [letters](const Char& next) { return !next.is(letters | kIsNumber | kIsSpace); };
    if (c.is(kIsNumber)) return number_end(table, at, end, digits);
    if (c.is(letters)) return skip(table, at, end, is_letter);
    if (!is_newline(*at)) {
        const char* const behind = at + c.length;
        if (const char* const word = skip(table, behind, end, is_letter); word != behind) return word;
    }
    if (const char* const other = other_end(table, at, end, false, is_other); other != nullptr) return other;
    return space_end(table, at, end, true);
}

// U*L+ (`lower`) or U+L*, where U is [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}] and L is [\p{Ll}\p{Lm}\p{Lo}\p{M}]; null: not
// there.
const char* cased_end(const std::uint8_t* table, const char* at, const char* end, bool lower) noexcept {
    const auto is_first = [](const Char& c) { return c.is(kIsLetter | kIsMark) && !c.is(kIsLower); };
    const auto is_second = [](const Char& c) { return c.is(kIsLetter | kIsMark) && !c.is(kIsUpper); };
    const char* both = nullptr;  // behind the last character that is U and L
    const char* now = skip(table, at, end, is_first);
    if (now == at && !lower) return nullptr;
    if (const char* const behind = skip(table, now, end, is_second); !lower || behind != now) return behind;
    for (const char* next = at; next < now;) {
        const Char c = char_at(table, next);
        next += c.length;
        if (!c.is(kIsUpper)) both = next;
    }
    return both;
}

const char* word_end_o200k(const std::uint8_t* table, const char* at, const char* end, int digits,
                           bool contractions) noexcept {
    const Char c = char_at(table, at);
    const bool may_lead = !c.is(kIsLetter | kIsNumber) && !is_newline(*at);
    for (const bool lower : {true, false}) {
        const char* letters = may_lead ? cased_end(table, at + c.length, end, lower) : nullptr;
        if (letters == nullptr) letters = cased_end(table, at, end, lower);
        if (letters == nullptr) continue;
        if (contractions && letters < end && *letters == '\'') letters += contraction(letters, end, true);
        return letters;
    }
    if (c.is(kIsNumber)) return number_end(table, at, end, digits);
    const auto is_other = [](const Char& next) { return !next.is(kIsLetter | kIsNumber | kIsSpace); };
    if (const char* const other = other_end(table, at, end, true, is_other); other != nullptr) return other;
    return space_end(table, at, end, true);
}

// [ASCII punctuation][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*| and white space. Numbers,
// controls and what is unassigned are in no match, unless a letter follows.
const char* word_end_deepseek_v3(const std::uint8_t* table, const char* at, const char* end) noexcept {
    const auto is_ascii_letter = [](char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); };
    const auto is_letter = [](const Char& next) { return next.is(kIsLetter | kIsMark); };
    const auto is_sign = [](const Char& next) { return next.is(kIsSign); };
    const Char c = char_at(table, at);
    if (c.is(kIsSign) && c.length == 1 && at + 1 < end && is_ascii_letter(at[1])) {
        do {
            ++at;
        } while (at < end && is_ascii_letter(*at));
        return at;
    }
    const char* const behind = at + c.length;
    if (is_letter(c)) return skip(table, behind, end, is_letter);
    if (!c.is(kIsSign) && !is_newline(*at)) {
        if (const char* const word = skip(table, behind, end, is_letter); word != behind) return word;
    }
    if (const char* const signs = other_end(table, at, end, false, is_sign); signs != nullptr) return signs;
    if (c.is(kIsSpace)) return space_end(table, at, end, true);
    at = behind;
    while (at < end) {
        const Char next = char_at(table, at);
        if (next.is(kIsLetter | kIsMark | kIsSign | kIsSpace)) break;
        if (at + next.length < end && is_letter(char_at(table, at + next.length))) break;
        at += next.length;
    }
    return at;
}

// --- one kind of characters ---

// A set of characters, told by their first byte where it can be.
class RuneSet {
  public:
    // Those that have one of these bits of classes().
    explicit RuneSet(std::uint32_t bits) {
        for (Rune rune = 0; rune < kEnd; ++rune) {
            if ((classes(rune) & bits) != 0) add(rune);
        }
    }
    // What the brackets of a regex hold: characters that stand for themselves, and ranges of them.
    explicit RuneSet(std::string_view brackets) {
        const char* at = brackets.data();
        for (const char* const end = at + brackets.size(); at != end;) {
            const Rune first = take(at);
            Rune last = first;
            if (at != end && *at == '-') last = take(++at);
            for (Rune rune = first; rune <= last; ++rune) add(rune);
        }
    }

    // Whether a member may begin at `at`, which may be within a character.
    bool may_begin(const char* at) const noexcept { return leads_[static_cast<unsigned char>(*at)]; }

    bool has(const char* at) const noexcept {
        const auto first = static_cast<unsigned char>(*at);
        if (!leads_[first]) return false;
        if (first < 0x80) return true;
        const Rune rune = decode(at);
        return (members_[rune / 64] >> rune % 64 & 1) != 0;
    }

  private:
    static constexpr Rune kEnd = 0x110000;

    static Rune take(const char*& at) {
        const Rune rune = decode(at);
        at += sequence_length(static_cast<unsigned char>(*at));
        return rune;
    }
    void add(Rune rune) {
        char bytes[4];
        encode(rune, bytes);
        leads_[static_cast<unsigned char>(bytes[0])] = true;
        members_[rune / 64] |= std::uint64_t{1} << rune % 64;
    }

    std::array<bool, 256> leads_{};  // first bytes of members
    std::array<std::uint64_t, kEnd / 64> members_{};
};

template <std::uint32_t bits>
const RuneSet& set_of() {
    static const auto* const set = new RuneSet(bits);
    return *set;
}

constexpr std::string_view kKanaRanges = "\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff";
constexpr std::string_view kHangulRanges = "\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff";
constexpr std::string_view kAlphabetRanges =
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293"
    "\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c"
    "\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5"
    "\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59"
    "\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc"
    "\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"
    "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee"
    "\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    "\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943";
constexpr std::string_view kSignRanges = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002";

template <const std::string_view& ranges>
const RuneSet& set_of_ranges() {
    static const auto* const set = new RuneSet(ranges);
    return *set;
}

const char* next_char(const char* at) noexcept {
    return at + sequence_length(static_cast<unsigned char>(*at));
}

const char* next_member(const RuneSet& set, const char* at, const char* end) noexcept {
    while (true) {
        while (at < end && !set.may_begin(at)) ++at;
        if (at >= end || set.has(at)) return at;
        at = next_char(at);
    }
}

// [set]{1,most}, or what is before the next.
const char* run_end(const RuneSet& set, const char* at, const char* end, int most) noexcept {
    if (set.has(at)) {
        do {
            at = next_char(at);
        } while (--most > 0 && at < end && set.has(at));
        return at;
    }
    return next_member(set, next_char(at), end);
}

// \s?[set]+, or what is before the next.
const char* spaced_run_end(const RuneSet& set, const char* at, const char* end) noexcept {
    const auto run_begin = [&set, end](const char* from) -> const char* {
        if (set.has(from)) return from;
        if (!set_of<kSpace>().has(from)) return nullptr;
        const char* const behind = next_char(from);
        return behind < end && set.has(behind) ? behind : nullptr;
    };
    if (const char* const run = run_begin(at); run != nullptr) return run_end(set, run, end, kAnyNumber);
    do {
        at = next_char(at);
    } while (at < end && run_begin(at) == nullptr);
    return at;
}

const char* newline_end(const char* at, const char* end) noexcept {
    if (is_newline(*at)) return at + 1;
    while (at < end && !is_newline(*at)) ++at;
    return at;
}

// \s+$, or what is before the next. The regex has the end of a line before every \n.
const char* trailing_end(const char* at, const char* end) noexcept {
    const RuneSet& spaces = set_of<kSpace>();
    for (const char* now = at; now < end;) {
        if (!spaces.has(now)) {
            now = next_char(now);
            continue;
        }
        const char* const behind = run_end(spaces, now, end, kAnyNumber);
        const char* line_end = behind;
        if (behind != end) {
            do {
                --line_end;
            } while (line_end > now && *line_end != '\n');
        }
        if (line_end > now) return now == at ? line_end : now;
        now = behind;
    }
    return end;
}

// [0-9][0-9][0-9], or what is before the next: of any bytes.
const char* three_digits_end(const char* at, const char* end) noexcept {
    const auto is_match = [end](const char* from) {
        const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
        return end - from >= 3 && is_digit(from[0]) && is_digit(from[1]) && is_digit(from[2]);
    };
    if (is_match(at)) return at + 3;
    do {
        ++at;
    } while (at < end && !is_match(at));
    return at;
}

// --- bytes as characters ---

// The characters of these bytes are superscripts and fractions, which Digits takes for digits.
bool is_byte_digit(char c) noexcept {
    return (c >= '0' && c <= '9') || c == '\xb2' || c == '\xb3' || c == '\xb9' ||
           (c >= '\xbc' && c <= '\xbe');
}

const char* byte_digits_end(const char* at, const char* end, int most) noexcept {
    const bool digits = is_byte_digit(*at);
    do {
        ++at;
    } while ((!digits || --most > 0) && at < end && is_byte_digit(*at) == digits);
    return at;
}

// --- their names ---

struct Known {
    std::string_view regex;
    Rule rule;
    bool leaves_nothing;  // between its matches
};
constexpr Known kKnown[] = {
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", Rule::kGpt2, true},
    {R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", Rule::kGpt2, true},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     Rule::kCl100k, true},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     Rule::kQwen2, true},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     Rule::kMiniCpm, true},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     Rule::kQwen35, true},
    {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
     R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     Rule::kO200k, true},
    {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
     R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     Rule::kTekken, true},
    {R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)"
     R"( ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     Rule::kDeepSeekV3, false},
    {R"(\p{N})", Rule::kNumber, false},
    {R"(\p{N}{1,3})", Rule::kThreeNumbers, false},
    {R"([0-9][0-9][0-9])", Rule::kThreeDigits, false},
    {R"([\r\n])", Rule::kNewline, false},
    {R"(\s?\p{L}+)", Rule::kLetters, false},
    {R"(\s?\p{P}+)", Rule::kStops, false},
    {R"(\s+$)", Rule::kTrailing, false},
};

// "before" + "[" + ranges + "]+"
bool is_class(std::string_view regex, std::string_view before, std::string_view ranges) {
    return regex == std::string(before).append("[").append(ranges).append("]+");
}

std::optional<Rule> rule_of_regex(std::string_view regex, bool leaves_nothing) {
    std::string plain;  // some files have the newlines themselves
    for (const char c : regex) {
        if (is_newline(c)) {
            plain += c == '\n' ? "\\n" : "\\r";
        } else {
            plain.push_back(c);
        }
    }
    for (const Known& known : kKnown) {
        if (known.regex == plain && (known.leaves_nothing || !leaves_nothing)) return known.rule;
    }
    if (leaves_nothing) return std::nullopt;
    if (is_class(plain, "", kKanaRanges)) return Rule::kKana;
    if (is_class(plain, "", kHangulRanges)) return Rule::kHangul;
    if (is_class(plain, R"(\s?)", kAlphabetRanges)) return Rule::kAlphabets;
    if (is_class(plain, R"(\s?)", kSignRanges)) return Rule::kSigns;
    return std::nullopt;
}

}  // namespace

std::optional<Rule> rule_of(std::string_view type, std::string_view setting) {
    if (type == "Split") return rule_of_regex(setting, false);
    if (type == "Matches") return rule_of_regex(setting, true);
    struct Step {
        std::string_view type, setting;
        Rule rule;
    };
    static constexpr Step kSteps[] = {
        {"Digits", "one", Rule::kDigit},
        {"Digits", "run", Rule::kDigits},
        {"Punctuation", "Isolated", Rule::kPunctuation},
        {"Punctuation", "Contiguous", Rule::kPunctuations},
        {"Digits of bytes", "one", Rule::kByteDigit},
        {"Digits of bytes", "run", Rule::kByteDigits},
        {"Split of bytes", "[0-9][0-9][0-9]", Rule::kThreeDigits},
    };
    for (const Step& step : kSteps) {
        if (step.type == type && step.setting == setting) return step.rule;
    }
    return std::nullopt;
}

const char* rule_end(Rule rule, const char* at, const char* end) noexcept {
    const std::uint8_t* const table = kinds();
    switch (rule) {
        case Rule::kGpt2:
            return word_end_gpt2(table, at, end);
        case Rule::kCl100k:
            return word_end_cl100k(table, at, end, 3, kIsLetter);
        case Rule::kQwen2:
            return word_end_cl100k(table, at, end, 1, kIsLetter);
        case Rule::kO200k:
            return word_end_o200k(table, at, end, 3, true);
        case Rule::kQwen35:
            return word_end_cl100k(table, at, end, 1, kIsLetter | kIsMark);
        case Rule::kMiniCpm:
            return word_end_cl100k(table, at, end, kAnyNumber, kIsLetter);
        case Rule::kTekken:
            return word_end_o200k(table, at, end, 1, false);
        case Rule::kDeepSeekV3:
            return word_end_deepseek_v3(table, at, end);
        case Rule::kNone:
            return end;
        case Rule::kDigit:
            return run_end(set_of<kDigit>(), at, end, 1);
        case Rule::kDigits:
            return run_end(set_of<kDigit>(), at, end, kAnyNumber);
        case Rule::kPunctuation:
            return run_end(set_of<kBertPunctuation>(), at, end, 1);
        case Rule::kPunctuations:
            return run_end(set_of<kBertPunctuation>(), at, end, kAnyNumber);
        case Rule::kNumber:
            return run_end(set_of<kNumber>(), at, end, 1);
        case Rule::kThreeNumbers:
            return run_end(set_of<kNumber>(), at, end, 3);
        case Rule::kThreeDigits:
            return three_digits_end(at, end);
        case Rule::kNewline:
            return newline_end(at, end);
        case Rule::kKana:
            return run_end(set_of_ranges<kKanaRanges>(), at, end, kAnyNumber);
        case Rule::kHangul:
            return run_end(set_of_ranges<kHangulRanges>(), at, end, kAnyNumber);
        case Rule::kLetters:
            return spaced_run_end(set_of<kLetter>(), at, end);
        case Rule::kStops:
            return spaced_run_end(set_of<kPunctuation>(), at, end);
        case Rule::kAlphabets:
            return spaced_run_end(set_of_ranges<kAlphabetRanges>(), at, end);
        case Rule::kSigns:
            return spaced_run_end(set_of_ranges<kSignRanges>(), at, end);
        case Rule::kTrailing:
            return trailing_end(at, end);
        case Rule::kByteDigit:
            return byte_digits_end(at, end, 1);
        case Rule::kByteDigits:
            return byte_digits_end(at, end, kAnyNumber);
    }
    return end;
}

}  // namespace penstock::text
