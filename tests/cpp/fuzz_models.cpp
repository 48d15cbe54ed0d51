// Models made of random bytes, and random texts through them: nothing crashes, reads past an end or hangs, and the
// ids of a text do not depend on what the thread's caches hold or on how much of the text is read.
//
//     fuzz_models 200           so many rounds from a fixed seed (what ctest runs)
//     fuzz_models FILE...       inputs from files, one round each
//
// With -DPENSTOCK_LIBFUZZER=ON and Clang it is a libFuzzer target. The first byte of an input chooses the family.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "text/byte_bpe.h"
#include "text/normalize.h"
#include "text/piece_bpe.h"
#include "text/tokenizer.h"
#include "text/unicode.h"
#include "text/unigram.h"
#include "text/utf8.h"
#include "text/wordpiece.h"

namespace text = penstock::text;

namespace {

[[noreturn]] void fail(const char* what) {
    std::fprintf(stderr, "failed: %s\n", what);
    std::abort();
}

// Reads an input as numbers and strings; beyond its end there are zeros.
class Input {
  public:
    Input(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {}

    std::size_t number(std::size_t below) { return below == 0 ? 0 : byte() % below; }
    bool flag() { return (byte() & 1) != 0; }
    std::size_t left() const { return static_cast<std::size_t>(end_ - at_); }

    // Some letters, digits, marks and spaces, and now and then a character of another script.
    std::string word(std::size_t longest) {
        static const char* const kinds[] = {"a",
                                            "b",
                                            "c",
                                            "s",
                                            "A",
                                            "'",
                                            " ",
                                            "\n",
                                            "1",
                                            ".",
                                            "\xe2\x96\x81",
                                            "\xc3\xa9",
                                            "\xe6\xb0\xb4",
                                            "\xcc\x81",
                                            "\xf0\x9f\x8c\x8a",
                                            "#"};
        std::string made;
        for (std::size_t count = number(longest + 1); count > 0; --count)
            made += kinds[byte() % std::size(kinds)];
        return made;
    }

    // All that is left, with what is no UTF-8 left out.
    std::string rest() {
        std::string made;
        while (at_ != end_) {
            const std::size_t length = text::sequence_length(*at_);
            const std::string_view bytes(reinterpret_cast<const char*>(at_), std::min(length, left()));
            if (text::is_utf8(bytes)) made += bytes;
            at_ += bytes.size();
        }
        return made;
    }

  private:
    std::uint8_t byte() { return at_ == end_ ? 0 : *at_++; }

    const std::uint8_t* at_;
    const std::uint8_t* end_;
};

struct Vocabulary {
    std::vector<std::string> tokens;
    std::vector<std::pair<std::string, std::string>> merges;

    std::vector<text::TokenIds::Token> with_ids() const {
        std::vector<text::TokenIds::Token> made;
        for (std::size_t id = 0; id < tokens.size(); ++id)
            made.emplace_back(tokens[id], static_cast<text::Id>(id));
        return made;
    }
    std::vector<text::MergePair> pairs() const { return {merges.begin(), merges.end()}; }

    // New tokens out of two old ones each.
    void grow(Input& input, std::size_t count) {
        std::set<std::string> known(tokens.begin(), tokens.end());
        for (; count > 0; --count) {
            const std::string left = tokens[input.number(tokens.size())],
                              right = tokens[input.number(tokens.size())];
            if (known.insert(left + right).second) tokens.push_back(left + right);
            merges.emplace_back(left, right);
        }
    }
};

text::Scheme scheme(Input& input) {
    const auto rule = [](std::size_t number) { return static_cast<text::Rule>(number); };
    const auto first_of_bytes = static_cast<std::size_t>(text::Rule::kByteDigit);
    std::vector<text::Rule> rules{rule(input.number(first_of_bytes))};
    while (rules.size() + 1 < text::Scheme::kMostRules && input.flag())
        rules.push_back(rule(input.number(first_of_bytes)));
    if (input.flag()) rules.push_back(rule(first_of_bytes + input.number(2)));
    return text::Scheme(std::move(rules));
}

std::unique_ptr<text::Model> byte_bpe(Input& input) {
    Vocabulary vocabulary;
    text::Rune next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {  // the printable form of each byte
        const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
        char bytes[4];
        vocabulary.tokens.emplace_back(bytes, text::encode(printable ? byte : next++, bytes));
    }
    std::rotate(vocabulary.tokens.begin(), vocabulary.tokens.begin() + 0x61, vocabulary.tokens.end());
    vocabulary.grow(input, input.number(60));
    const text::ByteBpe::Options options{scheme(input), input.flag(), input.flag()};
    auto normalizer = input.flag() ? text::make_form(text::Form::kNfc) : nullptr;
    return std::make_unique<text::ByteBpe>(vocabulary.with_ids(), vocabulary.pairs(), options,
                                           std::move(normalizer));
}

std::vector<std::string> words(Input& input) {
    std::set<std::string> made{"<unk>", "a", "b", " ", "\xe2\x96\x81", "\xe6\xb0\xb4"};
    for (std::size_t count = input.number(40); count > 0; --count) made.insert(input.word(6));
    made.erase("");
    return {made.begin(), made.end()};
}

std::optional<text::Metaspace> metaspace(Input& input) {
    if (!input.flag()) return std::nullopt;
    text::Metaspace made;
    made.prepend = static_cast<text::Metaspace::Prepend>(input.number(3));
    made.split = input.flag();
    return made;
}

std::unique_ptr<text::Model> piece_bpe(Input& input) {
    Vocabulary vocabulary;
    vocabulary.tokens = words(input);
    vocabulary.grow(input, input.number(40));
    text::PieceBpe::Options options;
    if (input.flag()) options.unk_token = "<unk>";
    options.fuse_unk = input.flag();
    options.byte_fallback = input.flag();
    options.ignore_merges = input.flag();
    options.prepend = input.flag();
    options.replace_spaces = input.flag();
    options.metaspace = metaspace(input);
    return std::make_unique<text::PieceBpe>(vocabulary.with_ids(), vocabulary.pairs(), options);
}

std::unique_ptr<text::Model> wordpiece(Input& input) {
    std::vector<std::pair<std::string, text::Id>> tokens{{"[UNK]", 0}};
    for (const std::string& word : words(input))
        tokens.emplace_back(word, static_cast<text::Id>(tokens.size()));
    for (const char* const word : {"##a", "##b", "##1", "##\xc3\xa9"}) {
        tokens.emplace_back(word, static_cast<text::Id>(tokens.size()));
    }
    text::WordPieceSettings settings;
    settings.max_input_chars_per_word = 1 + input.number(120);
    if (input.flag())
        settings.normalizer = text::BertSteps{input.flag(), input.flag(), input.flag(), input.flag()};
    return std::make_unique<text::WordPiece>(tokens, settings);
}

std::unique_ptr<text::Model> unigram(Input& input) {
    const std::vector<std::string> tokens = words(input);
    std::vector<text::Unigram::Piece> pieces;
    for (const std::string& token : tokens)
        pieces.push_back({token, -0.25 * static_cast<double>(input.number(40))});
    std::vector<text::Unigram::Step> steps;
    if (input.flag()) {
        steps.emplace_back();
        steps.back().words = text::make_form(text::Form::kNfkc);
    }
    if (input.flag()) {
        steps.emplace_back();
        steps.back().kind = text::Unigram::Step::Kind::kSpaces;
        steps.back().content = input.flag() ? " " : "\xe2\x96\x81";
    }
    text::Unigram::Options options;
    options.unk_id = 0;
    options.byte_fallback = input.flag();
    options.whitespace_split = input.flag();
    options.metaspace = metaspace(input);
    return std::make_unique<text::Unigram>(pieces, std::move(steps), options);
}

class Whole final : public text::Source {
  public:
    explicit Whole(std::string_view text) : text_(text) {}
    std::string_view head(std::size_t) override { return text_; }
    bool is_all() const noexcept override { return true; }

  private:
    std::string_view text_;
};

using Row = std::vector<text::Id>;

// The row, or one id that is none, if the text is not known exactly.
Row row_of(const text::Tokenizer& tokenizer, const std::string& words, std::optional<std::size_t> max_length,
           text::Workspace& workspace) {
    // A copy of just its size: a read past its end is seen.
    const std::unique_ptr<char[]> exact(new char[words.size()]);
    std::copy(words.begin(), words.end(), exact.get());
    Whole source({exact.get(), words.size()}), none("");
    text::Ids ids;
    const text::Frame frame{{{0, {}, 0}}, max_length, text::Side::right};
    if (tokenizer.encode_row(source, none, frame, workspace, ids, nullptr) != text::Outcome::done)
        return {-1};
    return {ids.data(), ids.data() + ids.size()};
}

void run(const std::uint8_t* data, std::size_t size) {
    Input input(data, size);
    std::unique_ptr<text::Model> model;
    try {
        switch (input.number(4)) {
            case 0:
                model = byte_bpe(input);
                break;
            case 1:
                model = piece_bpe(input);
                break;
            case 2:
                model = wordpiece(input);
                break;
            default:
                model = unigram(input);
        }
    } catch (const std::invalid_argument&) {
        return;  // refused, with a reason
    }
    std::vector<text::AddedToken> added;
    for (std::size_t count = input.number(3); count > 0; --count) {
        text::AddedToken token;
        token.content = input.word(4);
        token.id = static_cast<text::Id>(100'000 + count);
        token.single_word = input.flag();
        token.lstrip = input.flag();
        if (!token.content.empty()) added.push_back(token);
    }
    const text::Tokenizer tokenizer(std::move(model), text::AddedTokens(added), text::AddedTokens({}),
                                    text::AddedTokens({}));
    std::string words = input.word(60);
    words += input.rest();
    for (std::size_t times = input.number(2); times > 0; --times) words += words;

    const auto warm = tokenizer.borrow();
    const Row first = row_of(tokenizer, words, std::nullopt, *warm);
    if (row_of(tokenizer, words, std::nullopt, *warm) != first) fail("the second time the ids are others");
    for (const text::Id id : first) {
        if (id < -1 || id > 200'000) fail("an id that no token has");
    }
    const std::string many = words + " water falls " + words + " a wheel turns " + words;
    const auto fresh = tokenizer.borrow();
    const Row whole = row_of(tokenizer, many, std::nullopt, *fresh);
    if (row_of(tokenizer, many, std::nullopt, *warm) != whole) fail("the ids depend on what is in the cache");
    if (whole == Row{-1}) return;
    for (const std::size_t length : {std::size_t{1}, std::size_t{3}, whole.size() / 2 + 1}) {
        const Row cut = row_of(tokenizer, many, length, *warm);
        if (cut !=
            Row(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(std::min(length, whole.size())))) {
            fail("a text that is cut short does not begin like the whole");
        }
    }
}

}  // namespace

#if defined(PENSTOCK_LIBFUZZER)
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    run(data, size);
    return 0;
}
#else
int main(int argc, char** argv) {
    const int rounds = argc == 2 ? std::atoi(argv[1]) : 0;
    for (int i = 1; rounds == 0 && i < argc; ++i) {
        std::ifstream file(argv[i], std::ios::binary);
        const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
        run(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    }
    for (int round = 0; round < rounds; ++round) {
        std::mt19937 random(static_cast<std::uint32_t>(round));
        std::vector<std::uint8_t> bytes(random() % 700);
        for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random());
        if (bytes.size() > 0) bytes[0] = static_cast<std::uint8_t>(round);
        run(bytes.data(), bytes.size());
    }
    std::printf("%d rounds\n", rounds);
    return 0;
}
#endif
