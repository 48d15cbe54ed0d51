// Do the tests notice? Each control weakens one line of the ring's protocol, and CMakeLists.txt expects the
// failure that this causes. Under "sound" the same checks pass with the protocol as it is.

#include <cstdio>
#include <cstring>

#include "crew.h"
#include "tripwire.h"

using namespace std::chrono_literals;

namespace {

using Sound = penstock::Protocol;

struct RelaxedPublish : Sound {  // no longer carries the item along: a data race
    static constexpr std::memory_order kPublish = std::memory_order_relaxed;
};
struct ReleasePublish : Sound {  // may pass the look at the sleeper: a lost wake-up
    static constexpr std::memory_order kPublish = std::memory_order_release;
};
struct SilentPublisher : Sound {
    static constexpr bool kPublisherWakes = false;
};
struct SilentRecycler : Sound {
    static constexpr bool kRecyclerWakes = false;
};
struct SilentClose : Sound {
    static constexpr bool kCloseWakes = false;
};
struct BlindPublisher : Sound {  // does not look whether cancel() came meanwhile
    static constexpr bool kPublisherLooksBack = false;
};

constexpr auto kLong = 3s;

// Runs `act` while the caller sleeps, and checks that this wakes it: not the deadline, `kLong` later.
template <class Sleep, class Act>
void check_wakes(const char* what, Sleep sleep, Act act) {
    std::thread actor([&] {
        std::this_thread::sleep_for(100ms);
        act();
    });
    const auto start = Clock::now();
    sleep(start + kLong);
    const bool woken = Clock::now() - start < kLong / 2;
    actor.join();
    if (!woken) check::fail(__FILE__, __LINE__, std::string("lost a wake-up: ") + what);
}

template <class P>
void publish_wakes_the_consumer() {
    Ring<int, P> ring(1);
    ring.try_claim(0);
    check_wakes("publish", [&](Deadline end) { ring.take_until(end); }, [&] { ring.publish(0, 0); });
}

template <class P>
void recycle_wakes_the_feeder() {
    Ring<int, P> ring(1);
    ring.try_claim(0);
    ring.publish(0, 0);
    ring.try_take();
    check_wakes("recycle", [&](Deadline end) { ring.claim_until(1, end); }, [&] { ring.recycle(0); });
}

template <class P>
void close_wakes_both_sides() {
    Ring<int, P> ring(1);
    check_wakes("close, consumer", [&](Deadline end) { ring.take_until(end); }, [&] { ring.close(); });
    Ring<int, P> full(1);
    full.try_claim(0);
    check_wakes("close, feeder", [&](Deadline end) { full.claim_until(1, end); }, [&] { full.close(); });
}

template <class P>
void cancel_leaves_nothing_behind() {
    struct Watched {
        Tripwire wire;
        Counted item{1};
    };
    Ring<Watched, P> ring(1);
    ring.try_claim(0);
    Tripwire::arm([&] { ring.cancel(); });  // as the item moves into its slot
    ring.publish(0, Watched{});
    CHECK(Counted::living() == 0);
}

template <class P>
void items_arrive_whole() {
    Crew<P> crew(Plan{.items = 3'000, .capacity = 4, .publishers = 2});
    crew.start();
    CHECK(crew.consume() == 3'000);
    crew.join();
}

// Publisher and consumer set out together, a random moment apart, round after round: many chances for the
// publisher's look at the sleeper to pass its own publication. The weakened ring is caught within some
// ten thousand rounds.
template <class P>
void no_wake_up_is_lost_in_a_close_race() {
    constexpr Ticket kNever = ~Ticket{0};
    const Deadline end = Clock::now() + 4s;
    Ring<int, P> ring(1);
    std::atomic<Ticket> started{0};
    std::thread publisher([&] {
        std::minstd_rand random(1);
        for (Ticket ticket = 0;; ++ticket) {
            while (started.load(std::memory_order_acquire) <= ticket) penstock::park::relax();
            if (started.load(std::memory_order_acquire) == kNever) return;
            for (volatile auto step = random() % 64; step > 0;) step = step - 1;
            ring.publish(ticket, 0);
        }
    });
    for (Ticket ticket = 0; Clock::now() < end; ++ticket) {
        ring.try_claim(ticket);
        started.store(ticket + 1, std::memory_order_release);
        const Deadline patience = Clock::now() + 2s;
        ring.take_until(patience);
        if (Clock::now() >= patience) check::fail(__FILE__, __LINE__, "lost a wake-up: in a close race");
        ring.recycle(ticket);
    }
    started.store(kNever, std::memory_order_release);
    publisher.join();
}

struct Control {
    const char* name;
    void (*run)();
};

constexpr Control kControls[] = {
    {"relaxed-publish", items_arrive_whole<RelaxedPublish>},
    {"release-publish", no_wake_up_is_lost_in_a_close_race<ReleasePublish>},
    {"silent-publisher", publish_wakes_the_consumer<SilentPublisher>},
    {"silent-recycler", recycle_wakes_the_feeder<SilentRecycler>},
    {"silent-close", close_wakes_both_sides<SilentClose>},
    {"blind-publisher", cancel_leaves_nothing_behind<BlindPublisher>},
    {"sound",
     [] {
         items_arrive_whole<Sound>();
         no_wake_up_is_lost_in_a_close_race<Sound>();
         publish_wakes_the_consumer<Sound>();
         recycle_wakes_the_feeder<Sound>();
         close_wakes_both_sides<Sound>();
         cancel_leaves_nothing_behind<Sound>();
     }},
};

}  // namespace

int main(int argc, char** argv) {
    for (const Control& control : kControls) {
        if (argc != 2 || std::strcmp(argv[1], control.name) != 0) continue;
        control.run();
        std::printf("%s: nothing noticed\n", control.name);
        return 0;
    }
    std::fprintf(stderr, "usage: ring_controls NAME\n");
    return 2;
}
