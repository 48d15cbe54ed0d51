"""penstock._core.Ring: the compiled ring as Python sees it. The ring itself is tested in tests/cpp."""

from __future__ import annotations

import gc
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from penstock._core import Ring


class Item:
    """Something with a weak reference."""


def full_ring(capacity: int, published: int | None = None) -> Ring:
    """A ring with every ticket claimed, and the first so many published: item t is the number t."""
    ring = Ring(capacity)
    for ticket in range(capacity):
        assert ring.claim(ticket)
        if published is None or ticket < published:
            assert ring.publish(ticket, ticket)
    return ring


def soon(act: Callable[[], object], delay: float = 0.1) -> threading.Timer:
    timer = threading.Timer(delay, act)
    timer.daemon = True
    timer.start()
    return timer


def test_items_come_out_in_ticket_order_whatever_they_are() -> None:
    ring = Ring(3)
    error = ValueError("an error is an item like any other")
    for ticket in range(3):
        ring.claim(ticket)
    for ticket, item in [(2, ring), (0, None), (1, error)]:
        assert ring.publish(ticket, item)
    assert [ring.take(), *ring.take_ready(1), ring.take(timeout=0)] == [(0, None), (1, error), (2, ring)]
    assert ring.take_ready(1) == []


def test_publish_next_hands_over_in_the_order_of_readiness() -> None:
    ring = full_ring(3, published=0)
    assert [ring.publish_next(item) for item in "abc"] == [0, 1, 2]
    assert [ring.take() for _ in range(3)] == [(0, "a"), (1, "b"), (2, "c")]


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda ring: ring.claim(4), "claim: ticket 4 is not the next one, 2"),
        (lambda ring: ring.claim(-1), "claim: ticket -1 is negative"),
        (lambda ring: ring.publish(2, None), "publish: ticket 2 is not claimed"),
        (lambda ring: ring.publish(0, None), "publish: ticket 0 is already published"),
        (lambda ring: ring.publish(-3, None), "publish: ticket -3 is negative"),
        (lambda ring: ring.take_ready(0), "take_ready: limit must be at least 1, not 0"),
        (lambda ring: Ring(1).publish_next(None), "publish_next: ticket 0 is not claimed"),
        (lambda ring: ring.take(-0.5), "take: timeout must be None or at least 0 seconds, not -0.5"),
        (lambda ring: ring.take(math.nan), "not nan"),
        (lambda ring: Ring(0), "capacity must be between 1 and 16777216, not 0"),
        (lambda ring: Ring(-2), "capacity must be at least 1, not -2"),
    ],
)
def test_misuse_is_refused_by_name(misuse: Callable[[Ring], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        misuse(full_ring(2))


WRONG_ARGUMENTS: dict[str, Callable[[Any], object]] = {
    "claim-str": lambda ring: ring.claim("0"),
    "claim-float": lambda ring: ring.claim(0.0),
    "claim-none": lambda ring: ring.claim(),
    "claim-two": lambda ring: ring.claim(0, 1),
    "publish-one": lambda ring: ring.publish(0),
    "publish-three": lambda ring: ring.publish(0, 1, 2),
    "publish-str": lambda ring: ring.publish("0", None),
    "take-str": lambda ring: ring.take("soon"),
    "take-two": lambda ring: ring.take(1, 2),
    "take-twice": lambda ring: ring.take(1, timeout=2),
    "take-name": lambda ring: ring.take(late=2),
    "take-ready-float": lambda ring: ring.take_ready(1.5),
    "put-name": lambda ring: ring.put(item=3),
    "no-ring": lambda _: Ring.take(cast("Any", None)),
    "no-init": lambda _: Ring.take(Ring.__new__(Ring)),
}


@pytest.mark.parametrize("misuse", WRONG_ARGUMENTS.values(), ids=WRONG_ARGUMENTS)
def test_wrong_arguments_are_type_errors_and_change_nothing(misuse: Callable[[Any], object]) -> None:
    ring = Ring(2)
    with pytest.raises(TypeError):
        misuse(ring)
    assert ring.put("a", "b") == 2
    assert ring.take_ready(9) == [(0, "a"), (1, "b")]


def test_a_ticket_may_be_whatever_counts_as_a_whole_number() -> None:
    class Number:
        def __index__(self) -> int:
            return 0

    ring = Ring(1)
    assert ring.claim(Number())
    with pytest.raises(OverflowError):
        ring.publish(1 << 70, None)
    assert ring.publish(Number(), "item")
    assert ring.take(1) == (0, "item")  # a timeout may be an int


def test_put_claims_and_publishes_in_turn_and_waits_for_room() -> None:
    ring, done = Ring(3), []
    feeder = threading.Thread(target=lambda: done.append(ring.put(*range(100))), daemon=True)
    feeder.start()
    assert [ring.take(timeout=30) for _ in range(100)] == [(at, at) for at in range(100)]
    feeder.join()
    assert done == [100]
    assert ring.blocked_claims > 0


def test_put_says_how_many_went_in_before_the_ring_was_shut() -> None:
    ring = Ring(2)
    soon(ring.close)
    assert ring.put(*"abcd") == 2
    assert ring.put("e") == 0
    assert [ring.take(), ring.take(), ring.take()] == [(0, "a"), (1, "b"), None]


def test_take_ready_takes_no_more_than_it_may_and_leaves_what_is_not_published() -> None:
    ring = full_ring(5, published=4)
    assert ring.take_ready(3) == [(0, 0), (1, 1), (2, 2)]
    assert ring.take_ready(3) == [(3, 3)]
    assert ring.take_ready(3) == []
    ring.publish(4, 4)
    ring.close()
    assert ring.take_ready(3) == [(4, 4)]
    assert ring.take_ready(3) == []
    assert ring.take() is None


@pytest.mark.parametrize("take", [Ring.take, lambda ring: ring.take_ready(1)[0]], ids=["take", "take_ready"])
def test_what_was_taken_keeps_its_slot_until_the_consumer_comes_again(
    take: Callable[[Ring], tuple[int, Any]],
) -> None:
    ring = full_ring(2)
    assert take(ring) == (0, 0)
    assert not ring.try_claim(2)
    assert take(ring) == (1, 1)
    assert ring.try_claim(2)
    assert not ring.try_claim(3)
    assert ring.take_ready(1) == []  # nothing is there, but ticket 1 is given back
    assert ring.try_claim(3)


def test_a_refused_item_is_not_kept() -> None:
    ring, item = Ring(1), Item()
    seen = weakref.ref(item)
    with pytest.raises(ValueError, match="not claimed"):
        ring.publish(0, item)
    del item
    assert seen() is None


def test_take_gives_up_after_its_timeout() -> None:
    ring = full_ring(2, published=0)
    start = time.perf_counter()
    with pytest.raises(TimeoutError, match=r"take: ticket 0 was not published within 0\.05 s"):
        ring.take(timeout=0.05)
    assert time.perf_counter() - start >= 0.05
    ring.publish(0, "late")
    assert ring.take(timeout=math.inf) == (0, "late")


def test_a_waiting_take_is_woken_by_its_ticket() -> None:
    ring = full_ring(1, published=0)
    soon(lambda: ring.publish(0, "now"))
    assert ring.take() == (0, "now")
    assert ring.blocked_takes == 1
    assert 0.05 < ring.blocked_take_s < 5


def test_a_waiting_claim_is_woken_by_a_consumer_that_comes_for_more() -> None:
    ring = full_ring(1)
    ring.take()
    soon(lambda: ring.take_ready(1))
    assert ring.claim(1)
    assert ring.blocked_claims == 1
    assert 0.05 < ring.blocked_claim_s < 5


def test_a_consumer_that_has_to_wait_gives_its_slot_back_first() -> None:
    """With one slot, the feeder could not go on otherwise, and both would wait for ever."""
    ring = full_ring(1)
    ring.take()
    soon(lambda: ring.put("b"))
    assert ring.take(timeout=30) == (1, "b")


@pytest.mark.parametrize("shut", [Ring.close, Ring.cancel])
def test_both_sides_are_woken_when_the_ring_is_shut(shut: Callable[[Ring], None]) -> None:
    empty, full = Ring(1), full_ring(1)
    soon(lambda: shut(empty))
    assert empty.take() is None
    soon(lambda: shut(full))
    assert full.claim(1) is False


def test_close_still_delivers_what_was_claimed() -> None:
    ring = full_ring(3, published=1)
    ring.close()
    assert ring.is_closed
    assert not ring.is_cancelled
    assert ring.claim(3) is False
    assert ring.take() == (0, 0)
    soon(lambda: (ring.publish(2, "c"), ring.publish(1, "b")))
    assert [ring.take(), ring.take(), ring.take()] == [(1, "b"), (2, "c"), None]


def test_cancel_drops_every_item_at_once() -> None:
    ring = Ring(3)
    items = [Item(), Item(), Item()]
    seen = [weakref.ref(item) for item in items]
    for ticket in range(3):
        ring.claim(ticket)
    for ticket in (0, 2):
        ring.publish(ticket, items[ticket])
    items.clear()
    ring.cancel()
    ring.cancel()
    assert [reference() for reference in seen] == [None, None, None]
    assert ring.is_cancelled
    assert ring.is_closed
    assert ring.occupancy == 0
    assert ring.take() is None
    assert ring.take_ready(3) == []
    assert ring.put(Item()) == 0
    assert ring.publish(1, Item()) is False
    assert ring.publish_next(Item()) == -1


def test_items_die_with_the_ring() -> None:
    ring, item = Ring(2), Item()
    seen = weakref.ref(item)
    ring.claim(0)
    ring.publish(0, item)
    del item
    assert seen() is not None
    del ring
    assert seen() is None


def test_a_ring_that_holds_itself_is_collected() -> None:
    """An exception's traceback leads to the frame that published it, and so to the ring."""
    item: Any = Item()
    item.ring = Ring(2)
    item.ring.claim(0)
    item.ring.publish(0, item)
    seen = weakref.ref(item)
    del item
    gc.collect()
    assert seen() is None


def test_an_item_may_call_the_ring_as_it_dies() -> None:
    ring = Ring(2)

    class Caller:
        def __del__(self) -> None:
            ring.cancel()
            ring.close()
            assert ring.take_ready(1) == []

    for ticket in range(2):
        ring.claim(ticket)
        ring.publish(ticket, Caller())
    ring.cancel()
    assert ring.is_cancelled


def test_no_reference_is_lost_or_kept() -> None:
    ring, item = Ring(3), object()
    before = sys.getrefcount(item)
    for ticket in range(1000):
        ring.claim(ticket)
        ring.publish(ticket, item)
        assert ring.take() == (ticket, item)
    assert ring.take_ready(3) == []  # gives the last slot back
    for _ in range(1000):
        assert ring.put(item, item, item) == 3
        assert [each for _, each in ring.take_ready(3)] == [item, item, item]
        assert ring.take_ready(3) == []
    assert sys.getrefcount(item) == before


def test_counters_say_how_far_ahead_the_publishers_were() -> None:
    ring = full_ring(4)
    assert (ring.capacity, ring.occupancy, ring.takes, ring.occupancy_sum) == (4, 4, 0, 0)
    for _ in range(4):
        ring.take()
    assert (ring.occupancy, ring.takes, ring.occupancy_sum) == (0, 4, 4 + 3 + 2 + 1)
    assert (ring.blocked_takes, ring.blocked_take_s) == (0, 0.0)


def test_order_and_bound_hold_under_threads() -> None:
    ring, taken = Ring(4), 0
    claimed: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    ahead: list[int] = []

    def feed() -> None:
        for ticket in range(4000):
            assert ring.claim(ticket)
            ahead.append(ticket - taken)
            claimed.put(ticket)
        ring.close()
        for _ in range(3):
            claimed.put(None)

    def publish() -> None:
        while (ticket := claimed.get()) is not None:
            assert ring.publish(ticket, -ticket)

    threads = [threading.Thread(target=target, daemon=True) for target in (feed, publish, publish, publish)]
    for thread in threads:
        thread.start()
    while (handed := ring.take(timeout=30)) is not None:
        assert handed == (taken, -taken)
        taken += 1
    for thread in threads:
        thread.join()
    assert taken == 4000
    assert max(ahead) < 4


def test_a_waiting_take_leaves_the_interpreter_to_others() -> None:
    ring = full_ring(1, published=0)
    steps = 0

    def work() -> None:
        nonlocal steps
        end = time.perf_counter() + 0.2
        while time.perf_counter() < end:
            steps += 1
        ring.publish(0, None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    ring.take()
    thread.join()
    assert steps > 1000


@pytest.mark.parametrize(
    "wait", [lambda: Ring(1).take(), lambda: full_ring(1).claim(1)], ids=["take", "claim"]
)
def test_ctrl_c_ends_a_wait(wait: Callable[[], object]) -> None:
    delays = []
    for _ in range(5):
        sent: list[float] = []

        def interrupt(sent: list[float] = sent) -> None:
            sent.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)

        timer = soon(interrupt, delay=0.05)
        with pytest.raises(KeyboardInterrupt):
            wait()
        delays.append(time.perf_counter() - sent[0])
        timer.join()
    assert min(delays) < 0.05  # at most a slice of 20 ms; the slower ones waited for a busy machine


EXIT_WHILE_WAITING = """
import threading, time
from penstock._core import Ring

full = Ring(1)
full.claim(0)
for wait in [Ring(1).take, lambda: full.claim(1)] * 4:
    threading.Thread(target=wait, daemon=True).start()
time.sleep(0.03)
"""


def test_daemon_threads_that_wait_do_not_spoil_the_exit() -> None:
    for _ in range(8):
        subprocess.run([sys.executable, "-c", EXIT_WHILE_WAITING], check=True, timeout=30)


class RingAgainstItsTwin(RuleBasedStateMachine):
    """Random calls, checked against a ring made of dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.capacity = 3
        self.ring = Ring(self.capacity)
        self.claimed = self.taken = 0
        self.published: dict[int, object] = {}
        self.held = 0  # tickets in the consumer's hand
        self.closed = self.cancelled = False

    def room(self) -> bool:
        return self.claimed - (self.taken - self.held) < self.capacity

    @precondition(lambda self: self.closed or self.room())
    @rule()
    def claim(self) -> None:
        assert self.ring.claim(self.claimed) is not self.closed
        self.claimed += not self.closed

    @precondition(lambda self: self.claimed > 0)
    @rule(draw=st.data(), item=st.integers())
    def publish(self, draw: st.DataObject, item: int) -> None:
        ticket = draw.draw(st.integers(0, self.claimed - 1))
        fresh = ticket >= self.taken and ticket not in self.published
        if self.cancelled:
            assert self.ring.publish(ticket, item) is False
        elif fresh:
            assert self.ring.publish(ticket, item) is True
            self.published[ticket] = item
        else:
            with pytest.raises(ValueError, match="already published"):
                self.ring.publish(ticket, item)

    @rule(item=st.integers())
    def try_claim(self, item: int) -> None:
        if not self.room() or self.closed:
            assert self.ring.try_claim(self.claimed) is False
            return
        assert self.ring.put(item) == 1
        self.published[self.claimed] = item
        self.claimed += 1

    @rule(limit=st.integers(1, 4))
    def take_ready(self, limit: int) -> None:
        expected: list[tuple[int, object]] = []
        while not self.cancelled and len(expected) < limit and self.taken in self.published:
            expected.append((self.taken, self.published.pop(self.taken)))
            self.taken += 1
        assert self.ring.take_ready(limit) == expected
        self.held = len(expected)

    @precondition(lambda self: self.cancelled or self.taken in self.published)
    @rule()
    def take(self) -> None:
        if self.cancelled:
            assert self.ring.take() is None
            return
        assert self.ring.take() == (self.taken, self.published.pop(self.taken))
        self.taken += 1
        self.held = 1

    @rule()
    def look(self) -> None:
        assert self.ring.occupancy == (0 if self.cancelled else len(self.published))
        assert (self.ring.takes, self.ring.is_closed) == (self.taken, self.closed)

    @rule(often=st.integers(0, 9))
    def close(self, often: int) -> None:
        if often == 0:
            self.ring.close()
            self.closed = True

    @rule(often=st.integers(0, 19))
    def cancel(self, often: int) -> None:
        if often == 0:
            self.ring.cancel()
            self.closed = self.cancelled = True


RingAgainstItsTwin.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestRingAgainstItsTwin = RingAgainstItsTwin.TestCase
