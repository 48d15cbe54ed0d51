"""Every way a pass can end, each with its exact outcome, each within a time limit."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch

from penstock import Prefetcher
from penstock.errors import ForkedError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("penstock")]


def wait_until_gone(seconds: float = 5.0) -> list[str]:
    deadline = time.monotonic() + seconds
    while our_threads() and time.monotonic() < deadline:
        time.sleep(0.005)
    return our_threads()


def run_script(body: str, *, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own; a hang is a TimeoutExpired."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(body)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_an_early_break_ends_all_threads() -> None:
    with Prefetcher(range(10_000), None, load=lambda key: [key], device="cpu", max_batch_rows=2) as batches:
        for batch in batches:
            if batch.ticket == 3:
                break
    assert our_threads() == []


def test_an_exception_in_the_loop_passes_through_and_ends_all_threads() -> None:
    with pytest.raises(ZeroDivisionError):
        with Prefetcher(range(10_000), None, load=lambda key: [key], device="cpu") as batches:
            for _ in batches:
                raise ZeroDivisionError
    assert our_threads() == []


def test_without_close_garbage_collection_ends_the_threads() -> None:
    for batch in Prefetcher(range(10_000), None, load=lambda key: [key], device="cpu", max_batch_rows=1):
        if batch.ticket == 2:
            break
    gc.collect()
    assert wait_until_gone() == []


def test_a_pass_read_to_its_end_leaves_no_thread() -> None:
    assert len(list(Prefetcher([[1], [2]], None, device="cpu"))) == 1
    assert wait_until_gone() == []


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("on_error", ["raise", "null"])
@pytest.mark.parametrize("is_async", [False, True])
def test_an_error_in_a_worker_reaches_the_loop_in_its_turn(
    error: type[BaseException], on_error: str, *, is_async: bool
) -> None:
    def load(key: int) -> list[int]:
        if key == 5:
            raise error(7)
        return [key]

    async def load_async(key: int) -> list[int]:
        return load(key)

    rows, listed = [], []
    with Prefetcher(
        range(12),
        None,
        load=load_async if is_async else load,
        device="cpu",
        max_batch_rows=2,
        on_error=on_error,  # type: ignore[arg-type]
    ) as batches:
        if error is ValueError and on_error == "null":
            for batch in batches:
                rows += batch.input_index.tolist()
                listed += [index for index, _ in batch.errors]
            assert (rows, listed) == ([0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11], [5])
            return
        with pytest.raises(error) as caught:
            for batch in batches:
                rows += batch.input_index.tolist()
    assert rows == [0, 1, 2, 3, 4]
    assert caught.value.args == (7,)
    assert our_threads() == []


def test_an_error_of_the_source_comes_after_its_rows() -> None:
    def rows() -> Iterator[list[int]]:
        for at in range(10):
            yield [at]
        raise OSError("disk gone")

    got = []
    with (
        Prefetcher(rows(), None, device="cpu", max_batch_rows=4) as batches,
        pytest.raises(OSError, match="disk gone"),
    ):
        for batch in batches:
            got += batch.input_index.tolist()
    assert sorted(got) == list(range(10))


def test_close_does_not_wait_for_a_hung_load_or_a_hung_source() -> None:
    release = threading.Event()

    def source() -> Iterator[list[int]]:
        yield [1]
        release.wait(60)

    try:
        for rows, load in ((range(9), lambda _: release.wait(60)), (source(), None)):
            start = time.monotonic()
            batches = Prefetcher(rows, None, load=load, device="cpu", num_workers=2, max_wait=0.01)
            iterator = iter(batches)
            if load is None:
                next(iterator)
            batches.close()
            assert list(iterator) == []
            assert time.monotonic() - start < 5
    finally:
        release.set()
    assert wait_until_gone() == []


INTERRUPTED = """
    import sys, threading, time
    import torch, penstock
    from penstock import Prefetcher

    def load(key):
        time.sleep(60)

    def wait_for_data():
        {wait}

    print("ready", flush=True)
    try:
        wait_for_data()
    except KeyboardInterrupt:
        print(time.monotonic(), flush=True)
        sys.exit(3)
"""
WITH_PREFETCHER = 'with Prefetcher(range(9), None, load=load, device="cpu") as batches: next(iter(batches))'


def interrupt(wait: str) -> tuple[float, float]:
    """Seconds from SIGINT to KeyboardInterrupt in the caller, and from there to the end of the process."""
    script = textwrap.dedent(INTERRUPTED).format(wait=wait)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)  # until it waits inside the ring
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        caught = float(process.stdout.readline())
        assert process.wait(timeout=30) == 3
        return caught - sent, time.monotonic() - caught


def test_ctrl_c_while_waiting_reaches_the_caller_and_the_process_ends_at_once() -> None:
    runs = [(interrupt(WITH_PREFETCHER), interrupt("time.sleep(60)")) for _ in range(5)]
    # The best of five: what a busy machine does beside is not ours.
    assert min(ours[0] for ours, _ in runs) < 0.050
    assert min(ours[1] - plain[1] for ours, plain in runs) < 0.050


LEFT_OPEN = """
    import os, sys, time, threading
    import torch, penstock
    from penstock import Prefetcher

    def slow_rows():
        while True:
            yield [1, 2, 3]

    for number in range({times}):
        child = os.fork()
        if child == 0:
            kind = number % 4
            if kind == 0:    # workers idle, feeder blocked on a full ring
                batches = iter(Prefetcher(slow_rows(), None, device="cpu", max_batch_rows=2))
            elif kind == 1:  # workers inside the caller's code
                batches = iter(Prefetcher(range(99), None, load=lambda key: time.sleep(60), device="cpu"))
            elif kind == 2:  # consumer blocked in another thread
                batches = iter(Prefetcher(range(99), None, load=lambda key: time.sleep(60), device="cpu"))
                threading.Thread(target=lambda: list(batches), daemon=True).start()
            else:            # a batch is still held
                batches = iter(Prefetcher(slow_rows(), None, device="cpu", max_batch_rows=2, num_workers=3))
                held = [next(batches) for _ in range(7)]
            if kind != 1 and kind != 2:
                next(batches)
            sys.exit(5)  # the ordinary way out: the interpreter is finalized with the prefetcher open
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != 5:
            print("run", number, "ended with", os.waitstatus_to_exitcode(status))
            sys.exit(1)
    print("all ended well")
"""


@pytest.mark.timeout(400)
@pytest.mark.parametrize("times", [20, pytest.param(100, marks=pytest.mark.proof)])
def test_interpreter_exit_with_a_prefetcher_left_open_is_clean_every_time(times: int) -> None:
    done = run_script(LEFT_OPEN.replace("{times}", str(times)), timeout=390)
    assert (done.returncode, done.stdout, done.stderr) == (0, "all ended well\n", "")


FORKED = """
    import os, sys
    import torch, penstock
    from penstock import Prefetcher

    batches = Prefetcher(range(50), None, load=lambda key: [key], device="cpu", max_batch_rows=1)
    iterator = iter(batches)
    rows = [next(iterator).input_index[0] for _ in range(5)]
    child = os.fork()
    if child == 0:
        refused = 0
        for use in (lambda: next(iterator), lambda: iter(batches), batches.close, batches.stats):
            try:
                use()
            except penstock.ForkedError:
                refused += 1
        # A new one in the child works.
        fresh = [b.input_index[0] for b in Prefetcher(range(9), None, load=lambda key: [key], device="cpu")]
        del iterator, batches
        sys.exit(refused if len(fresh) else 99)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 4, status
    rows += [batch.input_index[0] for batch in iterator]
    assert rows == list(range(50)), rows
    print("parent untouched")
"""


def test_use_after_fork_is_refused_and_the_parent_goes_on() -> None:
    done = run_script(FORKED)
    assert (done.returncode, done.stdout, done.stderr) == (0, "parent untouched\n", "")
    assert issubclass(ForkedError, Exception)


def test_kept_batches_are_never_overwritten_and_never_block() -> None:
    rows = [[key] * 8 for key in range(200)]
    with Prefetcher(rows, None, device="cpu", max_batch_rows=1, window_rows=1, batches_ahead=2) as batches:
        kept = [batch.inputs["input_ids"] for batch in batches]
        allocated = batches.stats().num_slots_allocated
    gc.collect()
    assert allocated == 200
    assert [tensor.unique().tolist() for tensor in kept] == [[key] for key in range(200)]
    views = [tensor[0, 2:5].numpy() for tensor in kept]
    del kept
    gc.collect()
    assert all((view == key).all() for key, view in enumerate(views))


def test_batches_that_are_let_go_reuse_their_slots() -> None:
    rows = [[key] * 8 for key in range(500)]
    with Prefetcher(rows, None, device="cpu", max_batch_rows=1, window_rows=1, batches_ahead=2) as batches:
        for batch in batches:
            assert torch.equal(batch.inputs["input_ids"].unique(), torch.tensor([batch.input_index[0]]))
        assert batches.stats().num_slots_allocated <= 2 + 2 + 1


def test_one_core_is_enough(tmp_path: Path) -> None:
    body = """
        import os
        os.sched_setaffinity(0, {0})
        import torch, penstock
        load = lambda key: [key]
        with penstock.Prefetcher(range(300), None, load=load, device="cpu", max_batch_rows=1) as b:
            print(sum(len(batch) for batch in b))
    """
    done = run_script(body)
    assert (done.returncode, done.stdout) == (0, "300\n"), done.stderr
