"""``penstock tokenize``: token ids of files into a folder, or only their count."""

from __future__ import annotations

import os
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.arguments import optional, whole
from penstock.cli.exits import ending, visible
from penstock.cli.options import (
    ADVICE,
    Debug,
    Inputs,
    Keep,
    MaxRowBytes,
    NumWorkers,
    Quiet,
    TextColumn,
    UnitBytes,
    UnitRows,
)
from penstock.cli.progress import Tokenized, display
from penstock.cli.score import named
from penstock.errors import ConfigError, RowError
from penstock.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

    from penstock.ragged import Ragged
    from penstock.sources import Chunk
    from penstock.tokenizer import Tokenizer

RESERVED = ("input_ids", "num_tokens", "error")
PIECE_ROWS, PIECE_BYTES = 1_024, 1 << 20


def tokenize(
    inputs: Inputs,
    tokenizer: Annotated[str, typer.Option(metavar="PATH", help="A folder, a tokenizer.json, or a hub id.")],
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder to write; the same again resumes.")
    ] = None,
    count: Annotated[
        bool, typer.Option("--count", help="Write nothing; print how many tokens there are.")
    ] = False,
    text_column: TextColumn = "text",
    keep: Keep = None,
    max_row_bytes: MaxRowBytes = None,
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="Branch, tag or commit of a hub id.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(metavar="N", help="Cut rows after N tokens.")] = None,
    num_workers: NumWorkers = None,
    unit_rows: UnitRows = 16_384,
    unit_bytes: UnitBytes = 16 << 20,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Turn text into token ids: Parquet with the kept columns, input_ids, num_tokens and error.

    Special tokens are put in and counted, as the tokenizer says.
    """
    with (
        ending(debug=debug, advice="" if count else ADVICE) as end,
        display(quiet=quiet, has_model=False) as show,
    ):
        if count == (output is not None):
            raise ConfigError(
                "tokenize: give either --output DIR, to write token ids, or --count, to count them."
            )
        columns: dict[str, Any] = {"text_column": text_column, "keep": tuple(keep or ())}
        if max_row_bytes is not None:
            columns["max_row_bytes"] = max_row_bytes
        job = _Job(tokenizer, revision, columns, max_length, num_workers)
        if not quiet:
            threads = counted(job.num_workers, "thread")
            typer.echo(
                visible(f"tokenizing {named(inputs)} with {tokenizer}, {threads}, {job.engine}"), err=True
            )
        for seen in job.count(inputs) if output is None else job.write(inputs, output, unit_rows, unit_bytes):
            end.has_begun = True
            end.check_signal()
            show(seen)
        if count or not quiet:
            typer.echo(job.summary())
            if output is not None:
                typer.echo(visible(f"{output}: complete"))


@dataclass
class _Piece:
    """Some rows and their tokens; a failed row has none."""

    chunk: Chunk
    tokens: Ragged
    failures: dict[int, Exception]
    num_bytes: int


class _Job:
    """Tokenizes files in a few threads, in order, with a few pieces in memory."""

    def __init__(
        self,
        tokenizer: str,
        revision: str | None,
        columns: dict[str, Any],
        max_length: int | None,
        num_workers: int | None,
    ) -> None:
        from penstock.tokenizer import Tokenizer

        if taken := [name for name in columns["keep"] if name in RESERVED]:
            raise ConfigError(f"keep={taken[0]!r}: tokenize writes a column of that name; rename yours.")
        self.tokenizer: Tokenizer = Tokenizer.from_pretrained(tokenizer, revision=revision)
        self.columns = columns
        self.max_length = optional(whole, "max_length", max_length)
        self.num_workers = optional(whole, "num_workers", num_workers) or default_workers()
        self.num_rows = self.num_tokens = self.num_bytes = self.num_errors = 0
        self.num_skipped_rows = 0
        self._start = time.perf_counter()

    @property
    def engine(self) -> str:
        """What does the work; and why, where it is the slower one."""
        name = f"engine {self.tokenizer.engine}"
        return name if self.tokenizer.engine == "native" else f"{name} ({self.tokenizer.engine_reason})"

    def count(self, inputs: list[str]) -> Iterator[Tokenized]:
        """Count, and say how far it is after each piece."""
        from penstock.sources import files

        for piece in self._pieces(files(inputs, **self.columns).chunks()):
            yield self._seen(piece)

    def write(self, inputs: list[str], output: Path, unit_rows: int, unit_bytes: int) -> Iterator[Tokenized]:
        """Write a durable run, and say how far it is after each piece."""
        from penstock.sink import Sink
        from penstock.sources import UnitSource, plan_units

        plan = plan_units(inputs, unit_rows=unit_rows, unit_bytes=unit_bytes, **self.columns)
        fingerprint = {
            "plan": plan.content_hash(),
            "task": "tokenize",
            "tokenizer_hash": self.tokenizer.fingerprint(),
            "max_length": self.max_length,
        }
        with Sink.open(output, plan.to_json(), fingerprint) as sink:
            done = sink.finished
            self.num_skipped_rows = sum(unit.num_rows for unit in plan if unit.id in done)
            pieces = self._pieces(UnitSource(plan, finished=done).chunks())
            for number, group in groupby(pieces, key=lambda piece: piece.chunk.unit):
                held = []
                for piece in group:
                    held.append(piece)
                    yield self._seen(piece, plan.num_rows - self.num_skipped_rows)
                sink.write(plan.units[number], self._table(held))

    def summary(self) -> str:
        """What was done, one thing a line."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        notes = [f"{self.num_errors:,} with an error"] if self.num_errors else []
        if self.tokenizer.num_fallbacks:
            notes.append(f"{self.tokenizer.num_fallbacks:,} left to the tokenizers package")
        if self.num_skipped_rows:
            notes.append(f"{self.num_skipped_rows:,} more were finished before")
        lines = [
            f"rows    {self.num_rows:>15,}   {', '.join(notes)}".rstrip(),
            f"tokens  {self.num_tokens:>15,}   {self.num_tokens / seconds:,.0f} tokens/s",
            f"bytes   {self.num_bytes:>15,}   {self.num_bytes / seconds / 1e6:,.1f} MB/s",
        ]
        return "\n".join(lines)

    def _pieces(self, chunks: Iterable[Chunk]) -> Iterator[_Piece]:
        """Every piece, in order; at most twice as many as threads are under way."""
        self._start = time.perf_counter()
        waiting: deque[Future[_Piece]] = deque()
        with ThreadPoolExecutor(self.num_workers, thread_name_prefix="penstock-tokenize") as pool:
            try:
                for chunk in chunks:
                    for part in _cut(chunk, self.columns["text_column"]):
                        waiting.append(pool.submit(self._piece, part))
                        if len(waiting) >= 2 * self.num_workers:
                            yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _piece(self, chunk: Chunk) -> _Piece:
        """In a thread of the pool; the GIL is released while texts are tokenized."""
        from penstock.sources.chunk import value_bytes

        texts = chunk.batch.column(self.columns["text_column"])
        tokens, failures = self.tokenizer.encode_rows(texts, max_length=self.max_length)
        failures = {at: _placed(error, chunk, at) for at, error in failures.items()} | chunk.failures
        return _Piece(chunk, tokens, failures, int(value_bytes(texts).sum()))

    def _seen(self, piece: _Piece, total_rows: int = 0) -> Tokenized:
        self.num_rows += len(piece.chunk)
        self.num_tokens += len(piece.tokens.ids)
        self.num_bytes += piece.num_bytes
        self.num_errors += len(piece.failures)
        elapsed_s = time.perf_counter() - self._start
        return Tokenized(self.num_rows, total_rows, self.num_tokens, elapsed_s, self.num_skipped_rows)

    def _table(self, pieces: list[_Piece]) -> pa.Table:
        """The rows of a unit: kept columns, then what tokenizing adds."""
        import numpy as np
        import pyarrow as pa

        from penstock.ragged import Ragged
        from penstock.sources import concat

        kept = concat([piece.chunk.batch for piece in pieces]).select(list(self.columns["keep"]))
        tokens = Ragged.concatenate([piece.tokens for piece in pieces])
        errors: list[str | None] = []
        for piece in pieces:
            reasons = {at: f"{type(error).__name__}: {error}" for at, error in piece.failures.items()}
            errors += [reasons.get(at) for at in range(len(piece.chunk))]
        is_failed = np.array([error is not None for error in errors], bool)
        offsets = pa.array(tokens.offsets.astype(np.int32), mask=np.append(is_failed, False))
        columns = dict(zip(kept.schema.names, kept.columns, strict=True))
        columns["input_ids"] = pa.ListArray.from_arrays(offsets, pa.array(tokens.ids, pa.int32()))
        columns["num_tokens"] = pa.array(tokens.lengths, pa.int64(), mask=is_failed)
        return pa.table(columns | {"error": pa.array(errors, pa.string())})


def _cut(chunk: Chunk, text_column: str) -> Iterator[Chunk]:
    """A chunk in pieces of some rows and about a megabyte, so that several threads share it."""
    import numpy as np

    from penstock.sources.chunk import value_bytes

    ends = np.cumsum(value_bytes(chunk.batch.column(text_column)))
    start = 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + PIECE_BYTES, side="right"))
        stop = max(start + 1, min(stop, start + PIECE_ROWS))
        yield replace(
            chunk,
            batch=chunk.batch.slice(start, stop - start),
            first_index=chunk.first_index + start,
            first_row=chunk.first_row + start,
            failures={at - start: error for at, error in chunk.failures.items() if start <= at < stop},
        )
        start = stop


def _placed(error: Exception, chunk: Chunk, at: int) -> Exception:
    """The same error, with the file and the row."""
    if not isinstance(error, RowError):
        return error
    return type(error)(error.reason, place=chunk.place, row=chunk.first_row + at + 1)


def default_workers() -> int:
    """One thread less than there are cores, for the one that reads."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, cores - 1))
