// BPE over characters as SentencePiece has it: Llama-2, Mistral, Phi-3, Gemma. A space is "▁", there is no other
// pre-tokenizer than Metaspace, and characters without a token become the tokens of their bytes.
//
// The text is cut where no merge can reach across; piece_bpe.cc says why that is exact.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/bpe.h"
#include "text/ids.h"
#include "text/metaspace.h"
#include "text/model.h"
#include "text/unicode.h"

namespace penstock::text {

class PieceBpe : public Model {
  public:
    struct Options {
        std::optional<std::string> unk_token;
        bool fuse_unk = false;
        bool byte_fallback = false;
        bool ignore_merges = false;
        // The normalizer: Prepend of "▁", then Replace of " " by "▁"; or one of them, or none.
        bool prepend = false;
        bool replace_spaces = false;
        std::optional<Metaspace> metaspace;  // the pre-tokenizer
    };

    // Tokens and merges as they stand in tokenizer.json. Throws std::invalid_argument if it cannot be exact: two
    // tokens have one id, a merge takes the unknown token or one of a byte, or is beyond what MergeTable takes.
    PieceBpe(std::span<const TokenIds::Token> tokens, std::span<const MergePair> merges,
             const Options& options);
    ~PieceBpe() override;

    std::unique_ptr<Memory> new_memory() const override;
    bool encode(std::string_view text, Edges edges, Memory& memory, Ids& out) const override;
    bool encode_normalized(std::string_view text, Edges edges, Memory& memory, Ids& out) const override;
    std::size_t cut_between(std::string_view text, std::size_t from, std::size_t to) const noexcept override;
    bool normalize(std::string_view text, std::string& out) const override;

  private:
    struct State;

    // A character: its token, if it has one, and whether some merge has it anywhere but at its end, or its begin.
    struct Symbol {
        Id id = -1;
        bool goes_on = false;
        bool comes_after = false;
    };

    const Symbol& symbol(Rune rune) const noexcept;
    Symbol& symbol_to_set(Rune rune);
    bool is_pair(Rune left, Rune right) const noexcept;
    bool may_cut(Rune left, const Symbol& left_known, Rune right, const Symbol& right_known) const noexcept;
    bool may_cut_before_space(Rune left) const noexcept {
        return may_cut(left, symbol(left), space_rune_, symbol(space_rune_));
    }
    Rune rune_at(const char* at) const noexcept;

    bool encode_prefixed(std::string_view text, bool has_prefix, State& state, Ids& out) const;
    bool encode_pieces(std::string_view text, State& state, Ids& out) const;
    bool encode_piece(std::string_view piece, State& state, Ids& out) const;
    bool encode_cut(std::string_view text, State& state, Ids& out) const;
    bool encode_word(std::string_view word, State& state, Ids& out) const;
    const char* piece_end(const char* at, const char* end) const noexcept;
    bool is_closed(std::string_view piece) const noexcept;

    Options options_;
    TokenIds tokens_;
    MergeTable merges_;
    Id unk_id_ = -1;
    std::array<Id, 256> byte_ids_{};  // -1: none, or no byte_fallback
    bool has_all_bytes_ = false;
    bool drops_ = false;       // characters without a token may vanish
    bool splits_ = false;      // every "▁" begins a word
    bool is_fast_ = false;     // spaces are places to cut
    std::string space_ = " ";  // what a space becomes
    Rune space_rune_ = ' ';
    std::array<bool, 33> is_solo_{};  // control characters that no merge has
    std::size_t longest_ = 0;         // token, in bytes

    std::vector<std::uint32_t> pages_;  // by rune / 256: where its page begins in symbols_
    std::vector<Symbol> symbols_;
    std::vector<std::uint64_t> pairs_;  // a hash set: characters side by side in a product
    unsigned pair_shift_ = 0;
};

}  // namespace penstock::text
