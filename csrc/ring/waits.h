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
template <class M = Machine>
class BasicWaits {
  public:
    // Returns wait(), which waits for `ticket` or goes on waiting for it, and counts its time. Blocks as it does. A
    // ticket counts as one wait, however often it is resumed, and the wait is over once wait() returned true.
    template <class Wait>
    bool time(std::uint64_t ticket, Wait wait) {
        if (std::exchange(last_, ticket) != ticket) tickets_.fetch_add(1, std::memory_order_relaxed);
        const Deadline start = M::now();
        const bool is_over = wait();
        const auto waited = std::chrono::duration_cast<std::chrono::nanoseconds>(M::now() - start);
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
    typename M::template Atomic<std::uint64_t> tickets_{0};
    typename M::template Atomic<std::uint64_t> nanoseconds_{0};
    Histogram by_size_;  // of plain atomics: it orders nothing, and is no step of the protocol
    std::uint64_t last_ = std::numeric_limits<std::uint64_t>::max();  // these two are the waiting side's own
    std::uint64_t current_ = 0;
};

using Waits = BasicWaits<>;

}  // namespace penstock
