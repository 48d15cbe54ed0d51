// Unigram as SentencePiece and `tokenizers` have it: of all ways to write a word with pieces, the one whose scores
// add up to most.
//
//     text ─► steps of the normalizer ─► words ─► "▁word" ─► best path ─► ids
//
// A word that was seen before is looked up by its bytes as they stand in the text; unigram.cc says why that is exact.

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

#include "text/ids.h"
#include "text/metaspace.h"
#include "text/model.h"
#include "text/normalize.h"
#include "text/unigram_trie.h"
#include "text/word_cache.h"

namespace penstock::text {

class Unigram : public Model {
  public:
    struct Piece {
        std::string_view piece;
        double score;
    };

    // One step of the normalizer.
    struct Step {
        enum class Kind {
            kWords,   // `words`
            kStrip,   // Strip: white space at the ends of a stretch
            kSpaces,  // Replace of Regex " {2,}" by `content`
        };

        Kind kind = Kind::kWords;
        // What it makes of a word may not depend on what lies beyond the white space around the word. That holds for
        // make_precompiled, make_form, make_lowercase, make_strip_accents, and make_replace of a pattern without
        // white space.
        std::unique_ptr<const Normalizer> words;
        bool left = true;
        bool right = true;
        std::string content;
    };

    struct Options {
        std::optional<std::size_t> unk_id;
        bool byte_fallback = false;
        bool whitespace_split = false;  // WhitespaceSplit, before Metaspace if there is one
        std::optional<Metaspace> metaspace;
    };

    // An id is the place in `pieces`. Throws std::invalid_argument if it cannot be exact.
    Unigram(std::span<const Piece> pieces, std::vector<Step> steps, const Options& options);
    ~Unigram() override;

    std::unique_ptr<Memory> new_memory() const override;
    bool encode(std::string_view text, Edges edges, Memory& memory, Ids& out) const override;
    bool encode_normalized(std::string_view text, Edges edges, Memory& memory, Ids& out) const override;
    std::size_t cut_between(std::string_view text, std::size_t from, std::size_t to) const noexcept override;
    bool normalize(std::string_view text, std::string& out) const override;

  private:
    struct State;
    struct Lane;
    struct Place;

    bool encode_lane(std::string_view text, Edges edges, State& state, const Lane& lane, Ids& out) const;
    bool encode_words(std::string_view text, Edges edges, State& state, const Lane& lane, Ids& out) const;
    bool encode_segment(std::string_view raw, const Place& place, State& state, const Lane& lane,
                        Ids& out) const;
    bool run_steps(std::string_view raw, bool at_begin, bool at_end, std::string& spare, std::string& kept,
                   std::string_view& result, bool& is_shorter) const;
    bool pre_tokenize(std::string_view text, Edges edges, State& state, Ids& out) const;
    bool encode_metaspace(std::string_view text, Edges edges, State& state, Ids& out) const;
    bool encode_piece(std::string_view text, bool is_open, State& state, Ids& out) const;
    bool splits(std::string_view text, std::size_t at) const noexcept;
    void emit_unknown(std::string_view text, Ids& out) const;

    PieceTrie trie_;
    std::vector<Step> steps_;
    Options options_;
    double unk_score_ = 0;
    bool has_byte_ids_ = false;           // byte_fallback
    std::array<Id, 256> byte_ids_{};      // -1: not in the vocabulary
    bool has_edges_ = false;              // a step is kStrip or kSpaces: the ends of a word matter
    bool has_spaces_ = false;             // a step is kSpaces
    std::unique_ptr<const Lane> raw_;     // text as it comes
    std::unique_ptr<const Lane> normal_;  // text that is normalized already
};

}  // namespace penstock::text
