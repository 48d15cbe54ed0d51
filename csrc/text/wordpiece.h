// WordPiece as BERT has it: BertNormalizer (or none), BertPreTokenizer, then the longest piece first.
//
// All steps are one pass over the text. A word that was seen before is looked up by its bytes as they stand in the
// text, so it is neither normalized nor cut again; wordpiece.cc says why that is exact.

#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/ids.h"
#include "text/model.h"

namespace penstock::text {

// The steps of BertNormalizer. In tokenizer.json strip_accents may be null: it is then what lowercase is.
struct BertSteps {
    bool clean_text = true;
    bool chinese_chars = true;
    bool strip_accents = true;
    bool lowercase = true;
};

struct WordPieceSettings {
    std::string unk_token = "[UNK]";
    std::string continuing_subword_prefix = "##";
    std::size_t max_input_chars_per_word = 100;
    std::optional<BertSteps> normalizer = BertSteps{};
};

class PieceTrie;

class WordPiece final : public Model {
  public:
    // Throws std::invalid_argument if it cannot be exact: a token that is not UTF-8 or comes twice, a negative id,
    // no unk_token, or a vocabulary of more than two million nodes (some 500,000 tokens).
    WordPiece(const std::vector<std::pair<std::string, Id>>& vocabulary, const WordPieceSettings& settings);
    ~WordPiece() override;

    std::unique_ptr<Memory> new_memory() const override;
    bool encode(std::string_view text, Edges edges, Memory& memory, Ids& out) const override;
    bool encode_normalized(std::string_view text, Edges edges, Memory& memory, Ids& out) const override;
    std::size_t cut_between(std::string_view text, std::size_t from, std::size_t to) const noexcept override;
    bool normalize(std::string_view text, std::string& out) const override;

  private:
    class Lane;
    struct Kept;

    std::unique_ptr<const PieceTrie> pieces_;
    std::unique_ptr<const Lane> raw_;     // text as it comes
    std::unique_ptr<const Lane> normal_;  // text that is normalized already
};

}  // namespace penstock::text
