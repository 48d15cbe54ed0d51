// What csrc/ring runs on, under sched.h: a clock, beds, a mutex and a condition variable. And how the threads of
// a scene hand things to each other outside the ring.

#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>

#include "ring/park.h"
#include "sched_memory.h"

namespace sched {

inline constexpr penstock::Deadline kForever = penstock::Deadline::max();

// Who sleeps in one place.
class Sleepers {
  public:
    // The caller has nothing between its last look and this.
    bool sleep(const char* bed, penstock::Deadline deadline) {
        asleep_.push_back(world.id());
        const bool woken = world.sleep(bed, deadline != kForever);
        std::erase(asleep_, world.id());
        return woken;
    }
    void wake_all() {
        for (const unsigned id : asleep_) world.wake(id);
    }

  private:
    std::vector<unsigned> asleep_;
};

// A futex. The kernel's lock orders what the kernel itself sees of the word; to the program a wake-up says nothing.
class Futex {
  public:
    bool sleep(const Atomic<std::uint32_t>& word, std::uint32_t key, penstock::Deadline deadline) {
        world.point();
        join(kernel_, world.self().clock);
        const std::uint32_t value = word.load_as(kernel_);
        if (world.tracing) world.note("futex: the word says %u%s", value, value == key ? ", sleeps" : "");
        return value != key || sleepers_.sleep("futex", deadline);
    }

    void wake_all(const Atomic<std::uint32_t>& /*word*/) {
        world.point();
        join(kernel_, world.self().clock);
        if (world.tracing) world.note("futex: wakes all");
        sleepers_.wake_all();
    }

  private:
    VectorClock kernel_{};
    Sleepers sleepers_;
};

class Mutex {
  public:
    void lock() {
        world.point();
        while (held_) waiting_.sleep("mutex", kForever);
        held_ = true;
        join(world.self().clock, clock_);
        world.self().sc_view = std::max(world.self().sc_view, sc_view_);
        if (world.tracing) world.note("locks");
    }
    void unlock() {
        world.point();
        release();
    }

  private:
    friend class Condition;
    void release() {
        if (world.tracing) world.note("unlocks");
        join(clock_, world.self().clock);
        sc_view_ = std::max(sc_view_, world.self().sc_view);
        held_ = false;
        waiting_.wake_all();
    }

    bool held_ = false;
    VectorClock clock_{};
    std::uint32_t sc_view_ = 0;
    Sleepers waiting_;
};

class Condition {
  public:
    std::cv_status wait_until(std::unique_lock<Mutex>& lock, penstock::Deadline deadline) {
        world.point();
        lock.mutex()->release();
        const bool woken = sleepers_.sleep("condition", deadline);
        lock.mutex()->lock();
        return woken ? std::cv_status::no_timeout : std::cv_status::timeout;
    }
    void notify_all() {
        world.point();
        if (world.tracing) world.note("notifies all");
        sleepers_.wake_all();
    }

  private:
    Sleepers sleepers_;
};

// penstock::Machine, here.
struct Machine {
    template <class V>
    using Atomic = sched::Atomic<V>;
    template <class P>
    using Bed = Futex;
    static penstock::Deadline now() {
        return penstock::Deadline(std::chrono::nanoseconds(static_cast<std::int64_t>(world.steps())));
    }
    static int spin_rounds() { return spins; }
    static inline int spins = 0;
};

// The same where there is no futex.
struct PortableMachine : Machine {
    template <class P>
    using Bed = penstock::park::Dormitory<P, Mutex, Condition>;
};

// Hands values over, and with them all that the giver knows, as a queue with a mutex does.
template <class V>
class Channel {
  public:
    void put(V value) {
        world.point();
        queue_.push_back(value);
        tell();
    }
    void finish() {
        world.point();
        finished_ = true;
        tell();
    }
    // Blocks until there is one; none once finished and empty.
    std::optional<V> get() {
        world.point();
        while (queue_.empty() && !finished_) waiting_.sleep("channel", kForever);
        join(world.self().clock, clock_);
        world.self().sc_view = std::max(world.self().sc_view, sc_view_);
        if (queue_.empty()) return std::nullopt;
        const V value = queue_.front();
        queue_.pop_front();
        return value;
    }

  private:
    void tell() {
        join(clock_, world.self().clock);
        sc_view_ = std::max(sc_view_, world.self().sc_view);
        waiting_.wake_all();
    }

    std::deque<V> queue_;
    bool finished_ = false;
    VectorClock clock_{};
    std::uint32_t sc_view_ = 0;
    Sleepers waiting_;
};

}  // namespace sched
