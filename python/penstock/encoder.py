"""One worker's job on the way in: a chunk of text to tokenized rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.errors import ConfigError, RowError
from penstock.sources.chunk import value_bytes
from penstock.sources.values import num_bytes
from penstock.windows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.sources import Chunk
    from penstock.tokenizer import Tokenizer
    from penstock.tokenizer_engine import Texts
    from penstock.tokenizer_layout import PairTruncation

Array = np.ndarray[Any, np.dtype[Any]]

MAX_JOB_ROWS = 256
MAX_JOB_BYTES = 1 << 20
"""A tokenizing job is cut to these: several workers share a chunk, and the first batch is soon ready."""


class PairColumn(Protocol):
    """A source or row reader: of rows that are tuples, the first one says whether there are pairs."""

    @property
    def pair_column(self) -> str | None:
        """Name of the column of second texts, or None."""
        ...


class Encoder:
    """Turns chunks into rows, as many threads at once as call it.

    Args:
        tokenizer: None where the chunks hold token ids.
        columns: Says where the second texts are, once the first row was seen.
        text_column, keep: Which column of a chunk is tokenized and which ride along.
        max_length: Tokens of a row; longer rows are truncated, or cut into windows with ``stride``.
        stride: New tokens of each window after the first.
        truncation: The side that is cut off.
        pair_truncation: Which text of a too long pair is cut, as ``Tokenizer.encode_batch`` says.
        prompt: Text in front of each row.
        max_job_rows: Rows of a job at most. Jobs are started whole: they must fit the bound on started rows.
        pairs: False refuses chunks with second texts.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        *,
        columns: PairColumn,
        text_column: str,
        keep: tuple[str, ...],
        max_length: int | None,
        stride: int | None,
        truncation: Literal["right", "left"] = "right",
        pair_truncation: PairTruncation = "longest_first",
        prompt: str = "",
        max_job_rows: int = MAX_JOB_ROWS,
        pairs: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._columns = columns
        self._text_column, self._keep = text_column, keep
        self._max_length, self._stride, self._truncation = max_length, stride, truncation
        self._pair_truncation = pair_truncation
        self._prompt = prompt
        self._max_job_rows = min(MAX_JOB_ROWS, max_job_rows)
        self._takes_pairs = pairs

    def jobs(self, chunk: Chunk) -> Iterator[tuple[Chunk, Array]]:
        """Cut a chunk into jobs, each with the bytes of each row's text (int64[rows])."""
        sizes = np.zeros(chunk.batch.num_rows, np.int64)
        for name in filter(None, (self._text_column, self._pair_column(chunk))):
            sizes += value_bytes(chunk.batch.column(name))
        ends = np.cumsum(sizes)
        start = 0
        while start < len(sizes):
            before = int(ends[start - 1]) if start else 0
            stop = int(np.searchsorted(ends, before + MAX_JOB_BYTES, side="right"))
            stop = max(start + 1, min(stop, start + self._max_job_rows))
            part = replace(
                chunk,
                batch=chunk.batch.slice(start, stop - start),
                first_index=chunk.first_index + start,
                first_row=chunk.first_row + start,
                failures={at - start: e for at, e in chunk.failures.items() if start <= at < stop},
            )
            yield part, sizes[start:stop]
            start = stop

    def rows(self, chunk: Chunk, text_bytes: Array) -> Rows:
        """Tokenize a job. Blocks for as long as that takes, GIL released by the tokenizer.

        Raises:
            ConfigError: The rows are pairs, and single texts are wanted.
        """
        if self._tokenizer is None:
            rows = self._rows_of_ids(chunk, text_bytes)
        else:
            text = _filled(chunk.batch.column(self._text_column))
            if self._prompt:
                text = pc.binary_join_element_wise(
                    pa.scalar(self._prompt, text.type), text, pa.scalar("", text.type)
                )
            pair_column = self._pair_column(chunk)
            if pair_column and not self._takes_pairs:
                raise ConfigError(
                    "the rows are pairs, and what scores them takes single texts: pass one text per row."
                )
            pairs = _filled(chunk.batch.column(pair_column)) if pair_column else None
            rows = self._rows_of_texts(text, pairs, text_bytes, chunk)
        rows.failures.update(chunk.failures)
        rows.index = np.arange(chunk.first_index, chunk.first_index + chunk.batch.num_rows)
        rows.kept = pa.Table.from_batches([chunk.batch]).select(list(self._keep)) if self._keep else None
        rows.unit = chunk.unit
        return _without_failed(rows)

    def row(self, plain: str | Array, index: int) -> Rows:
        """The text or the ids of one row of which nothing is kept, without a detour over Arrow. Blocks."""
        if isinstance(plain, str):
            size = np.array([num_bytes(plain)])
            rows = self._rows_of_texts([self._prompt + plain], None, size, _At("rows", index))
        else:
            size = np.array([plain.nbytes])
            offsets = np.array([0, len(plain)])
            ids, begins = self._truncated_ids(plain, offsets)
            rows = Rows(ids, begins, np.zeros(1, np.int64), np.empty(0, np.int64), size)
        rows.index = np.array([index])
        return _without_failed(rows)

    def _rows_of_texts(self, texts: Texts, pairs: Texts | None, text_bytes: Array, at: _At | Chunk) -> Rows:
        assert self._tokenizer is not None
        ragged, failures = self._tokenizer.encode_rows(
            texts,
            pairs,
            max_length=self._max_length,
            truncation=self._truncation,
            pair_truncation=self._pair_truncation,
            stride=self._stride,
        )
        num_rows = len(text_bytes)
        row = np.arange(num_rows) if ragged.row_of is None else ragged.row_of
        is_cut = ragged.row_of is not None
        return Rows(
            ids=ragged.ids,
            offsets=ragged.offsets,
            row=row,
            index=np.empty(0, np.int64),
            text_bytes=text_bytes,
            failures={offset: _placed(error, at, offset) for offset, error in failures.items()},
            type_ids=ragged.type_ids,
            first_scored=ragged.first_scored,
            num_bytes=ragged.num_bytes,
            num_windows_of=np.bincount(row, minlength=num_rows)[row].astype(np.int32) if is_cut else None,
        )

    def failed_row(self, index: int, error: BaseException) -> Rows:
        """A row of which there is nothing but the error."""
        empty = np.empty(0, np.int64)
        return Rows(
            ids=np.empty(0, np.int32),
            offsets=np.zeros(1, np.int64),
            row=empty,
            index=np.array([index]),
            text_bytes=np.zeros(1, np.int64),
            failures={0: error},
            kept=pa.table({name: pa.nulls(1) for name in self._keep}) if self._keep else None,
        )

    def _pair_column(self, chunk: Chunk) -> str | None:
        """None also for a chunk that was made before the first pair was seen: all its rows have failed."""
        name = self._columns.pair_column
        return name if name in chunk.batch.schema.names else None

    def _rows_of_ids(self, chunk: Chunk, text_bytes: Array) -> Rows:
        column = chunk.batch.column(self._text_column)
        column = pc.if_else(pc.is_valid(column), column, pa.scalar([], column.type))
        ids = column.flatten().to_numpy(zero_copy_only=False).astype(np.int32)
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
        ids, begins = self._truncated_ids(ids, np.concatenate([[0], np.cumsum(lengths)]))
        empty = np.empty(0, np.int64)
        return Rows(ids=ids, offsets=begins, row=np.arange(len(lengths)), index=empty, text_bytes=text_bytes)

    def _truncated_ids(self, ids: Array, begins: Array) -> tuple[Array, Array]:
        """Ids and where each row begins, no row longer than ``max_length``."""
        lengths = np.diff(begins)
        if self._max_length is None or not (lengths > self._max_length).any():
            return ids, begins
        keep = np.minimum(lengths, self._max_length)
        firsts = begins[:-1] if self._truncation == "right" else begins[1:] - keep
        kept = [ids[begin : begin + count] for begin, count in zip(firsts, keep, strict=True)]
        return np.concatenate(kept, dtype=np.int32), np.concatenate([[0], np.cumsum(keep)])


class _At(NamedTuple):
    """Where a row comes from, as a chunk says it."""

    place: str
    first_row: int


def _placed(error: BaseException, at: _At | Chunk, offset: int) -> BaseException:
    """The tokenizer counts rows within a job; the reader of its message counts them in the file."""
    if not isinstance(error, RowError):
        return error
    return type(error)(error.reason, place=at.place, row=at.first_row + offset + 1)


def _filled(column: pa.Array) -> pa.Array:
    """The column with "" for null: such a row is in ``failures`` already and only holds its place."""
    return column.fill_null("") if column.null_count else column


def _without_failed(rows: Rows) -> Rows:
    """Drop the windows of failed rows: the model must not see them."""
    if not rows.failures:
        return rows
    good = ~np.isin(rows.row, np.fromiter(rows.failures, np.int64, len(rows.failures)))
    lengths = rows.lengths[good]
    tokens = np.repeat(good, rows.lengths)

    def pick(values: Array | None, mask: Array) -> Array | None:
        return None if values is None else values[mask]

    return replace(
        rows,
        ids=rows.ids[tokens],
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        row=rows.row[good],
        type_ids=pick(rows.type_ids, tokens),
        first_scored=pick(rows.first_scored, good),
        num_bytes=pick(rows.num_bytes, good),
        num_windows_of=pick(rows.num_windows_of, good),
    )
