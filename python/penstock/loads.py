"""Calling the caller's ``load``: many at once, with retries and a limit that a hung call cannot escape."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from penstock.errors import LoadTimeoutError
from penstock.pool import WorkerAbandoned, WorkerPool, join_unless

if TYPE_CHECKING:
    from penstock.stats import Clock

Finished = Callable[["Load"], None]


@dataclass(eq=False)
class Load:
    """One row being fetched. Exactly one of a result, an error, or the time limit ends an attempt."""

    key: Any
    index: int
    attempt: int = 0
    row: Any = None
    error: BaseException | None = None
    started: float | None = None
    thread: threading.Thread | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _is_over: bool = False

    def begin(self) -> None:
        """The call starts now, in this thread."""
        with self._lock:
            self.started, self.thread = perf_counter(), threading.current_thread()

    def finish(self) -> bool:
        """The call returned or raised. False: too late, it was given up and nobody waits for it."""
        with self._lock:
            was_over, self._is_over = self._is_over, True
            return not was_over

    def give_up(self, now: float, timeout: float) -> threading.Thread | None:
        """The thread that hangs, if the call is overdue and under way; its result will be dropped."""
        with self._lock:
            if self._is_over or self.started is None or now - self.started < timeout:
                return None
            self._is_over = True
            return self.thread


def is_coroutine_function(load: Callable[[Any], Any]) -> bool:
    """Whether calling ``load`` gives a coroutine: an async function, method, partial, or callable object."""
    while hasattr(load, "func"):  # functools.partial
        load = load.func
    return inspect.iscoroutinefunction(load) or inspect.iscoroutinefunction(type(load).__call__)


class Loader(Protocol):
    """Starts loads; each ends in one call of ``finished`` from some thread."""

    timeout: float | None
    """Seconds after which ``overdue`` must be asked; None: never."""

    @property
    def num_retries(self) -> int:
        """Attempts after the first."""

    def start(self, load: Load) -> None:
        """Begin. Never blocks."""

    def overdue(self, load: Load, now: float) -> bool:
        """Whether the load passed the time limit; if so it is over, with its error set."""

    def stop(self) -> None:
        """Drop what is under way. Does not wait for the caller's code."""


class FunctionLoader:
    """Runs a plain function in the worker pool.

    Args:
        load: The caller's function.
        pool: Where it runs.
        finished: Called with each load that ended in time.
        retries: More attempts after an exception.
        timeout: Seconds for one call.
    """

    def __init__(
        self,
        load: Callable[[Any], Any],
        pool: WorkerPool,
        finished: Finished,
        clock: Clock,
        *,
        retries: int,
        timeout: float | None,
    ) -> None:
        self._load, self._pool, self._finished, self._clock = load, pool, finished, clock
        self._retries, self.timeout = retries, timeout
        self._retried: list[int] = []  # appending is atomic; adding is not

    @property
    def num_retries(self) -> int:
        """Attempts after the first."""
        return len(self._retried)

    def start(self, load: Load) -> None:
        """Queue the call for a worker. Never blocks."""
        self._pool.submit(self._run, load)

    def overdue(self, load: Load, now: float) -> bool:
        """Give up a hung call: its thread is replaced, and it ends if the call ever returns."""
        if self.timeout is None or (thread := load.give_up(now, self.timeout)) is None:
            return False
        self._pool.replace(thread)
        self._clock.add("load", load.started or now, now, load.index)
        load.error = timed_out(load, self.timeout)
        return True

    def stop(self) -> None:
        """Nothing of its own to stop: the pool is."""

    def _run(self, load: Load) -> None:
        while True:
            load.begin()
            start = perf_counter()
            try:
                with self._pool.caller_code():
                    load.row = self._load(load.key)
            except BaseException as error:  # noqa: BLE001 - it travels to the consumer, SystemExit too
                load.error = error
            self._clock.add("load", start, perf_counter(), load.index)
            if not isinstance(load.error, Exception) or load.attempt >= self._retries:
                break
            load.attempt, load.error = load.attempt + 1, None
            self._retried.append(load.index)
        if not load.finish():
            raise WorkerAbandoned
        self._finished(load)


class CoroutineLoader:
    """Runs a coroutine function on an event loop of its own, many at once in one thread."""

    timeout: float | None = None  # the event loop keeps the time itself

    def __init__(
        self,
        load: Callable[[Any], Any],
        finished: Finished,
        clock: Clock,
        *,
        retries: int,
        timeout: float | None,
        name: str,
    ) -> None:
        self._load, self._finished, self._clock = load, finished, clock
        self._retries, self._seconds = retries, timeout
        self._retried: list[int] = []  # appending is atomic; adding is not
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._serve, name=f"{name}-loads", daemon=True)
        self._thread.start()

    @property
    def num_retries(self) -> int:
        """Attempts after the first."""
        return len(self._retried)

    def start(self, load: Load) -> None:
        """Schedule the coroutine. Never blocks."""
        self._loop.call_soon_threadsafe(self._spawn, load)

    def overdue(self, load: Load, now: float) -> bool:  # noqa: ARG002 - part of the protocol
        """Never: the event loop cancels an overdue coroutine itself."""
        return False

    def stop(self) -> None:
        """Cancel what is under way; a coroutine that blocks its loop is left to its daemon thread."""
        try:
            self._loop.call_soon_threadsafe(self._cancel_all)
        except RuntimeError:
            return  # the loop is closed already
        join_unless([self._thread], {self._thread}, grace_s=0.02)

    def _serve(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _cancel_all(self) -> None:
        self._is_stopping = True
        for task in self._tasks:
            task.cancel()
        gathered = asyncio.gather(*self._tasks, return_exceptions=True)
        gathered.add_done_callback(lambda _: self._loop.stop())

    def _spawn(self, load: Load) -> None:
        task = self._loop.create_task(self._run(load))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self, load: Load) -> None:
        """Never raises but when cancelled: a SystemExit would end the event loop and every load with it."""
        try:
            load.row = await self._load(load.key)
        except BaseException as error:
            if self._is_stopping and isinstance(error, asyncio.CancelledError):
                raise
            load.error = error

    async def _run(self, load: Load) -> None:
        while True:
            start = perf_counter()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._call(load), self._seconds)
            is_late = self._seconds is not None and perf_counter() - start >= self._seconds
            if is_late and (load.error is None or isinstance(load.error, asyncio.CancelledError)):
                load.error = timed_out(load, self._seconds or 0.0)
            self._clock.add("load", start, perf_counter(), load.index)
            is_final = load.error is None or not isinstance(load.error, Exception)
            if is_final or isinstance(load.error, LoadTimeoutError) or load.attempt >= self._retries:
                break
            load.attempt, load.error = load.attempt + 1, None
            self._retried.append(load.index)
        self._finished(load)


def timed_out(load: Load, timeout: float) -> LoadTimeoutError:
    """The error of a load that took too long."""
    return LoadTimeoutError(
        f"load({load.key!r:.80}) took longer than timeout={timeout:g} s; raise timeout, or have load give up "
        "by itself sooner.",
        row=load.index + 1,
    )
