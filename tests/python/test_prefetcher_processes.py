"""What becomes of the process: signals at every point, its end with a pass left open, and forks."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from textwrap import dedent, indent

import pytest

from children import Child, Nursery
from penstock.errors import ForkedError

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


def ended(child: Child) -> tuple[int | None, str, str]:
    return child.wait(), child.output, child.complaints


# What each pass is made of. The names stand in for each other, so every point below is tried with each.
FEEDS = {
    "load": """
        def row(key, wait=lambda seconds: time.sleep(seconds)):
            wait(seconds_of(key))
            return [key]
        make = lambda: Prefetcher(range(999), None, load=row, device="cpu", max_batch_rows=1, num_workers=4)
    """,
    "coroutine": """
        async def row(key):
            await asyncio.sleep(seconds_of(key))
            return [key]
        make = lambda: Prefetcher(range(10_000), None, load=row, device="cpu", max_batch_rows=1)
    """,
    "blocking coroutine": """
        async def row(key):
            time.sleep(seconds_of(key))
            return [key]
        make = lambda: Prefetcher(range(10_000), None, load=row, device="cpu", max_batch_rows=1)
    """,
    "rows": """
        def rows():
            for key in range(10_000):
                time.sleep(seconds_of(key))
                yield [key]
        make = lambda: Prefetcher(rows(), None, device="cpu", max_batch_rows=1, max_wait=0.001)
    """,
}

# Where the signal comes: the body of ``run``, and how long row ``key`` takes. Each prints "ready" there.
POINTS = {
    "waiting for the first batch": (
        "lambda key: 60",
        """
        with make() as batches:
            iterator = iter(batches)
            print("ready", flush=True)
            next(iterator)
        """,
    ),
    "between batches": (
        "lambda key: 0.002",
        """
        with make() as batches:
            for batch in batches:
                if batch.ticket == 3:
                    print("ready", flush=True)
        """,
    ),
    "waiting for a hung row": (
        "lambda key: 60 if key == 3 else 0",
        """
        with make() as batches:
            for batch in batches:
                if batch.ticket == 2:
                    print("ready", flush=True)
        """,
    ),
    "in the body of the loop": (
        "lambda key: 0",
        """
        with make() as batches:
            for batch in batches:
                print("ready", flush=True)
                time.sleep(60)
        """,
    ),
    "while closing": (
        "lambda key: 0",
        """
        # close() waits for our own code: here for a worker that reads ids for a long time.
        truncated, is_in = penstock.encoder.Encoder._truncated_ids, threading.Event()
        def slowly(*arguments):
            penstock.encoder.Encoder._truncated_ids = truncated
            is_in.set()
            time.sleep(0.5)
            return truncated(*arguments)
        with make() as batches:
            iterator = iter(batches)
            penstock.encoder.Encoder._truncated_ids = slowly
            is_in.wait()
            threading.Timer(0.05, print, ("ready",), {"flush": True}).start()
        while True:
            time.sleep(0.01)
        """,
    ),
}

INTERRUPTED = """
import penstock.encoder
sys.stdout.reconfigure(line_buffering=True)
seconds_of = {seconds}
{feed}
def run():
{run}

{handler}
try:
    run()
except KeyboardInterrupt:
    print("interrupted", time.monotonic())
    sys.exit(3)
finally:
    print("left", [t.name for t in threading.enumerate() if t.name.startswith("penstock-feeder")])
"""


def interrupted(feed: str, point: str, handler: str = "") -> str:
    seconds, run = POINTS[point]
    body = indent(dedent(run), "    ")
    return INTERRUPTED.format(seconds=seconds, feed=dedent(FEEDS[feed]), run=body, handler=handler)


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("point", POINTS)
def test_ctrl_c_is_a_keyboard_interrupt_in_the_caller(nursery: Nursery, feed: str, point: str) -> None:
    child = nursery.run(interrupted(feed, point))
    child.wait_for("ready")
    child.signal(signal.SIGINT)
    code, output, complaints = ended(child)
    assert (code, complaints) == (3, "")
    assert "interrupted" in output
    assert "left []" in output  # the pass was closed on the way out


@pytest.mark.parametrize("feed", ["load", "coroutine"])
@pytest.mark.parametrize("point", POINTS)
def test_sys_exit_in_a_handler_of_sigterm_works(nursery: Nursery, feed: str, point: str) -> None:
    child = nursery.run(interrupted(feed, point, "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"))
    child.wait_for("ready")
    child.signal(signal.SIGTERM)
    code, output, complaints = ended(child)
    assert (code, complaints) == (7, "")
    assert "left []" in output


@pytest.mark.parametrize("point", POINTS)
def test_sigterm_ends_the_process_at_once(nursery: Nursery, point: str) -> None:
    """Penstock installs no handler."""
    child = nursery.run(interrupted("load", point))
    child.wait_for("ready")
    child.signal(signal.SIGTERM)
    assert ended(child)[::2] == (-signal.SIGTERM, "")


def test_ctrl_c_and_the_end_of_the_process_are_not_held_up(nursery: Nursery) -> None:
    """Generous limits: how fast it is, the benchmarks say. A hung load would hold it up for a minute."""
    child = nursery.run(interrupted("load", "waiting for the first batch"))
    child.wait_for("ready")
    sent = child.signal(signal.SIGINT)
    code, output, _ = ended(child)
    assert code == 3
    assert float(output.split("interrupted ")[1].split()[0]) - sent < 5
    assert time.monotonic() - sent < 20


# --- the interpreter ends with a pass left open -----------------------------------------------------------

LEFT_OPEN = {
    "idle": """
        batches = Prefetcher([[1]], None, device="cpu")
        assert len(list(batches)) == 1
    """,
    "made and never begun": """
        batches = Prefetcher(range(9), None, load=lambda key: [key], device="cpu")
    """,
    "full ring": """
        def rows():
            while True:
                yield [1, 2, 3]
        batches = iter(Prefetcher(rows(), None, device="cpu", max_batch_rows=2))
        next(batches)
    """,
    "full ring, coroutines": """
        async def load(key):
            return [key]
        batches = iter(Prefetcher(range(10**6), None, load=load, device="cpu", max_batch_rows=2))
        next(batches)
    """,
    "batches held": """
        def rows():
            while True:
                yield [1, 2, 3]
        batches = iter(Prefetcher(rows(), None, device="cpu", max_batch_rows=2, num_workers=3))
        held = [next(batches) for _ in range(7)]
    """,
    "hung load": """
        is_in = threading.Event()
        def load(key):
            is_in.set()
            time.sleep(60)
        batches = iter(Prefetcher(range(99), None, load=load, device="cpu"))
        is_in.wait()
    """,
    "hung load that was given up": """
        batches = iter(Prefetcher(
            range(99), None, load=lambda key: time.sleep(60 if key == 0 else 0) or [key], device="cpu",
            timeout=0.02, on_error="skip", max_batch_rows=2))
        next(batches)
    """,
    "hung source": """
        def rows():
            yield [1]
            time.sleep(60)
        batches = iter(Prefetcher(rows(), None, device="cpu", max_wait=0.001))
        next(batches)
    """,
    "loads waiting to be tried again": """
        tried = threading.Event()
        def load(key):
            tried.set()
            raise OSError
        penstock.loads.pause_before = lambda attempt: 60.0
        batches = iter(Prefetcher(range(99), None, load=load, device="cpu", retries=1))
        tried.wait()
    """,
    "async loads in flight": """
        count = []
        async def load(key):
            count.append(key)
            await asyncio.sleep(60)
        batches = iter(Prefetcher(range(999), None, load=load, device="cpu", rows_ahead=300))
        while len(count) < 300:
            time.sleep(0.001)
    """,
    "coroutine that blocks its loop": """
        is_in = threading.Event()
        async def load(key):
            is_in.set()
            time.sleep(60)
        batches = iter(Prefetcher(range(99), None, load=load, device="cpu"))
        is_in.wait()
    """,
    "coroutine that ignores its end": """
        is_in = threading.Event()
        async def load(key):
            while True:
                try:
                    is_in.set()
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    pass
        batches = iter(Prefetcher(range(3), None, load=load, device="cpu"))
        is_in.wait()
    """,
    "exception in flight": """
        def load(key):
            raise ValueError(key)
        batches = iter(Prefetcher(range(99), None, load=load, device="cpu"))
        time.sleep(0.01)
    """,
    "exception on its way out": """
        sys.excepthook = lambda *_: None
        sys.stdout.flush()
        batches = iter(Prefetcher(range(99), None, load=lambda key: [key][key > 3 and 1:], device="cpu"))
        next(batches)
        raise ZeroDivisionError
    """,
    "loop in another thread": """
        batches = iter(Prefetcher(range(99), None, load=lambda key: time.sleep(60), device="cpu"))
        threading.Thread(target=lambda: list(batches), daemon=True).start()
    """,
}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("times", [1, pytest.param(100, marks=pytest.mark.proof)])
@pytest.mark.parametrize("state", LEFT_OPEN)
def test_interpreter_exit_with_a_pass_left_open_is_clean(nursery: Nursery, state: str, times: int) -> None:
    code = 1 if "raise ZeroDivisionError" in LEFT_OPEN[state] else 0
    for number in range(times):
        child = nursery.run(LEFT_OPEN[state])
        assert (number, *ended(child)) == (number, code, "", "")


def test_interpreter_exit_with_a_pass_left_open_in_every_state_is_clean_every_time(nursery: Nursery) -> None:
    """Each state twenty times; all in one process, because ending a process takes longer than the rest."""
    names = {name: f"scope_{number}" for number, name in enumerate(LEFT_OPEN)}
    body = "".join(
        f"{scope} = dict(globals())\nexec({dedent(LEFT_OPEN[name])!r}, {scope})\n"
        for name, scope in names.items()
        if "raise ZeroDivisionError" not in LEFT_OPEN[name]
    )
    for number in range(20):
        assert (number, *ended(nursery.run(body))) == (number, 0, "", "")


LEFT_TO_THE_HOOK = """
{hook}
is_in = threading.Event()
async def load(key):
    try:
        is_in.set()
        await asyncio.sleep(60)
    finally:
        print("ended", flush=True)
batches = iter(Prefetcher(range(1), None, load=load, device="cpu"))
is_in.wait()
"""


@pytest.mark.parametrize(
    ("hook", "output"),
    [("", "ended\n"), ("penstock.flow._hook_exit = lambda: None", "")],
    ids=["with the exit hook", "without it"],
)
def test_the_exit_hook_ends_what_is_under_way(nursery: Nursery, hook: str, output: str) -> None:
    """And its negative control: without the hook nobody tells the coroutines."""
    assert ended(nursery.run(LEFT_TO_THE_HOOK.replace("{hook}", hook))) == (0, output, "")


# --- forks -----------------------------------------------------------------------------------------------

FORKED_LOADS = {
    "load": "def load(key): return [key]",
    "coroutine": "async def load(key): return [key]",
    "coroutines in flight": "async def load(key):\n    await asyncio.sleep(0.01)\n    return [key]",
}
FORKED = """
{load}
batches = Prefetcher(range(50), None, load=load, device="cpu", max_batch_rows=1)
iterator = iter(batches)
unused = Prefetcher(range(50), None, load=load, device="cpu")
rows = [next(iterator).input_index[0] for _ in range(5)]
child = os.fork()
if child == 0:
    uses = [
        lambda: next(iterator), lambda: list(iterator), iterator.close, iterator.stats,
        lambda: iter(batches), lambda: list(batches), batches.close, batches.stats, batches.__enter__,
        lambda: iter(unused), unused.close, unused.stats,
    ]
    refused = 0
    for use in uses:
        try:
            use()
        except penstock.ForkedError:
            refused += 1
    # A new one in the child works, and the old one may be collected and left to the interpreter's exit.
    fresh = [b.input_index[0] for b in Prefetcher(range(9), None, load=load, device="cpu")]
    assert fresh
    del iterator
    sys.exit(0 if refused == len(uses) else 100 + refused)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, os.waitstatus_to_exitcode(status)
rows += [batch.input_index[0] for batch in iterator]
assert rows == list(range(50)), rows
print("parent untouched")
"""


@pytest.mark.parametrize("load", FORKED_LOADS)
def test_use_after_fork_is_refused_and_the_parent_goes_on(nursery: Nursery, load: str) -> None:
    child = nursery.run(FORKED.replace("{load}", FORKED_LOADS[load]))
    assert ended(child) == (0, "parent untouched\n", "")
    assert issubclass(ForkedError, Exception)


def test_one_core_is_enough(nursery: Nursery) -> None:
    child = nursery.run(
        """
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        load = lambda key: [key]
        with Prefetcher(range(300), None, load=load, device="cpu", max_batch_rows=1) as batches:
            print(sum(len(batch) for batch in batches))
        """
    )
    assert ended(child) == (0, "300\n", "")
