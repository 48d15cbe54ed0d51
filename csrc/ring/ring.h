// A bounded ring that hands items over in the order of their tickets.
//
//     feeder (one)         publishers (any number)         consumer (one)
//     claim(t) ──────────► publish(t, item) ─────────────► take() ──► recycle(t)
//        ▲                                                                │
//        └──────────────────── waits for a free slot ─────────────────────┘
//
// Ticket t lives in slot t mod N. The slot's 32-bit sequence word says whose turn it is:
//
//     t        free for ticket t
//     t + 1    published: item t is in the slot, or with the consumer
//     t + N    recycled, which is the same as free for ticket t + N
//
// A word has one writer at a time: the publisher while it says t, the recycler while it says t + 1.
// So nothing on this path takes a mutex. It is not lock-free in the formal sense: one slow
// ticket delays those behind it, because order is the point.
//
// close() drains: claimed tickets are still delivered. cancel() drops what was not taken.
// README.md beside this room has the drawing and the table of memory orders.

#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ring/park.h"
#include "ring/waits.h"

namespace penstock {

using Ticket = std::uint64_t;

// timeout: not yet. closed: never again.
enum class Outcome { ok, timeout, closed };

// What the ring promises itself: the order of each access, and each step, by name; an access that is not here is
// relaxed. The tests weaken one at a time, to see that they notice. README.md has the reasons.
struct Protocol : Wakes {
    // the feeder
    static constexpr std::memory_order kClaimReadsGate = std::memory_order_acquire;
    static constexpr std::memory_order kClaimReadsSlot = std::memory_order_acquire;
    static constexpr std::memory_order kClaim = std::memory_order_release;
    static constexpr std::memory_order kFeederLooksAtGate = std::memory_order_seq_cst;  // before it sleeps
    static constexpr std::memory_order kFeederLooksAtSlot = std::memory_order_seq_cst;
    // publishers
    static constexpr std::memory_order kPublishReadsGate = std::memory_order_acquire;
    static constexpr std::memory_order kPublish = std::memory_order_seq_cst;
    static constexpr std::memory_order kPublisherLooksAtHead = std::memory_order_seq_cst;
    static constexpr std::memory_order kPublisherLooksAtGate = std::memory_order_seq_cst;
    static constexpr std::memory_order kDrawReadsNext = std::memory_order_acquire;
    static constexpr std::memory_order kDrawReadsGate = std::memory_order_acquire;
    static constexpr std::memory_order kDraw = std::memory_order_release;
    static constexpr bool kPublisherWakes = true;
    static constexpr bool kPublisherLooksBack = true;  // whether cancel() came meanwhile
    static void after_publish() {}  // between an item becoming visible and its publisher's last look around
    // the consumer
    static constexpr std::memory_order kTakeReadsGate = std::memory_order_acquire;
    static constexpr std::memory_order kTakeReadsSlot = std::memory_order_acquire;
    static constexpr std::memory_order kTake = std::memory_order_seq_cst;
    static constexpr std::memory_order kConsumerLooksAtGate = std::memory_order_seq_cst;  // before it sleeps
    static constexpr std::memory_order kConsumerLooksAtSlot = std::memory_order_seq_cst;
    static constexpr std::memory_order kRecycleReadsHead = std::memory_order_acquire;
    static constexpr std::memory_order kRecycle = std::memory_order_seq_cst;
    static constexpr bool kRecyclerWakes = true;
    // anyone
    static constexpr std::memory_order kShut = std::memory_order_seq_cst;
    static constexpr std::memory_order kSweepReadsSlot = std::memory_order_seq_cst;
    static constexpr std::memory_order kEvict = std::memory_order_acq_rel;
    static constexpr std::memory_order kAskGate = std::memory_order_acquire;
    static constexpr std::memory_order kCountTakes = std::memory_order_acquire;
    static constexpr bool kShutWakesConsumer = true;
    static constexpr bool kShutWakesFeeder = true;
};

template <class T>
struct Taken {
    Outcome outcome;
    Ticket ticket = 0;
    std::optional<T> item = std::nullopt;  // there if outcome is ok
};

template <class T, class P = Protocol, class M = Machine>
class Ring {
    static_assert(std::is_nothrow_move_constructible_v<T> && std::is_nothrow_destructible_v<T>,
                  "a throw between reading a slot's word and moving its item out would lose the item");

  public:
    static constexpr std::size_t kMaxCapacity = std::size_t{1} << 24;

    // At most `capacity` tickets are claimed and not recycled. Tickets count from `first`.
    explicit Ring(std::size_t capacity, Ticket first = 0)
        : capacity_(checked(capacity)), mask_(slots_for(capacity) - 1), first_(first), slots_(mask_ + 1) {
        gate_.store(first, std::memory_order_relaxed);
        next_.store(first, std::memory_order_relaxed);
        head_.store(first, std::memory_order_relaxed);
        for (Ticket ticket = first; ticket != first + slots_.size(); ++ticket) {
            slot_of(ticket).sequence.store(free_for(ticket), std::memory_order_relaxed);
        }
    }

    // No other thread may be inside a call. Items still in slots are destroyed with them.
    ~Ring() = default;

    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;

    // ---- the feeder ------------------------------------------------------------------------------

    // Never blocks. Tickets are claimed in order. Throws std::invalid_argument for any but the next.
    Outcome try_claim(Ticket ticket) {
        std::uint64_t gate = gate_.load(P::kClaimReadsGate);
        if (gate & kClosed) return Outcome::closed;
        if (ticket != gate) refuse("claim", ticket, "is not the next one, " + std::to_string(gate));
        if (!has_room(ticket, P::kClaimReadsSlot)) return Outcome::timeout;
        // Fails only if the gate was shut meanwhile: nobody else claims.
        const bool claimed = gate_.compare_exchange_strong(gate, ticket + 1, P::kClaim, P::kClaimReadsGate);
        return claimed ? Outcome::ok : Outcome::closed;
    }

    // Blocks until try_claim() has something else to say than timeout, or the deadline (then false).
    bool await_writable(Ticket ticket, Deadline deadline) {
        const auto ready = [&] {
            return (gate_.load(P::kFeederLooksAtGate) & kClosed) || has_room(ticket, P::kFeederLooksAtSlot);
        };
        return blocked_claims_.time(ticket, [&] { return writable_.await(ready, deadline); });
    }

    // Blocks until there is room, the ring is shut, or the deadline.
    Outcome claim_until(Ticket ticket, Deadline deadline) {
        const Outcome outcome = try_claim(ticket);
        if (outcome != Outcome::timeout) return outcome;
        await_writable(ticket, deadline);
        return try_claim(ticket);
    }

    // ---- publishers ------------------------------------------------------------------------------

    // Never blocks; any thread, once for each claimed ticket. False once cancelled: the item was dropped.
    // Throws std::invalid_argument for a ticket that is not claimed, or was published. (The second check is
    // exact if the two calls do not overlap.)
    bool publish(Ticket ticket, T item) {
        const std::uint64_t gate = gate_.load(P::kPublishReadsGate);
        if (gate & kCancelled) return false;
        if (ticket < first_ || ticket >= claimed(gate)) refuse("publish", ticket, "is not claimed");
        Slot& slot = slot_of(ticket);
        // Relaxed: the recycler comes before the claim, and the claim before this, through the gate.
        if (slot.sequence.load(std::memory_order_relaxed) != free_for(ticket)) {
            refuse("publish", ticket, "is already published");
        }
        slot.item.emplace(std::move(item));
        slot.occupied.store(true, std::memory_order_relaxed);  // the sequence word makes it visible
        published_.fetch_add(1, std::memory_order_relaxed);
        slot.sequence.store(published(ticket), P::kPublish);
        P::after_publish();
        // Only the ticket that the consumer waits for is worth a wake-up. The consumer moves head_ before it looks
        // at the word, and here the word moved before the look at head_.
        if (P::kPublisherWakes && head_.load(P::kPublisherLooksAtHead) == ticket) readable_.notify();
        // cancel() shuts the gate, then sweeps the slots: one of us sees the other. Once it is shut no ticket is
        // claimed any more, so a slot that still says `ticket` will hold no other item.
        if (P::kPublisherLooksBack && (gate_.load(P::kPublisherLooksAtGate) & kCancelled) &&
            is_published(ticket, std::memory_order_relaxed)) {
            return !drop(slot);
        }
        return true;
    }

    // Never blocks; any thread. Draws the ticket now, so that items are delivered as they become ready.
    // Nothing once cancelled. Throws std::invalid_argument if every claimed ticket was drawn.
    std::optional<Ticket> publish_next(T item) {
        Ticket ticket = next_.load(P::kDrawReadsNext);
        do {  // not fetch_add: a refused draw must leave no hole
            // Whoever drew the tickets before this one knew of their claims; by next_ this thread knows too.
            const std::uint64_t gate = gate_.load(P::kDrawReadsGate);
            if (gate & kCancelled) return std::nullopt;
            if (ticket >= claimed(gate)) refuse("publish_next", ticket, "is not claimed");
        } while (!next_.compare_exchange_weak(ticket, ticket + 1, P::kDraw, P::kDrawReadsNext));
        if (!publish(ticket, std::move(item))) return std::nullopt;
        return ticket;
    }

    // ---- the consumer ----------------------------------------------------------------------------

    // Never blocks. closed: cancelled, or closed and every claimed ticket was taken.
    Taken<T> try_take() {
        const Ticket head = head_.load(std::memory_order_relaxed);  // the consumer's own word
        note_arrival(head);
        if (is_over(head, P::kTakeReadsGate)) return {Outcome::closed};
        if (!is_published(head, P::kTakeReadsSlot)) return {Outcome::timeout};
        Slot& slot = slot_of(head);
        if (!evict(slot)) return {Outcome::closed};  // cancel() got here first
        Taken<T> taken{Outcome::ok, head, std::move(slot.item)};
        slot.item.reset();
        occupancy_sum_.fetch_add(arrival_occupancy_, std::memory_order_relaxed);
        head_.store(head + 1, P::kTake);
        return taken;
    }

    // Blocks until try_take() has something else to say than timeout, or the deadline (then false).
    // Touches no item.
    bool await_readable(Deadline deadline) {
        const Ticket head = head_.load(std::memory_order_relaxed);
        const auto ready = [&] {
            return is_over(head, P::kConsumerLooksAtGate) || is_published(head, P::kConsumerLooksAtSlot);
        };
        return blocked_takes_.time(head, [&] { return readable_.await(ready, deadline); });
    }

    // Blocks until the next ticket is there, there is none to come, or the deadline.
    Taken<T> take_until(Deadline deadline) {
        Taken<T> taken = try_take();
        if (taken.outcome != Outcome::timeout) return taken;
        await_readable(deadline);
        return try_take();
    }

    // Never blocks; any thread, once for each ticket taken, in any order. Throws std::invalid_argument
    // for a ticket that was not taken, or was recycled.
    void recycle(Ticket ticket) {
        if (ticket < first_ || ticket >= head_.load(P::kRecycleReadsHead)) {
            refuse("recycle", ticket, "was not taken");
        }
        std::uint32_t turn = published(ticket);
        const std::uint32_t next_turn = free_for(ticket + slots_.size());
        if (!slot_of(ticket).sequence.compare_exchange_strong(turn, next_turn, P::kRecycle,
                                                              std::memory_order_relaxed)) {
            refuse("recycle", ticket, "is already recycled");
        }
        if (P::kRecyclerWakes) writable_.notify();
    }

    // ---- anyone ----------------------------------------------------------------------------------

    // No more claims; tickets already claimed are still delivered. Wakes both sides. Never blocks.
    void close() noexcept { shut(kClosed); }

    // No more anything: destroys the items that nobody took. Wakes both sides. Never blocks.
    // An item published at this moment is destroyed once, here or in publish().
    void cancel() noexcept {
        const std::uint64_t gate = shut(kClosed | kCancelled);
        // An old head does no harm: a ticket that was recycled before a claim made it through the gate has
        // visibly left its slot.
        for (Ticket ticket = head_.load(std::memory_order_relaxed); ticket < claimed(gate); ++ticket) {
            if (is_published(ticket, P::kSweepReadsSlot)) drop(slot_of(ticket));
        }
    }

    // Calls visit(item) for each item in a slot. The caller keeps every other thread out of the ring.
    template <class Visit>
    void for_each_item(Visit visit) const {
        for (const Slot& slot : slots_) {
            if (slot.item) visit(*slot.item);
        }
    }

    bool is_closed() const noexcept { return gate_.load(P::kAskGate) & kClosed; }
    bool is_cancelled() const noexcept { return gate_.load(P::kAskGate) & kCancelled; }
    std::size_t capacity() const noexcept { return capacity_; }
    // Every older ticket is claimed: publish() takes it. Every older ticket was taken: recycle() takes it.
    Ticket claimed() const noexcept { return claimed(gate_.load(std::memory_order_relaxed)); }
    Ticket head() const noexcept { return head_.load(std::memory_order_relaxed); }

    // Published and not taken; a moment's truth. 0 once cancelled.
    std::uint64_t occupancy() const noexcept {
        if (is_cancelled()) return 0;
        const std::uint64_t takes = this->takes();  // first: the difference must not go below 0
        return published_.load(std::memory_order_relaxed) - takes;
    }

    std::uint64_t takes() const noexcept { return head_.load(P::kCountTakes) - first_; }

    // Sum over the tickets taken of the occupancy when the consumer came for each: near 0 on average
    // means that the consumer starves.
    std::uint64_t occupancy_sum() const noexcept { return occupancy_sum_.load(std::memory_order_relaxed); }

    const BasicWaits<M>& blocked_claims() const noexcept { return blocked_claims_; }
    const BasicWaits<M>& blocked_takes() const noexcept { return blocked_takes_; }

  private:
    template <class V>
    using Atomic = typename M::template Atomic<V>;

    struct alignas(kCacheLine) Slot {
        Atomic<std::uint32_t> sequence{0};
        Atomic<bool> occupied{false};  // whoever turns it off owns the item
        std::optional<T> item;
    };
    static_assert(sizeof(Slot) % kCacheLine == 0, "neighbouring slots must not share a cache line");
    static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "the gate and the head are single words");

    // The gate: two flags above the number of the next ticket to claim, in one word, so that
    // a claim and a close cannot both believe that they came first.
    static constexpr std::uint64_t kClosed = std::uint64_t{1} << 63;
    static constexpr std::uint64_t kCancelled = std::uint64_t{1} << 62;
    static constexpr Ticket kNone = std::numeric_limits<Ticket>::max();

    static std::size_t checked(std::size_t capacity) {
        if (capacity >= 1 && capacity <= kMaxCapacity) return capacity;
        throw std::invalid_argument("capacity must be between 1 and " + std::to_string(kMaxCapacity) +
                                    ", not " + std::to_string(capacity));
    }

    // Two at least: with one slot, "published t" and "free for t + 1" would be the same number.
    static std::size_t slots_for(std::size_t capacity) { return std::bit_ceil(capacity < 2 ? 2 : capacity); }

    [[noreturn]] static void refuse(const char* call, Ticket ticket, const std::string& rule) {
        throw std::invalid_argument(std::string(call) + ": ticket " + std::to_string(ticket) + " " + rule);
    }

    static constexpr std::uint32_t free_for(Ticket ticket) { return static_cast<std::uint32_t>(ticket); }
    static constexpr std::uint32_t published(Ticket ticket) { return static_cast<std::uint32_t>(ticket + 1); }
    static constexpr Ticket claimed(std::uint64_t gate) { return gate & ~(kClosed | kCancelled); }

    Slot& slot_of(Ticket ticket) noexcept { return slots_[ticket & mask_]; }

    bool is_published(Ticket ticket, std::memory_order order) noexcept {
        return slot_of(ticket).sequence.load(order) == published(ticket);
    }

    // True once ticket - capacity is recycled. All older ones are too, by induction, so this keeps the bound
    // exactly; and the slot of `ticket` is free, as capacity <= N. A new ring looks as if everything before
    // its first ticket had been recycled.
    bool has_room(Ticket ticket, std::memory_order order) noexcept {
        const Ticket oldest = ticket - capacity_;
        return slot_of(oldest).sequence.load(order) == free_for(oldest + slots_.size());
    }

    // True when the consumer will not get `head` any more.
    bool is_over(Ticket head, std::memory_order order) const noexcept {
        const std::uint64_t gate = gate_.load(order);
        return (gate & kCancelled) || ((gate & kClosed) && claimed(gate) == head);
    }

    // Exactly one caller gets true for a published item and may touch it. The item became visible with the
    // sequence word; the order here is for the consumer that loses to cancel(), and reports it.
    bool evict(Slot& slot) noexcept { return slot.occupied.exchange(false, P::kEvict); }

    bool drop(Slot& slot) noexcept {
        if (!evict(slot)) return false;
        // Out of the slot before it dies: its destructor may come back and call this ring.
        [[maybe_unused]] const std::optional<T> dropped = std::exchange(slot.item, std::nullopt);
        return true;
    }

    std::uint64_t shut(std::uint64_t flags) noexcept {
        const std::uint64_t gate = gate_.fetch_or(flags, P::kShut);
        if (P::kShutWakesConsumer) readable_.notify();
        if (P::kShutWakesFeeder) writable_.notify();
        return gate;
    }

    // The first look for a ticket says how far ahead the publishers are when the consumer comes for it.
    void note_arrival(Ticket head) noexcept {
        if (arrival_ == head) return;
        arrival_ = head;
        arrival_occupancy_ = occupancy();
    }

    const std::size_t capacity_;
    const std::size_t mask_;
    const Ticket first_;
    std::vector<Slot> slots_;

    alignas(kCacheLine) Atomic<std::uint64_t> gate_;  // written by the feeder, read by all
    alignas(kCacheLine) Atomic<Ticket> head_;         // next to take: the consumer's, read by publishers
    alignas(kCacheLine) Atomic<Ticket> next_;         // next to draw: publish_next() only
    alignas(kCacheLine) Atomic<std::uint64_t> published_{0};
    alignas(kCacheLine) BasicEventCount<P, M> readable_;  // the consumer sleeps here
    alignas(kCacheLine) BasicEventCount<P, M> writable_;  // the feeder sleeps here

    alignas(kCacheLine) BasicWaits<M> blocked_claims_;  // the feeder's own
    alignas(kCacheLine) BasicWaits<M> blocked_takes_;   // the consumer's own
    Ticket arrival_ = kNone;
    std::uint64_t arrival_occupancy_ = 0;
    Atomic<std::uint64_t> occupancy_sum_{0};
};

}  // namespace penstock
