"""Rows that are Arrow already: tables, record batches, readers, and Hugging Face datasets."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from penstock.errors import ConfigError, RowError, SourceError, SourceExhaustedError
from penstock.sources.chunk import Chunk, Columns, Rows, row_bytes, without_rows
from penstock.sources.seal import seal, too_large

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

MOST_ROWS = 16_384
MOST_BYTES = 4 << 20
_DATASET_ROWS = 1000


def is_arrow(row: object) -> bool:
    """True for a record batch or a table."""
    return isinstance(row, (pa.RecordBatch, pa.Table))


class ArrowRows:
    """Makes chunks from record batches: picks the wanted columns, casts text, cuts by bytes.

    Args:
        columns: What is wanted.
        kept: The types of the kept columns; None takes those of the first batch.
    """

    def __init__(self, columns: Columns, kept: Mapping[str, pa.DataType] | None = None) -> None:
        self._columns = columns
        self._kept = None if kept is None else dict(kept)

    def chunks(
        self, rows: pa.RecordBatch | pa.Table, place: str, first_row: int, checked: bool = False
    ) -> Iterator[Chunk]:
        """The rows of a batch or table as chunks of at most 4 MB of text (or one row).

        Args:
            rows: What to read.
            place: The file, or ``"rows"``.
            first_row: 0-based number of the first row within ``place``; also its input index.
            checked: True if the names and types of the columns were looked at before.

        Raises:
            MissingColumnError: A wanted column is not there.
            SourceError: The text column is not text, or a kept column has a type that is not the
                one it had before.
        """
        if not checked:
            check_schema(rows.schema, self._columns, place)
        table = rows.select(list(self._columns.names))
        for raw in table.to_batches() if isinstance(table, pa.Table) else [table]:
            batch = _readable(raw, self._columns)
            sizes = row_bytes(batch, self._columns)
            for start, stop in _cuts(sizes):
                part = batch.slice(start, stop - start)
                for chunk in self._sealed(part, sizes[start:stop], place, first_row + start):
                    chunk.first_index += first_row + start
                    yield chunk
            first_row += batch.num_rows

    def _sealed(self, part: pa.RecordBatch, sizes: Rows, place: str, first_row: int) -> list[Chunk]:
        columns = self._columns
        numbers = np.arange(first_row, first_row + part.num_rows, dtype=np.int64)
        failures: dict[int, Exception] = {}
        large = sizes > columns.max_row_bytes
        for row in np.flatnonzero(large).tolist():
            failures[row] = too_large(int(sizes[row]), columns, place, first_row + row)
        arrays = []
        for name in columns.texts:
            array, reasons = _text_array(part.column(name), large, columns)
            arrays.append(array)
            for row, reason in reasons.items():
                error = RowError(f"column {name!r} {reason}", place=place, row=first_row + row + 1)
                failures.setdefault(row, error)
        arrays += [self._kept_array(name, part.column(name), place) for name in columns.kept]
        return seal(pa.record_batch(arrays, names=list(columns.names)), columns, place, numbers, failures)

    def _kept_array(self, name: str, array: pa.Array, place: str) -> pa.Array:
        if self._kept is None:
            self._kept = {}
        kind = self._kept.setdefault(name, array.type)
        if array.type == kind:
            return array
        try:
            return array.cast(kind)
        except pa.ArrowException as error:
            raise SourceError(
                f"{place}: the kept column {name!r} is {array.type}, but it was {kind} before: {error}. "
                "Give the inputs one type, or leave the column out of keep"
            ) from error


class ArrowSource:
    """Arrow data in memory, or a stream of it, as a source.

    Args:
        columns: What is wanted.
        batches: A function that starts a fresh pass over record batches or tables.
        one_shot: True if a second pass is impossible.
    """

    def __init__(
        self,
        columns: Columns,
        batches: Callable[[], Iterable[pa.RecordBatch | pa.Table]],
        one_shot: bool = False,
    ) -> None:
        self._columns = columns
        self._batches = batches
        self._one_shot = one_shot
        self._started = False
        self.text_column = columns.text
        self.pair_column = columns.pair
        self.keep = columns.keep

    def chunks(self) -> Iterator[Chunk]:
        """A fresh pass over the rows.

        Raises:
            SourceExhaustedError: The rows are a stream, and it was read before.
        """
        if self._one_shot and self._started:
            raise SourceExhaustedError(
                "this Arrow stream was already read: read it into a table to pass over it again"
            )
        self._started = True
        return self._passes()

    def _passes(self) -> Iterator[Chunk]:
        index = 0
        arrow = ArrowRows(self._columns)
        for batch in self._batches():
            yield from arrow.chunks(batch, "rows", index)
            index += batch.num_rows


def arrow_source(source: Any, columns: Columns) -> ArrowSource | None:
    """A source for Arrow tables and everything that hands itself over as Arrow, or None."""
    if is_arrow(source):
        return ArrowSource(columns, lambda: [source])
    if isinstance(source, pa.RecordBatchReader):
        return ArrowSource(columns, lambda: source, one_shot=True)
    if isinstance(source, (pa.Array, pa.ChunkedArray)):
        table = pa.table({columns.text: source})
        return ArrowSource(columns, lambda: [table])
    known = dataset_source(source, columns)
    if known is not None:
        return known
    arrow_datasets = sys.modules.get("pyarrow.dataset")
    if arrow_datasets is not None and isinstance(source, arrow_datasets.Dataset):
        names = [name for name in columns.names if name in source.schema.names]
        check_schema(source.schema, columns, "rows")
        return ArrowSource(columns, lambda: source.to_batches(columns=names))
    if hasattr(source, "__arrow_c_stream__"):
        return ArrowSource(columns, lambda: [_from_stream(source, columns)])
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(source, pandas.DataFrame):
        return ArrowSource(columns, lambda: [pa.Table.from_pandas(source, preserve_index=False)])
    return None


def dataset_source(source: Any, columns: Columns) -> ArrowSource | None:
    """A source for a Hugging Face dataset that holds Arrow, or None if it is something else.

    The ``arrow`` format of the dataset applies its indices mapping (after shuffle, select or filter)
    to the Arrow table; no Python object per row is made. The package is not imported here: an object
    of it can only exist where somebody else has.
    """
    datasets = sys.modules.get("datasets")
    if datasets is None or not hasattr(datasets, "Dataset"):
        return None
    if isinstance(source, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        splits = [repr(name) for name in source]
        raise ConfigError(
            f"a {type(source).__name__} holds several splits ({', '.join(splits)}): "
            f"pass one of them, such as dataset[{splits[0] if splits else ''}]"
        )
    if isinstance(source, datasets.Dataset):
        columns.check(source.column_names, "dataset")
        arrow = source.select_columns(list(columns.names)).with_format("arrow")
        return ArrowSource(columns, lambda: arrow.iter(_DATASET_ROWS))
    if isinstance(source, datasets.IterableDataset):
        examples = getattr(source, "_ex_iterable", None)
        if getattr(examples, "iter_arrow", None):  # otherwise examples come one by one, as dicts
            arrow_stream = source.with_format("arrow")
            return ArrowSource(columns, lambda: arrow_stream.iter(_DATASET_ROWS))
    return None


def check_schema(schema: pa.Schema, columns: Columns, place: str) -> None:
    """Check that the wanted columns exist and that text is text.

    Raises:
        MissingColumnError: A wanted column is not there.
        SourceError: The text column has a type that is not text.
    """
    columns.check(schema.names, place)
    for name in columns.names:
        if len(schema.get_all_field_indices(name)) > 1:
            raise SourceError(f"{place}: there are several columns named {name!r}; rename all but one")
    for name in columns.texts:
        kind = schema.field(name).type
        if not _is_ids(kind) if columns.ids else not _is_text(kind):
            wanted = "a list of integers (token ids)" if columns.ids else "string"
            raise SourceError(
                f"{place}: wrong dtype: column {name!r} is {kind}, but it must be {wanted}; "
                "cast it, or name another column with --text-column (text_column=)"
            )


def text_bytes(batch: pa.RecordBatch, columns: Columns) -> Rows:
    """Bytes of text of each row of a batch as it was read: int64[rows]."""
    return row_bytes(_readable(batch, columns), columns)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    view = getattr(pa.types, "is_string_view", lambda _: False)
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or view(kind) or pa.types.is_null(kind)
    )


def _is_ids(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and pa.types.is_integer(kind.value_type)) or bool(pa.types.is_null(kind))


def _readable(batch: pa.RecordBatch, columns: Columns) -> pa.RecordBatch:
    """The batch with string views, whose lengths Arrow cannot compute, made large strings."""
    arrays = []
    for name in batch.schema.names:
        array = batch.column(name)
        kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
        if name in columns.texts and str(kind) == "string_view":
            array = array.cast(pa.large_string())
        arrays.append(array)
    return pa.record_batch(arrays, names=batch.schema.names)


def _cuts(sizes: Rows) -> Iterator[tuple[int, int]]:
    """Where to cut rows so that a part holds at most MOST_BYTES of text, or one row, and MOST_ROWS rows."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + MOST_BYTES, side="right"))
        stop = max(start + 1, min(stop, start + MOST_ROWS))
        yield start, stop
        start = stop


def _text_array(array: pa.Array, large: Any, columns: Columns) -> tuple[pa.Array, dict[int, str]]:
    """A text column as string (or ids as ``list<int32>``), rows over the limit left null."""
    if columns.ids:
        return _ids_array(array)
    if large.any():  # first of all: a dictionary may repeat a value that is over the limit many times
        array = without_rows(array, large)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(pa.string()), {}


def _ids_array(array: pa.Array) -> tuple[pa.Array, dict[int, str]]:
    kind = pa.list_(pa.int32())
    try:
        return array.cast(kind), {}
    except pa.ArrowInvalid:
        pass
    ids: list[list[int | None] | None] = array.to_pylist()
    wrong: dict[int, str] = {}
    for row, numbers in enumerate(ids):
        over = [number for number in numbers or () if number is not None and not -1 << 31 <= number < 1 << 31]
        if over:
            ids[row] = None
            wrong[row] = f"holds the token id {over[0]}; ids are numbers from 0 to 2,147,483,647"
    return pa.array(ids, type=kind), wrong


def _from_stream(source: Any, columns: Columns) -> pa.Table:
    """Everything an object of another library hands over as Arrow; a series is its text column."""
    column = pa.chunked_array(source)
    if pa.types.is_struct(column.type):
        return pa.Table.from_struct_array(column)
    return pa.table({columns.text: column})
