// Pre-tokenizers of byte-level tokenizers: where a text is cut into words before merging.
//
// The regexes of tokenizer.json are never executed: those that are known are written out by hand, as a scanner
// that reads a text once, and any other is refused. A word never depends on what comes before its begin, so a
// scan may begin at any word.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace penstock::text {

enum class Scheme {
    kNone,    // the whole text is one word
    kGpt2,    // ByteLevel with use_regex
    kCl100k,  // GPT-4, Llama-3: up to three digits
    kQwen2,   // the same, digits one by one
    kO200k,   // GPT-4o: cut at case, contractions at the end
};

// The scheme that cuts as this regex does (Split with behavior "Isolated", or "Removed" and inverted). None: the
// regex is not known.
std::optional<Scheme> scheme_of(std::string_view regex) noexcept;

// The end of the word that begins at `at`, character by character. `at` < `end`.
const char* word_end(Scheme scheme, const char* at, const char* end) noexcept;

inline constexpr std::size_t kLeastWords = 64;

// Finds the words of a text that begins with a word: writes where they end, as distances from `begin`. Returns how
// many; at least one if there is text. Stops at `end` or when `capacity` (at least kLeastWords) is nearly reached.
// The text is valid UTF-8 shorter than 4 GiB.
std::size_t find_words(Scheme scheme, const char* begin, const char* end, std::uint32_t* ends,
                       std::size_t capacity) noexcept;

}  // namespace penstock::text
