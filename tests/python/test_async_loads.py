"""``load`` as a coroutine function: hundreds at once on one event loop, with retries and a clean end."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import penstock
from children import Nursery
from passes import Watched, settled, take_away, threads_left, wait_until
from penstock import Prefetcher
from penstock.errors import ConfigError, LoadTimeoutError
from penstock.loads import CoroutineLoader, FunctionLoader, Load, pause_before
from penstock.pool import WorkerPool
from penstock.stats import Clock
from slow_server import HttpError, Plan, SlowServer, fetch, text_of

# --- pauses between attempts -----------------------------------------------------------------------------


def test_pauses_double_up_to_a_limit_and_are_drawn_from_all_below() -> None:
    drawn: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        drawn.append((low, high))
        return high

    assert [pause_before(attempt, draw) for attempt in range(1, 12)] == [
        *(0.1 * 2**doublings for doublings in range(9)),
        30.0,
        30.0,
    ]
    assert {low for low, _ in drawn} == {0.0}
    assert pause_before(10_000, draw) == 30.0
    pauses = [pause_before(3) for _ in range(2_000)]
    assert 0 <= min(pauses) < 0.04
    assert 0.36 < max(pauses) <= 0.4


class Trials:
    """Loads that fail so many times, run by a loader whose pauses take no time and are written down."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, kind: str, retries: int, failures: list[BaseException]
    ):
        self.pauses: list[float] = []
        self.calls = 0
        self.over = threading.Event()
        self._failures = failures
        self._was_asked: list[int] = []
        monkeypatch.setattr("penstock.loads.pause_before", self._pause)
        arguments: dict[str, Any] = {"retries": retries, "timeout": None}
        self._pool = WorkerPool(1, "test")
        if kind == "load":
            self.loader: Any = FunctionLoader(self._load, self._pool, self._finished, Clock(), **arguments)
            monkeypatch.setattr(self.loader, "_is_stopping", self)
        else:
            self.loader = CoroutineLoader(
                self._load_async, self._finished, Clock(), name="test", sleep=self._sleep, **arguments
            )

    def run(self) -> Load:
        load = Load("key", 0)
        self.loader.start(load)
        assert self.over.wait(10)
        if isinstance(self.loader, CoroutineLoader):
            self.loader.stop()
            self.loader.join()
        self._pool.shutdown()
        return load

    def wait(self, seconds: float) -> bool:
        """In place of the event that ends the pauses of functions."""
        self.pauses.append(seconds)
        return False

    def set(self) -> None:
        """Likewise."""

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def _pause(self, attempt: int) -> float:
        return pause_before(attempt, max)

    def _load(self, key: str) -> str:
        self.calls += 1
        if self.calls <= len(self._failures):
            raise self._failures[self.calls - 1]
        return key

    async def _load_async(self, key: str) -> str:
        return self._load(key)

    def _finished(self, load: Load) -> None:
        self.over.set()


class Native(BaseException):
    pass


TRIALS = [
    # retries, what the calls raise before one returns, calls, pauses, outcome
    (0, [OSError()], 1, [], OSError),
    (3, [], 1, [], None),
    (3, [OSError(), ValueError()], 3, [0.1, 0.2], None),
    (3, [OSError(), TimeoutError(), asyncio.TimeoutError()], 4, [0.1, 0.2, 0.4], None),
    (2, [OSError(), OSError(), KeyError(), OSError()], 3, [0.1, 0.2], KeyError),
    # What is no Exception is not tried again.
    (3, [SystemExit()], 1, [], SystemExit),
    (3, [OSError(), Native()], 2, [0.1], Native),
    (3, [asyncio.CancelledError()], 1, [], asyncio.CancelledError),
]


@pytest.mark.parametrize("kind", ["load", "coroutine"])
@pytest.mark.parametrize(("retries", "failures", "calls", "pauses", "outcome"), TRIALS)
def test_what_is_tried_again_and_after_which_pauses(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    retries: int,
    failures: list[BaseException],
    calls: int,
    pauses: list[float],
    outcome: type[BaseException] | None,
) -> None:
    trials = Trials(monkeypatch, kind, retries, failures)
    load = trials.run()
    assert (trials.calls, trials.pauses) == (calls, pauses)
    assert (type(load.error) if load.error else None) == outcome
    assert load.row == (None if outcome else "key")
    assert trials.loader.num_retries == calls - 1


@pytest.mark.parametrize(
    ("kind", "owner", "rule", "instead"),
    [
        ("coroutine", CoroutineLoader, "await self._sleep(pause_before(load.attempt + 1))", "pass"),
        ("coroutine", CoroutineLoader, "pause_before(load.attempt + 1)", "pause_before(1)"),
        ("load", FunctionLoader, "pause_before(load.attempt + 1)", "pause_before(1)"),
    ],
)
def test_without_the_backoff_the_pauses_are_wrong(
    monkeypatch: pytest.MonkeyPatch, kind: str, owner: Any, rule: str, instead: str
) -> None:
    """Negative controls: no pause, and one that does not grow."""
    take_away(monkeypatch, owner, "_run", rule, instead)
    trials = Trials(monkeypatch, kind, 3, [OSError(), OSError()])
    trials.run()
    assert trials.pauses != [0.1, 0.2]


def test_close_does_not_wait_for_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.loads.pause_before", lambda _: 60.0)
    tried = threading.Event()

    def load(key: int) -> list[int]:
        tried.set()
        raise OSError

    start = time.monotonic()
    with Prefetcher(range(9), None, load=load, device="cpu", retries=1) as batches:
        iterator = iter(batches)
        assert tried.wait(20)
    assert list(iterator) == []
    assert time.monotonic() - start < 30
    assert threads_left() == []


def test_a_pause_is_no_part_of_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.loads.pause_before", lambda _: 0.5)
    calls: list[int] = []

    def load(key: int) -> list[int]:
        calls.append(key)
        if len(calls) == 1:
            raise OSError
        return [key]

    with Prefetcher([7], None, load=load, device="cpu", retries=1, timeout=0.2) as batches:
        assert [batch.input_index.tolist() for batch in batches] == [[0]]
    assert batches.stats().num_abandoned == 0


# --- a real server ---------------------------------------------------------------------------------------


@pytest.fixture
def serve() -> Iterator[Callable[[Plan], SlowServer]]:
    servers: list[SlowServer] = []

    def start(plan: Plan) -> SlowServer:
        servers.append(SlowServer(plan))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.loads.pause_before", lambda _: 0.0)


@pytest.fixture
def complaints(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What asyncio has to say, as of tasks that were destroyed while they were pending: nothing."""
    found: list[str] = []
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        yield found
        found += [record.getMessage() for record in caplog.records if record.name == "asyncio"]
    assert found == []


def texts_by_row(
    batches: Prefetcher, tokenizer: Any
) -> tuple[list[int], dict[int, list[int]], dict[int, Any]]:
    order: list[int] = []
    tokens: dict[int, list[int]] = {}
    failed: dict[int, BaseException] = {}
    for batch in batches:
        order += batch.input_index.tolist()
        for at, index in enumerate(batch.input_index.tolist()):
            tokens[index] = batch.inputs["input_ids"][at, : batch.num_tokens[at]].tolist()
        failed.update(batch.errors)
    return order, tokens, failed


FLAKY = ["late", "500", "reset", "short", "slow", "ok", "ok"]


@pytest.mark.usefixtures("no_pauses", "complaints")
def test_every_row_arrives_once_in_order_with_its_text(
    tiny_bpe: Path, serve: Callable[[Plan], SlowServer]
) -> None:
    """Two in seven requests are late or slow, three fail in their own way the first time they are made."""
    server = serve(lambda key, attempt: FLAKY[key % 7] if attempt == 1 else "ok")
    count = 420
    twin = penstock.Tokenizer.from_pretrained(tiny_bpe)
    with Prefetcher(
        range(count),
        twin,
        load=partial(fetch, server.port),
        device="cpu",
        rows_ahead=100,
        retries=2,
        max_batch_rows=16,
    ) as batches:
        order, tokens, failed = texts_by_row(batches, twin)
    expected = twin.encode_batch([text_of(key) for key in range(count)])
    assert order == list(range(count))
    assert tokens == {key: expected.row(key).tolist() for key in range(count)}
    assert failed == {}
    flaky = [key for key in range(count) if FLAKY[key % 7] in ("500", "reset", "short")]
    assert batches.stats().num_retries == len(flaky)
    assert server.requests == {key: 2 if key in flaky else 1 for key in range(count)}
    assert threads_left() == []


@pytest.mark.usefixtures("no_pauses", "complaints")
def test_rows_whose_retries_are_used_up_fail_alone_and_say_why(
    tiny_bpe: Path, serve: Callable[[Plan], SlowServer]
) -> None:
    bad = {3: "500", 40: "reset", 41: "short", 77: "never", 99: "slow"}
    server = serve(lambda key, _: bad.get(key, "ok"))
    with Prefetcher(
        range(100),
        tiny_bpe,
        load=partial(fetch, server.port),
        device="cpu",
        rows_ahead=50,
        retries=2,
        timeout=0.3,
        on_error="null",
        max_batch_rows=16,
    ) as batches:
        order, _, failed = texts_by_row(batches, None)
    assert order == [key for key in range(100) if key not in failed]
    kinds = {key: type(error) for key, error in failed.items()}
    # The last one may get through its body in time, or not.
    kinds.pop(99, None)
    assert kinds == {
        3: HttpError,
        40: kinds[40],
        41: asyncio.IncompleteReadError,
        77: LoadTimeoutError,
    }
    assert issubclass(kinds[40], (ConnectionError, asyncio.IncompleteReadError))
    assert [server.requests[key] for key in (3, 40, 41, 77)] == [3, 3, 3, 1]  # a timeout is not tried again
    assert batches.stats().num_abandoned == 0


@pytest.mark.usefixtures("complaints")
def test_hundreds_are_in_flight_and_never_more_than_rows_ahead(
    tiny_bpe: Path, serve: Callable[[Plan], SlowServer]
) -> None:
    server = serve(lambda key, _: "never" if key < 600 else "ok")
    batches = Prefetcher(
        range(2_000), tiny_bpe, load=partial(fetch, server.port), device="cpu", rows_ahead=500
    )
    iter_of_it = iter(batches)
    assert settled(lambda: server.num_open, 500) == 500
    batches.close()
    wait_until(lambda: server.num_open == 0)
    assert (server.num_open, server.most_open) == (0, 500)
    assert list(iter_of_it) == []
    assert threads_left() == []


@pytest.mark.usefixtures("complaints")
@pytest.mark.parametrize("ordered", [True, False])
def test_a_break_closes_the_sockets_and_ends_every_task(
    tiny_bpe: Path, serve: Callable[[Plan], SlowServer], *, ordered: bool
) -> None:
    server = serve(lambda key, _: "ok" if key < 40 else "never")
    ended: list[int] = []

    async def load(key: int) -> str:
        try:
            return await fetch(server.port, key)
        finally:
            await asyncio.sleep(0)  # what is done on the way out may itself await
            ended.append(key)

    with Prefetcher(
        range(2_000), tiny_bpe, load=load, device="cpu", rows_ahead=200, max_batch_rows=8, ordered=ordered
    ) as batches:
        for _ in batches:
            wait_until(lambda: server.num_open == 200)
            break
    assert threads_left() == []
    wait_until(lambda: server.num_open == 0)
    assert server.num_open == 0
    assert sorted(ended) == list(range(len(ended)))
    assert len(ended) >= 200


@pytest.mark.usefixtures("complaints")
def test_tasks_that_a_coroutine_has_started_end_with_the_pass() -> None:
    states: list[str] = []

    async def beats() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            states.append("ended")

    async def numbers() -> Any:
        try:
            yield 1
            yield 2
        finally:
            states.append("generator closed")

    kept: list[Any] = []

    async def load(key: int) -> list[int]:
        if key == 0:
            kept.append(asyncio.create_task(beats()))
            kept.append(numbers())
            await anext(kept[-1])
        await asyncio.sleep(0)
        return [key]

    with Prefetcher(range(20), None, load=load, device="cpu", max_batch_rows=2) as batches:
        assert sum(len(batch) for batch in batches) == 20
    assert threads_left() == []
    assert sorted(states) == ["ended", "generator closed"]


@pytest.mark.usefixtures("complaints")
def test_a_task_that_exits_ends_its_row_and_not_the_event_loop() -> None:
    async def exits() -> None:
        raise SystemExit(7)

    async def load(key: int) -> list[int]:
        if key == 5:
            await asyncio.create_task(exits())
        return [key]

    with Prefetcher(range(40), None, load=load, device="cpu", max_batch_rows=1) as batches:
        loop = Watched(batches)
        assert loop.is_over()
    assert loop.rows == [0, 1, 2, 3, 4]
    assert isinstance(loop.raised, SystemExit)
    assert threads_left() == []


@pytest.mark.usefixtures("complaints")
def test_blocking_code_in_a_coroutine_is_noticed_by_its_own_loop_only(
    tiny_bpe: Path, serve: Callable[[Plan], SlowServer]
) -> None:
    """The rows that were there are delivered, another pass goes on, and close does not wait for it."""
    server = serve(lambda key, _: "ok")
    is_in, go_on = threading.Event(), threading.Event()

    async def blocks(key: int) -> list[int]:
        if key == 20:
            is_in.set()
            go_on.wait(60)
        return [key]

    try:
        with Prefetcher(range(500), None, load=blocks, device="cpu", rows_ahead=8, max_batch_rows=1) as stuck:
            loop = Watched(stuck)
            assert is_in.wait(20)
            wait_until(lambda: loop.rows == list(range(20)))
            assert loop.rows == list(range(20))
            with Prefetcher(range(100), tiny_bpe, load=partial(fetch, server.port), device="cpu") as other:
                assert sum(len(batch) for batch in other) == 100
            start = time.monotonic()
            stuck.close()
            assert time.monotonic() - start < 10
            assert loop.is_over()
    finally:
        go_on.set()
    assert threads_left() == []


async def soon(key: int) -> Any:
    await asyncio.sleep(0)
    return [key]


class Callables:
    async def method(self, key: int) -> Any:
        return await soon(key)

    async def __call__(self, key: int) -> Any:
        return await soon(key)


@pytest.mark.parametrize(
    "load",
    [soon, Callables().method, Callables(), partial(soon), partial(Callables().method)],
    ids=["function", "method", "object", "partial", "partial of a method"],
)
def test_whatever_gives_a_coroutine_is_a_coroutine_function(load: Callable[[int], Awaitable[Any]]) -> None:
    with Prefetcher(range(9), None, load=load, device="cpu") as batches:
        assert sum(len(batch) for batch in batches) == 9
    assert batches.stats().loads_at_once == 64


def test_a_function_around_a_coroutine_is_refused_with_the_remedy() -> None:
    with Prefetcher(range(9), None, load=lambda key: soon(key + 0), device="cpu") as batches:
        with pytest.raises(ConfigError, match=r"pass the coroutine function itself"):
            list(batches)


# --- without the rules -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("name", "rule", "instead"),
    [
        ("_serve", "with suppress(SystemExit, KeyboardInterrupt):", "if True:"),
        ("_attempt", "await asyncio.wait({call}, timeout=self._seconds)", "await asyncio.wait({call})"),
        (
            "_attempt",
            "await asyncio.wait({call}, timeout=self._seconds)",
            "await asyncio.wait_for(call, 0.1)",
        ),
    ],
    ids=["a task may end the loop", "no timeout", "a timeout that waits for the coroutine"],
)
def test_without_the_rule_the_loop_hangs(
    monkeypatch: pytest.MonkeyPatch, name: str, rule: str, instead: str
) -> None:
    """Negative controls, by one coroutine that does all of it."""
    take_away(monkeypatch, CoroutineLoader, name, rule, instead)
    go_on = threading.Event()

    async def exits() -> None:
        raise SystemExit(7)

    async def load(key: int) -> list[int]:
        if key == 3 and name == "_serve":
            await asyncio.create_task(exits())
        while key == 3 and not go_on.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        return [key]

    batches = Prefetcher(range(9), None, load=load, device="cpu", timeout=0.1, max_batch_rows=1)
    loop = Watched(batches)
    hangs = not loop.is_over(1.0)
    go_on.set()
    batches.close()
    assert hangs
    assert loop.is_over()
    assert threads_left() == []


def test_without_the_rule_tasks_of_the_caller_are_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: only the loads are cancelled, and not what they started."""
    take_away(monkeypatch, CoroutineLoader, "_wind_up", "asyncio.all_tasks() - {me}", "self._tasks - {me}")
    kept: list[asyncio.Task[None]] = []

    async def load(key: int) -> list[int]:
        kept.append(asyncio.create_task(asyncio.sleep(60)))
        return [key]

    with Prefetcher(range(1), None, load=load, device="cpu") as batches:
        list(batches)
    assert threads_left() == []
    assert not kept[0].done()
    setattr(kept[0], "_log_destroy_pending", False)  # noqa: B010 - it is pending, and is meant to be
    kept[0].get_coro().close()


# --- the process -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


FIVE_HUNDRED = """
import socket
silent = socket.create_server(("127.0.0.1", 0), backlog=1024)
port = silent.getsockname()[1]
in_flight, closed = [], []

async def load(key):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    in_flight.append(key)
    try:
        return [len(await reader.read())]
    finally:
        writer.close()
        closed.append(key)

def wait_for_all():
    while len(in_flight) < 500:
        time.sleep(0.005)
    print("ready", flush=True)

batches = Prefetcher(range(10_000), None, load=load, device="cpu", rows_ahead=500)
"""


@pytest.mark.parametrize(
    ("body", "code", "output"),
    [
        (
            """
threading.Thread(target=wait_for_all, daemon=True).start()
try:
    with batches:
        next(iter(batches))
except KeyboardInterrupt:
    while len(closed) < 500:
        time.sleep(0.005)
    print(len(closed), "closed")
    sys.exit(3)
""",
            3,
            "ready\n500 closed\n",
        ),
        ("iterator = iter(batches)\nwait_for_all()\nraise KeyboardInterrupt", None, "ready\n"),
        ("iterator = iter(batches)\nwait_for_all()\n", 0, "ready\n"),
    ],
    ids=["Ctrl-C", "Ctrl-C outside of with", "left open"],
)
def test_the_process_ends_with_five_hundred_in_flight(
    nursery: Nursery, body: str, code: int | None, output: str
) -> None:
    child = nursery.run(FIVE_HUNDRED + body)
    child.wait_for("ready")
    if code == 3:
        child.signal(signal.SIGINT)
    found = child.wait()
    assert child.output == output
    if code is None:  # the traceback of the caller's own KeyboardInterrupt, and nothing of asyncio's
        assert found in (-signal.SIGINT, 130)
        assert child.complaints.strip().splitlines()[-1] == "KeyboardInterrupt"
        assert "asyncio" not in child.complaints
        assert "pending" not in child.complaints
    else:
        assert (found, child.complaints) == (code, "")
