"""``Prefetcher``: text in, batches on the device out, while the loop runs the model."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args

from penstock.arguments import (
    choice,
    column_names,
    flag,
    function,
    optional,
    path_name,
    seconds,
    string,
    whole,
)
from penstock.batch import Batch
from penstock.errors import ClosedError, ConfigError
from penstock.feeder import Limits
from penstock.flow import Keys, Pass, Settings, check_process, make_row_reader, make_source
from penstock.loads import is_coroutine_function
from penstock.pool import num_cores
from penstock.staging import resolve_device
from penstock.stats import Stats
from penstock.tokenizer import Tokenizer
from penstock.tokenizer_layout import PairTruncation

if TYPE_CHECKING:
    from types import TracebackType

    import torch
    from typing_extensions import Self

    from penstock.collation import Collate

OnError = Literal["raise", "skip", "null"]
Side = Literal["right", "left"]

ON_ERROR: tuple[OnError, ...] = ("raise", "skip", "null")
SIDES: tuple[Side, ...] = ("right", "left")

MAX_WORKERS = 16


class Prefetcher:
    """Feeds a loop with batches that are loaded, tokenized, padded and on the device before it asks.

    Batches come in ticket order; with ``window_rows=1`` that is the order of the input. Rows started and
    not delivered are at most ``rows_ahead + window_rows`` plus the rows of ``batches_ahead + 2`` batches;
    rows that failed do not count.

    Args:
        source: Rows: an iterable of str, (str, str), dict or Arrow batches; an Arrow table; a ``datasets``
            object; a path, glob, folder or URL of files. With ``load``: an iterable of keys. With
            ``tokenizer=None``: an iterable of token ids.
        tokenizer: A ``penstock.Tokenizer``, or anything ``Tokenizer.from_pretrained`` takes. None: the rows
            are token ids already.
        load: Key to row, a function or a coroutine function; called many at once. Coroutines run on one event
            loop in a thread of its own, and are cancelled when the pass ends.
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
        num_workers: Threads. None: with ``load`` cores + 4, else cores - 1; at least 1, at most 16. On Linux
            they give way to the loop where cores are short (their niceness is 5 more than the process's).
        ordered: False plans rows as they become ready, for loads of uneven latency.
        on_error: "raise": all earlier batches, then the error. "skip": the row is left out and counted.
            "null": it is also listed in ``batch.errors``. SystemExit and KeyboardInterrupt always raise.
        timeout: Seconds for one ``load`` call. A hung call fails its row; its thread is replaced, a coroutine
            is cancelled. A coroutine that blocks its event loop cannot be timed out.
        retries: More attempts of ``load`` after an ``Exception``; not after ``timeout``, SystemExit and the
            like. Before each it waits a random time below 0.1 s, 0.2 s, 0.4 s and so on, at most 30 s
            (exponential backoff with full jitter); a function's worker waits with it.
        max_wait: Seconds after which waiting rows are sent as they are, for live sources.
        max_row_bytes: A row with more text fails.
        max_buffered_bytes: Bound of the text that is read and in no batch; loads in flight may each add a
            row, and a source that holds rows a chunk: 4 MiB, one row, or an Arrow batch of the caller's.
        collate: ``(rows: Ragged, columns) -> dict of arrays``, called in a worker instead of our padding.
        trace: File to write a timeline to that Perfetto opens.
        truncation: The side on which rows over ``max_length`` are cut off.
        pair_truncation: Which text of a pair over ``max_length`` is cut. "longest_first": the longer one
            until both are of one length, then both in turn; "only_first", "only_second": no other, and a pair
            fails of which the other text leaves no room for one token of it.
        prompt: Text that is put in front of each row.
        padding_side: Where rows are filled up. None: where the tokenizer says.
        pairs: False refuses rows that are pairs of texts.

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
        truncation: Side = "right",
        pair_truncation: PairTruncation = "longest_first",
        prompt: str = "",
        padding_side: Side | None = None,
        pairs: bool = True,
    ) -> None:
        max_length = optional(whole, "max_length", max_length)
        stride = optional(whole, "stride", stride)
        max_batch_tokens = whole("max_batch_tokens", max_batch_tokens)
        max_batch_rows = optional(whole, "max_batch_rows", max_batch_rows)
        window_rows = optional(whole, "window_rows", window_rows)
        batches_ahead = whole("batches_ahead", batches_ahead)
        rows_ahead = optional(whole, "rows_ahead", rows_ahead)
        num_workers = optional(whole, "num_workers", num_workers)
        retries = whole("retries", retries, least=0)
        max_buffered_bytes = whole("max_buffered_bytes", max_buffered_bytes)
        timeout = optional(seconds, "timeout", timeout)
        max_wait = optional(seconds, "max_wait", max_wait)
        ordered, pairs = flag("ordered", ordered), flag("pairs", pairs)
        on_error = choice("on_error", on_error, ON_ERROR)
        truncation = choice("truncation", truncation, SIDES)
        pair_truncation = choice("pair_truncation", pair_truncation, get_args(PairTruncation))
        padding_side = choice("padding_side", padding_side, (None, *SIDES))
        prompt, trace = string("prompt", prompt), optional(path_name, "trace", trace)
        load, collate = optional(function, "load", load), optional(function, "collate", collate)
        keep = column_names("keep", keep)
        if load is None and (timeout is not None or retries):
            raise ConfigError("timeout and retries are about load=, which is not given.")
        if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
            tokenizer = Tokenizer.from_pretrained(tokenizer)
        if tokenizer is None and (stride is not None or prompt):
            raise ConfigError(
                "stride and prompt are about text; with tokenizer=None the rows are ids already."
            )
        if collate is not None and stride is not None and on_error != "raise":
            raise ConfigError(
                "collate with stride needs on_error='raise': a row could fail in one window, not in another."
            )
        if stride is not None and pair_column is not None:
            raise ConfigError(
                f"stride={stride} and pair_column={pair_column!r}: pairs are not cut into windows. Leave "
                "stride out, and long pairs are truncated; or leave pair_column out."
            )
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
        self._settings = Settings(
            source=source,
            load=load,
            tokenizer=tokenizer,
            text_column="input_ids" if tokenizer is None and text_column == "text" else text_column,
            pair_column=pair_column,
            pairs=pairs,
            keep=keep,
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
            pair_truncation=pair_truncation,
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
        self._rows = make_row_reader(self._settings)
        self._source = Keys(source) if load is not None else make_source(self._settings)
        self._is_async = is_async
        self._iterator: weakref.ref[BatchIterator] | None = None
        self._pass: Pass | None = None
        self._is_closed = False
        self._pid = os.getpid()

    def __iter__(self) -> BatchIterator:
        """Start a pass over the source; blocks for thread starts only.

        Raises:
            SourceExhaustedError: The source was a one-shot iterator and was read already.
            ConfigError: Another pass is still alive.
            ClosedError, ForkedError: After ``close()``; in a forked child.
        """
        check_process(self._pid)
        if self._is_closed:
            raise ClosedError("this Prefetcher is closed; make a new one.")
        previous = self._iterator() if self._iterator is not None else None
        if previous is not None and not previous.is_finished:
            raise ConfigError(
                "a pass over this Prefetcher is still alive; finish or close it before the next."
            )
        current = Pass(self._settings, self._source, self._rows, is_async=self._is_async)
        iterator = BatchIterator(current)
        # Not the iterator itself: it must go, and the pass end, when the loop lets go of it.
        self._iterator, self._pass = weakref.ref(iterator), current
        return iterator

    def __enter__(self) -> Self:
        """Return itself; the pass begins with ``iter()``."""
        check_process(self._pid)
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
        check_process(self._pid)
        self._is_closed = True
        if self._pass is not None:
            self._pass.close()

    def stats(self) -> Stats:
        """The counters of the current or last pass."""
        check_process(self._pid)
        return self._pass.stats() if self._pass is not None else Stats()


class BatchIterator(Iterator[Batch]):
    """One pass. ``next()`` blocks until a batch is ready; Ctrl-C interrupts it. One consumer thread."""

    def __init__(self, current: Pass) -> None:
        self._pass, self._pid = current, os.getpid()
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
        check_process(self._pid)
        self._pass.close()

    def stats(self) -> Stats:
        """The counters of this pass."""
        check_process(self._pid)
        return self._pass.stats()


def _default_workers(*, has_load: bool) -> int:
    cores = num_cores()
    return min(MAX_WORKERS, cores + 4 if has_load else max(1, cores - 1))
