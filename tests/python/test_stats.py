"""What ``Stats`` says: a table of made-up figures, and the same situations run for real."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from penstock import CachedPrefetcher, ConfigError, Prefetcher, Stats
from penstock.staging import Gaps
from penstock.stats import Waits
from penstock.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FED, STARVED = Waits(total_s=0.1), Waits(total_s=8.0)
FOUR = {"num_workers": 4, "num_cores": 8, "loads_at_once": 4}

MADE_UP: dict[str, tuple[dict[str, Any], str, str]] = {
    # situation: the figures of ten seconds, the bottleneck, words of the remedy
    "fed": ({"blocked_takes": FED, "stage_s": {"read": 9.9}}, "model", "as it should be"),
    "slow source": ({"stage_s": {"read": 9.0}, "stage_cpu_s": {"tokenize": 3.0}}, "read", "faster disk"),
    "slow source, many workers": ({**FOUR, "stage_s": {"read": 9.0, "load": 20.0}}, "read", "faster disk"),
    "too few workers": (
        {**FOUR, "stage_s": {"load": 39.0}, "stage_cpu_s": {"load": 0.4}},
        "load",
        "raise num_workers",
    ),
    "one worker that computes": (
        {"num_workers": 1, "num_cores": 8, "stage_s": {"load": 9.5}, "stage_cpu_s": {"load": 9.5}},
        "load",
        "raise num_workers",
    ),
    "too few rows ahead": (
        {**FOUR, "loads_at_once": 2, "is_bound_by_rows_ahead": True, "stage_s": {"load": 19.0}},
        "load",
        "raise rows_ahead",
    ),
    "too few coroutines": (
        {**FOUR, "loads_at_once": 64, "is_load_async": True, "is_bound_by_rows_ahead": True}
        | {"stage_s": {"load": 630.0, "tokenize": 2.0}, "stage_cpu_s": {"load": 1.0}},
        "load",
        "raise rows_ahead",
    ),
    "coroutines that compute": (
        {**FOUR, "loads_at_once": 64, "is_load_async": True, "is_bound_by_rows_ahead": True}
        | {"stage_s": {"load": 630.0, "tokenize": 2.0}, "stage_cpu_s": {"load": 9.5}},
        "load",
        "await more",
    ),
    "Python in load": ({**FOUR, "stage_s": {"load": 39.0}, "stage_cpu_s": {"load": 9.6}}, "load", "GIL"),
    "every core in load": (
        {**FOUR, "num_cores": 4, "stage_s": {"load": 39.0}, "stage_cpu_s": {"load": 38.0}},
        "load",
        "4 cores at it",
    ),
    "slow tokenizer, idle cores": (
        {**FOUR, "stage_s": {"read": 5.0}, "stage_cpu_s": {"tokenize": 38.0}},
        "tokenize",
        r"raise num_workers \(4 on 8 cores\)",
    ),
    "slow tokenizer, no idle core": (
        {**FOUR, "num_cores": 4, "stage_cpu_s": {"tokenize": 38.0}},
        "tokenize",
        "with 4 cores at it",
    ),
    "slow collate": (
        {**FOUR, "stage_cpu_s": {"tokenize": 10.0, "collate": 29.0}},
        "collate",
        "raise num_workers",
    ),
    "more workers than cores": (
        {**FOUR, "num_cores": 2, "stage_s": {"read": 6.0}, "stage_cpu_s": {"tokenize": 19.0}},
        "tokenize",
        "with 2 cores at it",
    ),
    # Python in load keeps the lock from the tokenizer, which seems to be slow by the clock on the wall.
    "others wait for the lock": (
        {**FOUR, "stage_s": {"load": 18.0, "tokenize": 21.0}}
        | {"stage_cpu_s": {"load": 9.0, "tokenize": 0.5}},
        "load",
        "GIL",
    ),
    # The workers are full and the reader is not, though no stage of theirs alone takes as large a share.
    "workers share their time": (
        {**FOUR, "stage_s": {"read": 5.0, "load": 14.0}}
        | {"stage_cpu_s": {"tokenize": 13.0, "collate": 12.0}},
        "load",
        "raise num_workers",
    ),
}


@pytest.mark.parametrize("situation", MADE_UP)
def test_the_sentence_names_stage_and_remedy(situation: str) -> None:
    figures, bottleneck, remedy = MADE_UP[situation]
    given: dict[str, Any] = {"elapsed_s": 10.0, "blocked_takes": STARVED, "num_batches": 99}
    stats = Stats(**given | figures)
    assert stats.bottleneck == bottleneck
    assert re.search(remedy, str(stats)), stats


def test_two_batches_say_nothing() -> None:
    assert "too few batches" in str(Stats(elapsed_s=1.0, num_batches=2, blocked_takes=Waits(total_s=1.0)))


def test_what_the_lock_and_the_device_cost_is_said() -> None:
    stats = Stats(elapsed_s=10.0, num_batches=99, gil_wait_s=2.0, device_idle_s=1.5)
    assert "For another 20% its batch was there and Python's lock" in str(stats)
    assert "The device was idle 15% of the time." in str(stats)
    assert stats.device_idle_share == 0.15
    assert "lock" not in str(Stats(elapsed_s=10.0, num_batches=99, gil_wait_s=0.1))


def compute(seconds: float) -> None:
    """Python code that holds the GIL for so much time of its own."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(100))


def slow_keys() -> Iterator[int]:
    for key in range(30):
        time.sleep(0.01)
        yield key


def sleep(key: int) -> list[int]:
    time.sleep(0.01)
    return [key]


def work(key: int) -> list[int]:
    compute(0.01)
    return [key]


async def wait(key: int) -> list[int]:
    await asyncio.sleep(0.05)
    return [key]


async def work_in_the_loop(key: int) -> list[int]:
    compute(0.01)
    return [key]


REAL: dict[str, tuple[dict[str, Any], float, str]] = {
    # situation: arguments, seconds of a step, words of the remedy
    "slow source": ({"source": slow_keys, "load": lambda key: [key]}, 0.0, "reading the source"),
    "slow model": ({"load": lambda key: [key]}, 0.05, "the model is the bottleneck"),
    "too few workers": ({"load": sleep, "num_workers": 2}, 0.0, "raise num_workers"),
    "too few rows ahead": ({"load": sleep, "num_workers": 4, "rows_ahead": 2}, 0.0, "raise rows_ahead"),
    "too few coroutines": ({"load": wait, "rows_ahead": 2}, 0.0, "raise rows_ahead"),
}


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """The first pass of a process imports what it needs, inside the stage that needs it."""
    for _ in Prefetcher(range(4), None, load=lambda key: [key], device="cpu"):
        pass


@pytest.mark.parametrize("situation", REAL)
def test_the_sentence_is_right_in_a_real_run(situation: str) -> None:
    given, step_s, remedy = REAL[situation]
    arguments = {"source": lambda: range(30), **given}
    source = arguments.pop("source")()
    with Prefetcher(source, None, device="cpu", max_batch_rows=1, **arguments) as batches:
        for _ in batches:
            time.sleep(step_s)
        assert remedy in str(batches.stats()), batches.stats()


def test_python_in_load_is_told_from_waiting_in_load(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if there were more cores than this machine may have: one thread computes at a time all the same.
    monkeypatch.setattr("penstock.flow.num_cores", lambda: 8)
    with Prefetcher(range(60), None, load=work, device="cpu", max_batch_rows=1, num_workers=4) as batches:
        for _ in batches:
            pass
        stats = batches.stats()
    assert stats.bottleneck == "load"
    assert stats.stage_cpu_s["load"] >= 0.6
    assert stats.stage_cpu_s["load"] < 0.7 * stats.stage_s["load"], "four threads took turns"


def test_the_computing_of_coroutines_is_counted() -> None:
    with Prefetcher(range(30), None, load=work_in_the_loop, device="cpu", max_batch_rows=1) as batches:
        for _ in batches:
            pass
        computing = batches.stats().stage_cpu_s["load"]
    with Prefetcher(range(30), None, load=wait, device="cpu", max_batch_rows=1) as batches:
        for _ in batches:
            pass
        waiting = batches.stats().stage_cpu_s["load"]
    assert waiting < 0.15
    assert computing >= 0.3


def test_counts_are_those_of_the_rows(tiny_bpe: Path) -> None:
    texts = [f"row {number} é" for number in range(100)]
    with Prefetcher(texts, tiny_bpe, device="cpu", max_batch_rows=10, window_rows=1) as batches:
        for _ in batches:
            time.sleep(0.001)
        stats = batches.stats()
    assert stats.num_text_bytes == sum(len(text.encode()) for text in texts)
    assert stats.num_rows == 100
    assert stats.num_batches == 10
    assert stats.tokens_per_s == pytest.approx(stats.num_tokens / stats.elapsed_s)


def test_waits_have_a_median_and_a_tail() -> None:
    def load(key: int) -> list[int]:
        time.sleep(0.3 if key == 5 else 0.01)
        return [key]

    with Prefetcher(range(30), None, load=load, device="cpu", max_batch_rows=1, num_workers=1) as batches:
        for _ in batches:
            pass
        waits = batches.stats().blocked_takes
    assert 25 <= waits.count <= 31
    assert 0.005 < waits.p50_s < 0.1
    assert waits.p99_s > 0.2
    assert waits.total_s > 0.5


class FakeEvent:
    """An event of a made-up device: passes at a time that the test sets."""

    def __init__(self, device: FakeDevice) -> None:
        self._device = device

    def record(self, stream: object) -> None:
        self.when = max(self._device.now, self._device.busy_until)

    def query(self) -> bool:
        return self.when <= self._device.now

    def elapsed_time(self, last: FakeEvent) -> float:
        return (last.when - self.when) * 1e3


class FakeDevice:
    """Time, and until when the stream has work."""

    now = 0.0
    busy_until = 0.0


def test_a_gap_is_the_time_in_which_the_stream_has_nothing_to_do() -> None:
    device, stream = FakeDevice(), object()
    gaps = Gaps(lambda: FakeEvent(device))  # type: ignore[arg-type, return-value]

    def serve(asked_at: float, served_at: float, work_s: float) -> None:
        device.now = asked_at
        gaps.begin(stream)  # type: ignore[arg-type]
        device.now = served_at
        gaps.end(stream)  # type: ignore[arg-type]
        device.busy_until = max(device.now, device.busy_until) + work_s

    serve(0.0, 1.0, 5.0)  # idle for the first second
    serve(1.1, 2.0, 5.0)  # at work all the while: to 11
    serve(2.1, 14.0, 1.0)  # idle from 11 to 14
    device.now = 100.0
    gaps.begin(stream)  # type: ignore[arg-type]
    assert gaps.seconds == pytest.approx(1.0 + 0.0 + 3.0)


def test_unfinished_gaps_are_not_waited_for() -> None:
    device, stream = FakeDevice(), object()
    gaps = Gaps(lambda: FakeEvent(device))  # type: ignore[arg-type, return-value]
    device.busy_until = 10.0
    gaps.begin(stream)  # type: ignore[arg-type]
    gaps.end(stream)  # type: ignore[arg-type]
    assert gaps.seconds == 0.0


@pytest.mark.parametrize("ordered", [True, False])
def test_the_trace_shows_threads_tickets_and_slots(ordered: bool, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with Prefetcher(
        range(40), None, load=sleep, device="cpu", max_batch_rows=2, ordered=ordered, trace=path
    ) as batches:
        tickets = [batch.ticket for batch in batches]
    events = json.loads(path.read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert all(event["dur"] >= 0 for event in spans)
    assert {"load", "collate", "copy", "publish", "wait", "loop"} <= {event["name"] for event in spans}
    states = Counter(event["name"] for event in spans if event["pid"] == 2)
    assert states == {"in the making": 20, "ready": 20, "with the loop": 20}
    loops = [event["args"]["ticket"] for event in spans if event["name"] == "loop"]
    assert loops == tickets == list(range(20))
    for phase in "sf":
        assert sorted(event["id"] for event in events if event["ph"] == phase) == tickets
    threads = [event["args"]["name"] for event in events if event["name"] == "thread_name"]
    assert {"MainThread", "penstock-worker", "penstock-reader", "slot 0"} <= set(threads)
    ready = [event["args"]["batches"] for event in events if event["ph"] == "C"]
    assert min(ready) >= 0
    assert ready[-1] == 0


def test_tickets_of_one_slot_do_not_overlap_in_the_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with Prefetcher(range(60), None, load=sleep, device="cpu", max_batch_rows=1, trace=path) as batches:
        for _ in batches:
            pass
    spans = [event for event in json.loads(path.read_text())["traceEvents"] if event.get("pid") == 2]
    for slot in {event["tid"] for event in spans if event["ph"] == "X"}:
        times = sorted(
            (event["ts"], event["ts"] + event["dur"])
            for event in spans
            if event["ph"] == "X" and event["tid"] == slot
        )
        assert all(stop <= start + 1e-3 for (_, stop), (start, _) in pairwise(times))


def test_a_full_trace_drops_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("penstock.trace.MAX_EVENTS", 3)
    trace = Trace(tmp_path / "trace.json", num_slots=2)
    for number in range(5):
        trace.span("load", 0.0, 1.0, number)
        trace.mark(number, "claimed", 0.5)
    trace.write()
    assert json.loads((tmp_path / "trace.json").read_text())["otherData"] == {"dropped_events": 7}


def test_cached_batches_come_in_turn_and_cost_no_load() -> None:
    loaded: list[int] = []

    def load(key: int) -> list[int]:
        loaded.append(key)
        return [key, key]

    source = Prefetcher(range(1_000), None, load=load, device="cpu", max_batch_rows=1, num_workers=1)
    ceiling = CachedPrefetcher(source, num_batches=50, num_cached=3)
    first = [int(batch.inputs["input_ids"][0, 0]) for batch in ceiling]
    assert first == [number % 3 for number in range(50)]
    started = len(loaded)
    assert started < 20, "the source was read no further than the cache needs"
    assert [int(batch.inputs["input_ids"][0, 0]) for batch in ceiling] == first
    assert len(loaded) == started
    stats = ceiling.stats()
    assert (stats.num_batches, stats.num_rows, stats.num_tokens) == (50, 50, 100)
    assert stats.num_padded_tokens == 400
    assert stats.bottleneck == "model"
    assert np.isfinite(stats.tokens_per_s)


def test_a_cache_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="no batch to replay"):
        list(CachedPrefetcher(Prefetcher([], None, device="cpu"), num_batches=3))
    with pytest.raises(ConfigError, match="num_cached"):
        CachedPrefetcher(Prefetcher([[1]], None, device="cpu"), num_batches=3, num_cached=0)


@pytest.mark.parametrize("how", ["break", "raise"])
def test_the_trace_of_a_loop_that_was_left_is_written(how: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with (
        suppress(KeyError),
        Prefetcher([[1]] * 9, None, device="cpu", max_batch_rows=1, trace=path) as batches,
    ):
        for _ in batches:  # the iterator dies with the loop, and ends the pass before close does
            if how == "break":
                break
            raise KeyError
    assert {event.get("name") for event in json.loads(path.read_text())["traceEvents"]} >= {"wait", "collate"}


def test_what_a_loop_does_to_a_replayed_batch_is_not_there_the_next_time() -> None:
    source = Prefetcher([[1, 2]] * 4, None, device="cpu", max_batch_rows=2)
    seen = []
    for batch in CachedPrefetcher(source, num_batches=5):
        seen.append(sorted(batch.inputs))
        batch.inputs.pop("attention_mask", None)
        batch.inputs["labels"] = batch.inputs["input_ids"]
    assert seen == [["attention_mask", "input_ids"]] * 5


@pytest.mark.parametrize("is_async", [False, True])
def test_the_pauses_before_retries_count_as_loading(is_async: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.loads.pause_before", lambda _: 0.05)
    tried: Counter[int] = Counter()

    def load(key: int) -> list[int]:
        tried[key] += 1
        if tried[key] == 1:
            raise OSError
        return [key]

    async def load_async(key: int) -> list[int]:
        return load(key)

    with Prefetcher(
        range(8), None, load=load_async if is_async else load, device="cpu", retries=1, num_workers=2
    ) as batches:
        assert sum(map(len, batches)) == 8
        assert batches.stats().stage_s["load"] >= 8 * 0.05
        assert batches.stats().bottleneck == "load"
