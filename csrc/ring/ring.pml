/* The protocol of ring.h and park.h, for spin: every interleaving of a small ring. tools/model.py runs it.
 *
 * Each statement is one atomic access, in the order of the code; memory is sequentially consistent. (Weaker memory is
 * the business of tests/cpp/sched_memory.h.) Checked: no assertion fails, and no end state but the one in which
 * everybody went home: a sleeper that nobody wakes is an invalid end state.
 *
 * Sizes: CAPACITY, SLOTS (the next power of two, at least 2), ITEMS, PUBLISHERS. Roles: CLOSER, CANCELLER (else the
 * feeder closes at the end), RECYCLER (else the consumer recycles). DRAW: publish_next.
 *
 * The other names leave out a step or take two in the wrong order, and something must fail: see tools/model.py.
 */

#ifndef CAPACITY
#define CAPACITY 2
#define SLOTS 2
#endif
#ifndef ITEMS
#define ITEMS 4
#endif
#ifndef PUBLISHERS
#define PUBLISHERS 2
#endif

/* The sequence word wraps after eight values, and starts three before its wrap. Tickets count from 0 here. */
#define WORDS 8
#define FREE_FOR(t) (((t) + 5) % WORDS)
#define PUBLISHED(t) (((t) + 6) % WORDS)
#define SLOT(t) ((t) % SLOTS)

byte sequence[SLOTS];
bool occupied[SLOTS];
byte item[SLOTS];  /* the ticket that it was published for, + 1; 0: none */

/* The gate is one word: whoever uses two of these does it in one step. */
byte claimed;
bool closed, cancelled;

byte head, next;

/* An event count with one sleeper. "The epoch is no longer the key" is one bit: the bell rang since prepare(). */
typedef Bell {
    bool waiting;
    bool rang;
    bool asleep  /* in the kernel */
}
Bell readable, writable;

/* How tickets reach those who publish and recycle. */
chan work = [ITEMS] of { byte };
chan used = [ITEMS] of { byte };
bool all_claimed, all_taken;

/* What is checked. */
byte fate[ITEMS];  /* 0: not published, 1: published, 2: taken, 3: dropped, 4: refused */
byte taken, outstanding, at_home;

inline notify(bell) {
    if
    :: bell.waiting ->
#ifndef NO_EPOCH
        bell.rang = true;
#endif
#ifndef NO_WAKE
        bell.asleep = false
#else
        skip
#endif
    :: else
    fi
}

/* The kernel compares and sleeps in one step. */
inline sleep(bell) {
    d_step {
        if
        :: !bell.rang -> bell.asleep = true
        :: else
        fi
    }
    !bell.asleep;
    bell.waiting = false
}

inline shut(cancels) {
    d_step {
        closed = true;
        cancelled = cancelled || cancels;
        swept_to = claimed
    }
#ifndef NO_SHUT_WAKES_CONSUMER
    notify(readable);
#endif
#ifndef NO_SHUT_WAKES_FEEDER
    notify(writable);
#endif
}

/* Whoever turns `occupied` off owns the item. */
inline evict(slot, won) {
#ifndef NO_EVICT
    d_step { won = occupied[slot]; occupied[slot] = false }
#else
    won = true
#endif
}

inline drop(slot) {
    evict(slot, mine);
    if
    :: mine -> d_step {
        assert(item[slot] > 0);
        assert(fate[item[slot] - 1] == 1);
        fate[item[slot] - 1] = 3;
        item[slot] = 0
        }
    :: else
    fi
}

#ifndef NO_ROOM
#define HAS_ROOM(t) (t < CAPACITY || sequence[SLOT(t - CAPACITY)] == FREE_FOR(t - CAPACITY + SLOTS))
#else
#define HAS_ROOM(t) true
#endif

proctype feeder() {
    byte ticket, swept_to;
    bool won;
try:
    do
    :: closed || ticket == ITEMS -> break
    :: else ->
        if
        :: HAS_ROOM(ticket)
        :: else ->
again:      writable.waiting = true;
            writable.rang = false;
            if
            :: closed -> writable.waiting = false; goto try
            :: else
            fi;
            if
            :: HAS_ROOM(ticket) -> writable.waiting = false; goto try
            :: else
            fi;
            sleep(writable);
            goto again
        fi;
#ifndef SPLIT_GATE
        d_step {
            won = !closed;
            claimed = (won -> ticket + 1 : claimed)
        }
#else  /* the flags and the number in two words */
        won = !closed;
        if
        :: won -> claimed = ticket + 1
        :: else
        fi;
#endif
        if
        :: !won -> break
        :: else
        fi;
        atomic {
            outstanding++;
            assert(outstanding <= CAPACITY);
            work!ticket;
            ticket++
        }
    od;
    all_claimed = true;
#if !defined(CLOSER) && !defined(CANCELLER)
    shut(false);
#endif
    at_home++
}

proctype publisher() {
    byte ticket, slot, swept_to;
    bool mine;
    do
    :: work?ticket ->
#ifdef DRAW
        if
        :: cancelled -> goto refused
        :: else
        fi;
        d_step { ticket = next; next++ }
        assert(ticket < claimed);
#endif
        if
        :: cancelled -> goto refused
        :: else
        fi;
        slot = SLOT(ticket);
        assert(sequence[slot] == FREE_FOR(ticket));
        d_step {
            assert(item[slot] == 0);
            item[slot] = ticket + 1;
            occupied[slot] = true;  /* nobody looks at it before the word below says so */
            fate[ticket] = 1
        }
#ifdef HEAD_FIRST  /* what a store that is only a release may do */
        mine = (head == ticket);
        sequence[slot] = PUBLISHED(ticket);
        if
        :: mine -> notify(readable)
        :: else
        fi;
#else
        sequence[slot] = PUBLISHED(ticket);
#ifndef NO_PUBLISHER_WAKES
        if
        :: head == ticket -> notify(readable)
        :: else
        fi;
#endif
#endif
#ifndef NO_LOOK_BACK
        if
        :: cancelled ->
            if
            :: sequence[slot] == PUBLISHED(ticket) -> drop(slot)
            :: else
            fi
        :: else
        fi;
#endif
        goto next_one;
refused:
#ifndef DRAW
        fate[ticket] = 4;
#endif
next_one:
        skip;
        d_step { ticket = 0; slot = 0; mine = false }
    :: all_claimed && empty(work) -> break
    od;
    at_home++
}

#define IS_OVER(h) (cancelled || (closed && claimed == h))

inline recycle(ticket) {
    d_step {
        assert(sequence[SLOT(ticket)] == PUBLISHED(ticket));
        outstanding--;
        sequence[SLOT(ticket)] = FREE_FOR(ticket + SLOTS)
    }
#ifndef NO_RECYCLER_WAKES
    notify(writable)
#else
    skip
#endif
}

proctype consumer() {
    byte mine;
    bool won;
try:
    do
    :: IS_OVER(mine) -> break
    :: else ->
        if
        :: sequence[SLOT(mine)] == PUBLISHED(mine) ->
            evict(SLOT(mine), won);
            if
            :: !won -> break  /* cancel() got here first */
            :: else
            fi;
            d_step {
                assert(item[SLOT(mine)] == mine + 1);
                assert(fate[mine] == 1);
                fate[mine] = 2;
                item[SLOT(mine)] = 0;
                taken++
            }
            mine++;
#ifndef LATE_HEAD
            head = mine;
#endif
#ifdef RECYCLER
            used!(mine - 1)
#else
            recycle(mine - 1)
#endif
        :: else ->
again:
#ifndef ANNOUNCE_LATE
            readable.waiting = true;
            readable.rang = false;
#endif
#ifndef NO_SECOND_LOOK
            if
            :: IS_OVER(mine) -> goto up
            :: else
            fi;
            if
            :: sequence[SLOT(mine)] == PUBLISHED(mine) -> goto up
            :: else
            fi;
#endif
#ifdef ANNOUNCE_LATE
            readable.waiting = true;
            readable.rang = false;
#endif
#ifdef LATE_HEAD
            head = mine;
#endif
            sleep(readable);
            goto again;
up:
#ifndef ANNOUNCE_LATE
            readable.waiting = false;
#endif
#ifdef LATE_HEAD
            head = mine;
#endif
            goto try
        fi
    od;
    all_taken = true;
    at_home++
}

#ifdef RECYCLER
proctype recycler() {
    byte ticket;
    do
    :: used?ticket -> recycle(ticket)
    :: all_taken && empty(used) -> break
    od;
    at_home++
}
#define RECYCLERS 1
#else
#define RECYCLERS 0
#endif

#ifdef CLOSER
proctype closer() {
    byte swept_to;
    shut(false);
    at_home++
}
#define CLOSERS 1
#else
#define CLOSERS 0
#endif

#ifdef CANCELLER
proctype canceller() {
    byte swept_to, ticket;
    bool mine;
#ifdef SWEEP_FIRST
    swept_to = claimed;
#else
    shut(true);
#endif
    ticket = head;
    do
    :: ticket == swept_to -> break
    :: else ->
        if
        :: sequence[SLOT(ticket)] == PUBLISHED(ticket) -> drop(SLOT(ticket))
        :: else
        fi;
        ticket++
    od;
#ifdef SWEEP_FIRST
    shut(true);
#endif
    at_home++
}
#define CANCELLERS 1
#else
#define CANCELLERS 0
#endif

/* Sets the words, opens the doors, and looks around when everybody is at home again. Until then it waits, so an end
 * without that is an invalid one. */
init {
    byte i;
    d_step {
        i = 0;
        do
        :: i == SLOTS -> break
        :: else -> sequence[i] = FREE_FOR(i); i++
        od
    }
    atomic {
        run consumer();
        run feeder();
        i = 0;
        do
        :: i == PUBLISHERS -> break
        :: else -> run publisher(); i++
        od;
#ifdef RECYCLER
        run recycler();
#endif
#ifdef CLOSER
        run closer();
#endif
#ifdef CANCELLER
        run canceller();
#endif
        i = 0
    }
    at_home == 2 + PUBLISHERS + RECYCLERS + CLOSERS + CANCELLERS;
    assert(closed);
    if
    :: !cancelled -> assert(taken == claimed)
    :: else -> assert(taken <= claimed)
    fi;
    do
    :: i == ITEMS -> break
    :: else ->
        assert(fate[i] != 1);  /* nothing is left behind */
        i++
    od
}
