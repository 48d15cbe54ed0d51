"""Counters, and what they say: who waited for whom."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Literal

from penstock.wording import counted

if TYPE_CHECKING:
    from penstock.trace import Trace

Bottleneck = Literal["model", "read", "load", "tokenize", "collate"]

STAGES = ("read", "load", "tokenize", "collate", "copy")
_FEW_BATCHES = 4
_NEGLIGIBLE = 0.05  # below this share of waiting the loop counts as fed
_NEARLY = 0.8  # of the cores: all of them
_ONE_CORE = 0.6, 1.2  # cores that Python code keeps busy, however many threads run it


@dataclass(frozen=True)
class Waits:
    """How often one side of the ring waited for the other, and how long.

    Attributes:
        count: Batches that were waited for.
        total_s: Seconds waited.
        p50_s, p99_s: Seconds that half of the waits, and 99 of 100, did not exceed, to within 6 percent.
    """

    count: int = 0
    total_s: float = 0.0
    p50_s: float = 0.0
    p99_s: float = 0.0


@dataclass(frozen=True)
class Stats:
    """What happened between the first ``next()`` and now (or the end).

    Attributes:
        elapsed_s: Seconds from the start of the iteration to its end, or until now.
        blocked_takes: The loop waited for a batch. Near ``elapsed_s`` in all: loading is the bottleneck.
        blocked_claims: The feeder waited for the loop to give a slot back. Near ``elapsed_s`` in all: the
            model is the bottleneck, as it should be.
        gil_wait_s: Seconds the loop waited for Python's lock when its batch was there already.
        stage_s: Thread seconds spent in each stage: read (inside the source), load (inside ``load``, and the
            pauses before its retries; summed over calls in flight), tokenize, collate, copy (starting the
            copy, not the copy itself).
        stage_cpu_s: Of these, the seconds in which the threads computed and did not wait, be it for a
            disk or for Python's lock.
        num_workers: Worker threads; ``stage_s`` of load, tokenize, collate and copy is spread over them.
        num_cores: Cores that this process may use.
        num_batches, num_rows, num_tokens: Delivered so far; a window of a row counts as a row.
        num_text_bytes: UTF-8 bytes of the texts that were tokenized.
        num_padded_tokens: Positions the model was given, padding counted.
        num_failed: Rows that failed.
        num_fallbacks: Texts that the native engine left to the slower `tokenizers` package meanwhile, for all
            who use this tokenizer.
        num_retries: Loads that were tried again.
        num_abandoned: Hung loads whose thread was given up.
        num_slots_allocated: Slabs allocated; more than ``batches_ahead + 2`` means that batches were kept.
        loads_at_once: Loads that can be in flight.
        is_load_async: ``load`` is a coroutine function: its calls share one thread.
        is_bound_by_rows_ahead: Loads are so many because of ``rows_ahead``, not of ``num_workers``.
        mean_ready: Batches that were ready when the loop asked, on average. Near 0: the loop starves.
        device_idle_s: On a CUDA device, seconds between the loop's work on a batch and on the next, measured
            by events on its stream. None on others.
    """

    elapsed_s: float = 0.0
    blocked_takes: Waits = field(default_factory=Waits)
    blocked_claims: Waits = field(default_factory=Waits)
    gil_wait_s: float = 0.0
    stage_s: dict[str, float] = field(default_factory=dict)
    stage_cpu_s: dict[str, float] = field(default_factory=dict)
    num_workers: int = 0
    num_cores: int = 1
    num_batches: int = 0
    num_rows: int = 0
    num_tokens: int = 0
    num_text_bytes: int = 0
    num_padded_tokens: int = 0
    num_failed: int = 0
    num_fallbacks: int = 0
    num_retries: int = 0
    num_abandoned: int = 0
    num_slots_allocated: int = 0
    mean_ready: float = 0.0
    loads_at_once: int = 1
    is_load_async: bool = False
    is_bound_by_rows_ahead: bool = False
    device_idle_s: float | None = None

    @property
    def wait_share(self) -> float:
        """Share of the time that the loop waited for data, 0 to 1."""
        return self._share(self.blocked_takes.total_s)

    @property
    def gil_wait_share(self) -> float:
        """Share of the time that the loop waited for Python's lock with its batch there, 0 to 1."""
        return self._share(self.gil_wait_s)

    @property
    def device_idle_share(self) -> float | None:
        """Share of the time that the CUDA device had nothing of the loop's to do, 0 to 1; None on others."""
        return None if self.device_idle_s is None else self._share(self.device_idle_s)

    @property
    def padding_share(self) -> float:
        """Share of the positions given to the model that were padding, 0 to 1."""
        return 1 - self.num_tokens / self.num_padded_tokens if self.num_padded_tokens else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Tokens delivered a second."""
        return self.num_tokens / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def bottleneck(self) -> Bottleneck:
        """``"model"``, or the stage that the loop waited for."""
        if self.wait_share < _NEGLIGIBLE:
            return "model"
        demand = self._demand()
        if not self.is_load_async:
            # These share the workers, and stand or fall together: it is the one that takes most of them.
            shared: tuple[Bottleneck, ...] = ("load", "tokenize", "collate")
            largest = max(shared, key=lambda stage: demand[stage])
            demand[largest] = sum(demand[stage] for stage in shared)
        return max(demand, key=lambda stage: demand[stage])

    @property
    def remedy(self) -> str:
        """What to do about the bottleneck."""
        bottleneck = self.bottleneck
        if bottleneck == "read":
            return "reading the source is the bottleneck; try a faster disk, or uncompressed files."
        if bottleneck == "load":
            return f"loading is the bottleneck; {self._load_remedy()}"
        if bottleneck == "model":
            return "the model is the bottleneck, as it should be."
        verb = {"tokenize": "tokenizing", "collate": "collating"}[bottleneck]
        if self.num_workers < self.num_cores:
            return f"{verb} is the bottleneck; raise num_workers ({self.num_workers} on {self._cores})."
        return f"{verb} is the bottleneck, with {self._cores} at it; it takes more cores, or less text."

    def __str__(self) -> str:
        """One sentence on who waited for whom, then one on the work done."""
        percent = f"{self.wait_share:.0%}"
        few = self.num_batches < _FEW_BATCHES
        verdict = "too few batches to say who waited for whom." if few else self.remedy
        if not few and self.gil_wait_share >= _NEGLIGIBLE:
            verdict += (
                f" For another {self.gil_wait_share:.0%} its batch was there and Python's lock (the GIL) was "
                "not: other threads run Python code."
            )
        if self.device_idle_share is not None:
            verdict += f" The device was idle {self.device_idle_share:.0%} of the time."
        failed = f", {counted(self.num_failed, 'row')} failed" if self.num_failed else ""
        left = f", {counted(self.num_fallbacks, 'text')} left to tokenizers" if self.num_fallbacks else ""
        return (
            f"the loop waited {percent} of the time for data: {verdict}\n"
            f"{counted(self.num_rows, 'row')}, {counted(self.num_tokens, 'token')} in "
            f"{counted(self.num_batches, 'batch', 'batches')} and "
            f"{self.elapsed_s:.2f} s ({self.padding_share:.1%} padding{failed}{left})"
        )

    def _share(self, seconds: float) -> float:
        return min(1.0, seconds / self.elapsed_s) if self.elapsed_s > 0 else 0.0

    @property
    def _cores(self) -> str:
        return counted(self.num_cores, "core")

    def _demand(self) -> dict[Bottleneck, float]:
        """How much of what it may use each stage took; 1 is all of it, all of the time.

        Reading and loading may wait for others, so all of their time counts. Tokenizing and collating wait
        for nothing but a core or Python's lock, which more workers would not bring: there it is the
        computing.
        """
        elapsed = max(self.elapsed_s, 1e-9)
        workers = max(1, self.num_workers)
        cores = min(workers, self.num_cores)
        load = self.stage_s.get("load", 0.0) / max(1, self.loads_at_once)
        if self.is_load_async:
            load = max(load, self.stage_cpu_s.get("load", 0.0))  # of the one thread
        return {
            "read": self.stage_s.get("read", 0.0) / elapsed,
            "load": load / elapsed,
            "tokenize": self.stage_cpu_s.get("tokenize", 0.0) / cores / elapsed,
            "collate": self.stage_cpu_s.get("collate", 0.0) / cores / elapsed,
        }

    def _load_remedy(self) -> str:
        """More at once helps a load that waits; not one that computes."""
        busy_cores = self.stage_cpu_s.get("load", 0.0) / self.elapsed_s
        if self.is_load_async and busy_cores >= _ONE_CORE[0]:
            return (
                "its coroutines compute, and share one thread: await more, compute less, or make load "
                "a plain function."
            )
        if busy_cores >= _NEARLY * self.num_cores:
            return f"it computes, with {self._cores} at it: make it cheaper, or use more cores."
        if self.loads_at_once > 1 and _ONE_CORE[0] <= busy_cores <= _ONE_CORE[1]:
            return (
                "it computes in Python, where one thread runs at a time (the GIL) and more workers do not "
                "help: use a library that lets go of the lock, or prepare the rows beforehand."
            )
        return "raise rows_ahead." if self.is_bound_by_rows_ahead else "raise num_workers."


class _Stage:
    """A body whose time counts. No generator: there are several of these for each batch."""

    __slots__ = ("_clock", "_computed", "_name", "_start", "_ticket")

    def __init__(self, clock: Clock, name: str, ticket: int) -> None:
        self._clock, self._name, self._ticket = clock, name, ticket

    def __enter__(self) -> None:
        self._start, self._computed = perf_counter(), thread_time()

    def __exit__(self, *_: object) -> None:
        self._clock.add(self._name, self._start, perf_counter(), self._ticket)
        self._clock.add_cpu(self._name, thread_time() - self._computed)


class Clock:
    """Adds up the seconds of each stage, per thread so that nobody waits for anybody.

    Args:
        trace: Also records each span there.
    """

    def __init__(self, trace: Trace | None = None) -> None:
        self.trace = trace
        self._local = threading.local()
        self._all: list[dict[str, float]] = []

    def stage(self, name: str, ticket: int = -1) -> _Stage:
        """Count the time of the body as time of that stage. Any thread."""
        return _Stage(self, name, ticket)

    def add(self, name: str, start: float, stop: float, ticket: int = -1) -> None:
        """Count a span of ``perf_counter`` seconds. Any thread."""
        self._add(name, stop - start)
        if self.trace is not None:
            self.trace.span(name, start, stop, ticket)

    def add_cpu(self, name: str, seconds: float) -> None:
        """Count seconds in which this thread computed. Any thread."""
        self._add(f"{name} cpu", seconds)

    def totals(self) -> dict[str, float]:
        """Seconds by stage over all threads."""
        return {stage: self._total(stage) for stage in STAGES}

    def cpu_totals(self) -> dict[str, float]:
        """Seconds by stage in which the threads computed."""
        return {stage: self._total(f"{stage} cpu") for stage in STAGES}

    def _add(self, name: str, seconds: float) -> None:
        totals: dict[str, float] | None = getattr(self._local, "totals", None)
        if totals is None:
            totals = self._local.totals = {}
            self._all.append(totals)
        totals[name] = totals.get(name, 0.0) + seconds

    def _total(self, name: str) -> float:
        return sum(totals.get(name, 0.0) for totals in list(self._all))
