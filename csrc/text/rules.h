// The rules of pre-tokenizers: how one step of a tokenizer.json cuts a piece of text into smaller ones.
//
// The regexes of tokenizer.json are never executed: those that are known are written out by hand, and any other
// is refused. A rule makes pieces of its matches, and of what is between them. A piece never depends on what comes
// before its begin, so a rule may begin to cut at any.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace penstock::text {

enum class Rule : std::uint8_t {
    // Whole schemes, which have a scanner each (scan.h).
    kGpt2,        // ByteLevel with use_regex
    kCl100k,      // GPT-4, Llama-3: up to three digits
    kQwen2,       // the same, digits one by one
    kO200k,       // GPT-4o: cut at case, contractions at the end
    kQwen35,      // kQwen2 with marks as letters
    kMiniCpm,     // kCl100k with any number of digits
    kTekken,      // kO200k without contractions, digits one by one
    kDeepSeekV3,  // letters and marks, or signs; behind rules that take numbers and Chinese out

    kNone,  // the whole text is one word

    // One kind of characters.
    kDigit,         // Digits, one by one
    kDigits,        // Digits, as many as there are
    kPunctuation,   // Punctuation, one by one
    kPunctuations,  // Punctuation, as many as there are
    kNumber,        // \p{N}
    kThreeNumbers,  // \p{N}{1,3}
    kThreeDigits,   // [0-9][0-9][0-9]
    kNewline,       // [\r\n]
    kKana,          // DeepSeek-V3's Chinese and Japanese
    kHangul,        // DeepSeek-Coder's Chinese, Japanese, Korean and whatever else is there
    kLetters,       // \s?\p{L}+
    kStops,         // \s?\p{P}+
    kAlphabets,     // DeepSeek-LLM's \s?[letters]+
    kSigns,         // DeepSeek-LLM's \s?[punctuation]+
    kTrailing,      // \s+$

    // Behind ByteLevel, where each byte is a character, and those of some bytes count as digits.
    kByteDigit,
    kByteDigits,
};

inline constexpr std::size_t kNumSchemes = static_cast<std::size_t>(Rule::kNone);

// The rule of one step: its type and its setting, as rules.cc lists them. None: not known.
std::optional<Rule> rule_of(std::string_view type, std::string_view setting);

// The end of the piece that begins at `at`, character by character. `at` < `end`; what is behind `end` does not
// count. The text is valid UTF-8, except for rules behind ByteLevel and kThreeDigits, which take any bytes.
const char* rule_end(Rule rule, const char* at, const char* end) noexcept;

}  // namespace penstock::text
