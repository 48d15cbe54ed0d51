// The ring with a feeder, publishers, a consumer and others around it, under the scheduler of sched.h. A scene is a
// function of a seed: who is there, how many tickets, how large a ring, everything follows from it.
//
// Checked in every schedule: each ticket is delivered once and in order, with the item that was published for it and
// no other; an item dies once; claimed and not recycled never exceeds the capacity; after close() nothing is claimed
// and everything claimed is delivered; after cancel() nothing is left behind; nobody sleeps for ever; whoever is told
// that the ring is shut sees what was done before it was shut; what was done before recycle(t) is seen by who
// claims t + capacity; no call is refused.

#pragma once

#include <string>
#include <utility>
#include <vector>

#include "ring/ring.h"
#include "sched_machine.h"

using penstock::Deadline;
using penstock::Outcome;
using penstock::Protocol;
using penstock::Ring;
using penstock::Ticket;
using sched::kForever;
using sched::world;

// The protocol with every constant turned into a variable, so that ring_controls.cpp can weaken one.
struct Tunable {
#define PENSTOCK_TUNABLE(name) static inline auto name = Protocol::name
    PENSTOCK_TUNABLE(kAnnounce);
    PENSTOCK_TUNABLE(kReadEpoch);
    PENSTOCK_TUNABLE(kLookForSleepers);
    PENSTOCK_TUNABLE(kTurnEpoch);
    PENSTOCK_TUNABLE(kLooksAgain);
    PENSTOCK_TUNABLE(kTurnsEpoch);
    PENSTOCK_TUNABLE(kWakes);
    PENSTOCK_TUNABLE(kWakerQueues);
    PENSTOCK_TUNABLE(kClaimReadsGate);
    PENSTOCK_TUNABLE(kClaimReadsSlot);
    PENSTOCK_TUNABLE(kClaim);
    PENSTOCK_TUNABLE(kFeederLooksAtGate);
    PENSTOCK_TUNABLE(kFeederLooksAtSlot);
    PENSTOCK_TUNABLE(kPublishReadsGate);
    PENSTOCK_TUNABLE(kPublish);
    PENSTOCK_TUNABLE(kPublisherLooksAtHead);
    PENSTOCK_TUNABLE(kPublisherLooksAtGate);
    PENSTOCK_TUNABLE(kDrawReadsNext);
    PENSTOCK_TUNABLE(kDrawReadsGate);
    PENSTOCK_TUNABLE(kDraw);
    PENSTOCK_TUNABLE(kPublisherWakes);
    PENSTOCK_TUNABLE(kPublisherLooksBack);
    PENSTOCK_TUNABLE(kTakeReadsGate);
    PENSTOCK_TUNABLE(kTakeReadsSlot);
    PENSTOCK_TUNABLE(kTake);
    PENSTOCK_TUNABLE(kConsumerLooksAtGate);
    PENSTOCK_TUNABLE(kConsumerLooksAtSlot);
    PENSTOCK_TUNABLE(kRecycleReadsHead);
    PENSTOCK_TUNABLE(kRecycle);
    PENSTOCK_TUNABLE(kRecyclerWakes);
    PENSTOCK_TUNABLE(kShut);
    PENSTOCK_TUNABLE(kSweepReadsSlot);
    PENSTOCK_TUNABLE(kEvict);
    PENSTOCK_TUNABLE(kAskGate);
    PENSTOCK_TUNABLE(kCountTakes);
    PENSTOCK_TUNABLE(kShutWakesConsumer);
    PENSTOCK_TUNABLE(kShutWakesFeeder);
#undef PENSTOCK_TUNABLE
    static void after_publish() {}
};

inline void require(bool condition, const char* rule) {
    if (!condition) world.fail(rule);
}

// Told of every item's death.
class Registry {
  public:
    virtual void died(std::uint64_t value) = 0;

  protected:
    ~Registry() = default;
};

// An item. Its memory is plain, wherever it moves; only the last of a chain of moves dies a death that counts.
class Cargo {
  public:
    Cargo(Registry& registry, std::uint64_t value) : registry_(&registry), value_(value) { touch(); }
    Cargo(Cargo&& other) noexcept : registry_(std::exchange(other.registry_, nullptr)), value_(other.value_) {
        touch();
        other.touch();
    }
    Cargo(const Cargo&) = delete;
    Cargo& operator=(const Cargo&) = delete;
    Cargo& operator=(Cargo&&) = delete;
    ~Cargo() {
        touch();
        if (Registry* const registry = std::exchange(registry_, nullptr)) registry->died(value_);
    }
    std::uint64_t value() const {
        require(registry_ != nullptr, "an item was delivered that was moved away");
        return value_;
    }

  private:
    void touch() const { sched::plain_write(this); }

    Registry* registry_;
    std::uint64_t value_;
};

enum class Shut { by_feeder, close, cancel, both };

// What a scene is made of. The rest follows from the seed.
struct Cast {
    Shut shut = Shut::by_feeder;  // who ends it: the feeder after its last ticket, or others at any time
    bool draw = false;            // publish_next
    bool poll = false;            // publishers learn of tickets from claimed() alone
    bool keep = false;            // the consumer recycles late, and in any order
    bool strangers = false;       // others recycle, who learn of tickets from head() alone
    bool spectator = false;       // somebody looks at the counters
    bool callers = false;         // items call the ring as they die
    bool alarms = false;          // waits have deadlines
    bool try_only = false;        // the two sides poll instead of sleeping
};

template <class M = sched::Machine>
class Stage : Registry {
  public:
    Stage(const Cast& cast, std::uint64_t seed)
        : cast_(cast),
          random_(seed),
          capacity_(1 + random_.below(4)),
          publishers_(1 + random_.below(cast.shut == Shut::both || cast.strangers ? 2 : 3)),
          items_(2 + random_.below(static_cast<unsigned>(capacity_) + 3)),
          first_((Ticket{1 + random_.below(3)} << 32) - random_.below(6)),
          ring_(capacity_, first_),
          deaths_(items_, 0),
          slabs_(capacity_) {
        sched::Machine::spins = random_.one_in(4) ? 2 : 0;
        if (world.tracing) name_words();
    }

    // Plays the scene, and looks at what is left.
    void play() {
        world.spawn("consumer", [this] { consume(); });
        world.spawn("feeder", [this] { feed(); });
        for (unsigned i = 0; i < publishers_; ++i) world.spawn("publisher", [this, i] { publish(i); });
        if (cast_.shut == Shut::close || cast_.shut == Shut::both) world.spawn("closer", [this] { close(); });
        if (cast_.shut == Shut::cancel || cast_.shut == Shut::both)
            world.spawn("canceller", [this] { cancel(); });
        if (cast_.spectator) world.spawn("spectator", [this] { watch(); });
        for (unsigned i = 0; i < 2 && cast_.strangers; ++i) {
            world.spawn("stranger", [this, i] { recycle_what_was_taken(i); });
        }
        world.run();
        check_the_end();
    }

  private:
    Deadline patience() { return cast_.alarms ? M::now() + std::chrono::nanoseconds(5) : kForever; }

    // ---- the feeder ------------------------------------------------------------------------------

    void feed() {
        for (Ticket ticket = first_; ticket < first_ + items_; ++ticket) {
            const bool late = is_shut_;
            const Outcome outcome = claim(ticket);
            if (outcome == Outcome::closed) {
                told();
                break;
            }
            require(!late, "claimed after close() had returned");
            require(++outstanding_ <= static_cast<long>(capacity_), "more outstanding than the capacity");
            ++claimed_;
            if (!cast_.poll) sched::plain_write(&slabs_[ticket % capacity_]);
            work_.put(ticket);
        }
        work_.finish();
        if (cast_.shut == Shut::by_feeder) close();
    }

    Outcome claim(Ticket ticket) {
        for (;;) {
            const Outcome outcome =
                cast_.try_only ? ring_.try_claim(ticket) : ring_.claim_until(ticket, patience());
            if (outcome != Outcome::timeout) return outcome;
            require(cast_.alarms || cast_.try_only, "claim_until() gave up before its deadline");
            world.yield();
        }
    }

    // ---- publishers ------------------------------------------------------------------------------

    void publish(unsigned number) {
        if (cast_.poll) return publish_what_was_claimed(number);
        while (const std::optional<Ticket> ticket = work_.get()) {
            Cargo cargo(*this, *ticket - first_);
            ++born_;
            const bool taken = cast_.draw ? ring_.publish_next(std::move(cargo)).has_value()
                                          : ring_.publish(*ticket, std::move(cargo));
            if (!taken) told_of_cancel();
        }
    }

    void publish_what_was_claimed(unsigned number) {
        for (Ticket ticket = first_ + number; ticket < first_ + items_; ticket += publishers_) {
            while (ring_.claimed() <= ticket) {
                if (is_shut_ && ring_.is_closed() && ring_.claimed() <= ticket) return;
                world.yield();
            }
            ++born_;
            if (!ring_.publish(ticket, Cargo(*this, ticket - first_))) told_of_cancel();
        }
    }

    // ---- the consumer ----------------------------------------------------------------------------

    void consume() {
        std::vector<Ticket> kept;
        for (;;) {
            auto taken = cast_.try_only ? ring_.try_take() : ring_.take_until(patience());
            if (taken.outcome == Outcome::timeout) {
                require(cast_.alarms || cast_.try_only, "take_until() gave up before its deadline");
                world.yield();
                continue;
            }
            if (taken.outcome == Outcome::closed) break;
            require(taken.ticket == first_ + delivered_, "a ticket out of order");
            require(taken.item.has_value(), "a ticket without its item");
            const std::uint64_t value = taken.item->value();
            require(cast_.draw ? value < items_ : value == delivered_, "an item of another ticket");
            ++delivered_;
            taken.item.reset();
            if (cast_.strangers) continue;
            kept.push_back(taken.ticket);
            // The next ticket needs the one `capacity` before it; the others may stay for a while.
            while (!kept.empty() &&
                   (!cast_.keep || random_.one_in(2) ||
                    *std::min_element(kept.begin(), kept.end()) + capacity_ == taken.ticket + 1)) {
                const auto any = kept.begin() + random_.below(static_cast<unsigned>(kept.size()));
                recycle(*any);
                kept.erase(any);
            }
        }
        told();
        consumer_is_done_ = true;
    }

    void recycle(Ticket ticket) {
        if (!cast_.poll) sched::plain_read(&slabs_[ticket % capacity_]);
        --outstanding_;
        ring_.recycle(ticket);
    }

    void recycle_what_was_taken(unsigned number) {
        for (Ticket ticket = first_ + number;; ticket += 2) {
            while (ring_.head() <= ticket) {
                if (consumer_is_done_ && ticket >= first_ + delivered_) return;
                world.yield();
            }
            --outstanding_;
            ring_.recycle(ticket);
        }
    }

    // ---- others ----------------------------------------------------------------------------------

    // Some time later.
    void dawdle() {
        for (unsigned steps = random_.below(60); steps > 0; --steps) world.point();
    }

    void close() {
        if (cast_.shut != Shut::by_feeder) dawdle();
        sched::plain_write(&reason_);
        ring_.close();
        is_shut_ = true;
    }

    void cancel() {
        dawdle();
        if (cast_.shut == Shut::cancel) sched::plain_write(&reason_);
        ring_.cancel();
        is_shut_ = true;
    }

    // Whoever learns that the ring is shut sees what was done before. (Of two who shut it, it may be either.)
    void told() {
        if (cast_.shut != Shut::both && !cast_.callers) sched::plain_read(&reason_);
    }
    void told_of_cancel() {
        require(cast_.shut == Shut::cancel || cast_.shut == Shut::both || cast_.callers,
                "an item was refused, and nobody cancelled");
        told();
    }

    void watch() {
        for (int look = 0; look < 4; ++look) {
            require(ring_.occupancy() <= items_, "an occupancy below zero");
            if (ring_.is_closed()) told();
        }
    }

    void died(std::uint64_t value) override {
        if (world.is_over()) return;
        require(value < items_, "an item that nobody made");
        ++deaths_[value];
        if (!cast_.callers || !world.is_running()) return;
        ring_.occupancy();
        ring_.cancel();
        is_shut_ = true;
    }

    void check_the_end() {
        const bool cancelled = ring_.is_cancelled();
        require(ring_.is_closed(), "not closed at the end");
        require(cancelled ? delivered_ <= claimed_ : delivered_ == claimed_,
                "a claimed ticket was not delivered");
        require(ring_.takes() == delivered_ && ring_.claimed() == first_ + claimed_, "a wrong count");
        require(ring_.occupancy() == 0, "an occupancy at the end");
        std::uint64_t deaths = 0;
        for (const int times : deaths_) {
            require(times <= 1, "an item died twice");
            deaths += static_cast<std::uint64_t>(times);
        }
        require(deaths == born_, "an item was left behind");
    }

    // The order in which the ring makes its words.
    void name_words() {
        std::vector<std::string> names;
        for (std::size_t slot = 0; slot < std::bit_ceil(std::max<std::size_t>(capacity_, 2)); ++slot) {
            names.push_back("slot[" + std::to_string(slot) + "].sequence");
            names.push_back("slot[" + std::to_string(slot) + "].occupied");
        }
        for (const char* name : {"gate", "head", "next", "published", "readable.epoch", "readable.waiters",
                                 "writable.epoch", "writable.waiters", "claims.tickets", "claims.time",
                                 "takes.tickets", "takes.time", "occupancy sum"}) {
            names.emplace_back(name);
        }
        sched::memory.name(std::move(names));
    }

    const Cast cast_;
    sched::Random random_;  // the scene's own: the scheduler has another
    const std::size_t capacity_;
    const unsigned publishers_;
    const std::uint64_t items_;
    const Ticket first_;
    Ring<Cargo, Tunable, M> ring_;
    sched::Channel<Ticket> work_;

    // Read and written between two steps of the scheduler: no thread's memory, the audience's.
    std::uint64_t claimed_ = 0, delivered_ = 0, born_ = 0;
    long outstanding_ = 0;
    bool is_shut_ = false, consumer_is_done_ = false;
    std::vector<int> deaths_;

    // Plain memory of the scene.
    std::vector<char> slabs_;  // what a user would keep for each of `capacity` tickets
    char reason_ = 0;          // why the ring was shut
};

// The bell alone: two sleepers, one condition each, two who make them true.
template <class M>
void ring_the_bell() {
    struct Hall {
        penstock::BasicEventCount<Tunable, M> bell;
        sched::Atomic<int> first{0}, second{0};
    } hall;
    for (auto* const flag : {&hall.first, &hall.second}) {
        world.spawn("sleeper", [&hall, flag] {
            const auto ready = [flag] { return flag->load(std::memory_order_seq_cst) == 2; };
            require(hall.bell.await(ready, kForever), "await() gave up before its deadline");
        });
        world.spawn("ringer", [&hall, flag] {
            for (const int value : {1, 2}) {
                flag->store(value, std::memory_order_seq_cst);
                hall.bell.notify();
            }
        });
    }
    world.run();
}

struct Scene {
    const char* name;
    void (*play)(std::uint64_t seed);
};

template <Cast cast, class M = sched::Machine>
void stage(std::uint64_t seed) {
    Stage<M>(cast, seed).play();
}

inline constexpr Scene kScenes[] = {
    {"deliver", stage<Cast{}>},
    {"try-only", stage<Cast{.try_only = true}>},
    {"draw", stage<Cast{.draw = true}>},
    {"close", stage<Cast{.shut = Shut::close}>},
    {"close-draw", stage<Cast{.shut = Shut::close, .draw = true}>},
    {"cancel", stage<Cast{.shut = Shut::cancel}>},
    {"cancel-draw", stage<Cast{.shut = Shut::cancel, .draw = true}>},
    {"cancel-try-only", stage<Cast{.shut = Shut::cancel, .try_only = true}>},
    {"close-and-cancel", stage<Cast{.shut = Shut::both}>},
    {"keep", stage<Cast{.keep = true}>},
    {"poll", stage<Cast{.poll = true}>},
    {"poll-cancel", stage<Cast{.shut = Shut::cancel, .poll = true}>},
    {"strangers", stage<Cast{.strangers = true}>},
    {"strangers-poll", stage<Cast{.poll = true, .strangers = true}>},
    {"spectator", stage<Cast{.shut = Shut::close, .spectator = true}>},
    {"callers", stage<Cast{.shut = Shut::cancel, .callers = true}>},
    {"alarms", stage<Cast{.shut = Shut::close, .alarms = true}>},
    {"portable", stage<Cast{.shut = Shut::close}, sched::PortableMachine>},
    {"bell", [](std::uint64_t) { ring_the_bell<sched::Machine>(); }},
    {"bell-portable", [](std::uint64_t) { ring_the_bell<sched::PortableMachine>(); }},
};
