"""A timeline of one run that Perfetto and chrome://tracing open."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from penstock.errors import ConfigError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

MAX_EVENTS = 1_000_000

Passage = Literal["claimed", "published", "taken", "recycled"]
_STATES: tuple[tuple[str, Passage, Passage], ...] = (
    ("in the making", "claimed", "published"),
    ("ready", "published", "taken"),
    ("with the loop", "taken", "recycled"),
)
_THREADS, _SLOTS = 1, 2  # "processes" of the picture


class Trace:
    """Collects what every thread does and what becomes of every ticket; writes it when the run ends.

    The picture has a track for each thread with the spans of its stages, one for each slot of the ring with
    the tickets that went through it, a curve of the batches that were ready, and an arrow from where a batch
    was published to where the loop begins with it.

    The format is the "Trace Event Format" of the Chromium project.

    Args:
        path: File to write; its folder must exist.
        num_slots: Tickets that can be claimed at once; ticket t goes through slot t mod num_slots.
    """

    def __init__(self, path: str | os.PathLike[str], num_slots: int) -> None:
        self._path = Path(path)
        try:
            self._path.touch()  # a path that cannot be written is better known now than at the end
        except OSError as error:
            raise ConfigError(
                f"trace={str(path)!r}: the file cannot be written: {error.strerror}."
            ) from error
        self._num_slots = num_slots
        self._start = perf_counter()
        self._spans: list[tuple[str, float, float, int, int]] = []
        self._passages: list[tuple[int, Passage, float]] = []
        self._names: dict[int, str] = {}
        self.num_dropped = 0

    def span(self, name: str, start: float, stop: float, ticket: int = -1) -> None:
        """Record a span (``perf_counter`` seconds). Any thread; events past a million are only counted."""
        if self._is_full():
            return
        ident = threading.get_ident()
        if ident not in self._names:
            self._names[ident] = threading.current_thread().name
        self._spans.append((name, start, stop, ident, ticket))

    def mark(self, ticket: int, passage: Passage, when: float) -> None:
        """Record that a ticket has come so far. Any thread."""
        if not self._is_full():
            self._passages.append((ticket, passage, when))

    def write(self) -> None:
        """Write the file. Blocks for the time that takes."""
        passages: dict[int, dict[Passage, float]] = defaultdict(dict)
        for ticket, passage, when in list(self._passages):
            passages[ticket][passage] = when
        spans = list(self._spans)
        events = [
            *self._headings(),
            *(self._span_event(*span) for span in spans),
            *self._slot_events(passages),
            *self._ready_events(passages),
            *self._arrows(spans),
        ]
        other = {"dropped_events": self.num_dropped}
        self._path.write_text(json.dumps({"traceEvents": events, "otherData": other}), encoding="utf-8")

    def _is_full(self) -> bool:
        if len(self._spans) + len(self._passages) < MAX_EVENTS:
            return False
        self.num_dropped += 1
        return True

    def _microseconds(self, when: float) -> float:
        return (when - self._start) * 1e6

    def _headings(self) -> Iterator[dict[str, Any]]:
        for process, name in ((_THREADS, "threads"), (_SLOTS, "slots of the ring")):
            yield {"name": "process_name", "ph": "M", "pid": process, "args": {"name": name}}
        for ident, name in self._names.items():
            yield {"name": "thread_name", "ph": "M", "pid": _THREADS, "tid": ident, "args": {"name": name}}
        for slot in range(self._num_slots):
            heading = {"name": f"slot {slot}"}
            yield {"name": "thread_name", "ph": "M", "pid": _SLOTS, "tid": slot, "args": heading}

    def _span_event(self, name: str, start: float, stop: float, ident: int, ticket: int) -> dict[str, Any]:
        event = {"name": name, "ph": "X", "pid": _THREADS, "tid": ident}
        event |= {"ts": self._microseconds(start), "dur": (stop - start) * 1e6}
        if ticket >= 0:
            event["args"] = {"row" if name in _OF_ROWS else "ticket": ticket}
        return event

    def _slot_events(self, passages: dict[int, dict[Passage, float]]) -> Iterator[dict[str, Any]]:
        """What was under way when the run ended has no span."""
        for ticket, seen in passages.items():
            for state, begin, end in _STATES:
                if begin in seen and end in seen:
                    event = {"name": state, "ph": "X", "pid": _SLOTS, "tid": ticket % self._num_slots}
                    event |= {"ts": self._microseconds(seen[begin]), "args": {"ticket": ticket}}
                    yield event | {"dur": (seen[end] - seen[begin]) * 1e6}

    def _ready_events(self, passages: dict[int, dict[Passage, float]]) -> Iterator[dict[str, Any]]:
        steps = [(seen["published"], 1) for seen in passages.values() if "published" in seen]
        steps += [(seen["taken"], -1) for seen in passages.values() if "taken" in seen]
        num_ready = 0
        for when, step in sorted(steps):
            num_ready += step
            event = {"name": "batches ready", "ph": "C", "pid": _SLOTS, "ts": self._microseconds(when)}
            yield event | {"args": {"batches": num_ready}}

    def _arrows(self, spans: list[tuple[str, float, float, int, int]]) -> Iterator[dict[str, Any]]:
        """From where a batch was published to where the loop begins with it."""
        for name, start, stop, ident, ticket in spans:
            if name in _ARROW:
                phase = "s" if name == _ARROW[0] else "f"
                event = {"name": "batch", "cat": "batch", "ph": phase, "bp": "e", "id": ticket}
                event |= {"pid": _THREADS, "tid": ident}
                yield event | {"ts": self._microseconds((start + stop) / 2 if phase == "s" else start)}


_OF_ROWS = ("load", "tokenize")  # their spans carry the number of a row, not of a batch
_ARROW = ("publish", "loop")
