// The charsmap of SentencePiece: which short strings a tokenizer replaces, and by what.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/unicode.h"

namespace penstock::text {

// The bytes are: the size of a double-array trie (darts-clone) in bytes, as 32 bits; its units; then what is put in
// place, each ended by a NUL. Numbers are little-endian. The bytes come from a file and are trusted in nothing.
class Charsmap {
  public:
    enum class Answer { kNone, kFound, kDamaged };

    // Throws std::invalid_argument if the bytes cannot be a charsmap.
    explicit Charsmap(std::string_view bytes);

    // Looks for the shortest key that `text` begins with, and sets `content` to what takes the place of the whole
    // of `text`. (That the rest of `text` goes too is what `tokenizers` does.)
    Answer find(std::string_view text, std::string_view& content) const noexcept;

  private:
    std::vector<std::uint32_t> units_;
    std::string contents_;
};

}  // namespace penstock::text
