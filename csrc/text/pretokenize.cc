#include "text/pretokenize.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace penstock::text {
namespace {

constexpr std::ptrdiff_t kShort = 8;  // a piece that is not worth a block of the scanner

bool is_scheme(Rule rule) noexcept { return static_cast<std::size_t>(rule) < kNumSchemes; }

}  // namespace

Scheme::Scheme(std::vector<Rule> rules) : rules_(std::move(rules)) {
    if (rules_.empty() || rules_.size() > kMostRules)
        throw std::invalid_argument("a pre_tokenizer of no steps, or of more than 8");
}

// No letter is in a match together with what may follow here, in a whole scheme or in kLetters. And no rule before
// that one sees the end of the text where it would be cut: their matches are runs of one kind of characters, and a
// run that is cut short is still one.
bool Scheme::ends_behind_letters() const noexcept {
    return std::ranges::any_of(rules_, [](Rule rule) { return is_scheme(rule) || rule == kLetters; });
}

WordFinder::WordFinder(const Scheme& scheme, std::string_view text, const Scanner& scanner) noexcept
    : rules_(scheme.rules()),
      find_(is_scheme(rules_.back()) ? scanner.finds[static_cast<std::size_t>(rules_.back())] : nullptr),
      at_(text.data()),
      end_(text.data() + text.size()) {
    for (std::size_t i = 0; i + 1 < rules_.size(); ++i) piece_ends_[i] = at_;
}

std::size_t WordFinder::next(std::uint32_t* ends, std::size_t capacity) noexcept {
    const char* const begin = at_;
    const Rule last = rules_.back();
    std::size_t count = 0;
    while (at_ < end_ && capacity - count >= kLeastWords) {
        const char* piece = end_;
        for (std::size_t i = 0; i + 1 < rules_.size(); ++i) {
            if (piece_ends_[i] == at_) piece_ends_[i] = rule_end(rules_[i], at_, piece);
            piece = piece_ends_[i];
        }
        if (find_ != nullptr && piece - at_ > kShort) {
            count += find_(begin, at_, piece, ends + count, capacity - count);
            at_ = begin + ends[count - 1];
            continue;
        }
        while (at_ < piece && count < capacity) {
            at_ = rule_end(last, at_, piece);
            ends[count++] = static_cast<std::uint32_t>(at_ - begin);
        }
    }
    return count;
}

}  // namespace penstock::text
