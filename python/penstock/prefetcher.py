"""``Prefetcher``: text in, batches on the device out, while the loop runs the model."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import Self

from penstock import _core
from penstock.batch import Batch
from penstock.collation import KNOWN_INPUTS, Collate, Collator, Staged, slot_bytes
from penstock.encoder import Encoder, PairColumn
from penstock.errors import ClosedError, ConfigError, ForkedError, SourceExhaustedError
from penstock.feeder import Feeder, Limits
from penstock.loads import CoroutineLoader, FunctionLoader, is_coroutine_function
from penstock.pool import WorkerPool, join_unless
from penstock.sources import RowReader, Source, UnitSource, as_source
from penstock.staging import Staging, resolve_device
from penstock.stats import Clock, Stats
from penstock.tokenizer import Tokenizer
from penstock.trace import Trace
from penstock.windows import Failure, WindowPlanner

if TYPE_CHECKING:
    from types import TracebackType

    import torch

OnError = Literal["raise", "skip", "null"]

MAX_WORKERS = 16
_live: weakref.WeakSet[_Pass] = weakref.WeakSet()


@dataclass(frozen=True)
class _Settings:
    """The arguments of a ``Prefetcher``, checked and resolved."""

    source: Any
    load: Callable[[Any], Any] | None
    tokenizer: Tokenizer | None
    text_column: str
    pair_column: str | None
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
    prompt: str
    is_left_padded: bool
    limits: Limits


class Prefetcher:
    """Feeds a loop with batches that are loaded, tokenized, padded and on the device before it asks.

    Batches come in ticket order; with ``window_rows=1`` that is the order of the input. Rows started and
    not delivered are at most ``rows_ahead + window_rows`` plus the rows of ``batches_ahead + 2`` batches.

    Args:
        source: Rows: an iterable of str, (str, str), dict or Arrow batches; an Arrow table; a ``datasets``
            object; a path, glob, folder or URL of files. With ``load``: an iterable of keys. With
            ``tokenizer=None``: an iterable of token ids.
        tokenizer: A ``penstock.Tokenizer``, or anything ``Tokenizer.from_pretrained`` takes. None: the rows
            are token ids already.
        load: Key to row, a function or a coroutine function; called many at once.
        text_column, pair_column: Where the text is, in dict rows, tables and files.
        keep: Fields that ride along in ``batch.columns``.
        device: Where the tensors go. None: cuda if there is one, else cpu.
        max_length: Tokens of a row; longer ones are truncated. None: the tokenizer's own
            ``model_max_length``, if it has one.
        stride: Cut longer rows into windows instead, each with up to this many new tokens; the windows of
            a row share its ``input_index``.
        max_batch_tokens: Rows times padded length of a batch, lengths rounded up to a multiple of 8. A row
            over it is a batch of its own.
        max_batch_rows: Rows of a batch.
        window_rows: Rows that are sorted by length before they are packed; 1: none are. None: 16,384 where
            the source holds rows, 1 with ``load``. The first windows are smaller, so that the loop is fed
            at once.
        batches_ahead: Planned batches that are ready or in the making.
        rows_ahead: Loads in flight. None: ``num_workers`` for a function, 64 for a coroutine function.
            Without ``load``: rows being tokenized ahead of their window.
        num_workers: Threads. None: with ``load`` cores + 4, else cores - 1; at least 1, at most 16.
        ordered: False plans rows as they become ready, for loads of uneven latency.
        on_error: "raise": all earlier batches, then the error. "skip": the row is left out and counted.
            "null": it is also listed in ``batch.errors``. SystemExit and KeyboardInterrupt always raise.
        timeout: Seconds for one ``load`` call. A hung call fails its row; its thread is replaced.
        retries: More attempts of ``load`` after an exception.
        max_wait: Seconds after which waiting rows are sent as they are, for live sources.
        max_row_bytes: A row with more text fails.
        max_buffered_bytes: Bound of the text that is read and not in a batch.
        collate: ``(rows: Ragged, columns) -> dict of arrays``, called in a worker instead of our padding.
        trace: File to write a timeline to that Perfetto opens.
        truncation: The side on which rows over ``max_length`` are cut off.
        prompt: Text that is put in front of each row.
        padding_side: Where rows are filled up. None: where the tokenizer says.

    Raises:
        ConfigError: An argument cannot be right; names it and the rule.

    Example:
        >>> import penstock
        >>> rows = [[5, 6, 7], [8, 9]]
        >>> with penstock.Prefetcher(rows, None, device="cpu") as batches:
        ...     for batch in batches:
        ...         print(batch.inputs["input_ids"].shape, batch.input_index)
        torch.Size([2, 8]) [0 1]
    """

    def __init__(
        self,
        source: Any,
        tokenizer: Any,
        *,
        load: Callable[[Any], Any] | None = None,
        text_column: str = "text",
        pair_column: str | None = None,
        keep: Iterable[str] = (),
        device: str | torch.device | None = None,
        max_length: int | None = None,
        stride: int | None = None,
        max_batch_tokens: int = 32_768,
        max_batch_rows: int | None = None,
        window_rows: int | None = None,
        batches_ahead: int = 3,
        rows_ahead: int | None = None,
        num_workers: int | None = None,
        ordered: bool = True,
        on_error: OnError = "raise",
        timeout: float | None = None,
        retries: int = 0,
        max_wait: float | None = None,
        max_row_bytes: int = 64 << 20,
        max_buffered_bytes: int = 1 << 30,
        collate: Collate | None = None,
        trace: str | os.PathLike[str] | None = None,
        truncation: Literal["right", "left"] = "right",
        prompt: str = "",
        padding_side: Literal["right", "left"] | None = None,
    ) -> None:
        _require_positive(
            max_length=max_length,
            stride=stride,
            max_batch_tokens=max_batch_tokens,
            max_batch_rows=max_batch_rows,
            window_rows=window_rows,
            batches_ahead=batches_ahead,
            rows_ahead=rows_ahead,
            num_workers=num_workers,
            timeout=timeout,
            max_wait=max_wait,
            max_row_bytes=max_row_bytes,
            max_buffered_bytes=max_buffered_bytes,
        )
        if on_error not in ("raise", "skip", "null"):
            raise ConfigError(f"on_error={on_error!r}: must be 'raise', 'skip' or 'null'.")
        if retries < 0:
            raise ConfigError(f"retries={retries}: must be 0 or more.")
        if isinstance(keep, str):
            raise ConfigError(f"keep={keep!r}: must be a list of column names, not one string.")
        if load is None and (timeout is not None or retries):
            raise ConfigError("timeout and retries are about load=, which is not given.")
        if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
            tokenizer = Tokenizer.from_pretrained(tokenizer)
        if max_length is None and tokenizer is not None:
            max_length = tokenizer.model_max_length
        if stride is not None and (max_length is None or stride >= max_length):
            raise ConfigError(f"stride={stride}: must be less than max_length={max_length}.")
        if window_rows is None:
            window_rows = 1 if load is not None else 16_384
        is_async = load is not None and is_coroutine_function(load)
        if num_workers is None:
            num_workers = _default_workers(has_load=load is not None and not is_async)
        if rows_ahead is None:
            rows_ahead = 256 * (num_workers + 1) if load is None else 64 if is_async else num_workers
        self._settings = _Settings(
            source=source,
            load=load,
            tokenizer=tokenizer,
            text_column="input_ids" if tokenizer is None and text_column == "text" else text_column,
            pair_column=pair_column,
            keep=tuple(keep),
            device=resolve_device(device),
            max_length=max_length,
            stride=stride,
            max_batch_tokens=max_batch_tokens,
            max_batch_rows=max_batch_rows,
            batches_ahead=batches_ahead,
            timeout=timeout,
            retries=retries,
            max_row_bytes=max_row_bytes,
            collate=collate,
            trace=trace,
            truncation=truncation,
            prompt=prompt,
            is_left_padded=(padding_side or getattr(tokenizer, "padding_side", "right")) == "left",
            limits=Limits(
                rows_ahead=rows_ahead,
                window_rows=window_rows,
                num_workers=num_workers,
                max_buffered_bytes=max_buffered_bytes,
                max_wait=max_wait,
                ordered=ordered,
                on_error=on_error,
            ),
        )
        self._rows = _make_row_reader(self._settings)
        self._source = _Keys(source) if load is not None else _make_source(self._settings)
        self._is_async = is_async
        self._iterator: weakref.ref[BatchIterator] | None = None
        self._stats: Callable[[], Stats] = Stats
        self._is_closed = False
        self._pid = os.getpid()

    def __iter__(self) -> BatchIterator:
        """Start a pass over the source; blocks for thread starts only.

        Raises:
            SourceExhaustedError: The source was a one-shot iterator and was read already.
            ConfigError: Another pass is still alive.
            ClosedError, ForkedError: After ``close()``; in a forked child.
        """
        _check_process(self._pid)
        if self._is_closed:
            raise ClosedError("this Prefetcher is closed; make a new one.")
        previous = self._iterator() if self._iterator is not None else None
        if previous is not None and not previous.is_finished:
            raise ConfigError(
                "a pass over this Prefetcher is still alive; finish or close it before the next."
            )
        iterator = BatchIterator(_Pass(self._settings, self._source, self._rows, is_async=self._is_async))
        self._iterator = weakref.ref(iterator)
        self._stats = iterator.stats
        return iterator

    def __enter__(self) -> Self:
        """Return itself; the pass begins with ``iter()``."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """End the pass: drop what is ahead, join our threads. Waits for our own code, never for the caller's.

        Idempotent. Batches that were handed out stay valid.
        """
        _check_process(self._pid)
        self._is_closed = True
        iterator = self._iterator() if self._iterator is not None else None
        if iterator is not None:
            iterator.close()

    def stats(self) -> Stats:
        """The counters of the current or last pass."""
        _check_process(self._pid)
        return self._stats()


class BatchIterator(Iterator[Batch]):
    """One pass. ``next()`` blocks until a batch is ready; Ctrl-C interrupts it. One consumer thread."""

    def __init__(self, current: _Pass) -> None:
        self._pass = current
        # Collected without close(): the threads know the pass and not the iterator, so it goes, and they end.
        self._finalizer = weakref.finalize(self, current.cancel)
        self._finalizer.atexit = False

    @property
    def is_finished(self) -> bool:
        """Whether the pass ended: at the end of the input, by an error, or by ``close``."""
        return self._pass.is_finished

    def __next__(self) -> Batch:
        """The next batch. Blocks.

        Raises:
            StopIteration: The input is used up, or the pass was closed.
            Exception: Whatever ``load``, the source or ``collate`` raised, when its turn comes.
        """
        return self._pass.next()

    def close(self) -> None:
        """End the pass, as ``Prefetcher.close``."""
        self._pass.close()

    def stats(self) -> Stats:
        """The counters of this pass."""
        return self._pass.stats()


class _Pass:
    """Everything that lives as long as one pass: ring, pool, slots, the two threads."""

    def __init__(
        self, settings: _Settings, source: Source | _Keys, row_reader: RowReader, *, is_async: bool
    ) -> None:
        _hook_exit()
        # First of all, in the caller's thread: a source that cannot start again says so before a thread exists.
        items = source.start() if isinstance(source, _Keys) else source.chunks()
        limits = settings.limits
        self._pid = os.getpid()
        self._limits = limits
        self._is_async = is_async
        self._trace = Trace(settings.trace) if settings.trace is not None else None
        self._clock = Clock(self._trace)
        self._ring = _core.Ring(settings.batches_ahead + 1)
        self._staging = _make_staging(settings)
        name = "penstock"
        self._pool = WorkerPool(limits.num_workers, name, partial(_enter_device, settings.device))
        self._feeder = Feeder(
            items,
            ring=self._ring,
            pool=self._pool,
            encoder=_make_encoder(settings, row_reader if isinstance(source, _Keys) else source),
            collator=_make_collator(settings, self._staging, self._clock),
            planner=_make_planner(settings),
            clock=self._clock,
            limits=limits,
            make_loader=_make_loader(settings, self._pool, self._clock, is_async=is_async, name=name),
            row_reader=row_reader,
            name=name,
        )
        self._held: int | None = None
        self._consuming = threading.Lock()
        self._counts = [0, 0, 0, 0]
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
        _check_process(self._pid)
        if not self._consuming.acquire(blocking=False):
            raise ConfigError("a Prefetcher is consumed by one thread at a time.")
        try:
            while True:
                batch = self._take()
                if batch is None:
                    raise StopIteration
                if len(batch) or batch.errors:
                    return batch
        finally:
            self._consuming.release()

    def _take(self) -> Batch | None:
        """The next batch, and only then the last one's slot back.

        Giving a slot back wakes the feeder: now it works while the loop does, not for the GIL while the loop
        waits for its batch.
        """
        held, self._held = self._held, None
        taken = None if self.is_finished else self._ring.try_take()
        if taken is None:
            if held is not None:
                self._ring.recycle(held)
                held = None
            taken = None if self.is_finished else self._ring.take()
        if taken is None:
            self.close()
            return None
        self._held, item = taken
        del taken
        if isinstance(item, Failure):
            self.close()
            raise item.error
        batch = item.lend(self._staging) if isinstance(item, Staged) else item
        batch.ticket = self._held
        padded = next((tensor.numel() for tensor in batch.inputs.values()), 0)
        for at, count in enumerate((1, len(batch), int(batch.num_tokens.sum()), padded)):
            self._counts[at] += count
        if held is not None:
            self._ring.recycle(held)
        return batch

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
        was_finished = self.is_finished
        self.cancel()
        self._pool.shutdown(wait=True)
        join_unless(self._feeder.threads, self._feeder.in_caller_code)
        if self._trace is not None and not was_finished:
            self._trace.write()

    def stats(self) -> Stats:
        """The counters so far."""
        ring = self._ring
        batches, rows, tokens, padded = self._counts
        return Stats(
            elapsed_s=(self._stop or perf_counter()) - self._start,
            blocked_take_s=ring.blocked_take_s,
            blocked_claim_s=ring.blocked_claim_s,
            stage_s=self._clock.totals(),
            num_workers=self._limits.num_workers,
            num_batches=batches,
            num_rows=rows,
            num_tokens=tokens,
            num_padded_tokens=padded,
            num_failed=self._feeder.num_failed,
            num_retries=self._feeder.num_retries,
            num_abandoned=self._pool.num_abandoned,
            num_slots_allocated=self._staging.num_allocated,
            mean_ready=ring.occupancy_sum / ring.takes if ring.takes else 0.0,
            is_async_load=self._is_async,
        )


class _Keys:
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


def _make_staging(settings: _Settings) -> Staging:
    num_bytes = slot_bytes(len(_input_names(settings)), -(-settings.max_batch_tokens // 8) * 8)
    return Staging(settings.device, num_bytes, settings.batches_ahead + 2)


def _make_source(settings: _Settings) -> Source:
    return as_source(
        settings.source,
        text_column=settings.text_column,
        pair_column=settings.pair_column,
        keep=settings.keep,
        max_row_bytes=settings.max_row_bytes,
        ids=settings.tokenizer is None,
        # A live source must not have a row wait for the next one to fill a chunk.
        **({"most_rows": 1} if settings.limits.max_wait is not None else {}),
    )


def _make_encoder(settings: _Settings, columns: PairColumn) -> Encoder:
    return Encoder(
        settings.tokenizer,
        columns=columns,
        text_column=settings.text_column,
        keep=settings.keep,
        max_length=settings.max_length,
        stride=settings.stride,
        truncation=settings.truncation,
        prompt=settings.prompt,
        max_job_rows=settings.limits.rows_ahead,
    )


def _make_collator(settings: _Settings, staging: Staging, clock: Clock) -> Collator:
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


def _make_planner(settings: _Settings) -> WindowPlanner:
    return WindowPlanner(
        window_rows=settings.limits.window_rows,
        # A durable unit must give the same batches when it is redone alone.
        ramp=not isinstance(settings.source, UnitSource),
        max_batch_tokens=settings.max_batch_tokens,
        max_batch_rows=settings.max_batch_rows,
        # Half of the bound for the open window, half for what is read and not in it.
        max_window_bytes=max(1, settings.limits.max_buffered_bytes // 2),
        on_error=settings.limits.on_error,
    )


def _make_row_reader(settings: _Settings) -> RowReader:
    return RowReader(
        settings.text_column,
        settings.pair_column,
        settings.keep,
        settings.max_row_bytes,
        settings.tokenizer is None,
    )


def _make_loader(
    settings: _Settings, pool: WorkerPool, clock: Clock, *, is_async: bool, name: str
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


def _input_names(settings: _Settings) -> tuple[str, ...]:
    wanted = settings.tokenizer.model_input_names if settings.tokenizer is not None else KNOWN_INPUTS[:2]
    unknown = [name for name in wanted if name not in KNOWN_INPUTS]
    if unknown and settings.collate is None:
        raise ConfigError(
            f"the tokenizer's model_input_names holds {unknown[0]!r}; it may hold any of {', '.join(KNOWN_INPUTS)}. "
            "Build others in collate=."
        )
    return tuple(name for name in wanted if name in KNOWN_INPUTS)


def _require_positive(**arguments: float | None) -> None:
    for name, value in arguments.items():
        if value is not None and not value > 0:
            raise ConfigError(f"{name}={value!r}: must be greater than 0.")


def _default_workers(*, has_load: bool) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_WORKERS, cores + 4 if has_load else max(1, cores - 1))


def _enter_device(device: torch.device) -> None:
    """A new thread sits on CUDA device 0 and would make a context there."""
    if device.type == "cuda":
        import torch

        torch.cuda.set_device(device)


def _check_process(pid: int) -> None:
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
