// csrc/ring/ring.h, one promise at a time. ring_stress.cpp shakes it.

#include "ring/ring.h"

#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include "check.h"
#include "counted.h"
#include "tripwire.h"

using namespace std::chrono_literals;
using penstock::Clock;
using penstock::Deadline;
using penstock::Outcome;
using penstock::Ring;
using penstock::Ticket;

namespace {

Deadline in(Clock::duration duration) { return Clock::now() + duration; }

// An item, and a place to interfere while it moves.
struct Watched {
    Tripwire wire;
    Counted item;
    explicit Watched(std::uint64_t value) : item(value) {}
};

}  // namespace

TEST(items_come_out_in_ticket_order_however_they_went_in) {
    Ring<Counted> ring(4);
    for (Ticket ticket = 0; ticket < 4; ++ticket) CHECK(ring.try_claim(ticket) == Outcome::ok);
    for (const Ticket ticket : {2, 0, 3, 1}) CHECK(ring.publish(ticket, Counted(ticket * 10)));
    for (Ticket ticket = 0; ticket < 4; ++ticket) {
        const auto taken = ring.try_take();
        CHECK(taken.outcome == Outcome::ok && taken.ticket == ticket && taken.item->value() == ticket * 10);
        ring.recycle(ticket);
    }
    CHECK(ring.try_take().outcome == Outcome::timeout);
}

TEST(a_later_ticket_waits_for_an_earlier_one) {
    Ring<int> ring(2);
    ring.try_claim(0);
    ring.try_claim(1);
    ring.publish(1, 1);
    CHECK(ring.try_take().outcome == Outcome::timeout);
    CHECK(ring.take_until(in(20ms)).outcome == Outcome::timeout);
    ring.publish(0, 0);
    CHECK(ring.try_take().ticket == 0 && ring.try_take().ticket == 1);
}

TEST(claimed_and_not_recycled_never_exceeds_capacity) {
    for (std::size_t capacity = 1; capacity <= 9; ++capacity) {
        Ring<int> ring(capacity);
        for (Ticket ticket = 0; ticket < 40; ++ticket) {
            if (ticket >= capacity) {
                CHECK(ring.try_claim(ticket) == Outcome::timeout);  // taken is not recycled
                ring.recycle(ticket - capacity);
            }
            CHECK(ring.try_claim(ticket) == Outcome::ok);
            ring.publish(ticket, 0);
            CHECK(ring.try_take().outcome == Outcome::ok);
        }
    }
}

TEST(recycling_out_of_order_keeps_the_bound) {
    Ring<int> ring(3);
    for (Ticket ticket = 0; ticket < 3; ++ticket) {
        ring.try_claim(ticket);
        ring.publish(ticket, 0);
        ring.try_take();
    }
    ring.recycle(1);
    ring.recycle(2);
    CHECK(ring.try_claim(3) == Outcome::timeout);  // the oldest is still out
    ring.recycle(0);
    for (Ticket ticket = 3; ticket < 6; ++ticket) CHECK(ring.try_claim(ticket) == Outcome::ok);
    CHECK(ring.try_claim(6) == Outcome::timeout);
}

TEST(tickets_pass_the_wrap_of_the_sequence_word) {
    for (const Ticket start : {(Ticket{1} << 32) - 5, (Ticket{1} << 33) - 1, (Ticket{7} << 32) - 2}) {
        for (std::size_t capacity = 1; capacity <= 5; ++capacity) {
            Ring<Counted> ring(capacity, start);
            CHECK(ring.claimed() == start && ring.takes() == 0);
            for (Ticket ticket = start; ticket < start + 20; ++ticket) {
                CHECK(ring.try_claim(ticket) == Outcome::ok);
                CHECK(ring.publish(ticket, Counted(ticket)));
                CHECK(ring.try_take().item->value() == ticket);
                ring.recycle(ticket);
            }
        }
    }
}

TEST(misuse_is_refused_by_name) {
    CHECK_THROWS(Ring<int>(0), std::invalid_argument, "capacity must be between 1 and");
    CHECK_THROWS(Ring<int>(Ring<int>::kMaxCapacity + 1), std::invalid_argument, "capacity");
    Ring<int> ring(2, 10);
    CHECK_THROWS(ring.try_claim(11), std::invalid_argument, "claim: ticket 11 is not the next one, 10");
    CHECK_THROWS(ring.publish(10, 0), std::invalid_argument, "publish: ticket 10 is not claimed");
    CHECK_THROWS(ring.publish(9, 0), std::invalid_argument, "is not claimed");
    CHECK_THROWS(ring.publish_next(0), std::invalid_argument, "publish_next: ticket 10 is not claimed");
    ring.try_claim(10);
    CHECK_THROWS(ring.try_claim(10), std::invalid_argument, "is not the next one");
    ring.publish(10, 0);
    CHECK_THROWS(ring.publish(10, 0), std::invalid_argument, "is already published");
    CHECK_THROWS(ring.recycle(10), std::invalid_argument, "was not taken");
    ring.try_take();
    CHECK_THROWS(ring.publish(10, 0), std::invalid_argument, "is already published");
    ring.recycle(10);
    CHECK_THROWS(ring.recycle(10), std::invalid_argument, "is already recycled");
    CHECK_THROWS(ring.recycle(9), std::invalid_argument, "was not taken");
}

TEST(publish_next_draws_tickets_in_order_and_a_refusal_draws_none) {
    Ring<int> ring(3);
    ring.try_claim(0);
    CHECK(ring.publish_next(7) == Ticket{0});
    CHECK_THROWS(ring.publish_next(8), std::invalid_argument, "is not claimed");
    ring.try_claim(1);
    CHECK(ring.publish_next(9) == Ticket{1});
    CHECK(*ring.try_take().item == 7 && *ring.try_take().item == 9);
}

TEST(close_drains) {
    Ring<Counted> ring(4);
    ring.try_claim(0);
    ring.try_claim(1);
    ring.publish(0, Counted(0));
    ring.close();
    ring.close();
    CHECK(ring.is_closed() && !ring.is_cancelled());
    CHECK(ring.try_claim(2) == Outcome::closed);
    CHECK(ring.try_take().ticket == 0);
    CHECK(ring.try_take().outcome == Outcome::timeout);  // ticket 1 is still owed
    CHECK(ring.publish(1, Counted(1)));
    CHECK(ring.try_take().outcome == Outcome::ok);
    CHECK(ring.try_take().outcome == Outcome::closed);
    ring.recycle(1);
    ring.recycle(0);
}

TEST(cancel_drops_at_once_and_refuses_from_then_on) {
    Ring<Counted> ring(4);
    for (Ticket ticket = 0; ticket < 4; ++ticket) ring.try_claim(ticket);
    for (const Ticket ticket : {0, 1, 3}) ring.publish(ticket, Counted(ticket));
    auto held = ring.try_take();
    ring.cancel();
    ring.cancel();
    CHECK(Counted::living() == 1 && held.item->value() == 0);
    CHECK(ring.is_closed() && ring.is_cancelled() && ring.occupancy() == 0);
    CHECK(!ring.publish(2, Counted(2)) && !ring.publish_next(Counted(2)));
    CHECK(ring.try_take().outcome == Outcome::closed && ring.try_claim(4) == Outcome::closed);
    ring.recycle(0);  // what was taken before may still be given back
    held.item.reset();
    CHECK(Counted::living() == 0);
}

TEST(items_left_behind_die_with_the_ring) {
    {
        Ring<Counted> ring(4);
        for (Ticket ticket = 0; ticket < 3; ++ticket) ring.try_claim(ticket);
        ring.publish(1, Counted(1));
        ring.publish(2, Counted(2));
        CHECK(Counted::living() == 2);
    }
    CHECK(Counted::living() == 0);
}

TEST(an_item_published_while_cancel_runs_is_dropped_once) {
    Ring<Watched> ring(2);
    ring.try_claim(0);
    // The first move is the one into the slot: cancel() finds nothing there yet, and returns.
    Tripwire::arm([&] { ring.cancel(); });
    CHECK(!ring.publish(0, Watched(1)));
    CHECK(ring.is_cancelled() && Counted::living() == 0);
}

TEST(a_late_look_back_leaves_the_slot_s_next_item_alone) {
    struct Seam : penstock::Protocol {
        static std::function<void()>& act() {
            static std::function<void()> action;
            return action;
        }
        static void after_publish() {
            if (const auto action = std::exchange(act(), nullptr)) action();
        }
    };
    Ring<Watched, Seam> ring(1);  // two slots: tickets 0 and 2 share one
    ring.try_claim(0);
    std::atomic<bool> asleep{false}, wake{false}, delivered{false};
    Seam::act() = [&] {
        asleep = true;
        while (!wake) std::this_thread::yield();
    };
    std::thread late([&] { delivered = ring.publish(0, Watched(0)); });
    while (!asleep) std::this_thread::yield();

    for (const Ticket ticket : {0, 1}) {  // the ring goes on, once round
        CHECK(ring.try_take().ticket == ticket);
        ring.recycle(ticket);
        ring.try_claim(ticket + 1);
        if (ticket == 0) ring.publish(1, Watched(1));
    }
    // Ticket 2 is published as cancel() runs, and the late publisher wakes before it has looked back.
    Tripwire::arm([&] { ring.cancel(); });
    Seam::act() = [&] {
        wake = true;
        late.join();
    };
    CHECK(!ring.publish(2, Watched(2)));
    CHECK(delivered);  // ticket 0 reached the consumer long ago
    CHECK(Counted::living() == 0);
}

TEST(an_item_being_taken_while_cancel_runs_goes_to_the_consumer) {
    Ring<Watched> ring(2);
    ring.try_claim(0);
    ring.publish(0, Watched(5));
    Tripwire::arm([&] { ring.cancel(); });
    auto taken = ring.try_take();
    CHECK(taken.outcome == Outcome::ok && taken.item->item.value() == 5 && ring.is_cancelled());
    taken.item.reset();
    CHECK(Counted::living() == 0);
}

TEST(an_item_may_call_the_ring_as_it_dies) {
    struct Caller {
        Ring<std::shared_ptr<Caller>>* ring;
        ~Caller() {
            ring->cancel();
            ring->close();
            CHECK(ring->occupancy() == 0);
        }
    };
    Ring<std::shared_ptr<Caller>> ring(2);
    for (Ticket ticket = 0; ticket < 2; ++ticket) {
        ring.try_claim(ticket);
        ring.publish(ticket, std::make_shared<Caller>(&ring));
    }
    ring.cancel();
}

TEST(counters_say_who_waited) {
    Ring<int> ring(2);
    ring.try_claim(0);
    ring.publish(0, 0);
    CHECK(ring.take_until(in(1s)).outcome == Outcome::ok);
    CHECK(ring.blocked_takes().tickets() == 0 && ring.blocked_takes().nanoseconds() == 0);
    for (int slice = 0; slice < 3; ++slice) CHECK(ring.take_until(in(5ms)).outcome == Outcome::timeout);
    CHECK(ring.blocked_takes().tickets() == 1);  // one ticket, however many slices
    CHECK(ring.blocked_takes().nanoseconds() >= 15'000'000);
    ring.try_claim(1);
    CHECK(ring.claim_until(2, in(5ms)) == Outcome::timeout);
    CHECK(ring.blocked_claims().tickets() == 1 && ring.blocked_claims().nanoseconds() >= 5'000'000);
    CHECK(ring.takes() == 1);
}

TEST(a_resumed_wait_is_one_wait_as_long_as_its_parts) {
    Ring<int> ring(1);
    ring.try_claim(0);
    for (int slice = 0; slice < 4; ++slice) CHECK(ring.take_until(in(5ms)).outcome == Outcome::timeout);
    CHECK(ring.blocked_takes().quantile(0.5) == 0);  // it is not over
    std::thread publisher([&] {
        std::this_thread::sleep_for(5ms);
        ring.publish(0, 0);
    });
    CHECK(ring.take_until(in(10s)).outcome == Outcome::ok);
    publisher.join();
    CHECK(ring.blocked_takes().tickets() == 1);
    CHECK(ring.blocked_takes().quantile(0.5) >= 19'000'000);
}

TEST(occupancy_is_sampled_when_the_consumer_comes) {
    Ring<int> ring(4);
    for (Ticket ticket = 0; ticket < 4; ++ticket) ring.try_claim(ticket);
    CHECK(ring.try_take().outcome == Outcome::timeout);  // comes for ticket 0: nothing is ready
    for (Ticket ticket = 0; ticket < 3; ++ticket) ring.publish(ticket, 0);
    CHECK(ring.occupancy() == 3);
    ring.try_take();
    CHECK(ring.occupancy() == 2 && ring.occupancy_sum() == 0);
    ring.try_take();
    ring.try_take();
    CHECK(ring.occupancy() == 0 && ring.occupancy_sum() == 2 + 1 && ring.takes() == 3);
}

TEST(for_each_item_visits_what_is_in_the_slots) {
    Ring<int> ring(4);
    for (Ticket ticket = 0; ticket < 3; ++ticket) ring.try_claim(ticket);
    ring.publish(0, 1);
    ring.publish(2, 4);
    int sum = 0;
    ring.for_each_item([&](int item) { sum += item; });
    CHECK(sum == 5);
    ring.try_take();
    sum = 0;
    ring.for_each_item([&](int item) { sum += item; });
    CHECK(sum == 4);
}

CHECK_MAIN()
