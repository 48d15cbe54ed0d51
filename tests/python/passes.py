"""What tests of a pass share: its threads, a loop that may hang, and rules taken away to see tests go red."""

from __future__ import annotations

import gc
import inspect
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from penstock import Prefetcher


def our_threads() -> list[str]:
    """Names of the threads that Penstock has started and that still run."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("penstock")]


def wait_until(is_so: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for other threads; the assertion that follows says what was hoped for."""
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.002)


def threads_left() -> list[str]:
    """Threads of passes that nobody has any more, after they were given time to end."""
    wait_until(lambda: not our_threads(), 0.05)
    if our_threads():
        gc.collect()  # which takes longer than most of these tests
        wait_until(lambda: not our_threads())
    return our_threads()


def settled(count: Callable[[], int], expected: int) -> int:
    """A count that other threads raise, once it had time to go past what is expected of it."""
    wait_until(lambda: count() >= expected)
    time.sleep(0.1)
    return count()


class Watched:
    """A loop in a thread of its own, so that one that hangs fails its test and not the run."""

    def __init__(self, batches: Prefetcher) -> None:
        self.rows: list[int] = []
        self.failed: list[int] = []
        self.raised: BaseException | None = None
        self._batches = batches
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        try:
            for batch in self._batches:
                self.rows += batch.input_index.tolist()
                self.failed += [index for index, _ in batch.errors]
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.raised = error

    def is_over(self, seconds: float = 20.0) -> bool:
        """Whether the loop has ended. Waits for it."""
        self._thread.join(seconds)
        return not self._thread.is_alive()


def take_away(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, rule: str, instead: str = "pass"
) -> None:
    """Compile a function again without one of its rules; fails if the rule is not written there."""
    function = inspect.unwrap(getattr(owner, name))
    source = textwrap.dedent(inspect.getsource(function))
    assert rule in source, f"{name} has no {rule!r} that could be taken away"
    made: dict[str, Any] = {}
    code = "from __future__ import annotations\n" + source.replace(rule, instead)
    exec(compile(code, f"<{name} without a rule>", "exec"), function.__globals__, made)
    monkeypatch.setattr(owner, name, made[name])
