// A scheduler that decides everything: which thread goes next, at every atomic access, sleep and wake-up, and which of
// the values that C++ allows a load returns (sched_memory.h). One seed, one schedule: what failed can be run again.
//
//     sched::world.begin(seed);
//     ... build what the threads share, world.spawn("feeder", ...) ...
//     sched::world.run();                  // throws sched::Failed: a race, a sleep without end, a failed check
//
// sched::explore() does this for many seeds and reports the first failure with its seed and schedule. Two ways of
// choosing take turns, by seed: at random, and by priorities that drop at a few random steps (which finds
// what needs few, well-placed switches in a long run). Everything runs on one thread of the system, on fibers.

#pragma once

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fiber.h"

namespace sched {

inline constexpr unsigned kThreads = 8;  // thread 0 sets the scene and looks at it afterwards

// How much of each thread's past is known here.
using VectorClock = std::array<std::uint32_t, kThreads>;

inline void join(VectorClock& mine, const VectorClock& theirs) {
    for (unsigned i = 0; i < kThreads; ++i) mine[i] = std::max(mine[i], theirs[i]);
}

struct Failed {
    std::string what;
};

struct Thread {
    enum class State { ready, asleep, done };
    const char* name = "";
    std::function<void()> body;
    State state = State::done;
    const char* bed = "";    // where it is asleep
    bool has_alarm = false;  // its sleep has a deadline
    bool timed_out = false;
    unsigned priority = 0;
    VectorClock clock{};
    std::uint32_t sc_view =
        0;  // the newest place in the order of seq_cst accesses that is before its next one
};

// A small random generator with a state of eight bytes (SplitMix64).
class Random {
  public:
    explicit Random(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}
    std::uint64_t operator()() {
        std::uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return z ^ (z >> 31);
    }
    unsigned below(unsigned bound) { return static_cast<unsigned>(((*this)() >> 32) * bound >> 32); }
    bool one_in(unsigned n) { return below(n) == 0; }

  private:
    std::uint64_t state_;
};

class World {
  public:
    Random random{0};
    unsigned staleness = 2;        // an old value, where allowed: never (0), or once in so many loads
    std::uint32_t sc_count = 0;    // places given out in the order of seq_cst accesses
    std::uint64_t generation = 0;  // counts the calls of begin()
    bool tracing = false;

    Thread& self() { return threads_[current_]; }
    unsigned id() const { return current_; }
    std::uint64_t steps() const { return steps_; }
    bool is_running() const { return running_; }
    bool is_over() const { return over_; }  // it failed: what is destroyed now means nothing

    void begin(std::uint64_t seed) {
        ++generation;
        random = Random(seed);
        staleness = std::array{2u, 0u, 4u}[seed / 2 % 3];
        by_priority_ = seed % 2 == 1;
        patience_ = by_priority_ ? 0 : std::array{1u, 2u, 8u}[random.below(3)];
        const unsigned length = 16u << random.below(5);
        for (unsigned& step : drops_) step = random.below(length);
        std::fill(drops_.begin() + 1 + random.below(kDrops), drops_.end(), ~0u);
        threads_ = {};
        count_ = 1;
        current_ = 0;
        over_ = false;
        steps_ = 0;
        sc_count = 0;
        lowest_ = kMiddle;
        trace_.clear();
    }

    // Before run(), on thread 0. An exception that leaves the body is a failure.
    void spawn(const char* name, std::function<void()> body) {
        if (count_ == kThreads) throw Failed{"too many threads"};
        Thread& thread = threads_[count_++];
        thread.name = name;
        thread.body = std::move(body);
        thread.state = Thread::State::ready;
        thread.priority = kMiddle + random.below(1000);
    }

    // Runs all threads to their ends. Afterwards thread 0 has seen everything that they did.
    void run() {
        for (unsigned i = 1; i < count_; ++i) {
            threads_[i].clock = threads_[0].clock;
            threads_[i].sc_view = threads_[0].sc_view;
            if (!fibers_[i]) fibers_[i] = std::make_unique<Fiber>(live);
        }
        failure_.clear();
        running_ = true;
        switch_to(next());
        running_ = false;
        if (!failure_.empty()) {
            for (std::unique_ptr<Fiber>& fiber : fibers_)
                fiber.reset();  // they stand in the middle of things
            over_ = true;
            throw Failed{std::exchange(failure_, {})};
        }
        for (unsigned i = 1; i < count_; ++i) join(threads_[0].clock, threads_[i].clock);
        threads_[0].sc_view = sc_count;
    }

    // Before every step that others can see.
    void point() {
        if (!running_) return;
        if (++steps_ > kTooLong) fail("there is no end in sight");
        switch_to(next());
    }

    // Nothing to do until somebody else did something: a polling loop comes through here.
    void yield() {
        self().priority = --lowest_;
        point();
    }

    // Sleeps until wake(), or the alarm if there is one (then false). May wake up for no reason.
    bool sleep(const char* bed, bool has_alarm) {
        Thread& thread = self();
        thread.state = Thread::State::asleep;
        thread.bed = bed;
        thread.has_alarm = has_alarm;
        thread.timed_out = false;
        switch_to(next());
        return !thread.timed_out;
    }

    void wake(unsigned id) {
        if (threads_[id].state == Thread::State::asleep) threads_[id].state = Thread::State::ready;
    }

    // Ends the schedule; does not return. In a thread, run() throws; on thread 0 this does.
    [[noreturn]] void fail(const char* what) {
        if (running_) {
            failure_ = what;
            abandon();
        }
        over_ = true;
        throw Failed{what};
    }

    [[gnu::format(printf, 2, 3)]] void note(const char* format, ...) {
        char line[200];
        va_list arguments;
        va_start(arguments, format);
        std::vsnprintf(line, sizeof line, format, arguments);
        va_end(arguments);
        trace_ += std::to_string(steps_) + "\t" + (current_ ? self().name : "scene") + "\t" + line + "\n";
    }

    // What happened: the last few hundred steps, if tracing was on.
    std::string trace() const {
        if (trace_.size() <= kLongTrace) return trace_;
        return "...\n" + trace_.substr(trace_.find('\n', trace_.size() - kLongTrace) + 1);
    }

  private:
    static constexpr std::uint64_t kTooLong = 20'000;
    static constexpr std::size_t kLongTrace = 24'000;
    static constexpr unsigned kDrops = 5;
    static constexpr unsigned kMiddle = 1u << 20;  // priorities start above it and drop below it

    // A fiber's life: one body after another, one for each schedule.
    static void live();

    void switch_to(unsigned id) {
        if (id == current_) return;
        Fiber& from = current_ ? *fibers_[current_] : main_;
        current_ = id;
        from.switch_to(id ? *fibers_[id] : main_);
    }

    // Leaves the threads where they are. What they own is lost, so nothing with an owner may be in this frame.
    [[noreturn]] void abandon() {
        switch_to(0);
        __builtin_unreachable();
    }

    // Who goes next. 0 when all are done.
    unsigned next() {
        std::array<unsigned, kThreads> ready;
        std::array<unsigned, kThreads> alarmed;
        unsigned readies = 0, alarms = 0;
        bool any_asleep = false;
        for (unsigned i = 1; i < count_; ++i) {
            const Thread& thread = threads_[i];
            if (thread.state == Thread::State::ready) ready[readies++] = i;
            if (thread.state != Thread::State::asleep) continue;
            any_asleep = true;
            if (thread.has_alarm) alarmed[alarms++] = i;
        }
        if (alarms > 0 && (readies == 0 || random.one_in(16))) {
            return get_up(alarmed[random.below(alarms)], true);
        }
        if (any_asleep && readies > 0 && random.one_in(128)) return get_up(any_sleeper(), false);
        if (readies > 0) return by_priority_ ? first_of(ready, readies) : any_of(ready, readies);
        if (!any_asleep) return 0;
        failure_ = "asleep for ever: " + sleepers();
        abandon();
    }

    unsigned get_up(unsigned id, bool timed_out) {
        threads_[id].state = Thread::State::ready;
        threads_[id].timed_out = timed_out;
        if (tracing) note("%s gets up%s", threads_[id].name, timed_out ? ": its deadline" : " for no reason");
        return id;
    }

    unsigned any_sleeper() {
        for (;;) {
            const unsigned id = 1 + random.below(count_ - 1);
            if (threads_[id].state == Thread::State::asleep) return id;
        }
    }

    // One of them; with patience p, the same as before in all but one of p cases.
    unsigned any_of(const std::array<unsigned, kThreads>& ready, unsigned count) {
        const bool stay = running_ && current_ && self().state == Thread::State::ready;
        if (stay && patience_ > 1 && !random.one_in(patience_)) return current_;
        return ready[random.below(count)];
    }

    unsigned first_of(const std::array<unsigned, kThreads>& ready, unsigned count) {
        if (std::find(drops_.begin(), drops_.end(), steps_) != drops_.end()) self().priority = --lowest_;
        const auto lower = [this](unsigned a, unsigned b) {
            return threads_[a].priority < threads_[b].priority;
        };
        return *std::max_element(ready.begin(), ready.begin() + count, lower);
    }

    std::string sleepers() const {
        std::string names;
        for (const Thread& thread : threads_) {
            if (thread.state != Thread::State::asleep) continue;
            names += (names.empty() ? "" : ", ") + std::string(thread.name) + " (" + thread.bed + ")";
        }
        return names;
    }

    std::array<Thread, kThreads> threads_;
    std::array<std::unique_ptr<Fiber>, kThreads> fibers_;
    Fiber main_;
    unsigned count_ = 1;
    unsigned current_ = 0;
    bool running_ = false;
    bool over_ = false;
    bool by_priority_ = false;
    unsigned patience_ = 1;
    unsigned lowest_ = kMiddle;
    std::array<unsigned, kDrops> drops_{};
    std::uint64_t steps_ = 0;
    std::string failure_;
    std::string trace_;

    friend void live();
};

inline World world;

inline void World::live() {
    world.fibers_[world.current_]->arrive();
    for (;;) {
        Thread& thread = world.self();
        try {
            thread.body();
        } catch (const std::exception& error) {
            world.failure_ = std::string(thread.name) + " was refused: " + error.what();
        }
        if (!world.failure_.empty()) world.abandon();
        thread.state = Thread::State::done;
        world.switch_to(world.next());
    }
}

// Runs scene(seed) for `count` seeds. At the first failure runs it again with a trace, prints that with what is
// needed to replay it, and throws Failed.
template <class Scene>
void explore(const std::string& name, std::uint64_t first, std::uint64_t count, Scene scene) {
    for (std::uint64_t seed = first; seed < first + count; ++seed) {
        try {
            world.begin(seed);
            scene(seed);
        } catch (const Failed&) {
            world.tracing = true;
            try {
                world.begin(seed);
                scene(seed);
            } catch (const Failed& failed) {
                std::fprintf(stderr, "%s", world.trace().c_str());
                throw Failed{failed.what + " (" + name + ", seed " + std::to_string(seed) + ")"};
            }
            throw Failed{"seed " + std::to_string(seed) + " of " + name + " does not fail twice"};
        }
    }
}

}  // namespace sched
