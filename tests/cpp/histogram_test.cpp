// csrc/ring/histogram.h, beside a sorted list of the same values.

#include "ring/histogram.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "check.h"

using penstock::Histogram;

namespace {

std::uint64_t exact(const std::vector<std::uint64_t>& sorted, double share) {
    const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(sorted.size())));
    return sorted[rank == 0 ? 0 : rank - 1];
}

bool is_near(std::uint64_t found, std::uint64_t expected) {
    const std::uint64_t off = found > expected ? found - expected : expected - found;
    return off <= expected / 16;
}

}  // namespace

TEST(an_empty_histogram_says_zero) {
    const Histogram histogram;
    CHECK(histogram.quantile(0.5) == 0);
}

TEST(one_value_is_every_quantile) {
    for (unsigned bit = 0; bit < 64; ++bit) {
        for (const std::uint64_t value : {(std::uint64_t{1} << bit) - 1, std::uint64_t{1} << bit}) {
            Histogram histogram;
            histogram.add(value);
            for (const double share : {0.0, 0.5, 0.99, 1.0}) CHECK(is_near(histogram.quantile(share), value));
        }
    }
    Histogram largest;
    largest.add(std::numeric_limits<std::uint64_t>::max());
    CHECK(is_near(largest.quantile(1.0), std::numeric_limits<std::uint64_t>::max()));
}

TEST(small_values_are_exact) {
    Histogram histogram;
    for (std::uint64_t value = 0; value < 16; ++value) histogram.add(value);
    CHECK(histogram.quantile(0.25) == 3);
    CHECK(histogram.quantile(1.0) == 15);
}

TEST(quantiles_are_those_of_the_sorted_values_to_within_a_sixteenth) {
    std::mt19937_64 random(1);
    std::lognormal_distribution<double> waits(12, 2);
    Histogram histogram;
    std::vector<std::uint64_t> values;
    for (int count = 0; count < 20'000; ++count) {
        values.push_back(static_cast<std::uint64_t>(waits(random)));
        histogram.add(values.back());
    }
    std::sort(values.begin(), values.end());
    for (const double share : {0.01, 0.1, 0.5, 0.9, 0.99, 0.999}) {
        CHECK(is_near(histogram.quantile(share), exact(values, share)));
    }
}

CHECK_MAIN()
