// How often, and for how long, one side of a ring waited for the other.

#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <utility>

#include "ring/park.h"

namespace penstock {

// Written by the side that waits, read by anyone.
class Waits {
  public:
    // Adds the time of its own life.
    class Timer {
      public:
        explicit Timer(Waits& waits) : waits_(waits), start_(Clock::now()) {}
        ~Timer() {
            const auto waited = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start_);
            waits_.nanoseconds_.fetch_add(static_cast<std::uint64_t>(waited.count()),
                                          std::memory_order_relaxed);
        }
        Timer(const Timer&) = delete;
        Timer& operator=(const Timer&) = delete;

      private:
        Waits& waits_;
        Deadline start_;
    };

    // A wait for `ticket` begins, or goes on: a ticket counts once, however often its wait is resumed.
    [[nodiscard]] Timer begin(std::uint64_t ticket) {
        if (std::exchange(last_, ticket) != ticket) tickets_.fetch_add(1, std::memory_order_relaxed);
        return Timer(*this);
    }

    std::uint64_t tickets() const noexcept { return tickets_.load(std::memory_order_relaxed); }
    std::uint64_t nanoseconds() const noexcept { return nanoseconds_.load(std::memory_order_relaxed); }

  private:
    std::atomic<std::uint64_t> tickets_{0};
    std::atomic<std::uint64_t> nanoseconds_{0};
    std::uint64_t last_ = std::numeric_limits<std::uint64_t>::max();
};

}  // namespace penstock
