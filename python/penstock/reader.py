"""The reader: one thread that only reads, so that a slow source never holds back rows already there."""

from __future__ import annotations

import threading
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from penstock.stats import Clock


class Gate:
    """Where the reader waits while enough has been read and not started."""

    def __init__(self, max_rows: int, max_bytes: int) -> None:
        self._max_rows, self._max_bytes = max_rows, max_bytes
        self._rows = self._bytes = 0
        self._is_open = True
        self._condition = threading.Condition()

    def enter(self, rows: int, num_bytes: int) -> bool:
        """Count what was read; wait until there is room to read on. False once closed. Reader only."""
        with self._condition:
            self._rows += rows
            self._bytes += num_bytes
            self._condition.wait_for(self._has_room)
            return self._is_open

    def leave(self, rows: int, num_bytes: int) -> None:
        """Count what left: started (rows), or claimed (bytes). Never blocks."""
        with self._condition:
            self._rows -= rows
            self._bytes -= num_bytes
            # Woken for each row that starts, the reader would read each time one: let it read some.
            if self._rows <= self._max_rows // 2 and self._has_room():
                self._condition.notify()

    def add(self, num_bytes: int) -> None:
        """Count bytes that came from ``load``. Never blocks."""
        with self._condition:
            self._bytes += num_bytes

    def is_over(self) -> bool:
        """Whether there are more bytes than the bound: then nothing is begun that brings more."""
        return self._bytes > self._max_bytes

    def close(self) -> None:
        """Let the reader go, for good."""
        with self._condition:
            self._is_open = False
            self._condition.notify()

    def _has_room(self) -> bool:
        return not self._is_open or (self._rows < self._max_rows and not self.is_over())


class Reader:
    """Reads the source and hands on what it holds, as far ahead as the gate allows.

    Args:
        items: A pass over the source. It is the caller's code: a thread that hangs in it is not waited for.
        jobs: Cuts an item into jobs: ``(job, rows, bytes)``.
        put: Called with each job.
        ended: Called once, with the error that ended the source, or None.
        gate: Where to wait.
        clock: Counts the time inside the source.
    """

    def __init__(
        self,
        items: Iterator[Any],
        *,
        jobs: Callable[[Any], Iterator[tuple[Any, int, int]]],
        put: Callable[[Any], None],
        ended: Callable[[BaseException | None], None],
        gate: Gate,
        clock: Clock,
        name: str,
    ) -> None:
        self._items, self._jobs = items, jobs
        self._put, self._ended = put, ended
        self._gate, self._clock = gate, clock
        self.thread = threading.Thread(target=self._read, name=f"{name}-reader", daemon=True)
        self.in_caller_code: set[threading.Thread] = set()

    def forget_source(self) -> None:
        """Drop the source, if the thread has ended."""
        if not self.thread.is_alive():
            self._items = iter(())

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._timed():
                for job, num_rows, num_bytes in self._jobs(item):
                    self._put(job)
                    if not self._gate.enter(num_rows, num_bytes):
                        return
        except BaseException as caught:  # noqa: BLE001 - it travels to the consumer, SystemExit too
            error = caught
        self._ended(error)

    def _timed(self) -> Iterator[Any]:
        while True:
            start = perf_counter()
            self.in_caller_code.add(self.thread)
            try:
                item = next(self._items)
            except StopIteration:
                return
            finally:
                self.in_caller_code.discard(self.thread)
                self._clock.add("read", start, perf_counter())
            yield item
