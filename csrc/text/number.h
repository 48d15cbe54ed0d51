// Numbers of a tokenizer.json, read as `tokenizers` reads them.
//
// Its JSON library (serde_json, without "float_roundtrip") does not always give the double that is nearest to the
// digits: it makes an integer of as many of them as 64 bits hold, and multiplies or divides that by a power of ten.
// The last bit of a score may decide between two ways to cut a word, so it has to be the same bit.

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string_view>

namespace penstock::text {

namespace number {

// The nearest doubles to the powers of ten.
inline double power_of_ten(int exponent) noexcept {
    static const auto* const powers = [] {
        static double made[309];
        for (int i = 0; i <= 308; ++i) {
            char text[8] = {'1',
                            'e',
                            static_cast<char>('0' + i / 100),
                            static_cast<char>('0' + i / 10 % 10),
                            static_cast<char>('0' + i % 10),
                            '\0'};
            made[i] = std::strtod(text, nullptr);
        }
        return made;
    }();
    return powers[exponent];
}

}  // namespace number

// `text` is a number as JSON writes it, with a fraction or an exponent. NaN: too large.
inline double parse_number(std::string_view text) noexcept {
    constexpr std::int64_t kFar = 100'000;  // an exponent that nothing makes up for
    const bool is_negative = text.starts_with('-');
    std::uint64_t digits = 0;
    std::int64_t exponent = 0;
    std::size_t at = is_negative ? 1 : 0;
    bool is_full = false;
    bool is_fraction = false;
    for (; at < text.size(); ++at) {
        if (text[at] == '.') {
            is_fraction = true;
            continue;
        }
        if (text[at] < '0' || text[at] > '9') break;
        const auto digit = static_cast<std::uint64_t>(text[at] - '0');
        constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
        is_full = is_full || digits > kMost / 10 || (digits == kMost / 10 && digit > kMost % 10);
        if (!is_full) {
            digits = digits * 10 + digit;
            exponent -= is_fraction;
        } else {
            exponent += !is_fraction;
        }
    }
    if (at < text.size()) {  // e
        ++at;
        const bool is_small = at < text.size() && text[at] == '-';
        if (at < text.size() && (text[at] == '-' || text[at] == '+')) ++at;
        std::int64_t given = 0;
        for (; at < text.size(); ++at) given = given > kFar ? given : given * 10 + (text[at] - '0');
        exponent += is_small ? -given : given;
    }
    double value = static_cast<double>(digits);
    while (exponent < -308 && value != 0) {
        value /= 1e308;
        exponent += 308;
    }
    if (value != 0) {
        if (exponent > 308) return std::numeric_limits<double>::quiet_NaN();
        value = exponent >= 0 ? value * number::power_of_ten(static_cast<int>(exponent))
                              : value / number::power_of_ten(static_cast<int>(-exponent));
        if (std::isinf(value)) return std::numeric_limits<double>::quiet_NaN();
    }
    return is_negative ? -value : value;
}

}  // namespace penstock::text
