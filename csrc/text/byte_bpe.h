// Byte-level BPE: GPT-2, RoBERTa, Llama-3, Qwen and their kin. Words of a pre-tokenizer's scheme, bytes as first
// symbols, merges.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/bpe.h"
#include "text/byte_pairs.h"
#include "text/model.h"
#include "text/normalize.h"
#include "text/pretokenize.h"

namespace penstock::text {

class ByteBpe : public Model {
  public:
    struct Options {
        Scheme scheme = Scheme::kGpt2;
        bool add_prefix_space = false;  // ByteLevel's: before every stretch that does not begin with a space
        bool ignore_merges = false;  // a word that is in the vocabulary is one token, whatever the merges say
    };

    // Tokens and merges as they stand in tokenizer.json, in the printable characters of ByteLevel. The normalizer
    // may be null. Throws std::invalid_argument if two tokens have one id, a merge names what is no token, or
    // something is beyond what MergeTable takes.
    ByteBpe(std::span<const TokenIds::Token> tokens, std::span<const MergePair> merges,
            const Options& options, std::unique_ptr<Normalizer> normalizer);
    ~ByteBpe() override;

    std::unique_ptr<Memory> new_memory() const override;
    bool encode(std::string_view text, Edges edges, Memory& memory, Ids& out) const override;
    bool encode_normalized(std::string_view text, Edges edges, Memory& memory, Ids& out) const override;
    std::size_t cut_between(std::string_view text, std::size_t from, std::size_t to) const noexcept override;
    bool normalize(std::string_view text, std::string& out) const override;

  private:
    class Words;
    struct State;
    struct Missed;

    bool encode_words(std::string_view text, State& state, Ids& out) const;
    bool find_missed(std::span<Missed> missed, State& state) const;
    static void insert_missed(std::span<const Missed> missed, std::size_t from, Ids& out);
    static void keep_new(std::span<const Missed> missed, State& state);
    bool encode_bytes(std::string_view word, MergeTable::Scratch& scratch, std::vector<Id>& symbols,
                      Ids& out) const;

    Options options_;
    std::unique_ptr<Normalizer> normalizer_;
    MergeTable merges_;
    std::unique_ptr<const BytePairs> pairs_;
    std::unique_ptr<const Words> words_;  // words that are one token
};

}  // namespace penstock::text
