// Do the stress tests notice? A weakening that ring_controls finds under its scheduler, here between real threads,
// for ThreadSanitizer to see.
//
//     stress_controls relaxed-publish | sound

#include <cstdio>
#include <cstring>

#include "crew.h"

using namespace std::chrono_literals;

namespace {

using Sound = penstock::Protocol;

struct RelaxedPublish : Sound {  // no longer carries the item along: a data race
    static constexpr std::memory_order kPublish = std::memory_order_relaxed;
};

template <class P>
void items_arrive_whole() {
    Crew<P> crew(Plan{.items = 3'000, .capacity = 4, .publishers = 2});
    crew.start();
    CHECK(crew.consume() == 3'000);
    crew.join();
}

// Publisher and consumer set out together, a random moment apart, round after round: many chances for the
// publisher's look at the sleeper to pass its own publication. With kPublish released only, some ten thousand
// rounds lose a wake-up on an idle machine; on a busy one they may not, so that is no test of its own.
void no_wake_up_is_lost_in_a_close_race() {
    constexpr Ticket kNever = ~Ticket{0};
    const Deadline end = Clock::now() + 4s;
    Ring<int> ring(1);
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
    {"sound",
     [] {
         items_arrive_whole<Sound>();
         no_wake_up_is_lost_in_a_close_race();
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
    std::fprintf(stderr, "usage: stress_controls NAME\n");
    return 2;
}
