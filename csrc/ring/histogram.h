// How durations are spread: counts by size, so that a median and a 99th percentile cost no list of samples.
//
// The buckets are those of HdrHistogram: up to 8 ns one for each, then eight for each power of two, so that a bucket
// is at most an eighth of its values wide.

#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace penstock {

// Any thread adds, any thread reads; neither blocks. A reader sees a moment that may be between two counts.
class Histogram {
  public:
    void add(std::uint64_t value) noexcept {
        counts_[bucket_of(value)].fetch_add(1, std::memory_order_relaxed);
    }

    // The middle of the bucket that holds the value which `share` (0 to 1) of all values do not exceed;
    // 0 if there are none.
    std::uint64_t quantile(double share) const noexcept {
        std::uint64_t total = 0;
        for (const auto& count : counts_) total += count.load(std::memory_order_relaxed);
        if (total == 0) return 0;
        const auto rank = static_cast<std::uint64_t>(std::ceil(share * static_cast<double>(total)));
        std::uint64_t seen = 0;
        std::size_t bucket = 0;
        for (; bucket + 1 < kBuckets; ++bucket) {
            seen += counts_[bucket].load(std::memory_order_relaxed);
            if (seen >= rank && seen > 0) break;
        }
        return middle_of(bucket);
    }

  private:
    static constexpr unsigned kStepBits = 3;
    static constexpr std::size_t kSteps = std::size_t{1} << kStepBits;
    static constexpr std::size_t kBuckets = (64 - kStepBits + 1) * kSteps;

    static std::size_t bucket_of(std::uint64_t value) noexcept {
        if (value < kSteps) return static_cast<std::size_t>(value);
        const unsigned shift = static_cast<unsigned>(std::bit_width(value)) - 1 - kStepBits;
        return (shift + 1) * kSteps + static_cast<std::size_t>((value >> shift) & (kSteps - 1));
    }

    static std::uint64_t middle_of(std::size_t bucket) noexcept {
        if (bucket < kSteps) return bucket;
        const auto shift = static_cast<unsigned>(bucket / kSteps) - 1;
        const std::uint64_t least = (kSteps + bucket % kSteps) << shift;
        return least + ((std::uint64_t{1} << shift) >> 1);
    }

    std::array<std::atomic<std::uint64_t>, kBuckets> counts_{};
};

}  // namespace penstock
