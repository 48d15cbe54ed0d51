// A feeder, publishers and a consumer around one ring, as the product has them, with random delays.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "counted.h"
#include "ring/ring.h"

using penstock::Clock;
using penstock::Deadline;
using penstock::Outcome;
using penstock::Ring;
using penstock::Ticket;

// Now and then a thread dawdles: nothing, a few hundred steps, or a turn for somebody else.
class Dawdle {
  public:
    explicit Dawdle(unsigned seed) : random_(seed) {}
    void operator()() {
        const auto draw = random_() % 64;
        if (draw == 0) std::this_thread::yield();
        if (draw < 16) {
            for (volatile auto step = random_() % 300; step > 0;) step = step - 1;
        }
    }

  private:
    std::minstd_rand random_;
};

// How claimed tickets reach the publishers: the pool's queue of work. The consumer has no part in it.
class Work {
  public:
    void put(Ticket ticket) {
        {
            const std::lock_guard lock(mutex_);
            tickets_.push_back(ticket);
        }
        ready_.notify_one();
    }
    void finish() {
        {
            const std::lock_guard lock(mutex_);
            finished_ = true;
        }
        ready_.notify_all();
    }
    std::optional<Ticket> get() {
        std::unique_lock lock(mutex_);
        ready_.wait(lock, [&] { return finished_ || !tickets_.empty(); });
        if (tickets_.empty()) return std::nullopt;
        const Ticket ticket = tickets_.front();
        tickets_.pop_front();
        return ticket;
    }

  private:
    std::mutex mutex_;
    std::condition_variable ready_;
    std::deque<Ticket> tickets_;
    bool finished_ = false;
};

struct Plan {
    std::uint64_t items = 0;
    std::size_t capacity = 1;
    unsigned publishers = 1;
    Ticket first = 0;
    bool draw = false;                                    // publish_next: tickets are drawn at publish
    std::size_t keep = 0;                                 // the consumer recycles this many tickets late
    Clock::duration patience = std::chrono::seconds(10);  // a wait this long has lost its wake-up
};

template <class P = penstock::Protocol>
class Crew {
  public:
    explicit Crew(const Plan& plan) : plan_(plan), ring(plan.capacity, plan.first) {}

    // Starts everybody; the consumer is the calling thread's to run, by consume().
    void start() {
        threads_.emplace_back([this] { feed(); });
        for (unsigned seed = 1; seed <= plan_.publishers; ++seed) {
            threads_.emplace_back([this, seed] { publish(seed); });
        }
    }

    void join() {
        for (std::thread& thread : threads_) thread.join();
        threads_.clear();
    }

    // Takes until there is nothing to come; checks order, and that every item is the one of its ticket.
    std::uint64_t consume() {
        Dawdle dawdle(99);
        std::deque<Ticket> held;
        for (Ticket expected = plan_.first;; ++expected) {
            const Deadline patience = Clock::now() + plan_.patience;
            auto taken = ring.take_until(patience);
            if (Clock::now() >= patience) check::fail(__FILE__, __LINE__, "the consumer lost a wake-up");
            if (taken.outcome == Outcome::closed) return expected - plan_.first;
            CHECK(taken.ticket == expected);
            const std::uint64_t value = taken.item->value();
            CHECK(plan_.draw || value == expected);
            sum_of_values += value;
            held.push_back(expected);
            if (held.size() > plan_.keep) {
                --outstanding_;
                ring.recycle(held.front());
                held.pop_front();
            }
            dawdle();
        }
    }

  private:
    Plan plan_;

  public:
    Ring<Counted, P> ring;
    std::uint64_t claimed = 0;
    std::uint64_t sum_of_values = 0;
    long most_outstanding = 0;

  private:
    void feed() {
        Dawdle dawdle(7);
        for (Ticket ticket = plan_.first; ticket < plan_.first + plan_.items; ++ticket) {
            const Deadline patience = Clock::now() + plan_.patience;
            const Outcome outcome = ring.claim_until(ticket, patience);
            if (Clock::now() >= patience) check::fail(__FILE__, __LINE__, "the feeder lost a wake-up");
            if (outcome == Outcome::closed) break;
            ++claimed;
            // Counted after the claim and before the recycle: never more than the ring itself counts.
            most_outstanding = std::max(most_outstanding, ++outstanding_);
            work_.put(ticket);
            dawdle();
        }
        work_.finish();
        ring.close();
    }

    void publish(unsigned seed) {
        Dawdle dawdle(seed);
        while (const std::optional<Ticket> ticket = work_.get()) {
            dawdle();
            if (plan_.draw) {
                ring.publish_next(Counted(*ticket));
            } else {
                ring.publish(*ticket, Counted(*ticket));
            }
        }
    }

    Work work_;
    std::vector<std::thread> threads_;
    std::atomic<long> outstanding_{0};
};
