// How often, and for how long, one side of a ring waited for the other.

#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <utility>

#include "ring/histogram.h"
#include "ring/park.h"

namespace penstock {

// Written by the side that waits, read by anyone.
class Waits {
  public:
    // Returns wait(), which waits for `ticket` or goes on waiting for it, and counts its time. Blocks as it does. A
    // ticket counts as one wait, however often it is resumed, and the wait is over once wait() returned true.
    template <class Wait>
    bool time(std::uint64_t ticket, Wait wait) {
        if (std::exchange(last_, ticket) != ticket) tickets_.fetch_add(1, std::memory_order_relaxed);
        const Deadline start = Clock::now();
        const bool is_over = wait();
        const auto waited = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start);
        current_ += static_cast<std::uint64_t>(waited.count());
        nanoseconds_.fetch_add(static_cast<std::uint64_t>(waited.count()), std::memory_order_relaxed);
        if (is_over) by_size_.add(std::exchange(current_, 0));
        return is_over;
    }

    std::uint64_t tickets() const noexcept { return tickets_.load(std::memory_order_relaxed); }
    std::uint64_t nanoseconds() const noexcept { return nanoseconds_.load(std::memory_order_relaxed); }

    // Nanoseconds that `share` of the waits that are over did not exceed, to within a sixteenth.
    std::uint64_t quantile(double share) const noexcept { return by_size_.quantile(share); }

  private:
    std::atomic<std::uint64_t> tickets_{0};
    std::atomic<std::uint64_t> nanoseconds_{0};
    Histogram by_size_;
    std::uint64_t last_ = std::numeric_limits<std::uint64_t>::max();  // these two are the waiting side's own
    std::uint64_t current_ = 0;
};

}  // namespace penstock
