"""A timeline of one run that Perfetto and chrome://tracing open."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from penstock.errors import ConfigError

if TYPE_CHECKING:
    import os

MAX_EVENTS = 1_000_000


class Trace:
    """Collects spans from every thread and writes them as a Chrome trace when the run ends.

    The format is the "Trace Event Format" of the Chromium project, complete events ("ph": "X").

    Args:
        path: File to write; its folder must exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        try:
            self._path.touch()  # a path that cannot be written is better known now than at the end
        except OSError as error:
            raise ConfigError(
                f"trace={str(path)!r}: the file cannot be written: {error.strerror}."
            ) from error
        self._start = perf_counter()
        self._events: list[tuple[str, float, float, int, int]] = []
        self._names: dict[int, str] = {}
        self.num_dropped = 0

    def span(self, name: str, start: float, stop: float, ticket: int = -1) -> None:
        """Record a span (``perf_counter`` seconds). Any thread; spans past a million are only counted."""
        if len(self._events) >= MAX_EVENTS:
            self.num_dropped += 1
            return
        ident = threading.get_ident()
        if ident not in self._names:
            self._names[ident] = threading.current_thread().name
        self._events.append((name, start, stop, ident, ticket))

    def write(self) -> None:
        """Write the file. Blocks for the time that takes."""
        lines: list[dict[str, object]] = [
            {"name": "thread_name", "ph": "M", "pid": 1, "tid": ident, "args": {"name": name}}
            for ident, name in self._names.items()
        ]
        for name, start, stop, ident, ticket in list(self._events):
            event: dict[str, object] = {"name": name, "ph": "X", "pid": 1, "tid": ident}
            event |= {"ts": (start - self._start) * 1e6, "dur": (stop - start) * 1e6}
            if ticket >= 0:
                event["args"] = {"ticket": ticket}
            lines.append(event)
        other = {"dropped_spans": self.num_dropped}
        self._path.write_text(json.dumps({"traceEvents": lines, "otherData": other}), encoding="utf-8")
