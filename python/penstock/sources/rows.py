"""Rows as Python objects: strings, pairs, dicts and lists of token ids, made into Arrow."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa

from penstock.errors import RowError, SourceExhaustedError
from penstock.sources.chunk import MAX_ROW_BYTES, Chunk, Columns, Rows
from penstock.sources.kept import KeptColumn
from penstock.sources.seal import seal, too_large
from penstock.sources.tables import ArrowRows, is_arrow
from penstock.sources.values import checked_ids, checked_text, num_bytes

Ids = np.ndarray[Any, np.dtype[np.int32]]

PAIR_COLUMN = "text_pair"  # the name of the second text when rows are tuples and nobody named it
MOST_ROWS = 1024  # of a chunk made of Python rows
MOST_BYTES = 4 << 20
PATIENCE_S = 0.005  # a row that took longer to arrive is passed on at once


class RowReader:
    """Makes chunks from Python rows; rows that cannot be used become failures.

    A row is a string, a pair of strings, a dict, or with ``ids=True`` a sequence of token ids. The
    first usable row decides which; the types of kept columns are found as rows come, and may widen
    (see :func:`penstock.sources.concat`). May be called from many threads.

    Args:
        text_column: The key of the text in a dict row, and the name of the column.
        pair_column: The same for the second text. None: ``"text_pair"`` if the rows are pairs.
        keep: Further keys of dict rows to carry along.
        max_row_bytes: A row with more bytes of text than this is a failed row.
        ids: Rows are token ids.

    Example:
        >>> chunk = RowReader().chunk(["one", 2, "three"])
        >>> chunk.batch["text"].to_pylist()
        ['one', None, 'three']
        >>> print(chunk.failures[1])
        rows, row 2: expected a str, a (str, str) or a dict, got int
    """

    def __init__(
        self,
        text_column: str = "text",
        pair_column: str | None = None,
        keep: Sequence[str] = (),
        max_row_bytes: int = MAX_ROW_BYTES,
        ids: bool = False,
    ) -> None:
        self.columns = Columns(text_column, pair_column, keep, max_row_bytes, ids)  # type: ignore[arg-type]
        self._kept = {name: KeptColumn() for name in self.columns.kept}
        self._seen_row = False
        self._lock = threading.Lock()

    @property
    def pair_column(self) -> str | None:
        """Name of the column of second texts; for pairs without a name known from the first row on."""
        return self.columns.pair

    def chunk(
        self, rows: Sequence[object], first_index: int = 0, place: str = "rows", first_row: int = 0
    ) -> Chunk:
        """The rows as one chunk.

        Args:
            rows: At least one row.
            first_index: Input index of the first.
            place: Where they come from, for messages.
            first_row: 0-based number of the first within ``place``.

        Raises:
            MissingColumnError: The first row of all is a dict without a wanted key.
        """
        with self._lock:
            self.look_at_first(rows, place)
            numbers = np.arange(first_row, first_row + len(rows), dtype=np.int64)
            arrays, failures = self._arrays(rows, place, numbers)
        batch = pa.record_batch(arrays, names=list(self.columns.names))
        (chunk,) = seal(batch, self.columns, place, numbers, failures)
        chunk.first_index = first_index
        return chunk

    def plain(self, row: object) -> str | Ids | None:
        """The text, or the int32 ids, of a row that comes alone and can be used as it is.

        None: ``chunk`` must look at it. Where rows come one at a time, from ``load``, an Arrow batch of one
        costs more than tokenizing it.
        """
        columns = self.columns
        if columns.keep or columns.pair is not None:
            return None
        value = row.get(columns.text) if type(row) is dict else row
        if columns.ids:
            value = checked_ids(value)
            is_plain = isinstance(value, np.ndarray) and value.nbytes <= columns.max_row_bytes
        else:
            is_plain = type(value) is str and num_bytes(value) <= columns.max_row_bytes
            is_plain = is_plain and not checked_text(value)
        if not is_plain:
            return None
        self._seen_row = True
        return cast("str | Ids", value)

    def look_at_first(self, rows: Sequence[object], place: str) -> None:
        """Decide from the first usable row what rows are, and check its columns."""
        if self._seen_row:
            return
        for row in rows:
            if isinstance(row, Mapping):
                self.columns.check((str(key) for key in row), place)
            elif self.columns.ids or isinstance(row, str) or _is_pair(row):
                if self.columns.kept:
                    self.columns.check(self.columns.texts, f"{place} (not dicts)")
                if self.columns.pair is None and not self.columns.ids and _is_pair(row):
                    old = self.columns
                    self.columns = Columns(old.text, PAIR_COLUMN, old.keep, old.max_row_bytes)
            else:
                continue
            self._seen_row = True
            return

    def _arrays(
        self, rows: Sequence[Any], place: str, numbers: Rows
    ) -> tuple[list[pa.Array], dict[int, Exception]]:
        failures: dict[int, Exception] = {}
        arrays = _plain_texts(rows, self.columns)  # the good case: one pass in Arrow
        if arrays is None:
            arrays = self._texts(rows, place, numbers, failures)
        for name, column in self._kept.items():
            values = [row.get(name) if isinstance(row, Mapping) else None for row in rows]
            array, misfits = column.convert(values)
            arrays.append(array)
            for row, reason in misfits.items():
                error = RowError(f"kept column {name!r}: {reason}", place=place, row=int(numbers[row]) + 1)
                failures.setdefault(row, error)
        return arrays, failures

    def _texts(
        self, rows: Sequence[Any], place: str, numbers: Rows, failures: dict[int, Exception]
    ) -> list[pa.Array]:
        """The text columns, row by row; what cannot be used is null and added to ``failures``."""
        columns = self.columns
        texts: list[list[Any]] = [[] for _ in columns.texts]
        for row, value in enumerate(rows):
            found = self._texts_of(value)
            size = 0 if isinstance(found, str) else sum(map(num_bytes, found))
            if isinstance(found, str):
                failures[row] = RowError(found, place=place, row=int(numbers[row]) + 1)
            elif size > columns.max_row_bytes:
                failures[row] = too_large(size, columns, place, int(numbers[row]))
            if isinstance(found, str) or row in failures:
                found = [None] * len(texts)
            for cells, text in zip(texts, found, strict=True):
                cells.append(text)
        return [pa.array(cells, type=columns.text_type) for cells in texts]

    def _texts_of(self, row: object) -> list[Any] | str:
        """The texts of one row, or the reason why there are none."""
        columns = self.columns
        if isinstance(row, Mapping):
            values: list[object] = []
            for name in columns.texts:
                if name not in row:
                    return f"column {name!r} is missing from this row"
                values.append(row[name])
            named = columns.texts
        elif columns.ids or isinstance(row, str):
            values, named = [row], columns.texts
        elif _is_pair(row):
            values, named = list(row), columns.texts  # type: ignore[call-overload]
        else:
            hint = "; for files use penstock.sources.files([...])" if hasattr(row, "__fspath__") else ""
            return f"expected a str, a (str, str) or a dict, got {type(row).__name__}{hint}"
        if len(values) > len(named):
            return "a pair, but the rows before are single texts; pass pair_column= to score pairs"
        if len(values) < len(named):
            return "a single text, but the rows before are pairs"
        for place, (name, value) in enumerate(zip(named, values, strict=True)):
            checked = checked_ids(value) if columns.ids else checked_text(value)
            if isinstance(checked, str) and checked:
                return f"column {name!r} {checked}"
            values[place] = checked if columns.ids else value
        return values


class RowSource:
    """Any iterable of rows as a source.

    The number of rows in a chunk begins at 1 and doubles up to 1,024, and a row that was long in
    coming is passed on at once, so that a live source is never held back.

    Args:
        rows: The iterable: str, (str, str), dict, token ids, or Arrow batches and tables.
        reader: How rows are read.
        most_rows: The largest chunk. 1 never holds back a row, at a higher cost per row.
    """

    def __init__(self, rows: Iterable[object], reader: RowReader, most_rows: int = MOST_ROWS) -> None:
        self._rows = rows
        self._most_rows = most_rows
        self._reader = reader
        self._started = False
        columns = reader.columns
        self.text_column = columns.text
        self.keep = columns.keep
        if isinstance(rows, Sequence) and len(rows):
            first = rows[0]
            if columns.pair is None and not columns.ids and _is_pair(first):
                reader.look_at_first([first], "rows")

    @property
    def pair_column(self) -> str | None:
        """Name of the column of second texts; of an iterator of pairs known from the first chunk on."""
        return self._reader.pair_column

    def chunks(self) -> Iterator[Chunk]:
        """A fresh pass over the rows.

        Raises:
            SourceExhaustedError: The rows are an iterator, and it was used before.
        """
        iterator = iter(self._rows)
        if iterator is self._rows and self._started:
            raise SourceExhaustedError(
                "this iterator was already used up: pass a list, or an object whose __iter__ starts again"
            )
        self._started = True
        return self._passes(iterator)

    def _passes(self, iterator: Iterator[object]) -> Iterator[Chunk]:
        index = 0
        arrow = ArrowRows(self._reader.columns)
        for rows, error in _groups(iterator, self._most_rows):
            if rows and is_arrow(rows[0]):
                for chunk in arrow.chunks(rows[0], "rows", index):
                    yield chunk
                    index += len(chunk)
            elif rows:
                yield self._reader.chunk(rows, index, "rows", index)
                index += len(rows)
            if error is not None:
                if hasattr(error, "add_note"):
                    error.add_note(f"raised by the source after row {index:,}")
                raise error


def _groups(
    iterator: Iterator[object], most_rows: int
) -> Iterator[tuple[list[object], BaseException | None]]:
    """Rows in groups that grow, Arrow batches alone; an error of the iterator comes with the last."""
    most = 1
    rows: list[object] = []
    held = 0
    while True:
        asked = time.perf_counter()
        try:
            row = next(iterator)
        except StopIteration:
            if rows:
                yield rows, None
            return
        except BaseException as error:  # noqa: BLE001 - raised again as it is, behind the rows before it
            yield rows, error
            return
        waited = time.perf_counter() - asked
        if is_arrow(row):
            if rows:
                yield rows, None
            yield [row], None
            rows, held = [], 0
            continue
        rows.append(row)
        held += num_bytes(row)
        if waited > PATIENCE_S:
            most = 1
        if len(rows) >= most or held >= MOST_BYTES:
            yield rows, None
            most = min(2 * most, most_rows)
            rows, held = [], 0


def _plain_texts(rows: Sequence[Any], columns: Columns) -> list[pa.Array] | None:
    """The text columns of rows that are all of one kind; None if any is not, or is too large."""
    kinds = set(map(type, rows))
    cells: list[Sequence[Any]]
    if columns.ids:
        return None
    if kinds == {str} and columns.pair is None:
        cells = [rows]
    elif kinds == {tuple} and columns.pair is not None and set(map(len, rows)) == {2}:
        cells = list(zip(*rows, strict=True))
    elif kinds == {dict}:
        cells = [[row.get(name) for row in rows] for name in columns.texts]
    else:
        return None
    if any(set(map(type, column)) != {str} for column in cells):
        return None
    longest = sum(max(map(len, column)) for column in cells)
    if 4 * longest > columns.max_row_bytes:  # a character is at most 4 bytes
        return None
    try:
        arrays = [pa.array(column, type=pa.string()) for column in cells]
    except (UnicodeEncodeError, pa.ArrowException):
        return None
    return None if any(isinstance(array, pa.ChunkedArray) for array in arrays) else arrays


def _is_pair(row: object) -> bool:
    return isinstance(row, (tuple, list)) and len(row) == 2 and all(isinstance(text, str) for text in row)
