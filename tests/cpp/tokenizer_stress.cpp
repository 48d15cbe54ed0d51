// Many threads, one tokenizer: what each makes is what one thread alone makes. For ThreadSanitizer.

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "text/tokenizer.h"
#include "text/wordpiece.h"

namespace text = penstock::text;

namespace {

std::unique_ptr<text::Model> model() {
    std::vector<std::pair<std::string, text::Id>> tokens;
    for (const char* token :
         {"[UNK]", "the", "water", "fall", "##s", "a", "##b", "##c", "wheel", "##\xc3\xa9", "."}) {
        tokens.emplace_back(token, static_cast<text::Id>(tokens.size()));
    }
    return std::make_unique<text::WordPiece>(tokens, text::WordPieceSettings{});
}

std::vector<text::Id> ids_of(const text::Tokenizer& tokenizer, const std::string& words) {
    auto workspace = tokenizer.borrow();
    text::Ids ids;
    CHECK(tokenizer.encode(words, *workspace, ids));
    tokenizer.give_back(std::move(workspace));
    return {ids.data(), ids.data() + ids.size()};
}

}  // namespace

TEST(threads_that_share_a_tokenizer_do_not_disturb_each_other) {
    const text::Tokenizer tokenizer(model(), text::AddedTokens({}), text::AddedTokens({}),
                                    text::AddedTokens({}));
    std::vector<std::string> texts;
    std::vector<std::vector<text::Id>> alone;
    for (int i = 0; i < 40; ++i) {
        std::string words = "The water falls. ";
        for (int j = 0; j < i; ++j)
            words += std::string(static_cast<std::size_t>(j % 17), 'b') +
                     "ab wh\xc3\xa9"
                     "el ";
        texts.push_back(words);
        alone.push_back(ids_of(tokenizer, words));
    }
    std::vector<int> wrong(4, 0);
    std::vector<std::thread> threads;
    for (std::size_t number = 0; number < wrong.size(); ++number) {
        threads.emplace_back([&, number] {
            for (std::size_t turn = 0; turn < 400; ++turn) {
                const std::size_t at = (turn * (number + 1)) % texts.size();
                wrong[number] += ids_of(tokenizer, texts[at]) != alone[at];
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    for (const int count : wrong) CHECK(count == 0);
}

CHECK_MAIN()
