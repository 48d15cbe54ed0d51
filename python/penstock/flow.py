"""One pass over a source: ring, pool, slots and threads, from the first ``iter`` to the last batch."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import starmap
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from penstock import _core
from penstock.collation import KNOWN_INPUTS, Collate, Collator, Staged, slot_bytes
from penstock.encoder import Encoder, PairColumn
from penstock.errors import ClosedError, ConfigError, ForkedError, SourceExhaustedError
from penstock.feeder import Feeder, Limits
from penstock.loads import CoroutineLoader, FunctionLoader
from penstock.planner import padded_length
from penstock.pool import WorkerPool, be_low_priority, join_unless, num_cores
from penstock.sources import RowReader, Source, UnitSource, as_source
from penstock.sources.rows import MOST_ROWS
from penstock.staging import Staging
from penstock.stats import Clock, Stats, Waits
from penstock.trace import Trace
from penstock.windows import Failure, WindowPlanner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from penstock.batch import Batch
    from penstock.tokenizer import Tokenizer
    from penstock.tokenizer_layout import PairTruncation

_live: weakref.WeakSet[Pass] = weakref.WeakSet()
_NO_ARGUMENTS: tuple[tuple[()]] = ((),)  # of one call


@dataclass(frozen=True)
class Settings:
    """The arguments of a ``Prefetcher``, checked and resolved."""

    source: Any
    load: Callable[[Any], Any] | None
    tokenizer: Tokenizer | None
    text_column: str
    pair_column: str | None
    pairs: bool
    keep: tuple[str, ...]
    device: torch.device
    max_length: int | None
    stride: int | None
    max_batch_tokens: int
    max_batch_rows: int | None
    batches_ahead: int
    timeout: float | None
    retries: int
    max_row_bytes: int
    collate: Collate | None
    trace: str | os.PathLike[str] | None
    truncation: Literal["right", "left"]
    pair_truncation: PairTruncation
    prompt: str
    is_left_padded: bool
    limits: Limits


class Pass:
    """Everything that lives as long as one pass: ring, pool, slots, the two threads."""

    def __init__(
        self, settings: Settings, source: Source | Keys, row_reader: RowReader, *, is_async: bool
    ) -> None:
        _hook_exit()
        # First, in the caller's thread: a source that cannot start again says so before a thread exists.
        items = source.start() if isinstance(source, Keys) else source.chunks()
        limits = settings.limits
        self._pid = os.getpid()
        self._limits = limits
        self._is_async = is_async
        num_slots = settings.batches_ahead + 1
        self._trace = Trace(settings.trace, num_slots) if settings.trace is not None else None
        self._delivered: tuple[int, float] | None = None  # ticket and time, kept with a trace only
        self._is_trace_written = False  # a loop that was left has cancelled the pass; close comes later
        self._clock = Clock(self._trace)
        self._tokenizer = settings.tokenizer
        self._fallbacks_before = self._num_fallbacks()
        self._ring = _core.Ring(num_slots)
        self._staging = _make_staging(settings)
        name = "penstock"
        self._pool = WorkerPool(limits.num_workers, name, partial(_enter_worker, settings.device))
        self._feeder = Feeder(
            items,
            ring=self._ring,
            pool=self._pool,
            encoder=_make_encoder(settings, row_reader if isinstance(source, Keys) else source),
            collator=_make_collator(settings, self._staging, self._clock),
            planner=_make_planner(settings),
            clock=self._clock,
            limits=limits,
            make_loader=_make_loader(settings, self._pool, self._clock, is_async=is_async, name=name),
            row_reader=row_reader,
            name=name,
        )
        # (ticket, item) that was taken and not delivered, or None: the end; at most one
        self._taken: list[Any] = []
        self._is_delivering = False
        self._consumer: dict[str, int] = {}  # the thread inside ``next``; a dict, for its setdefault
        self._num_batches = self._num_rows = self._num_tokens = self._num_padded_tokens = 0
        self._start = perf_counter()
        self._stop: float | None = None
        _live.add(self)
        self._feeder.start()

    @property
    def is_finished(self) -> bool:
        """Whether ``next`` has nothing more to give."""
        return self._stop is not None

    def next(self) -> Batch:
        """The next batch, in ticket order."""
        check_process(self._pid)
        me = threading.get_ident()
        try:
            # No lock: a signal handler that raised behind its acquire, or before its release, would leave it
            # taken. Here the same thread gets in again, and out.
            if self._consumer.setdefault("thread", me) != me:
                raise ConfigError("a Prefetcher is consumed by one thread at a time.")
            while True:
                batch = self._take() if self._trace is None else self._traced_take(self._trace)
                if batch is None:
                    raise StopIteration
                if len(batch) or batch.errors:
                    return batch
        finally:
            if self._consumer.get("thread") == me:
                self._consumer.clear()

    def _traced_take(self, trace: Trace) -> Batch | None:
        asked = perf_counter()
        if self._delivered is not None:
            ticket, when = self._delivered
            trace.span("loop", when, asked, ticket)
            trace.mark(ticket, "recycled", asked)
            self._delivered = None
        batch = self._take()
        if batch is not None:
            when = perf_counter()
            self._delivered = batch.ticket, when
            trace.span("wait", asked, when, batch.ticket)
            trace.mark(batch.ticket, "taken", when)
        return batch

    def _take(self) -> Batch | None:
        """The next batch, and with it the last one's slot back.

        A signal handler may raise between any two lines. What was taken lies in ``_taken`` until it is
        delivered, so the next call goes on from there.
        """
        if self._is_delivering:
            raise ClosedError(
                "this pass was interrupted while it handed over a batch, which is lost; start a new one."
            )
        self._staging.loop_asks()
        if not self._taken and not self.is_finished:
            # Taken into the list in one step of the interpreter, which no signal handler can split.
            self._taken.extend(starmap(self._ring.take, _NO_ARGUMENTS))
        if not self._taken or self._taken[0] is None:
            self._taken.clear()
            self.close()
            return None
        self._is_delivering = True
        ticket, item = self._taken.pop()
        if isinstance(item, Failure):
            self._is_delivering = False
            self._raise(item.error)
        batch: Batch = item.batch if isinstance(item, Staged) else item
        batch.ticket = ticket
        self._num_batches += 1
        self._num_rows += len(batch)
        if isinstance(item, Staged):
            self._staging.hand_over(item.slot)
            self._num_tokens += item.num_tokens
            self._num_padded_tokens += item.num_padded_tokens
        self._is_delivering = False
        return batch

    def _raise(self, error: BaseException) -> NoReturn:
        with suppress(OSError):  # the trace cannot be written; the error of the pass matters more
            self.close()
        if isinstance(error, StopIteration):
            # Out of next() it would end the loop as if all rows had come: the rule of PEP 479.
            message = "load, collate or the source raised StopIteration"
            raise RuntimeError(message) from error  # noqa: TRY004 - as generators do
        raise error

    def cancel(self) -> None:
        """End the pass without waiting: safe from a finalizer, in any thread. In a forked child: nothing."""
        if os.getpid() != self._pid:
            return
        self._ring.cancel()
        self._feeder.stop()
        self._pool.shutdown(wait=False)
        if self._stop is None:
            self._stop = perf_counter()

    def close(self) -> None:
        """End the pass and join our threads, but for those inside the caller's code."""
        self.cancel()
        self._pool.shutdown(wait=True)
        join_unless(self._feeder.threads, self._feeder.in_caller_code)
        self._feeder.join_loads()
        self._feeder.forget_source()
        if self._trace is not None and not self._is_trace_written:
            self._is_trace_written = True
            self._trace.write()

    def stats(self) -> Stats:
        """The counters so far."""
        ring = self._ring
        return Stats(
            elapsed_s=(self._stop or perf_counter()) - self._start,
            blocked_takes=Waits(
                ring.blocked_takes,
                ring.blocked_take_s,
                ring.blocked_take_quantile(0.5),
                ring.blocked_take_quantile(0.99),
            ),
            blocked_claims=Waits(
                ring.blocked_claims,
                ring.blocked_claim_s,
                ring.blocked_claim_quantile(0.5),
                ring.blocked_claim_quantile(0.99),
            ),
            gil_wait_s=ring.gil_wait_s,
            stage_s=self._clock.totals(),
            stage_cpu_s=self._clock.cpu_totals(),
            num_workers=self._limits.num_workers,
            num_cores=num_cores(),
            num_batches=self._num_batches,
            num_rows=self._num_rows,
            num_tokens=self._num_tokens,
            num_text_bytes=self._feeder.num_text_bytes,
            num_padded_tokens=self._num_padded_tokens,
            num_failed=self._feeder.num_failed,
            num_fallbacks=self._num_fallbacks() - self._fallbacks_before,
            num_retries=self._feeder.num_retries,
            num_abandoned=self._pool.num_abandoned,
            num_slots_allocated=self._staging.num_allocated,
            mean_ready=ring.occupancy_sum / ring.takes if ring.takes else 0.0,
            loads_at_once=self._limits.rows_ahead
            if self._is_async
            else min(self._limits.rows_ahead, self._limits.num_workers),
            is_load_async=self._is_async,
            is_bound_by_rows_ahead=self._is_async or self._limits.rows_ahead < self._limits.num_workers,
            device_idle_s=self._staging.idle_s,
        )

    def _num_fallbacks(self) -> int:
        return self._tokenizer.num_fallbacks if self._tokenizer is not None else 0


class Keys:
    """The caller's keys; a one-shot iterator can be read once."""

    def __init__(self, keys: Iterable[Any]) -> None:
        if not isinstance(keys, Iterable):
            raise ConfigError(
                f"source: with load= it must be an iterable of keys, not {type(keys).__name__}."
            )
        self._keys = keys
        self._is_used = False

    def start(self) -> Iterator[Any]:
        """Begin a pass."""
        iterator = iter(self._keys)
        if self._is_used and iterator is self._keys:
            raise SourceExhaustedError(
                "the source is an iterator and was read already; pass a list, or a new one."
            )
        self._is_used = True
        return iterator


def _make_staging(settings: Settings) -> Staging:
    tokens = padded_length(settings.max_batch_tokens)
    if settings.max_batch_rows is not None and settings.max_length is not None:
        tokens = min(tokens, settings.max_batch_rows * padded_length(settings.max_length))
    num_bytes = slot_bytes(len(_input_names(settings)), tokens)
    return Staging(settings.device, num_bytes, settings.batches_ahead + 2)


def make_source(settings: Settings) -> Source:
    """The source that holds rows."""
    return as_source(
        settings.source,
        text_column=settings.text_column,
        pair_column=settings.pair_column,
        keep=settings.keep,
        max_row_bytes=settings.max_row_bytes,
        ids=settings.tokenizer is None,
        # A live source must not have a row wait for the next one to fill a chunk.
        most_rows=MOST_ROWS if settings.limits.max_wait is None else 1,
    )


def _make_encoder(settings: Settings, columns: PairColumn) -> Encoder:
    return Encoder(
        settings.tokenizer,
        columns=columns,
        text_column=settings.text_column,
        keep=settings.keep,
        max_length=settings.max_length,
        stride=settings.stride,
        truncation=settings.truncation,
        pair_truncation=settings.pair_truncation,
        prompt=settings.prompt,
        max_job_rows=settings.limits.rows_ahead,
        pairs=settings.pairs,
    )


def _make_collator(settings: Settings, staging: Staging, clock: Clock) -> Collator:
    tokenizer = settings.tokenizer
    return Collator(
        staging,
        clock,
        input_names=_input_names(settings),
        pad_id=tokenizer.pad_id if tokenizer is not None else 0,
        pad_type_id=tokenizer.pad_type_id if tokenizer is not None else 0,
        pad_left=settings.is_left_padded,
        max_length=settings.max_length,
        collate=settings.collate,
    )


def _make_planner(settings: Settings) -> WindowPlanner:
    return WindowPlanner(
        window_rows=settings.limits.window_rows,
        # A durable unit must give the same batches when it is redone alone.
        ramp=not isinstance(settings.source, UnitSource),
        max_batch_tokens=settings.max_batch_tokens,
        max_batch_rows=settings.max_batch_rows,
        max_window_bytes=settings.limits.max_window_bytes,
        on_error=settings.limits.on_error,
    )


def make_row_reader(settings: Settings) -> RowReader:
    """What reads rows that ``load`` returned."""
    return RowReader(
        settings.text_column,
        settings.pair_column,
        settings.keep,
        settings.max_row_bytes,
        settings.tokenizer is None,
    )


def _make_loader(
    settings: Settings, pool: WorkerPool, clock: Clock, *, is_async: bool, name: str
) -> Callable[[Callable[[Any], None]], FunctionLoader | CoroutineLoader] | None:
    load = settings.load
    if load is None:
        return None
    retries, timeout = settings.retries, settings.timeout
    if is_async:
        return lambda finished: CoroutineLoader(
            load, finished, clock, retries=retries, timeout=timeout, name=name
        )
    return lambda finished: FunctionLoader(load, pool, finished, clock, retries=retries, timeout=timeout)


def _input_names(settings: Settings) -> tuple[str, ...]:
    wanted = settings.tokenizer.model_input_names if settings.tokenizer is not None else KNOWN_INPUTS[:2]
    unknown = [name for name in wanted if name not in KNOWN_INPUTS]
    if unknown and settings.collate is None:
        raise ConfigError(
            f"the tokenizer's model_input_names holds {unknown[0]!r}; it may hold any of "
            f"{', '.join(KNOWN_INPUTS)}. Build others in collate=."
        )
    return tuple(name for name in wanted if name in KNOWN_INPUTS)


def _enter_worker(device: torch.device) -> None:
    """A new thread is the loop's equal, and sits on CUDA device 0, where it would make a context."""
    be_low_priority()
    if device.type == "cuda":
        import torch

        torch.cuda.set_device(device)


def check_process(pid: int) -> None:
    """Refuse use in a forked child.

    Raises:
        ForkedError: This is not the process that made the object.
    """
    if os.getpid() != pid:
        raise ForkedError(
            "this Prefetcher was made before a fork and its threads live in the parent; make a new one."
        )


@cache
def _hook_exit() -> None:
    """Have live passes end before the interpreter does: a thread that wakes in C++ later aborts it.

    ``threading._register_atexit`` runs before threads are joined; ``concurrent.futures`` uses it too.
    """
    threading._register_atexit(_close_live)  # type: ignore[attr-defined]


def _close_live() -> None:
    for current in list(_live):
        with suppress(Exception):
            if current._pid == os.getpid():
                current.close()
