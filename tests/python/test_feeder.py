"""Who plans: the feeder, or the worker whose row is next. Both must come to the same batches."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from penstock import Prefetcher
from penstock.feeder import Feeder
from penstock.windows import PlannedBatch, Rows, WindowPlanner

OnStart = Callable[[Feeder], None]


@pytest.fixture
def on_start(monkeypatch: pytest.MonkeyPatch) -> Callable[[OnStart], None]:
    """Has a function called with each feeder before its threads start."""
    start = Feeder.start

    def set_up(prepare: OnStart) -> None:
        def prepared(feeder: Feeder) -> None:
            prepare(feeder)
            start(feeder)

        monkeypatch.setattr(Feeder, "start", prepared)

    return set_up


def load(key: int) -> list[int]:
    """A row of up to 40 tokens, after up to a millisecond; some fail."""
    dice = random.Random(key)
    time.sleep(dice.random() / 1_000)
    if key % 17 == 11:
        raise ValueError(key)
    return [key % 50] * dice.randrange(40)


def batches_of(count: int, **options: Any) -> list[tuple[int, list[int], list[int], list[list[int]]]]:
    """Ticket, rows, failed rows and tokens of each batch."""
    with Prefetcher(range(count), None, load=load, device="cpu", num_workers=6, **options) as batches:
        return [
            (
                batch.ticket,
                batch.input_index.tolist(),
                [index for index, _ in batch.errors],
                batch.inputs["input_ids"].tolist() if batch.inputs else [],
            )
            for batch in batches
        ]


@pytest.mark.parametrize("max_batch_rows", [1, 3, None])
@pytest.mark.parametrize("max_batch_tokens", [8, 120])
@pytest.mark.parametrize("on_error", ["skip", "null"])
@pytest.mark.parametrize("batches_ahead", [1, 4])
def test_a_worker_plans_the_batches_that_the_feeder_would(
    on_start: Callable[[OnStart], None],
    max_batch_rows: int | None,
    max_batch_tokens: int,
    on_error: str,
    batches_ahead: int,
) -> None:
    options: dict[str, Any] = {
        "max_batch_rows": max_batch_rows,
        "max_batch_tokens": max_batch_tokens,
        "on_error": on_error,
        "batches_ahead": batches_ahead,
    }
    by_workers = batches_of(100, **options)
    on_start(lambda feeder: setattr(feeder, "_workers_plan", False))
    assert batches_of(100, **options) == by_workers


def test_workers_do_plan_rows_that_are_next(on_start: Callable[[OnStart], None]) -> None:
    made: list[str] = []

    def prepare(feeder: Feeder) -> None:
        plan_here = feeder._plan_here

        def noted(*arguments: Any) -> Any:
            made.extend([threading.current_thread().name] * ((mine := plan_here(*arguments)) is not None))
            return mine

        feeder._plan_here = noted  # type: ignore[method-assign,assignment]

    on_start(prepare)
    assert len(batches_of(50, max_batch_rows=1, on_error="skip", rows_ahead=1)) > 40
    assert set(made) == {"penstock-worker"}


@pytest.mark.parametrize("arguments", [{"ordered": False}, {"max_wait": 1.0}, {"window_rows": 5}])
def test_what_may_have_to_wait_is_left_to_the_feeder(
    on_start: Callable[[OnStart], None], arguments: dict[str, Any]
) -> None:
    def prepare(feeder: Feeder) -> None:
        feeder._plan_here = pytest.fail  # type: ignore[method-assign,assignment]

    on_start(prepare)
    rows = [row for _, rows, _, _ in batches_of(50, on_error="skip", **arguments) for row in rows]
    assert sorted(rows) == [key for key in range(50) if key % 17 != 11]


def test_an_error_while_a_worker_plans_reaches_the_loop(on_start: Callable[[OnStart], None]) -> None:
    def prepare(feeder: Feeder) -> None:
        def broken(rows: Rows) -> Iterator[PlannedBatch]:
            raise MemoryError(f"no room for {len(rows.index)}")

        feeder._planner.add_sound = broken  # type: ignore[method-assign]

    on_start(prepare)
    with pytest.raises(MemoryError, match="no room for 1"):
        batches_of(50, max_batch_rows=1, on_error="skip")


class NoTurn:
    """A lock that keeps nobody out."""

    def acquire(self, blocking: bool = True) -> bool:
        return True

    def release(self) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class Watched:
    """A planner that is slow, and counts how many threads are inside of it."""

    def __init__(self, planner: WindowPlanner) -> None:
        self._planner = planner
        self._inside = self.most_inside = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._planner, name)

    @contextmanager
    def _entered(self) -> Iterator[None]:
        self._inside += 1
        self.most_inside = max(self.most_inside, self._inside)
        time.sleep(0.002)
        try:
            yield
        finally:
            self._inside -= 1

    def add(self, rows: Rows) -> Iterator[Any]:
        with self._entered():
            return iter(list(self._planner.add(rows)))

    def add_sound(self, rows: Rows) -> Iterator[Any]:
        with self._entered():
            return iter(list(self._planner.add_sound(rows)))


def troubles(on_start: Callable[[OnStart], None], turn: Any) -> set[str]:
    """What goes wrong in a pass whose threads take turns by this lock."""
    watched: list[Watched] = []

    def prepare(feeder: Feeder) -> None:
        feeder._turn = turn
        watched.append(Watched(feeder._planner))
        feeder._planner = watched[0]  # type: ignore[assignment]

    on_start(prepare)
    found, rows = set(), []
    with Prefetcher(range(60), None, load=load, device="cpu", num_workers=6, on_error="skip") as batches:
        limit = threading.Timer(20.0, batches.close)  # a ticket may be lost
        limit.start()
        try:
            rows = [row for batch in batches for row in batch.input_index.tolist()]
        except Exception:  # noqa: BLE001 - whatever two who change one thing at once may bring about
            found.add("an error")
        limit.cancel()
    if rows != [key for key in range(60) if key % 17 != 11]:
        found.add("other rows")
    if watched[0].most_inside > 1:
        found.add("several plan at once")
    return found


def test_one_thread_plans_at_a_time(on_start: Callable[[OnStart], None]) -> None:
    assert troubles(on_start, threading.Lock()) == set()


def test_without_the_turn_they_would_plan_at_once(on_start: Callable[[OnStart], None]) -> None:
    """The negative control of the test above."""
    assert troubles(on_start, NoTurn()) != set()
