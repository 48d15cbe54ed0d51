"""Calling the caller's ``load``: many at once, with retries and a limit that a hung call cannot escape.

What is tried again: a call that raised an ``Exception``. Not a call that ran into ``timeout`` (its thread may
still be in it), and nothing that only derives from ``BaseException``: SystemExit judges no row.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic, perf_counter, thread_time
from typing import TYPE_CHECKING, Any, Protocol

from penstock.errors import ConfigError, LoadTimeoutError
from penstock.pool import WorkerAbandoned, WorkerPool

if TYPE_CHECKING:
    from penstock.stats import Clock

Finished = Callable[["Load"], None]

FIRST_PAUSE_S = 0.1
MOST_PAUSE_S = 30.0
_DOUBLINGS = 16  # enough to pass MOST_PAUSE_S; 2 to the power of any number of retries is no float

_STILL_S = 0.05  # cancelled tasks of which none ended for so long are not waited for
_JOIN_SLICE_S = 0.005

_random = random.Random()  # the caller may have seeded the one that all share


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

    def rest(self) -> bool:
        """No call is under way until the next attempt. False: too late, the last one was given up."""
        with self._lock:
            self.started = None
            return not self._is_over

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


def pause_before(attempt: int, draw: Callable[[float, float], float] = _random.uniform) -> float:
    """Seconds to wait before a retry: exponential backoff with full jitter.

    Drawn between 0 and a ceiling that doubles with each attempt, so that calls that failed together do not
    come back together.

    Args:
        attempt: 1 for the first retry.
        draw: Gives a number between two.

    Example:
        >>> [pause_before(attempt, max) for attempt in (1, 2, 3, 4, 100)]
        [0.1, 0.2, 0.4, 0.8, 30.0]
    """
    return draw(0.0, min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempt - 1, _DOUBLINGS)))


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
        """Drop what is under way. Never blocks."""

    def join(self) -> None:
        """After ``stop``: wait for what was dropped to end, but not for code of the caller that hangs."""


class FunctionLoader:
    """Runs a plain function in the worker pool.

    Args:
        load: The caller's function.
        pool: Where it runs.
        finished: Called with each load that ended in time.
        retries: More attempts after an exception. The worker waits between them.
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
        self._is_stopping = threading.Event()

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
        """End the pauses. What else there is to stop is the pool's."""
        self._is_stopping.set()

    def join(self) -> None:
        """Nothing of its own to wait for: the pool waits for its threads."""

    def _run(self, load: Load) -> None:
        while True:
            load.begin()
            start, computed = perf_counter(), thread_time()
            try:
                with self._pool.caller_code():
                    load.row = self._load(load.key)
                if inspect.iscoroutine(load.row):
                    load.row.close()
                    raise ConfigError(  # noqa: TRY301 - it goes the way of all others
                        "load: it gave a coroutine and is no coroutine function; pass the coroutine function "
                        "itself, or functools.partial of it, and not a function around it."
                    )
            except BaseException as error:  # noqa: BLE001 - it travels to the consumer, SystemExit too
                load.error = error
            self._clock.add("load", start, perf_counter(), load.index)
            self._clock.add_cpu("load", thread_time() - computed)
            if not is_to_be_retried(load, self._retries):
                break
            if not load.rest():
                raise WorkerAbandoned
            start = perf_counter()
            is_stopping = self._is_stopping.wait(pause_before(load.attempt + 1))
            self._clock.add("load", start, perf_counter(), load.index)
            if is_stopping:
                break
            load.attempt, load.error = load.attempt + 1, None
            self._retried.append(load.index)
        if not load.finish():
            raise WorkerAbandoned
        self._finished(load)


class CoroutineLoader:
    """Runs a coroutine function on an event loop of its own, many at once in one thread.

    Args:
        load: The caller's coroutine function.
        finished: Called, in the loop's thread, with each load that ended.
        retries: More attempts after an exception.
        timeout: Seconds for one call.
        sleep: How the loop waits between attempts.
    """

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
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._load, self._finished, self._clock = load, finished, clock
        self._retries, self._seconds, self._sleep = retries, timeout, sleep
        self._retried: list[int] = []  # appending is atomic; adding is not
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()  # the loop itself keeps no task alive
        self._is_stopping = self._is_wound_up = False
        self._cancelled: list[asyncio.Task[Any]] = []
        self._computed = 0.0  # thread_time() when the last load ended
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
        """Have the loop cancel what is under way, and end. Never blocks."""
        if not self._is_stopping:
            self._is_stopping = True
            with suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(lambda: self._keep(self._wind_up()))

    def join(self) -> None:
        """After ``stop``: wait while cancelled coroutines end, one after the other.

        One that blocks its loop, or does not end when it is cancelled, is left to its daemon thread.
        """
        num_ended, deadline = -1, monotonic()
        while self._thread.is_alive() and self._thread is not threading.current_thread():
            before, num_ended = num_ended, sum(task.done() for task in self._cancelled)
            if num_ended != before:
                deadline = monotonic() + _STILL_S
            elif monotonic() >= deadline:
                return
            self._thread.join(_JOIN_SLICE_S)

    def _serve(self) -> None:
        try:
            while not self._is_wound_up:
                # A task that a coroutine of the caller started may end the loop with it; the coroutine that
                # awaits the task gets the error, and the others must go on.
                with suppress(SystemExit, KeyboardInterrupt):
                    self._loop.run_forever()
        finally:
            self._loop.close()
            self._cancelled = []  # they may hold rows, and frames of the caller's

    async def _wind_up(self) -> None:
        """Cancel every task, those too that the caller's coroutines started, until none is left."""
        me = asyncio.current_task()
        while tasks := asyncio.all_tasks() - {me}:
            self._cancelled += tasks
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        self._is_wound_up = True
        self._loop.stop()

    def _spawn(self, load: Load) -> None:
        if not self._is_stopping:
            self._keep(self._run(load))

    def _keep(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine as a task of its own."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(self, load: Load) -> None:
        while True:
            start = perf_counter()
            load.row, load.error = await self._attempt(load)
            self._clock.add("load", start, perf_counter(), load.index)
            if not is_to_be_retried(load, self._retries):
                break
            start = perf_counter()
            await self._sleep(pause_before(load.attempt + 1))
            self._clock.add("load", start, perf_counter(), load.index)
            load.attempt += 1
            self._retried.append(load.index)
        # This thread does nothing else, so what it computed since the last load ended, it did for loads.
        computed, self._computed = self._computed, thread_time()
        self._clock.add_cpu("load", self._computed - computed)
        try:
            self._finished(load)
        except RuntimeError:
            if not self._is_stopping:  # or else the pool has shut down, and nobody waits for the row
                raise

    async def _attempt(self, load: Load) -> tuple[Any, BaseException | None]:
        """One call of the caller's coroutine function, and what came of it."""
        if self._seconds is None:
            return await self._call(load)
        call: asyncio.Task[tuple[Any, BaseException | None]] = self._keep(self._call(load))
        # Not wait_for: it would wait for a coroutine that does not end when it is cancelled.
        await asyncio.wait({call}, timeout=self._seconds)
        if call.done():
            return call.result()
        call.cancel()
        return None, timed_out(load, self._seconds)

    async def _call(self, load: Load) -> tuple[Any, BaseException | None]:
        """Never raises but when the loop ends: a SystemExit would end it and every load with it."""
        try:
            return await self._load(load.key), None
        except BaseException as error:
            if self._is_stopping and isinstance(error, asyncio.CancelledError):
                raise
            return None, error


def is_to_be_retried(load: Load, retries: int) -> bool:
    """Whether the call that ended is to be made again."""
    is_retryable = isinstance(load.error, Exception) and not isinstance(load.error, LoadTimeoutError)
    return is_retryable and load.attempt < retries


def timed_out(load: Load, timeout: float) -> LoadTimeoutError:
    """The error of a load that took too long."""
    return LoadTimeoutError(
        f"load({load.key!r:.80}) took longer than timeout={timeout:g} s; raise timeout, or have load give up "
        "by itself sooner.",
        row=load.index + 1,
    )
