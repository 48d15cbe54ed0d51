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
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <mutex>
#include <thread>

#if defined(__linux__) && !defined(PENSTOCK_PORTABLE_PARK)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#define PENSTOCK_FUTEX 1
#else
#define PENSTOCK_FUTEX 0
#endif

namespace penstock {

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;

// One line of cache. A constant: std::hardware_destructive_interference_size changes with compiler flags.
inline constexpr std::size_t kCacheLine = 64;

// What an EventCount promises itself: the order of each access, and each step, by name. The tests weaken one at a
// time, to see that they notice. README.md has the reasons.
struct Wakes {
    static constexpr std::memory_order kAnnounce = std::memory_order_seq_cst;
    static constexpr std::memory_order kReadEpoch = std::memory_order_acquire;
    static constexpr std::memory_order kLookForSleepers = std::memory_order_seq_cst;
    static constexpr std::memory_order kTurnEpoch = std::memory_order_release;
    static constexpr bool kLooksAgain = true;   // between announcing a sleep and sleeping
    static constexpr bool kTurnsEpoch = true;   // so that who is not asleep yet hears the bell
    static constexpr bool kWakes = true;        // so that who is asleep hears it
    static constexpr bool kWakerQueues = true;  // for the mutex, where there is no futex
};

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

// A bed is where threads sleep on a word:
//     sleep()  blocks while the word says `key`, until wake_all() or the deadline (then false). Like every sleep
//              it may end for no reason, so the caller looks at the word again.
//     wake_all()  comes after a change of the word. A change between the sleeper's look and its sleep is not lost.

#if PENSTOCK_FUTEX
// The kernel's own: it compares the word and goes to sleep in one step.
class Futex {
  public:
    static_assert(sizeof(std::atomic<std::uint32_t>) == 4 && std::atomic<std::uint32_t>::is_always_lock_free,
                  "the kernel compares the futex word as four plain bytes");

    // WAIT_BITSET takes an absolute time on the clock of steady_clock, so an interrupted sleep (a signal) goes
    // back to bed without moving its deadline.
    static bool sleep(const std::atomic<std::uint32_t>& word, std::uint32_t key, Deadline deadline) noexcept {
        const timespec until = to_timespec(deadline);
        const long result = syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, key, &until, nullptr,
                                    FUTEX_BITSET_MATCH_ANY);
        return result != -1 || errno != ETIMEDOUT;
    }

    static void wake_all(const std::atomic<std::uint32_t>& word) noexcept {
        syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, std::numeric_limits<int>::max(), nullptr, nullptr, 0);
    }

  private:
    static timespec to_timespec(Deadline deadline) noexcept {
        using std::chrono::nanoseconds;
        const auto ns = std::chrono::duration_cast<nanoseconds>(deadline.time_since_epoch()).count();
        constexpr std::int64_t kSecond = 1'000'000'000;
        if (ns <= 0) return timespec{0, 0};
        return timespec{static_cast<time_t>(ns / kSecond), static_cast<long>(ns % kSecond)};
    }
};
#endif

// Elsewhere: a mutex and a condition variable, entered only by who sleeps and by who wakes a sleeper.
template <class P, class Mutex = std::mutex, class Condition = std::condition_variable>
class Dormitory {
  public:
    template <class Word>
    bool sleep(const Word& word, std::uint32_t key, Deadline deadline) {
        std::unique_lock lock(mutex_);
        if (word.load(std::memory_order_relaxed) != key) return true;
        return condition_.wait_until(lock, deadline) == std::cv_status::no_timeout;
    }

    template <class Word>
    void wake_all(const Word& /*word*/) {
        // Who is between its look and its sleep holds the mutex: queue behind it, or it sleeps through the call.
        if (P::kWakerQueues) const std::lock_guard queue(mutex_);
        condition_.notify_all();
    }

  private:
    Mutex mutex_;
    Condition condition_;
};

}  // namespace park

// What the ring and its bells run on. The tests put a scheduler in its place that decides who goes next, and
// which of the values that C++ allows a load returns.
struct Machine {
    template <class V>
    using Atomic = std::atomic<V>;
#if PENSTOCK_FUTEX
    template <class P>
    using Bed = park::Futex;
#else
    template <class P>
    using Bed = park::Dormitory<P>;
#endif
    static Deadline now() noexcept { return Clock::now(); }
    static int spin_rounds() { return park::spin_rounds(); }
};

// Any thread may call any method. Only sleep() and await() block. Nothing throws.
template <class P = Wakes, class M = Machine>
class BasicEventCount {
  public:
    using Key = std::uint32_t;

    BasicEventCount() = default;
    BasicEventCount(const BasicEventCount&) = delete;
    BasicEventCount& operator=(const BasicEventCount&) = delete;

    // Announces a sleeper. The caller looks at its condition after this, then calls sleep() or retire().
    Key prepare() noexcept {
        waiters_.fetch_add(1, P::kAnnounce);
        return epoch_.load(P::kReadEpoch);
    }

    // The condition turned out to be true: no sleep after all.
    void retire() noexcept { waiters_.fetch_sub(1, std::memory_order_relaxed); }

    // Blocks until a notify() that came after prepare(), or the deadline (then false).
    // The caller looks at its condition again either way, after another prepare() if it means to sleep again.
    bool sleep(Key key, Deadline deadline) noexcept {
        const bool rung = sleep_while(key, deadline);
        retire();
        return rung;
    }

    // Wakes every sleeper. The caller has changed the condition before, by a seq_cst write.
    void notify() noexcept {
        if (waiters_.load(P::kLookForSleepers) != 0) ring_bell();
    }

    // Blocks until ready() is true or the deadline has passed; returns what ready() said last.
    // ready() must read the condition by seq_cst loads and must not throw.
    template <class Ready>
    bool await(Ready ready, Deadline deadline) {
        for (int round = M::spin_rounds(); round > 0; --round) {
            if (ready()) return true;
            park::relax();
        }
        for (;;) {
            const Key key = prepare();
            if (P::kLooksAgain && ready()) {
                retire();
                return true;
            }
            if (!sleep(key, deadline)) return ready();
        }
    }

  private:
    // Relaxed: all that it says is that the bell rang, and who wants to sleep again calls prepare().
    bool sleep_while(Key key, Deadline deadline) noexcept {
        while (epoch_.load(std::memory_order_relaxed) == key) {
            if (!bed_.sleep(epoch_, key, deadline)) return false;
        }
        return true;
    }

    void ring_bell() noexcept {
        if (P::kTurnsEpoch) epoch_.fetch_add(1, P::kTurnEpoch);
        if (P::kWakes) bed_.wake_all(epoch_);
    }

    typename M::template Atomic<std::uint32_t> epoch_{0};  // the word to sleep on
    typename M::template Atomic<std::uint32_t> waiters_{0};
    [[no_unique_address]] typename M::template Bed<P> bed_;
};

using EventCount = BasicEventCount<>;

}  // namespace penstock
