"""The bounds are formulas of the arguments (rule 2): each is reached exactly here, and never passed.

Rows started and not delivered: ``rows_ahead + window_rows``, and the rows of ``batches_ahead + 2`` batches.
Bytes of text loaded and in no batch: ``max_buffered_bytes``, and ``max_row_bytes`` for each load in flight.

Sources and loads go on when the test says so, and the loop stalls: what is counted depends on no clock.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from passes import settled, take_away, wait_until
from penstock import Prefetcher
from penstock.encoder import Encoder
from penstock.feeder import Feeder
from penstock.reader import Gate

# --- rows ------------------------------------------------------------------------------------------------


class StepByStep:
    """A source that gives a row when all before it were started and loaded, and a count of those.

    So the feeder is never kept from starting one by anything but the bound.
    """

    def __init__(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kind = kind
        self.num_started = 0
        self.batches: Prefetcher | None = None
        encode = Encoder.rows

        def count(encoder: Encoder, chunk: Any, text_bytes: Any) -> Any:
            if kind == "rows":
                self.num_started += len(text_bytes)
            return encode(encoder, chunk, text_bytes)

        monkeypatch.setattr(Encoder, "rows", count)

    def source(self, count: int) -> Iterator[Any]:
        for at in range(count):
            wait_until(partial(self._has_loaded, at), 60)
            yield at if self.kind != "rows" else [at]

    def _has_loaded(self, count: int) -> bool:
        current = self.batches._pass if self.batches is not None else None
        return self.num_started >= count and current is not None and not current._feeder._loads

    @property
    def load(self) -> Callable[[int], Any] | None:
        async def load_async(key: int) -> list[int]:
            return load(key)

        def load(key: int) -> list[int]:
            self.num_started += 1
            return [key]

        return {"load": load, "coroutine": load_async, "rows": None}[self.kind]


def rows_at_a_standstill(
    monkeypatch: pytest.MonkeyPatch, kind: str, expected: int, **arguments: Any
) -> tuple[int, int]:
    """Rows started while the loop stalls before its first batch; and the worst after it went on."""
    steps = StepByStep(kind, monkeypatch)
    # max_wait, which never comes: a source of rows must not gather chunks.
    steps.batches = Prefetcher(
        steps.source(expected + 60),
        None,
        load=steps.load,
        device="cpu",
        num_workers=2,
        max_wait=1e9,
        **arguments,
    )
    with steps.batches as batches:
        iterator = iter(batches)
        standstill = settled(lambda: steps.num_started, expected)
        got, worst = 0, standstill
        for batch in iterator:
            worst = max(worst, steps.num_started - got)
            got += len(batch)
        assert got == expected + 60
    return standstill, worst


SETTINGS = [
    # rows_ahead, window_rows, batches_ahead, max_batch_rows
    (1, 1, 1, 1),
    (1, 1, 3, 4),
    (5, 1, 2, 3),
    (16, 1, 1, 5),
    (1, 4, 1, 1),
    (3, 8, 3, 4),
    (16, 12, 2, 6),
]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kind", ["load", "coroutine", "rows"])
@pytest.mark.parametrize(("rows_ahead", "window_rows", "batches_ahead", "max_batch_rows"), SETTINGS)
def test_rows_started_and_not_delivered_reach_their_bound_and_stay_there(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    rows_ahead: int,
    window_rows: int,
    batches_ahead: int,
    max_batch_rows: int,
    *,
    ordered: bool,
) -> None:
    bound = rows_ahead + window_rows + (batches_ahead + 2) * max_batch_rows
    standstill, worst = rows_at_a_standstill(
        monkeypatch,
        kind,
        bound,
        rows_ahead=rows_ahead,
        window_rows=window_rows,
        batches_ahead=batches_ahead,
        max_batch_rows=max_batch_rows,
        ordered=ordered,
    )
    assert standstill == bound
    assert worst == bound


@pytest.mark.parametrize(
    ("name", "rule", "instead"),
    [
        ("_has_room", "rows_ahead + self._limits.window_rows", "rows_ahead + self._limits.window_rows + 1"),
        ("_has_room", "return num_open + num_rows <=", "return True or"),
        ("_plan_ready", "self._num_started -= len(rows.failures)", "self._num_started -= len(rows.index)"),
    ],
)
def test_without_the_rule_more_rows_are_started(
    monkeypatch: pytest.MonkeyPatch, name: str, rule: str, instead: str
) -> None:
    """Negative controls: a bound that is one too high, none, and rows that are forgotten too early."""
    take_away(monkeypatch, Feeder, name, rule, instead)
    settings = {"rows_ahead": 5, "window_rows": 1, "batches_ahead": 2, "max_batch_rows": 3}
    assert rows_at_a_standstill(monkeypatch, "load", 18 + 1, **settings)[0] > 18


def test_rows_that_come_in_chunks_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of many rows fills several batches: those that wait for theirs are counted."""
    started = []
    encode = Encoder.rows

    def count(encoder: Encoder, chunk: Any, text_bytes: Any) -> Any:
        started.append(len(text_bytes))
        return encode(encoder, chunk, text_bytes)

    monkeypatch.setattr(Encoder, "rows", count)
    settings: dict[str, Any] = {"rows_ahead": 64, "window_rows": 1, "batches_ahead": 1, "max_batch_rows": 1}
    with Prefetcher([[at] for at in range(2_000)], None, device="cpu", num_workers=2, **settings) as batches:
        worst, got = 0, 0
        for batch in batches:
            if batch.ticket in (0, 700):
                time.sleep(0.2)  # for as many to be started as may be
            worst = max(worst, sum(started) - got)
            got += len(batch)
    assert got == 2_000
    assert worst <= 64 + 1 + 3


# --- loads in flight, and bytes --------------------------------------------------------------------------


class GatedLoads:
    """A ``load`` whose calls return when they are told to, and that counts what it gave."""

    def __init__(self, sizes: list[int], *, is_async: bool) -> None:
        self._sizes = sizes
        self._gates: defaultdict[int, threading.Event] = defaultdict(threading.Event)
        self._lock = threading.Lock()
        self.num_started = self.num_under_way = self.most_under_way = self.num_bytes = 0
        self.load = self._load_async if is_async else self._load

    def let_go(self, *keys: int) -> None:
        for key in keys:
            self._gates[key].set()

    def _begin(self) -> None:
        with self._lock:
            self.num_started += 1
            self.num_under_way += 1
            self.most_under_way = max(self.most_under_way, self.num_under_way)

    def _end(self, key: int) -> str:
        with self._lock:
            self.num_under_way -= 1
            self.num_bytes += self._sizes[key]
        return "x" * self._sizes[key]

    def _load(self, key: int) -> str:
        self._begin()
        self._gates[key].wait(60)
        return self._end(key)

    async def _load_async(self, key: int) -> str:
        self._begin()
        while not self._gates[key].is_set():
            await asyncio.sleep(0.001)
        return self._end(key)


@pytest.mark.parametrize(
    ("is_async", "rows_ahead", "num_workers", "expected"),
    [(False, 3, 8, 3), (False, 8, 3, 3), (False, None, 4, 4), (True, 3, 8, 3), (True, None, 1, 64)],
)
def test_loads_in_flight_reach_their_bound(
    tiny_bpe: Path, rows_ahead: int | None, num_workers: int, expected: int, *, is_async: bool
) -> None:
    """``rows_ahead`` calls; of functions no more than there are workers."""
    loads = GatedLoads([3] * 200, is_async=is_async)
    with Prefetcher(
        range(200), tiny_bpe, load=loads.load, device="cpu", rows_ahead=rows_ahead, num_workers=num_workers
    ) as batches:
        iterator = iter(batches)
        assert settled(lambda: loads.num_under_way, expected) == expected
        loads.let_go(*range(200))
        assert sum(len(batch) for batch in iterator) == 200
    assert loads.most_under_way == expected


def bytes_at_a_standstill(tiny_bpe: Path, *, is_async: bool) -> int:
    """Bytes loaded while no batch can be planned, because row 3 alone is waited for, until it comes."""
    # The open window stays under its half, 500; behind row 3 there are 501; and three loads are in flight.
    sizes = [199, 100, 200] + [200] + [200, 200, 101] + [200, 200] + [200] * 91
    loads = GatedLoads(sizes, is_async=is_async)
    with Prefetcher(
        range(100),
        tiny_bpe,
        load=loads.load,
        device="cpu",
        rows_ahead=3,
        window_rows=64,
        num_workers=5,
        max_buffered_bytes=1_000,
        max_row_bytes=200,
    ) as batches:
        iterator = iter(batches)
        loads.let_go(0, 1, 2, 4, 5, 6)
        wait_until(lambda: loads.num_started == 9)
        loads.let_go(7, 8)
        if settled(lambda: loads.num_started, 9) > 9:
            loads.let_go(*range(9, 12))
            settled(lambda: loads.num_bytes, 1_601)
        loads.let_go(3)
        wait_until(lambda: loads.num_bytes >= 1_600)
        reached = loads.num_bytes
        loads.let_go(*range(100))
        assert sum(len(batch) for batch in iterator) == 100
    return reached


@pytest.mark.parametrize("is_async", [False, True])
def test_bytes_loaded_and_in_no_batch_reach_their_bound_and_stay_there(
    tiny_bpe: Path, *, is_async: bool
) -> None:
    assert bytes_at_a_standstill(tiny_bpe, is_async=is_async) == 1_000 + 3 * 200


def test_without_the_gate_more_bytes_are_loaded(tiny_bpe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr(Gate, "is_over", lambda _: False)
    assert bytes_at_a_standstill(tiny_bpe, is_async=True) > 1_000 + 3 * 200


@pytest.mark.parametrize("window_rows", [1, 1_000])
def test_bytes_of_a_source_of_rows_are_bounded(tiny_bpe: Path, window_rows: int) -> None:
    """A chunk counts as a load in flight; here, for a live source, it is a row of 100 bytes."""
    pulled = 0

    def rows() -> Iterator[str]:
        nonlocal pulled
        for _ in range(300):
            pulled += 100
            yield "y " * 50

    with Prefetcher(
        rows(),
        tiny_bpe,
        device="cpu",
        window_rows=window_rows,
        rows_ahead=1_000,
        max_batch_rows=2,
        batches_ahead=1,
        max_buffered_bytes=1_000,
        max_wait=1e9,
    ) as batches:
        got = worst = 0
        for batch in batches:
            worst = max(worst, pulled - got)
            got += 100 * len(batch)
    assert got == 300 * 100
    assert 1_000 <= worst <= 1_000 + 100 + (1 + 2) * 2 * 100 + 100  # and a row that is being read
