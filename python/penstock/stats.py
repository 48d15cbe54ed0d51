"""Counters, and what they say: who waited for whom."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from penstock.wording import counted

if TYPE_CHECKING:
    from penstock.trace import Trace

STAGES = ("read", "load", "tokenize", "collate", "copy")
_FEW_BATCHES = 4
_NEGLIGIBLE = 0.05  # below this share of waiting the loop counts as fed


@dataclass(frozen=True)
class Stats:
    """What happened between the first ``next()`` and now (or the end).

    Attributes:
        elapsed_s: Seconds from the start of the iteration to its end, or until now.
        blocked_take_s: Seconds the loop waited for a batch. Near ``elapsed_s``: loading is the bottleneck.
        blocked_claim_s: Seconds the feeder waited for the loop to give a slot back. Near ``elapsed_s``: the
            model is the bottleneck, as it should be.
        stage_s: Thread seconds spent in each stage: read (inside the source), load (inside ``load``; summed
            over calls in flight), tokenize, collate, copy (starting the copy, not the copy itself).
        num_workers: Worker threads; ``stage_s`` of load, tokenize, collate and copy is spread over them.
        num_batches, num_rows, num_tokens: Delivered so far; a window of a row counts as a row.
        num_padded_tokens: Positions the model was given, padding counted.
        num_failed: Rows that failed.
        num_fallbacks: Texts that the native engine left to the slower `tokenizers` package meanwhile, for all
            who use this tokenizer.
        num_retries: Loads that were tried again.
        num_abandoned: Hung loads whose thread was given up.
        num_slots_allocated: Slabs allocated; more than ``batches_ahead + 2`` means that batches were kept.
        loads_at_once: Loads that can be in flight.
        is_bound_by_rows_ahead: That is because of ``rows_ahead``, not of ``num_workers``.
        mean_ready: Batches that were ready when the loop asked, on average. Near 0: the loop starves.
    """

    elapsed_s: float = 0.0
    blocked_take_s: float = 0.0
    blocked_claim_s: float = 0.0
    stage_s: dict[str, float] = field(default_factory=dict)
    num_workers: int = 0
    num_batches: int = 0
    num_rows: int = 0
    num_tokens: int = 0
    num_padded_tokens: int = 0
    num_failed: int = 0
    num_fallbacks: int = 0
    num_retries: int = 0
    num_abandoned: int = 0
    num_slots_allocated: int = 0
    mean_ready: float = 0.0
    loads_at_once: int = 1
    is_bound_by_rows_ahead: bool = False

    @property
    def wait_share(self) -> float:
        """Share of the time that the loop waited for data, 0 to 1."""
        return min(1.0, self.blocked_take_s / self.elapsed_s) if self.elapsed_s > 0 else 0.0

    @property
    def padding_share(self) -> float:
        """Share of the positions given to the model that were padding, 0 to 1."""
        return 1 - self.num_tokens / self.num_padded_tokens if self.num_padded_tokens else 0.0

    @property
    def bottleneck(self) -> str:
        """``"model"``, or the stage that the loop waited for: one of read, load, tokenize, collate."""
        if self.wait_share < _NEGLIGIBLE:
            return "model"
        spread = {"read": 1, "load": max(1, self.loads_at_once)}  # one thread reads
        weight = {
            stage: seconds / spread.get(stage, max(1, self.num_workers))
            for stage, seconds in self.stage_s.items()
            if stage != "copy"
        }
        return max(weight, key=lambda stage: weight[stage], default="read")

    def __str__(self) -> str:
        """One sentence on who waited for whom, then one on the work done."""
        percent = f"{self.wait_share:.0%}"
        remedies = {
            "read": "reading the source is the bottleneck; try a faster disk, or uncompressed files.",
            "load": "loading is the bottleneck; raise "
            + ("rows_ahead." if self.is_bound_by_rows_ahead else "num_workers."),
            "tokenize": "tokenizing is the bottleneck; raise num_workers if cores are idle.",
            "collate": "collating is the bottleneck; raise num_workers if cores are idle.",
        }
        verdict = remedies.get(self.bottleneck, "the model is the bottleneck, as it should be.")
        if self.num_batches < _FEW_BATCHES:
            verdict = "too few batches to say who waited for whom."
        failed = f", {counted(self.num_failed, 'row')} failed" if self.num_failed else ""
        left = f", {counted(self.num_fallbacks, 'text')} left to tokenizers" if self.num_fallbacks else ""
        return (
            f"the loop waited {percent} of the time for data: {verdict}\n"
            f"{counted(self.num_rows, 'row')}, {counted(self.num_tokens, 'token')} in "
            f"{counted(self.num_batches, 'batch', 'batches')} and "
            f"{self.elapsed_s:.2f} s ({self.padding_share:.1%} padding{failed}{left})"
        )


class _Stage:
    """A body whose time counts. No generator: there are several of these for each batch."""

    __slots__ = ("_clock", "_name", "_start", "_ticket")

    def __init__(self, clock: Clock, name: str, ticket: int) -> None:
        self._clock, self._name, self._ticket = clock, name, ticket

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(self, *_: object) -> None:
        self._clock.add(self._name, self._start, perf_counter(), self._ticket)


class Clock:
    """Adds up the seconds of each stage, per thread so that nobody waits for anybody.

    Args:
        trace: Also records each span there.
    """

    def __init__(self, trace: Trace | None = None) -> None:
        self._trace = trace
        self._local = threading.local()
        self._all: list[dict[str, float]] = []

    def stage(self, name: str, ticket: int = -1) -> _Stage:
        """Count the time of the body as time of that stage. Any thread."""
        return _Stage(self, name, ticket)

    def add(self, name: str, start: float, stop: float, ticket: int = -1) -> None:
        """Count a span of ``perf_counter`` seconds. Any thread."""
        seconds: dict[str, float] | None = getattr(self._local, "seconds", None)
        if seconds is None:
            seconds = self._local.seconds = dict.fromkeys(STAGES, 0.0)
            self._all.append(seconds)
        seconds[name] = seconds.get(name, 0.0) + stop - start
        if self._trace is not None:
            self._trace.span(name, start, stop, ticket)

    def totals(self) -> dict[str, float]:
        """Seconds by stage over all threads."""
        return {stage: sum(seconds.get(stage, 0.0) for seconds in list(self._all)) for stage in STAGES}
