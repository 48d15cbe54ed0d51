"""The worker pool: an executor whose threads may be given up."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import Future, wait

import pytest

from penstock import Prefetcher
from penstock.pool import WorkerAbandoned, WorkerPool


@pytest.fixture
def pool() -> WorkerPool:
    return WorkerPool(1, "test")


def test_results_and_errors_travel_in_futures(pool: WorkerPool) -> None:
    assert pool.submit(pow, 2, 5).result() == 32
    with pytest.raises(SystemExit):
        pool.submit(exit, 3).result()
    assert pool.submit(int, "7").result() == 7  # the thread lives on
    pool.shutdown()


def test_work_near_the_loop_goes_first(pool: WorkerPool) -> None:
    begin = threading.Event()
    order: list[str] = []
    pool.submit(begin.wait, 10)
    jobs: list[Future[None]] = [pool.submit(order.append, f"load {at}") for at in range(3)]
    jobs.append(pool.submit_first(order.append, "collate"))
    begin.set()
    wait(jobs, timeout=10)
    assert order == ["collate", "load 0", "load 1", "load 2"]
    pool.shutdown()


def test_a_hung_thread_is_replaced_and_ends_when_its_call_returns(pool: WorkerPool) -> None:
    hang, started, hung = threading.Event(), threading.Event(), []

    def hangs() -> None:
        hung.append(threading.current_thread())
        with pool.caller_code():
            started.set()
            hang.wait(30)
        raise WorkerAbandoned

    pool.submit(hangs)
    started.wait(10)
    pool.replace(hung[0])
    assert pool.submit(pow, 3, 2).result(10) == 9
    assert pool.num_abandoned == 1
    hang.set()
    hung[0].join(10)
    assert not hung[0].is_alive()
    pool.shutdown()


def test_shutdown_drops_what_waits_and_refuses_more(pool: WorkerPool) -> None:
    begin, started = threading.Event(), threading.Event()

    def run() -> bool:
        started.set()
        return begin.wait(10)

    running = pool.submit(run)
    started.wait(10)
    waiting = [pool.submit(pow, 1, 1), pool.submit_first(pow, 1, 1)]
    pool.shutdown(wait=False)
    assert all(job.cancelled() for job in waiting)
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(pow, 1, 1)
    begin.set()
    assert running.result(10) is True
    pool.shutdown()
    assert not any(thread.is_alive() for thread in pool._threads)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_workers_give_way_to_the_loop() -> None:
    def niceness(_: int = 0) -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    seen: list[int] = []

    def load(key: int) -> list[int]:
        seen.append(niceness())
        return [key]

    with Prefetcher(range(3), None, load=load, device="cpu") as batches:
        assert len([row for batch in batches for row in batch.input_index]) == 3
    assert set(seen) == {min(19, niceness() + 5)}
