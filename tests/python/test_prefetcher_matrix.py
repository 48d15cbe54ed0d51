"""Whatever goes wrong, in whoever's code: each row of these tables has one outcome, and no pass hangs.

Twelve rows in batches of two, and row 5 is the one that misbehaves: in ``load``, in a coroutine, in a source
of rows, or in a source of keys. What happens to the whole process is in ``test_prefetcher_processes.py``.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from passes import Watched, our_threads, settled, take_away, threads_left, wait_until
from penstock import Prefetcher
from penstock.errors import ClosedError, ConfigError, LoadTimeoutError, SourceExhaustedError
from penstock.feeder import Feeder
from penstock.loads import CoroutineLoader, FunctionLoader
from penstock.reader import Reader

if TYPE_CHECKING:
    from typing_extensions import Self

NUM_ROWS, BAD = 12, 5
BEFORE = list(range(BAD))
OTHERS = [at for at in range(NUM_ROWS) if at != BAD]

Step = Callable[[int], None]


class Panic(BaseException):
    """What native code raises when it panics: no ``Exception``, and from nobody's list."""


def feed(kind: str, step: Step, *, count: int = NUM_ROWS, **arguments: Any) -> Prefetcher:
    """A prefetcher that calls ``step`` for each row, where the kind says; the rows are ``[at]``."""

    def row(at: int) -> list[int]:
        step(at)
        return [at]

    async def row_async(at: int) -> list[int]:
        await asyncio.sleep(0)
        return row(at)

    def rows() -> Iterator[list[int]]:
        yield from map(row, range(count))

    def keys() -> Iterator[int]:
        for at in range(count):
            step(at)
            yield at

    source, load = {
        "load": (range(count), row),
        "coroutine": (range(count), row_async),
        "rows": (rows(), None),
        "keys": (keys(), lambda at: [at]),
    }[kind]
    # One worker: what is ready first is the first, so that a pass without order has one outcome as well.
    defaults = {"max_batch_rows": 2, "window_rows": 1, "num_workers": 1, "device": "cpu"}
    return Prefetcher(source, None, load=load, **(defaults | arguments))  # type: ignore[arg-type]


def raises(error: type[BaseException], at: int = BAD) -> Step:
    def step(row: int) -> None:
        if row == at:
            raise error(7)

    return step


def outcome(batches: Prefetcher) -> tuple[list[int], list[int], type[BaseException] | None]:
    """The rows that came, those listed as failed, and what the loop raised."""
    with batches:
        loop = Watched(batches)
        assert loop.is_over(), "the loop hangs"
        if loop.raised is not None:
            assert loop.raised.args == (7,)  # the very object, not one made again from its text
    return sorted(loop.rows), loop.failed, type(loop.raised) if loop.raised is not None else None


# --- an item that raises ---------------------------------------------------------------------------------

RAISING_ITEMS = [
    # what row 5 raises           on_error   rows    listed  the loop raises
    (ValueError, "raise", BEFORE, [], ValueError),
    (ValueError, "skip", OTHERS, [], None),
    (ValueError, "null", OTHERS, [BAD], None),
    (Panic, "raise", BEFORE, [], Panic),
    (Panic, "skip", OTHERS, [], None),
    (Panic, "null", OTHERS, [BAD], None),
    (asyncio.CancelledError, "raise", BEFORE, [], asyncio.CancelledError),
    (asyncio.CancelledError, "null", OTHERS, [BAD], None),
    # These ask the process to stop; they judge no row, whatever on_error says.
    (SystemExit, "raise", BEFORE, [], SystemExit),
    (SystemExit, "skip", BEFORE, [], SystemExit),
    (SystemExit, "null", BEFORE, [], SystemExit),
    (KeyboardInterrupt, "raise", BEFORE, [], KeyboardInterrupt),
    (KeyboardInterrupt, "skip", BEFORE, [], KeyboardInterrupt),
    (KeyboardInterrupt, "null", BEFORE, [], KeyboardInterrupt),
    (GeneratorExit, "null", BEFORE, [], GeneratorExit),
]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kind", ["load", "coroutine"])
@pytest.mark.parametrize(("error", "on_error", "rows", "listed", "raised"), RAISING_ITEMS)
def test_an_item_that_raises(
    kind: str,
    error: type[BaseException],
    on_error: str,
    rows: list[int],
    listed: list[int],
    raised: type[BaseException] | None,
    *,
    ordered: bool,
) -> None:
    batches = feed(kind, raises(error), on_error=on_error, ordered=ordered)
    assert outcome(batches) == (rows, listed, raised)
    assert threads_left() == []


# --- a source that raises --------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kind", ["rows", "keys"])
@pytest.mark.parametrize("at", [0, BAD], ids=["before the first row", "in the middle"])
@pytest.mark.parametrize("error", [ValueError, Panic, SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("on_error", ["raise", "null"])
def test_a_source_that_raises(
    kind: str, at: int, error: type[BaseException], on_error: str, *, ordered: bool
) -> None:
    """All rows before it, then the error: no row is to blame, so on_error has no say."""
    batches = feed(kind, raises(error, at), on_error=on_error, ordered=ordered)
    assert outcome(batches) == (list(range(at)), [], error)
    assert threads_left() == []


@pytest.mark.parametrize("window_rows", [1, None])
def test_a_source_that_raises_before_it_has_begun(window_rows: int | None) -> None:
    class Broken:
        def __iter__(self) -> Iterator[Any]:
            raise Panic(7)

    for load in (None, lambda key: [key]):
        with Prefetcher(Broken(), None, load=load, device="cpu", window_rows=window_rows) as batches:
            with pytest.raises(Panic):
                iter(batches)
    assert threads_left() == []


# --- an item or a source that hangs ----------------------------------------------------------------------


class Hang:
    """A step that stays in row 5 until it is let go."""

    def __init__(self) -> None:
        self._go_on = threading.Event()
        self.is_in = threading.Event()
        self.num_begun = 0

    def __call__(self, at: int) -> None:
        self.num_begun += 1
        if at == BAD:
            self.is_in.set()
            self._go_on.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._go_on.set()


def feed_with_a_hang(kind: str, hang: Hang, **arguments: Any) -> Prefetcher:
    """As ``feed``; a coroutine waits as coroutines do, and blocks its event loop if the kind says so."""
    if kind != "coroutine":
        # A live source says so with max_wait, or else its rows come in chunks that wait for the next row.
        is_live: dict[str, Any] = {"max_wait": 0.001} if kind == "rows" else {}
        return feed(kind.removeprefix("blocking "), hang, **is_live, **arguments)

    async def load(at: int) -> list[int]:
        hang.num_begun += 1
        if at == BAD:
            hang.is_in.set()
            await asyncio.sleep(60)
        return [at]

    return Prefetcher(
        range(NUM_ROWS),
        None,
        load=load,
        device="cpu",
        **({"max_batch_rows": 2, "num_workers": 1} | arguments),
    )


HUNG_ITEMS = [
    # on_error  rows    listed  the loop raises
    ("raise", BEFORE, [], LoadTimeoutError),
    ("skip", OTHERS, [], None),
    ("null", OTHERS, [BAD], None),
]


@pytest.mark.parametrize("kind", ["load", "coroutine"])
@pytest.mark.parametrize(("on_error", "rows", "listed", "raised"), HUNG_ITEMS)
def test_with_a_timeout_an_item_that_hangs_fails_alone(
    kind: str, on_error: str, rows: list[int], listed: list[int], raised: type[BaseException] | None
) -> None:
    with Hang() as hang:
        batches = feed_with_a_hang(kind, hang, timeout=0.2, on_error=on_error, num_workers=2)
        with batches:
            loop = Watched(batches)
            assert loop.is_over()
    assert (loop.rows, loop.failed) == (rows, listed)
    assert (type(loop.raised) if loop.raised else None) == raised
    if loop.raised:
        assert "timeout=0.2" in str(loop.raised)
    assert batches.stats().num_abandoned == (kind == "load")
    assert threads_left() == []


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kind", ["load", "coroutine", "blocking coroutine", "rows", "keys"])
def test_without_a_timeout_a_pass_that_hangs_ends_when_it_is_closed(kind: str, *, ordered: bool) -> None:
    with Hang() as hang:
        batches = feed_with_a_hang(kind, hang, max_batch_rows=1, num_workers=2, ordered=ordered)
        loop = Watched(batches)
        assert hang.is_in.wait(20)
        # All that does not come behind row 5, by its ticket or because it was never reached, is delivered.
        reached = NUM_ROWS if not ordered and kind in ("load", "coroutine") else BAD + 1
        others = [at for at in range(reached) if at != BAD]
        wait_until(lambda: sorted(loop.rows) == others)
        assert sorted(loop.rows) == others
        assert not loop.is_over(0.05)
        start = time.monotonic()
        batches.close()
        assert loop.is_over()
        assert loop.raised is None
        assert time.monotonic() - start < 10
    assert threads_left() == []


def test_a_coroutine_that_is_not_ended_by_its_cancellation_fails_alone_too() -> None:
    go_on = threading.Event()

    async def load(at: int) -> list[int]:
        while at == BAD and not go_on.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:  # noqa: PERF203
                continue
        return [at]

    with Prefetcher(
        range(NUM_ROWS), None, load=load, device="cpu", timeout=0.1, on_error="null", max_batch_rows=2
    ) as batches:
        loop = Watched(batches)
        is_over = loop.is_over(5)
        go_on.set()
    assert is_over
    assert (loop.rows, loop.failed) == (OTHERS, [BAD])
    assert threads_left() == []


# --- the consumer ----------------------------------------------------------------------------------------


def breaks(batches: Prefetcher) -> None:
    with batches:
        for batch in batches:
            if batch.ticket == 2:
                break


def fails(batches: Prefetcher) -> None:
    with pytest.raises(ZeroDivisionError), batches:
        for _ in batches:
            raise ZeroDivisionError


def lets_go(batches: Prefetcher) -> None:
    for batch in batches:
        if batch.ticket == 2:
            break


def never_begins(batches: Prefetcher) -> None:
    iter(batches)


def reads_to_the_end_without_close(batches: Prefetcher) -> None:
    assert sum(len(batch) for batch in batches) == 200


def closes_in_another_thread(batches: Prefetcher) -> None:
    iterator = iter(batches)
    next(iterator)
    thread = threading.Thread(target=batches.close)
    thread.start()
    list(iterator)
    thread.join(20)
    with pytest.raises(ClosedError):
        iter(batches)


CONSUMERS = [breaks, fails, lets_go, never_begins, reads_to_the_end_without_close, closes_in_another_thread]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kind", ["load", "coroutine", "rows", "keys"])
@pytest.mark.parametrize("consume", CONSUMERS)
def test_however_the_consumer_leaves_no_thread_stays(
    kind: str, consume: Callable[[Prefetcher], None], *, ordered: bool
) -> None:
    consume(feed(kind, lambda _: None, count=200, ordered=ordered, max_batch_rows=5))
    assert threads_left() == []


@pytest.mark.parametrize("kind", ["load", "coroutine", "rows", "keys"])
def test_a_consumer_that_stalls_finds_all_rows_when_it_goes_on(kind: str) -> None:
    hang = Hang()
    hang._go_on.set()
    with feed(kind, hang, count=300, rows_ahead=2) as batches:
        iterator = iter(batches)
        rows = next(iterator).input_index.tolist()
        before = settled(lambda: hang.num_begun, 8)
        assert 8 <= before < 300  # how many exactly: test_prefetcher_bounds.py
        rows += [at for batch in iterator for at in batch.input_index.tolist()]
    assert rows == list(range(300))


@pytest.mark.parametrize("kind", ["load", "coroutine", "blocking coroutine", "rows", "keys"])
def test_a_pass_collected_while_it_hangs_leaves_no_thread(kind: str) -> None:
    with Hang() as hang:
        batches: Prefetcher | None = feed_with_a_hang(kind, hang, num_workers=2)
        iterator: Any = iter(batches)  # type: ignore[arg-type]
        assert hang.is_in.wait(20)
        del batches, iterator
        wait_until(lambda: len(our_threads()) <= 1, 0.5)
        gc.collect()
        wait_until(lambda: len(our_threads()) <= 1)
        assert len(our_threads()) <= 1  # the one that hangs
    assert threads_left() == []


# --- again, and several at once --------------------------------------------------------------------------

ENDS: dict[str, Callable[[Prefetcher], Any]] = {
    "read to the end": list,
    "left by break": lambda batches: next(iter(batches)),
    "closed by its iterator": lambda batches: iter(batches).close(),
}


@pytest.mark.parametrize("load", [None, lambda row: row], ids=["rows", "load"])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_the_next_epoch_begins_at_the_start(end: Callable[[Prefetcher], Any], load: Any) -> None:
    with Prefetcher([[at] for at in range(40)], None, load=load, device="cpu", max_batch_rows=3) as batches:
        for _ in range(3):
            end(batches)
        assert sorted(at for batch in batches for at in batch.input_index.tolist()) == list(range(40))


@pytest.mark.parametrize("load", [None, lambda row: row], ids=["rows", "load"])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_an_iterator_has_one_epoch(end: Callable[[Prefetcher], Any], load: Any) -> None:
    rows = iter([[at] for at in range(40)])
    with Prefetcher(rows, None, load=load, device="cpu", max_batch_rows=3) as batches:
        end(batches)
        with pytest.raises(SourceExhaustedError, match="already"):
            iter(batches)
    assert threads_left() == []


def test_an_epoch_after_one_that_failed() -> None:
    has_failed: list[int] = []

    def step(at: int) -> None:
        if at == BAD and not has_failed:
            has_failed.append(at)
            raise ValueError(7)

    with feed("load", step) as batches:
        with pytest.raises(ValueError, match="7"):
            list(batches)
        assert [at for batch in batches for at in batch.input_index.tolist()] == list(range(NUM_ROWS))


@pytest.mark.parametrize("kind", ["load", "coroutine"])
def test_a_second_live_pass_is_refused_and_the_first_goes_on(kind: str) -> None:
    with feed(kind, lambda _: None) as batches:
        first = iter(batches)
        rows = next(first).input_index.tolist()
        with pytest.raises(ConfigError, match="still alive"):
            iter(batches)
        rows += [at for batch in first for at in batch.input_index.tolist()]
        assert rows == list(range(NUM_ROWS))
    with pytest.raises(ClosedError):
        iter(batches)


@pytest.mark.parametrize("inner", ["load", "coroutine", "rows"])
@pytest.mark.parametrize("outer", ["load", "coroutine", "rows"])
def test_a_prefetcher_inside_the_loop_of_another(outer: str, inner: str) -> None:
    rows, pairs = [], []
    with feed(outer, lambda _: None) as outside:
        for batch in outside:
            rows += batch.input_index.tolist()
            with feed(inner, lambda _: None) as inside:
                pairs.append([at for each in inside for at in each.input_index.tolist()])
    assert rows == list(range(NUM_ROWS))
    assert pairs == [rows] * (NUM_ROWS // 2)
    assert threads_left() == []


def test_prefetchers_in_two_threads_know_nothing_of_each_other() -> None:
    """One of each kind, one of which fails and one of which blocks its event loop."""
    with Hang() as hang:
        stuck = feed_with_a_hang("blocking coroutine", hang)
        kinds = ("load", "coroutine", "rows", "keys")
        passes = [feed(kind, lambda _: None, count=400) for kind in kinds]
        bad = feed("coroutine", raises(SystemExit))
        loops = [Watched(each) for each in (stuck, *passes, bad)]
        assert all(loop.is_over() for loop in loops[1:])
        assert [loop.rows for loop in loops[1:]] == [list(range(400))] * 4 + [BEFORE]
        assert not loops[0].is_over(0)
        stuck.close()
        assert loops[0].is_over()
    assert threads_left() == []


def test_one_pass_is_not_consumed_by_two_threads_at_once() -> None:
    with Hang() as hang, feed("load", hang) as batches:
        iterator = iter(batches)
        rows: list[int] = []

        def consume() -> None:
            for batch in iterator:
                rows.extend(batch.input_index.tolist())

        thread = threading.Thread(target=consume)
        thread.start()
        assert hang.is_in.wait(20)
        wait_until(lambda: len(rows) == 4)
        time.sleep(0.05)  # until it waits for row 5
        with pytest.raises(ConfigError, match="one thread at a time"):
            next(iterator)
        hang._go_on.set()
        thread.join(20)
        assert rows == list(range(NUM_ROWS))


# --- without the rules -----------------------------------------------------------------------------------

# fmt: off
RULES: list[tuple[str, Any, str, str, str, type[BaseException]]] = [
    ("load", FunctionLoader, "_run", "except BaseException", "except Exception", SystemExit),
    ("load", FunctionLoader, "_run", "except BaseException", "except Exception", Panic),
    ("coroutine", CoroutineLoader, "_call", "except BaseException", "except Exception", Panic),
    ("rows", Reader, "_read", "except BaseException", "except Exception", SystemExit),
    ("keys", Reader, "_read", "except BaseException", "except Exception", Panic),
    ("load", Feeder, "_encode_loaded", "isinstance(error, NEVER_SWALLOWED)", "False", SystemExit),
]
# fmt: on


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("kind", "owner", "name", "rule", "instead", "error"), RULES)
def test_without_the_rule_the_table_goes_red(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    owner: Any,
    name: str,
    rule: str,
    instead: str,
    error: type[BaseException],
) -> None:
    """Negative controls: what must not be caught too narrowly hangs the loop, or passes for a failed row."""
    take_away(monkeypatch, owner, name, rule, instead)
    batches = feed(kind, raises(error), on_error="null")
    loop = Watched(batches)
    is_over = loop.is_over(1.0)
    batches.close()
    assert loop.is_over()
    assert (is_over, type(loop.raised)) != (True, error)
