// csrc/ring/park.h. Compiled twice: with the futex, and with PENSTOCK_PORTABLE_PARK.

#include "ring/park.h"

#include <atomic>
#include <thread>
#include <vector>

#include "check.h"

using penstock::Clock;
using penstock::Deadline;
using penstock::EventCount;
using namespace std::chrono_literals;

namespace {

Deadline in(Clock::duration duration) { return Clock::now() + duration; }

}  // namespace

TEST(sleep_ends_at_its_deadline) {
    EventCount bell;
    const auto start = Clock::now();
    CHECK(!bell.sleep(bell.prepare(), start + 30ms));
    const auto slept = Clock::now() - start;
    CHECK(slept >= 30ms && slept < 5s);
}

TEST(sleep_with_a_deadline_in_the_past_does_not_block) {
    EventCount bell;
    CHECK(!bell.sleep(bell.prepare(), Deadline{}));
    CHECK(!bell.sleep(bell.prepare(), in(-1s)));
}

TEST(a_notify_between_prepare_and_sleep_is_not_lost) {
    EventCount bell;
    const EventCount::Key key = bell.prepare();
    bell.notify();
    CHECK(bell.sleep(key, Deadline::max()));
}

TEST(a_notify_before_prepare_wakes_nobody) {
    EventCount bell;
    bell.notify();
    CHECK(!bell.sleep(bell.prepare(), in(20ms)));
}

TEST(a_retired_sleeper_leaves_no_trace) {
    EventCount bell;
    bell.prepare();
    bell.retire();
    bell.notify();  // nobody waits: the bell does not ring
    CHECK(!bell.sleep(bell.prepare(), in(20ms)));
}

TEST(notify_wakes_every_sleeper) {
    EventCount bell;
    std::atomic<bool> flag{false};
    std::atomic<int> woken{0};
    std::vector<std::thread> sleepers;
    for (int i = 0; i < 4; ++i) {
        sleepers.emplace_back([&] {
            if (bell.await([&] { return flag.load(); }, in(20s))) ++woken;
        });
    }
    std::this_thread::sleep_for(30ms);
    flag.store(true);
    bell.notify();
    for (std::thread& sleeper : sleepers) sleeper.join();
    CHECK(woken == 4);
}

TEST(await_returns_at_once_when_ready) {
    EventCount bell;
    CHECK(bell.await([] { return true; }, Deadline{}));
}

TEST(await_says_that_it_was_not_ready) {
    EventCount bell;
    CHECK(!bell.await([] { return false; }, in(20ms)));
}

TEST(await_outlasts_wake_ups_that_were_for_others) {
    EventCount bell;
    std::atomic<bool> flag{false};
    std::thread other([&] {
        for (int i = 0; i < 20; ++i) {
            bell.notify();
            std::this_thread::sleep_for(1ms);
        }
        flag.store(true);
        bell.notify();
    });
    CHECK(bell.await([&] { return flag.load(); }, in(20s)));
    other.join();
}

// Two threads hand a number back and forth. One lost wake-up and this stands still until a deadline.
TEST(no_wake_up_is_lost_in_a_long_rally) {
    constexpr int kTurns = 20'000;
    EventCount bells[2];
    std::atomic<int> ball{0};
    const auto play = [&](int me) {
        for (int turn = me; turn < kTurns; turn += 2) {
            CHECK(bells[me].await([&] { return ball.load() == turn; }, in(20s)));
            ball.store(turn + 1);
            bells[1 - me].notify();
        }
    };
    std::thread other(play, 1);
    play(0);
    other.join();
    CHECK(ball == kTurns);
}

CHECK_MAIN()
