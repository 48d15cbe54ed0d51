// The scheduler's own tests: small programs whose outcomes under C++ are known. What may happen must be seen to
// happen, and what may not never.

#include <functional>
#include <map>
#include <set>

#include "check.h"
#include "sched_machine.h"

using sched::Atomic;
using sched::world;

namespace {

constexpr auto relaxed = std::memory_order_relaxed;
constexpr auto acquire = std::memory_order_acquire;
constexpr auto release = std::memory_order_release;
constexpr auto acq_rel = std::memory_order_acq_rel;
constexpr auto seq_cst = std::memory_order_seq_cst;

constexpr std::uint64_t kSeeds = 3'000;

// Two words, four registers, and threads that play with them.
struct Board {
    Atomic<int> x{0}, y{0};
    int plain = 0;
    int a = -1, b = -1, c = -1, d = -1;
};
using Player = std::function<void(Board&)>;

// How often each outcome came out over the seeds.
std::map<std::vector<int>, int> outcomes(const std::vector<Player>& players) {
    std::map<std::vector<int>, int> seen;
    sched::explore("litmus", 0, kSeeds, [&](std::uint64_t) {
        Board board;
        for (const Player& player : players) world.spawn("player", [&board, &player] { player(board); });
        world.run();
        ++seen[{board.a, board.b, board.c, board.d}];
    });
    return seen;
}

int count(const std::map<std::vector<int>, int>& seen, std::vector<int> outcome) {
    outcome.resize(4, -1);
    const auto found = seen.find(outcome);
    return found == seen.end() ? 0 : found->second;
}

// What the exploration of a scene ends in; empty if every seed went well.
std::string failure(const std::function<void(std::uint64_t)>& scene, std::uint64_t seeds = kSeeds) {
    std::string what;
    try {
        sched::explore("scene", 0, seeds, scene);
    } catch (const sched::Failed& failed) {
        what = failed.what;
    }
    world.tracing = false;
    return what;
}

std::map<std::vector<int>, int> store_buffering(std::memory_order store, std::memory_order load) {
    return outcomes({[=](Board& board) {
                         board.x.store(1, store);
                         board.a = board.y.load(load);
                     },
                     [=](Board& board) {
                         board.y.store(1, store);
                         board.b = board.x.load(load);
                     }});
}

std::map<std::vector<int>, int> message_passing(std::memory_order store, std::memory_order load) {
    return outcomes({[=](Board& board) {
                         board.x.store(1, relaxed);
                         board.y.store(1, store);
                     },
                     [=](Board& board) {
                         board.a = board.y.load(load);
                         board.b = board.x.load(relaxed);
                     }});
}

// Two writers, two readers that look in opposite orders: {1, 0, 1, 0} means that they disagree who was first.
std::map<std::vector<int>, int> two_readers(std::memory_order store, std::memory_order load) {
    return outcomes({[=](Board& board) { board.x.store(1, store); },
                     [=](Board& board) { board.y.store(1, store); },
                     [=](Board& board) {
                         board.a = board.x.load(load);
                         board.b = board.y.load(load);
                     },
                     [=](Board& board) {
                         board.c = board.y.load(load);
                         board.d = board.x.load(load);
                     }});
}

}  // namespace

TEST(store_buffering_needs_four_seq_cst_accesses) {
    CHECK(count(store_buffering(seq_cst, seq_cst), {0, 0}) == 0);
    CHECK(count(store_buffering(seq_cst, acquire), {0, 0}) > 0);
    CHECK(count(store_buffering(release, seq_cst), {0, 0}) > 0);
    CHECK(count(store_buffering(release, acquire), {0, 0}) > 0);
}

TEST(a_message_needs_release_and_acquire) {
    CHECK(count(message_passing(release, acquire), {1, 0}) == 0);
    CHECK(count(message_passing(seq_cst, seq_cst), {1, 0}) == 0);
    CHECK(count(message_passing(relaxed, acquire), {1, 0}) > 0);
    CHECK(count(message_passing(release, relaxed), {1, 0}) > 0);
    for (const int old : {0, 1}) CHECK(count(message_passing(release, acquire), {0, old}) > 0);
}

TEST(readers_agree_on_the_order_of_seq_cst_only) {
    CHECK(count(two_readers(seq_cst, seq_cst), {1, 0, 1, 0}) == 0);
    CHECK(count(two_readers(release, acquire), {1, 0, 1, 0}) > 0);
    CHECK(count(two_readers(seq_cst, acquire), {1, 0, 1, 0}) > 0);
}

TEST(one_word_never_goes_back) {
    const auto seen = outcomes({[](Board& board) {
                                    board.x.store(1, relaxed);
                                    board.x.store(2, relaxed);
                                },
                                [](Board& board) {
                                    board.a = board.x.load(relaxed);
                                    board.b = board.x.load(relaxed);
                                }});
    for (const auto& [outcome, times] : seen) CHECK(outcome[0] <= outcome[1]);
    CHECK(seen.size() == 6);
}

TEST(what_one_thread_read_another_cannot_unread) {
    // The second thread sees the store and says so; the third, told, must see it too.
    const auto seen = outcomes({[](Board& board) { board.x.store(1, relaxed); },
                                [](Board& board) {
                                    board.a = board.x.load(relaxed);
                                    board.y.store(1, release);
                                },
                                [](Board& board) {
                                    board.b = board.y.load(acquire);
                                    board.c = board.x.load(relaxed);
                                }});
    CHECK(count(seen, {1, 1, 0}) == 0 && count(seen, {1, 1, 1}) > 0 && count(seen, {1, 0, 0}) > 0);
}

TEST(read_modify_writes_lose_nothing) {
    const Player twice = [](Board& board) {
        board.x.fetch_add(1, relaxed);
        board.x.fetch_add(1, relaxed);
    };
    sched::explore("count", 0, kSeeds, [&](std::uint64_t) {
        Board board;
        for (int i = 0; i < 3; ++i) world.spawn("adder", [&] { twice(board); });
        world.run();
        CHECK(board.x.load(relaxed) == 6);
    });
}

TEST(a_release_goes_on_through_a_read_modify_write) {
    const auto seen = outcomes({[](Board& board) {
                                    board.x.store(1, relaxed);
                                    board.y.store(1, release);
                                },
                                [](Board& board) { board.a = board.y.fetch_add(1, relaxed); },
                                [](Board& board) {
                                    board.b = board.y.load(acquire);
                                    board.c = board.x.load(relaxed);
                                }});
    CHECK(count(seen, {1, 2, 0}) == 0 && count(seen, {1, 2, 1}) > 0);
}

TEST(a_plain_store_ends_a_release) {
    const auto seen = outcomes({[](Board& board) {
                                    board.x.store(1, relaxed);
                                    board.y.store(1, release);
                                },
                                [](Board& board) {
                                    board.a = board.y.load(relaxed);
                                    board.y.store(2, relaxed);
                                },
                                [](Board& board) {
                                    board.b = board.y.load(acquire);
                                    board.c = board.x.load(relaxed);
                                }});
    CHECK(count(seen, {1, 2, 0}) > 0);
}

// A seq_cst load may come before a weaker load that stands before it: only an acquire holds it back.
TEST(a_weak_load_does_not_hold_back_a_seq_cst_load) {
    const auto with = [](std::memory_order store, std::memory_order load) {
        return count(outcomes({[=](Board& board) {
                                   board.x.store(1, seq_cst);
                                   board.y.store(1, store);
                               },
                               [=](Board& board) {
                                   board.a = board.y.load(load);
                                   board.b = board.x.load(seq_cst);
                               }}),
                     {1, 0});
    };
    CHECK(with(release, acquire) == 0);
    CHECK(with(relaxed, acquire) > 0);
    CHECK(with(release, relaxed) > 0);
}

TEST(a_weak_compare_exchange_fails_now_and_then) {
    const auto seen = outcomes({[](Board& board) {
        int expected = 0;
        board.a = board.x.compare_exchange_weak(expected, 1, acq_rel, relaxed);
        board.b = board.x.compare_exchange_strong(expected, 2, acq_rel, relaxed);
    }});
    CHECK(count(seen, {0, 1}) > 0 && count(seen, {1, 0}) > 0 && seen.size() == 2);
}

TEST(unordered_plain_accesses_are_a_race) {
    const auto scene = [](std::memory_order store, std::memory_order load) {
        return failure([=](std::uint64_t) {
            Board board;
            world.spawn("writer", [&] {
                sched::plain_write(&board.plain);
                board.x.store(1, store);
            });
            world.spawn("reader", [&] {
                if (board.x.load(load) == 1) sched::plain_read(&board.plain);
            });
            world.run();
            sched::plain_write(&board.plain);  // after both
        });
    };
    CHECK(scene(release, acquire).empty());
    CHECK(scene(relaxed, acquire).find("data race") == 0);
    CHECK(scene(release, relaxed).find("data race") == 0);
}

TEST(a_sleep_without_end_is_found_and_named) {
    const auto scene = [](bool wakes) {
        return failure([=](std::uint64_t) {
            sched::Futex bed;
            Atomic<std::uint32_t> word{0};
            world.spawn("sleeper", [&] {
                while (word.load(relaxed) == 0) bed.sleep(word, 0, sched::kForever);
            });
            world.spawn("waker", [&] {
                word.store(1, relaxed);
                if (wakes) bed.wake_all(word);
            });
            world.run();
        });
    };
    CHECK(scene(true).empty());
    CHECK(scene(false).find("asleep for ever: sleeper (futex)") == 0);
}

TEST(a_deadline_ends_a_sleep) {
    CHECK(failure([](std::uint64_t) {
              sched::Futex bed;
              Atomic<std::uint32_t> word{0};
              bool woken = true;
              world.spawn("sleeper", [&] {
                  while (woken) woken = bed.sleep(word, 0, penstock::Deadline{});
              });
              world.run();
          }).empty());
}

TEST(a_mutex_and_a_condition_do_what_they_say) {
    CHECK(failure([](std::uint64_t) {
              sched::Mutex mutex;
              sched::Condition condition;
              int plain = 0;
              for (int i = 0; i < 2; ++i) {
                  world.spawn("adder", [&] {
                      const std::lock_guard lock(mutex);
                      sched::plain_write(&plain);
                      ++plain;
                      condition.notify_all();
                  });
              }
              world.spawn("waiter", [&] {
                  std::unique_lock lock(mutex);
                  while (plain < 2) condition.wait_until(lock, sched::kForever);
                  sched::plain_read(&plain);
              });
              world.run();
          }).empty());
}

TEST(endless_polling_is_found) {
    CHECK(failure(
              [](std::uint64_t) {
                  Board board;
                  world.spawn("poller", [&] {
                      while (board.x.load(relaxed) == 0) world.yield();
                  });
                  world.run();
              },
              1)
              .find("there is no end in sight") == 0);
}

TEST(one_seed_is_one_schedule) {
    const auto trace = [](std::uint64_t seed) {
        world.tracing = true;
        world.begin(seed);
        Board board;
        for (const char* name : {"one", "two"}) {
            world.spawn(name, [&board] {
                for (int i = 0; i < 5; ++i) board.x.fetch_add(board.y.load(relaxed), relaxed);
            });
        }
        world.run();
        world.tracing = false;
        return world.trace();
    };
    std::set<std::string> traces;
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
        CHECK(trace(seed) == trace(seed));
        traces.insert(trace(seed));
    }
    CHECK(traces.size() > 8);
}

CHECK_MAIN()
