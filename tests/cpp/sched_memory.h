// Atomics and plain memory as C++ allows them to behave, for threads of sched.h.
//
// Every location keeps all the values that it ever had, in their order. A load may return any of them that the
// rules leave: not one older than a store or load of the same location that happens before it, and for
// seq_cst, what the one order of all seq_cst accesses leaves. What happens before what is kept in vector clocks:
// an acquire that reads a release learns all that its writer knew. So a missing order shows itself as an old
// value, or as a race on plain memory, on any processor.
//
// The order of seq_cst accesses is the order in which they run, except that a load may take a place as early as
// its own thread allows: after the seq_cst accesses that are before it in its thread, or strongly happen before.
// So, as on real machines, it may come before an earlier weaker load. Not shown: stores of one location in another
// order than the one they ran in, and values out of a load's own future. No fences: the ring has none.

#pragma once

#include <atomic>

#include "sched.h"

namespace sched {

class Location {
  public:
    void reset(std::uint64_t value) {
        stores_.clear();
        for (auto& events : events_) events.clear();
        sc_.clear();
        stores_.push_back({value, {}, 0});
        remember(0);
    }

    std::uint64_t load(std::memory_order order) {
        const std::size_t index = choose(order);
        read(index, order);
        return stores_[index].value;
    }

    void store(std::uint64_t value, std::memory_order order) {
        append({value, released(order), view_released(order)}, order);
    }

    // Reads the newest value and writes value, in one step.
    void exchange(std::uint64_t value, std::memory_order order) {
        const Store& last = stores_.back();
        // Who reads what a read-modify-write wrote also acquires from what that one read (a release sequence).
        VectorClock clock = last.clock;
        std::uint32_t view = std::max(last.sc_view, view_released(order));
        if (acquires(order)) learn(last);
        join(clock, released(order));
        append({value, clock, view}, order);
    }

    std::uint64_t newest() const { return stores_.back().value; }

    // The place in stores_ of a value that a load may return.
    std::size_t choose(std::memory_order order) {
        const std::size_t oldest =
            std::max(visible(world.self().clock), order == std::memory_order_seq_cst ? sc_visible() : 0);
        return pick(oldest, last());
    }

    void read(std::size_t index, std::memory_order order) {
        remember(index);
        if (order == std::memory_order_seq_cst) take_place(index);
        if (acquires(order)) learn(stores_[index]);
        if (world.tracing) age_ = last() - index;
    }

    std::size_t last() const { return stores_.size() - 1; }
    std::uint64_t at(std::size_t index) const { return stores_[index].value; }

    // A load by the system, in a thread that knows what `clock` knows.
    std::uint64_t load_as(const VectorClock& clock) {
        const std::size_t index = pick(visible(clock), last());
        remember(index);
        return stores_[index].value;
    }

    std::size_t age() const { return age_; }  // of the value that was read last: 0 is the newest

    static bool acquires(std::memory_order order) {
        return order == std::memory_order_acquire || order == std::memory_order_acq_rel ||
               order == std::memory_order_seq_cst;
    }
    static bool releases(std::memory_order order) {
        return order == std::memory_order_release || order == std::memory_order_acq_rel ||
               order == std::memory_order_seq_cst;
    }

  private:
    struct Store {
        std::uint64_t value;
        VectorClock clock;      // what a reader that acquires learns
        std::uint32_t sc_view;  // and the place in the order of seq_cst that is then before it
    };
    struct Event {  // a thread read or wrote stores_[index] at its time
        std::uint32_t time;
        std::uint32_t index;
    };
    struct ScEvent {  // a seq_cst access of stores_[index]; both numbers grow
        std::uint32_t place;
        std::uint32_t index;
    };

    static VectorClock released(std::memory_order order) {
        return releases(order) ? world.self().clock : VectorClock{};
    }
    // Without the store itself: "strongly happens before" needs a step between, or seq_cst on both sides.
    static std::uint32_t view_released(std::memory_order order) {
        return releases(order) ? world.self().sc_view : 0;
    }

    static void learn(const Store& store) {
        join(world.self().clock, store.clock);
        world.self().sc_view = std::max(world.self().sc_view, store.sc_view);
    }

    void append(const Store& store, std::memory_order order) {
        stores_.push_back(store);
        const auto index = static_cast<std::uint32_t>(last());
        remember(index);
        if (order == std::memory_order_seq_cst) {
            sc_.push_back({++world.sc_count, index});
            world.self().sc_view = world.sc_count;
        }
        age_ = 0;
    }

    // This thread reads or writes stores_[index] now.
    void remember(std::size_t index) {
        std::vector<Event>& events = events_[world.id()];
        const std::uint32_t now = ++world.self().clock[world.id()];
        if (!events.empty() && events.back().index == index) return;  // its earlier time says more
        events.push_back({now, static_cast<std::uint32_t>(index)});
    }

    // The oldest value that somebody who knows this much may still read.
    std::size_t visible(const VectorClock& clock) const {
        std::size_t oldest = 0;
        for (unsigned i = 0; i < kThreads; ++i) {
            for (std::size_t k = events_[i].size(); k-- > 0;) {
                if (events_[i][k].time > clock[i]) continue;
                oldest = std::max<std::size_t>(oldest, events_[i][k].index);
                break;
            }
        }
        return oldest;
    }

    // The oldest value for a seq_cst load at the earliest place that its thread allows.
    std::size_t sc_visible() const {
        for (std::size_t k = sc_.size(); k-- > 0;) {
            if (sc_[k].place <= world.self().sc_view) return sc_[k].index;
        }
        return 0;
    }

    // The load takes its place: after all of this location's that saw no newer value, before the others.
    void take_place(std::size_t index) {
        std::uint32_t place = world.self().sc_view;
        std::size_t k = sc_.size();
        while (k > 0 && sc_[k - 1].index > index) --k;
        if (k > 0) place = std::max(place, sc_[k - 1].place);
        sc_.insert(sc_.begin() + static_cast<std::ptrdiff_t>(k), {place, static_cast<std::uint32_t>(index)});
        world.self().sc_view = place;
    }

    static std::size_t pick(std::size_t oldest, std::size_t newest) {
        if (oldest == newest || world.staleness == 0 || !world.random.one_in(world.staleness)) return newest;
        return oldest + world.random.below(static_cast<unsigned>(newest - oldest + 1));
    }

    std::vector<Store> stores_;
    std::array<std::vector<Event>, kThreads> events_;
    std::vector<ScEvent> sc_;
    std::size_t age_ = 0;
};

// All locations of a schedule, in the order of their making.
class Memory {
  public:
    std::size_t make(std::uint64_t value) {
        renew();
        if (count_ == locations_.size()) locations_.push_back(std::make_unique<Location>());
        locations_[count_]->reset(value);
        return count_++;
    }
    Location& at(std::size_t id) { return *locations_[id]; }

    // Names for a trace, in the order of making.
    void name(std::vector<std::string> names) { names_ = std::move(names); }
    std::string name_of(std::size_t id) const {
        return id < names_.size() ? names_[id] : "word " + std::to_string(id);
    }

    // An access to plain memory. Two of them, one a write, must not be unordered. Not a point where the scheduler
    // chooses: the clocks tell whether two accesses were ordered, whichever ran first.
    void touch(const void* address, bool writes) {
        if (world.is_over()) return;
        renew();
        Plain& plain = plain_at(address);
        VectorClock& clock = world.self().clock;
        ++clock[world.id()];
        for (unsigned i = 0; i < kThreads; ++i) {
            const bool race = plain.writes[i] > clock[i] || (writes && plain.reads[i] > clock[i]);
            if (race && i != world.id()) world.fail("data race");
        }
        (writes ? plain.writes : plain.reads)[world.id()] = clock[world.id()];
    }

  private:
    struct Plain {
        const void* address;
        VectorClock writes{};
        VectorClock reads{};
    };
    void renew() {
        if (std::exchange(generation_, world.generation) == world.generation) return;
        count_ = 0;
        names_.clear();
        plain_.clear();
    }
    Plain& plain_at(const void* address) {
        for (Plain& plain : plain_) {
            if (plain.address == address) return plain;
        }
        plain_.push_back({address});
        return plain_.back();
    }

    std::uint64_t generation_ = 0;
    std::size_t count_ = 0;
    std::vector<std::unique_ptr<Location>> locations_;
    std::vector<std::string> names_;
    std::vector<Plain> plain_;
};

inline Memory memory;

inline void plain_read(const void* address) { memory.touch(address, false); }
inline void plain_write(const void* address) { memory.touch(address, true); }

// In the place of std::atomic.
template <class V>
class Atomic {
  public:
    Atomic() : Atomic(V{}) {}
    Atomic(V value) : id_(memory.make(static_cast<std::uint64_t>(value))) {}  // NOLINT: as std::atomic has it
    Atomic(const Atomic&) = delete;
    Atomic& operator=(const Atomic&) = delete;

    V load(std::memory_order order) const {
        world.point();
        const V value = static_cast<V>(here().load(order));
        note("load", order, value);
        return value;
    }

    void store(V value, std::memory_order order) {
        world.point();
        here().store(static_cast<std::uint64_t>(value), order);
        note("store", order, value);
    }

    V exchange(V value, std::memory_order order) {
        return update("exchange", order, [&](V) { return value; });
    }
    V fetch_add(V amount, std::memory_order order) {
        return update("add", order, [&](V old) { return static_cast<V>(old + amount); });
    }
    V fetch_sub(V amount, std::memory_order order) {
        return update("subtract", order, [&](V old) { return static_cast<V>(old - amount); });
    }
    V fetch_or(V flags, std::memory_order order) {
        return update("or", order, [&](V old) { return static_cast<V>(old | flags); });
    }

    bool compare_exchange_strong(V& expected, V desired, std::memory_order success,
                                 std::memory_order failure) {
        return compare_exchange(expected, desired, success, failure, false);
    }
    bool compare_exchange_weak(V& expected, V desired, std::memory_order success, std::memory_order failure) {
        return compare_exchange(expected, desired, success, failure, world.random.one_in(8));
    }

    // What the system sees that knows `clock`.
    V load_as(const VectorClock& clock) const { return static_cast<V>(here().load_as(clock)); }

  private:
    Location& here() const { return memory.at(id_); }

    template <class Change>
    V update(const char* what, std::memory_order order, Change change) {
        world.point();
        const V old = static_cast<V>(here().newest());
        here().exchange(static_cast<std::uint64_t>(change(old)), order);
        note(what, order, change(old));
        return old;
    }

    // One that fails is a load, and may see an old value.
    bool compare_exchange(V& expected, V desired, std::memory_order success, std::memory_order failure,
                          bool spurious) {
        world.point();
        std::size_t index = here().choose(failure);
        const bool is_newest = static_cast<V>(here().newest()) == expected;
        if (static_cast<V>(here().at(index)) == expected && is_newest && !spurious) {
            here().exchange(static_cast<std::uint64_t>(desired), success);
            note("compare-exchange", success, desired);
            return true;
        }
        if (static_cast<V>(here().at(index)) == expected && !spurious) index = here().last();
        here().read(index, failure);
        expected = static_cast<V>(here().at(index));
        note("compare (fails)", failure, expected);
        return false;
    }

    void note(const char* what, std::memory_order order, V value) const {
        if (!world.tracing) return;
        static constexpr const char* kOrders[] = {"relaxed", "consume", "acquire",
                                                  "release", "acq_rel", "seq_cst"};
        const std::size_t age = here().age();
        world.note("%-22s %-16s %-8s %llu%s", memory.name_of(id_).c_str(), what,
                   kOrders[static_cast<int>(order)], static_cast<unsigned long long>(value),
                   age == 0 ? "" : (" (old: " + std::to_string(age) + " newer)").c_str());
    }

    std::size_t id_;
};

}  // namespace sched
