// The ring under load: food for ThreadSanitizer. PENSTOCK_STRESS multiplies the work (default 1).

#include <cstdlib>

#include "crew.h"

namespace {

std::uint64_t scaled(std::uint64_t items) {
    const char* const factor = std::getenv("PENSTOCK_STRESS");
    return items * (factor ? std::strtoull(factor, nullptr, 10) : 1);
}

void check_all_delivered(const Plan& plan) {
    Crew crew(plan);
    crew.start();
    CHECK(crew.consume() == plan.items);
    crew.join();
    std::uint64_t expected = 0;
    for (Ticket ticket = plan.first; ticket < plan.first + plan.items; ++ticket) expected += ticket;
    CHECK(crew.sum_of_values == expected);  // each item once, also when tickets were drawn
    CHECK(crew.most_outstanding <= static_cast<long>(plan.capacity));
    CHECK(Counted::living() == 0);
}

// Publishers that now and then fall asleep right after publishing, while the ring goes round under them.
struct Drowsy : penstock::Protocol {
    static void after_publish() {
        thread_local unsigned turn = 0;
        if (++turn % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(turn % 64));
    }
};

// Shuts the ring from a third side after a while; everybody must go home, and nothing may stay behind.
template <class Shut>
void check_shut_midway(unsigned round, Shut shut) {
    Crew<Drowsy> crew(Plan{
        .items = 100'000, .capacity = 1 + round % 5, .publishers = 1 + round % 4, .draw = round % 2 == 1});
    crew.start();
    std::thread shutter([&] {
        std::this_thread::sleep_for(std::chrono::microseconds(round * 97 % 3000));
        shut(crew.ring);
    });
    const std::uint64_t delivered = crew.consume();
    shutter.join();
    crew.join();
    CHECK(crew.ring.is_cancelled() ? delivered <= crew.claimed : delivered == crew.claimed);
    CHECK(Counted::living() == 0);  // before the ring itself dies
}

}  // namespace

TEST(order_holds_for_one_to_eight_publishers) {
    for (unsigned publishers = 1; publishers <= 8; ++publishers) {
        check_all_delivered(
            {.items = scaled(8'000), .capacity = 1 + publishers * 3 % 11, .publishers = publishers});
    }
}

TEST(order_holds_for_every_small_capacity) {
    for (std::size_t capacity = 1; capacity <= 9; ++capacity) {
        check_all_delivered({.items = scaled(4'000), .capacity = capacity, .publishers = 3});
    }
}

TEST(drawn_tickets_deliver_every_item_once) {
    for (unsigned publishers = 1; publishers <= 8; publishers *= 2) {
        check_all_delivered({.items = scaled(8'000), .capacity = 5, .publishers = publishers, .draw = true});
    }
}

TEST(late_recycling_keeps_the_bound) {
    check_all_delivered({.items = scaled(8'000), .capacity = 6, .publishers = 3, .keep = 4});
}

TEST(order_holds_across_the_wrap_of_the_sequence_word) {
    for (const Ticket lap : {1, 2, 5}) {
        check_all_delivered({.items = 4'000, .capacity = 3, .publishers = 4, .first = (lap << 32) - 2'000});
    }
}

TEST(close_midway_delivers_exactly_what_was_claimed) {
    for (unsigned round = 0; round < scaled(400); ++round) {
        check_shut_midway(round, [](auto& ring) { ring.close(); });
    }
}

TEST(cancel_midway_leaves_nothing_behind) {
    for (unsigned round = 0; round < scaled(400); ++round) {
        check_shut_midway(round, [](auto& ring) { ring.cancel(); });
    }
}

TEST(cancel_after_close_leaves_nothing_behind) {
    for (unsigned round = 0; round < scaled(200); ++round) {
        check_shut_midway(round, [](auto& ring) {
            ring.close();
            ring.cancel();
        });
    }
}

CHECK_MAIN()
