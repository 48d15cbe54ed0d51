// Sleeping until somebody says that something has changed.
//
// An EventCount is the bell beside a condition that lives elsewhere, in atomics:
//
//     sleeper                                   whoever changes the condition
//     -------                                   -----------------------------
//     prepare():  waiters += 1                  condition := true
//     looks at the condition once more          notify(): looks at waiters
//     false: sleep(key)    true: retire()                 none: done   some: epoch += 1, wake
//
// Each side writes first and looks second, at the other's word. If all four accesses are sequentially
// consistent, at least one side sees the other (a Dekker pair), so a wake-up is never lost. With
// release/acquire alone, both may read the old value: the sleeper sleeps and nobody rings.
// The bell costs a notifier one load while nobody sleeps. No fences: ThreadSanitizer cannot see them.

#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <thread>

#if defined(__linux__) && !defined(PENSTOCK_PORTABLE_PARK)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#define PENSTOCK_FUTEX 1
#else
#include <condition_variable>
#include <mutex>
#define PENSTOCK_FUTEX 0
#endif

namespace penstock {

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;

// One line of cache. A constant: std::hardware_destructive_interference_size changes with compiler flags.
inline constexpr std::size_t kCacheLine = 64;

namespace park {

// How often to look again before sleeping: a few microseconds' worth, about the price of a wake-up.
// On one or two cores the other side needs this core to make progress, so there is no spinning at all.
inline int spin_rounds() {
    static const int rounds = std::thread::hardware_concurrency() <= 2 ? 0 : 200;
    return rounds;
}

// Tells the core that this is a spinning loop.
inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace park

// Any thread may call any method. Only sleep() and await() block. Nothing throws.
class EventCount {
  public:
    using Key = std::uint32_t;

    EventCount() = default;
    EventCount(const EventCount&) = delete;
    EventCount& operator=(const EventCount&) = delete;

    // Announces a sleeper. The caller looks at its condition after this, then calls sleep() or retire().
    Key prepare() noexcept {
        waiters_.fetch_add(1, std::memory_order_seq_cst);
        return epoch_.load(std::memory_order_acquire);
    }

    // The condition turned out to be true: no sleep after all.
    void retire() noexcept { waiters_.fetch_sub(1, std::memory_order_relaxed); }

    // Blocks until a notify() that came after prepare(), or the deadline (then false).
    // The caller looks at its condition again either way.
    bool sleep(Key key, Deadline deadline) noexcept {
        const bool rung = sleep_while(key, deadline);
        retire();
        return rung;
    }

    // Wakes every sleeper. The caller has changed the condition before, by a seq_cst write.
    void notify() noexcept {
        if (waiters_.load(std::memory_order_seq_cst) != 0) ring_bell();
    }

    // Blocks until ready() is true or the deadline has passed; returns what ready() said last.
    // ready() must read the condition by seq_cst loads and must not throw.
    template <class Ready>
    bool await(Ready ready, Deadline deadline) {
        for (int round = park::spin_rounds(); round > 0; --round) {
            if (ready()) return true;
            park::relax();
        }
        for (;;) {
            const Key key = prepare();
            if (ready()) {
                retire();
                return true;
            }
            if (!sleep(key, deadline)) return ready();
        }
    }

  private:
    std::atomic<std::uint32_t> epoch_{0};  // the futex word
    std::atomic<std::uint32_t> waiters_{0};

#if PENSTOCK_FUTEX
    static_assert(sizeof(std::atomic<std::uint32_t>) == 4 && std::atomic<std::uint32_t>::is_always_lock_free,
                  "the kernel compares the futex word as four plain bytes");

    // The kernel sleeps only while the word still equals key, so a bell between prepare() and here counts.
    bool sleep_while(Key key, Deadline deadline) noexcept {
        const timespec until = to_timespec(deadline);
        while (epoch_.load(std::memory_order_acquire) == key) {
            // WAIT_BITSET takes an absolute time on the clock of steady_clock, so an interrupted sleep
            // (a signal) goes back to bed without moving its deadline.
            const long result = syscall(SYS_futex, &epoch_, FUTEX_WAIT_BITSET_PRIVATE, key, &until, nullptr,
                                        FUTEX_BITSET_MATCH_ANY);
            if (result == -1 && errno == ETIMEDOUT) return false;
        }
        return true;
    }

    void ring_bell() noexcept {
        epoch_.fetch_add(1, std::memory_order_release);
        syscall(SYS_futex, &epoch_, FUTEX_WAKE_PRIVATE, std::numeric_limits<int>::max(), nullptr, nullptr, 0);
    }

    static timespec to_timespec(Deadline deadline) noexcept {
        using std::chrono::nanoseconds;
        const auto ns = std::chrono::duration_cast<nanoseconds>(deadline.time_since_epoch()).count();
        constexpr std::int64_t kSecond = 1'000'000'000;
        if (ns <= 0) return timespec{0, 0};
        return timespec{static_cast<time_t>(ns / kSecond), static_cast<long>(ns % kSecond)};
    }
#else
    // Elsewhere: a mutex and a condition variable, entered only by who sleeps and by who wakes a sleeper.
    bool sleep_while(Key key, Deadline deadline) noexcept {
        std::unique_lock lock(mutex_);
        return bell_.wait_until(lock, deadline,
                                [&] { return epoch_.load(std::memory_order_acquire) != key; });
    }

    void ring_bell() noexcept {
        {
            const std::lock_guard lock(mutex_);
            epoch_.fetch_add(1, std::memory_order_release);
        }
        bell_.notify_all();
    }

    std::mutex mutex_;
    std::condition_variable bell_;
#endif
};

}  // namespace penstock
