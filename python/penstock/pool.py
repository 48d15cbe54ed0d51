"""The worker threads: a ``concurrent.futures`` executor whose threads may be given up.

It differs from ``ThreadPoolExecutor`` in three ways that the prefetcher needs. Its threads are daemons, so
that a hung call in the caller's code cannot hold the interpreter at exit. A thread that hangs in the
caller's code can be abandoned and replaced. ``shutdown`` waits for our own code, never for the caller's.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Job = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...], dict[str, Any]]

_JOIN_SLICE_S = 0.005
_NICENESS = 5


class WorkerAbandoned(BaseException):
    """Raised inside a worker that was replaced while it hung: its thread ends, its result is dropped."""


class WorkerPool(Executor):
    """Daemon threads that run submitted calls in submission order.

    The first calls start a thread each, so the first call runs before the last thread is there.

    Args:
        num_workers: Threads at most, those that were given up not counted.
        name: Prefix of the threads' names.
        thread_init: Called first in each thread (to set its CUDA device).
    """

    def __init__(self, num_workers: int, name: str, thread_init: Callable[[], None] | None = None) -> None:
        # One token for each job; which of the waiting jobs it stands for is decided when a worker is free.
        # False ends a thread, which hands it on to the next.
        self._tokens: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._first: deque[Job] = deque()
        self._jobs: deque[Job] = deque()
        self._name = name
        self._thread_init = thread_init
        self._in_caller_code: set[threading.Thread] = set()
        self._threads: list[threading.Thread] = []
        self._is_shut = False
        self.num_abandoned = 0
        self._num_to_start = num_workers
        self._growing = threading.Lock()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call. Never blocks. Raises RuntimeError after ``shutdown``."""
        return self._queue(self._jobs, fn, args, kwargs)

    def submit_first(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call ahead of all that ``submit`` queued: work near the loop goes first."""
        return self._queue(self._first, fn, args, kwargs)

    def is_own_thread(self) -> bool:
        """Whether the calling thread is one of the workers."""
        return threading.current_thread() in self._threads

    @contextmanager
    def caller_code(self) -> Iterator[None]:
        """Marks this thread as inside the caller's code: it may be abandoned and is not waited for."""
        thread = threading.current_thread()
        self._in_caller_code.add(thread)
        try:
            yield
        finally:
            self._in_caller_code.discard(thread)

    def replace(self, thread: threading.Thread) -> None:
        """Give up a thread that hangs in the caller's code and start another in its place."""
        self.num_abandoned += 1
        if thread in self._threads:
            self._threads.remove(thread)
        if not self._is_shut:
            self._start_thread()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Stop the threads; with ``wait``, until each has ended or is inside the caller's code.

        Without ``cancel_futures`` what was submitted is still run.
        """
        self._is_shut = True
        if cancel_futures:
            for jobs in (self._first, self._jobs):
                while jobs:
                    future = jobs.popleft()[0]
                    if future.cancel():
                        future.set_running_or_notify_cancel()  # or whoever waits for it is not told
        self._tokens.put(False)
        if wait:
            join_unless(self._threads, self._in_caller_code)

    def _queue(self, jobs: deque[Job], fn: Callable[..., T], args: Any, kwargs: Any) -> Future[T]:
        if self._is_shut:
            raise RuntimeError("cannot submit work: the pool is shut down")
        future: Future[T] = Future()
        jobs.append((future, fn, args, kwargs))
        self._tokens.put(True)
        if self._num_to_start:
            self._grow()
        return future

    def _grow(self) -> None:
        """Start one more thread, unless all were."""
        with self._growing:
            if self._num_to_start:
                self._num_to_start -= 1
                self._start_thread()

    def _next_job(self) -> Job | None:
        """The next job, or None to end. Blocks, GIL released."""
        while self._tokens.get():
            for jobs in (self._first, self._jobs):
                with suppress(IndexError):
                    return jobs.popleft()
            # The job of this token was cancelled.
        self._tokens.put(False)
        return None

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}-worker", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        if self._thread_init is not None:
            self._thread_init()
        while (job := self._next_job()) is not None:
            future, fn, args, kwargs = job
            del job
            try:
                if future.set_running_or_notify_cancel():
                    future.set_result(fn(*args, **kwargs))
            except WorkerAbandoned:
                return
            except BaseException as error:  # noqa: BLE001 - the future carries it, SystemExit too
                future.set_exception(error)
            # An idle thread must not keep the last batch alive.
            del future, fn, args, kwargs


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def be_low_priority() -> None:
    """Have the kernel prefer other threads to this one where cores are short: the loop before its workers.

    A process that this thread starts inherits it. Only Linux can do that to a single thread; nothing is done
    elsewhere, or where it is not allowed.
    """
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS))


def join_unless(
    threads: list[threading.Thread], excused: set[threading.Thread], grace_s: float = 0.01
) -> None:
    """Join threads, but wait no longer than ``grace_s`` in all for those that are in ``excused``."""
    deadline = monotonic() + grace_s
    for thread in threads:
        if thread is threading.current_thread():
            continue
        while thread.is_alive():
            thread.join(_JOIN_SLICE_S)
            if thread in excused and monotonic() >= deadline:
                break
