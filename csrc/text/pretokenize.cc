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
    has_whole_ = std::ranges::any_of(rules_, is_scheme);
    has_single_numbers_ =
        has_whole_ && (rules_.front() == kNumber || std::ranges::any_of(rules_, [](Rule rule) {
                           return rule == kQwen2 || rule == kQwen35 || rule == kTekken;
                       }));
    has_letters_ = std::ranges::find(rules_, kLetters) != rules_.end();
    has_numbers_ =
        std::ranges::any_of(rules_, [](Rule rule) { return is_scheme(rule) && rule != kDeepSeekV3; }) ||
        (has_whole_ && (rules_.front() == kNumber || rules_.front() == kThreeNumbers));
}

// A whole scheme first. Its regex takes what begins a match by one of these, and no match reaches over the place:
//
//   - Before white space but newlines. Only matches of nothing but white space have any behind their first character,
//     and the left character is none.
//   - At a number, and behind one. A match with numbers is numbers alone, or a space and numbers (kGpt2); nothing else has
//     one, not even as its first character. But kDeepSeekV3 knows no numbers: it may only stand behind a rule that takes
//     them out.
//   - Between two numbers, if each is a match of its own.
//   - Between a letter and punctuation, the apostrophe of a contraction left out.
//
// What is before is the same whatever comes behind, as no regex looks ahead but for the end of white space, and a match
// that has all its characters before the place, or is cut there, ends there: each repetition takes as many as there are.
// Nor does a rule before the scheme see the end of the text at the place: its matches are runs of one kind of characters,
// counted from where they begin, and a run that is cut short is still one. Rules behind it cut its words.
//
// kLetters has no white space nor punctuation behind a letter, either, and the rules before it are of the same kind.
bool Scheme::splits(Rune left, Rune right) const noexcept {
    if (!has_whole_ && !has_letters_) return false;
    const std::uint32_t before = classes(left);
    const std::uint32_t behind = classes(right);
    if ((before & kSpace) != 0) return false;
    if ((before & kLetter) != 0 && right != '\'' && (behind & (kLetter | Class::kNumber | kMark)) == 0 &&
        (behind & (Class::kPunctuation | kSpace)) != 0)
        return true;
    if (!has_whole_) return false;
    if ((behind & kSpace) != 0 && right != '\n' && right != '\r') return true;
    if ((before & behind & Class::kNumber) != 0) return has_single_numbers_;
    return has_numbers_ && ((before & Class::kNumber) != 0) != ((behind & Class::kNumber) != 0);
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
