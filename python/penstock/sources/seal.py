"""From arrays to chunks: what cannot be used is found here, whatever the format.

:func:`seal` makes the chunks, and :func:`in_order` those of rows that need no check. Null text, invalid
UTF-8 and rows over ``max_row_bytes`` become failures in one place, and the text of a failed row becomes null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.errors import RowError, RowTooLargeError
from penstock.sources.chunk import Chunk, Columns, Rows, row_bytes, without_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def failed_rows(
    columns: Columns, schema: pa.Schema, place: str, numbers: Rows, reasons: Mapping[int, Exception]
) -> list[Chunk]:
    """Chunks for rows of which nothing could be read.

    Args:
        numbers: 0-based number of each row in ``place``.
        reasons: Offset -> error, for every row.
    """
    batch = pa.record_batch([pa.nulls(len(numbers), kind.type) for kind in schema], schema=schema)
    return seal(batch, columns, place, numbers, dict(reasons))


def seal(
    batch: pa.RecordBatch,
    columns: Columns,
    place: str,
    numbers: Rows,
    failures: dict[int, Exception] | None = None,
) -> list[Chunk]:
    """Find the rows of a batch that cannot be used, null their text, and make chunks.

    Args:
        batch: Columns ``columns.names``; the text columns have the type ``columns.text_type``.
        columns: What is wanted.
        place: The file, or ``"rows"``.
        numbers: 0-based number of each row in ``place``, rising; where one is left out (a blank
            line) a new chunk begins, so that ``first_row + offset`` is right for every row.
        failures: Offsets already known to be unusable, with the reason; taken over.

    Returns:
        Chunks with ``first_index`` counted from 0 in this batch.
    """
    failures = {} if failures is None else failures
    invalid = {name: _invalid_text(batch.column(name)) for name in batch.schema.names}
    damaged = {name: rows for name, rows in invalid.items() if rows is not None}
    for name, rows in damaged.items():
        for row, reason in rows.items():
            failures.setdefault(row, _error(f"column {name!r} holds {reason}", place, numbers, row))
    for name in columns.texts:
        for row in null_rows(batch.column(name)):
            failures.setdefault(row, _error(f"column {name!r} is null", place, numbers, row))
    if columns.ids:
        for row, reason in _invalid_ids(batch.column(columns.text)).items():
            failures.setdefault(row, _error(f"column {columns.text!r} {reason}", place, numbers, row))
    sizes = row_bytes(batch, columns)
    for row in np.flatnonzero(sizes > columns.max_row_bytes).tolist():
        failures.setdefault(row, too_large(int(sizes[row]), columns, place, int(numbers[row])))
    if failures or damaged:
        batch = _without_text(batch, columns, damaged, failures)
    return _cut(batch, place, numbers, failures)


def in_order(batch: pa.RecordBatch, place: str, numbers: Rows) -> list[Chunk]:
    """Chunks of rows of which whoever read them knows that none has failed; else as ``seal``."""
    return _cut(batch, place, numbers, {})


def too_large(num_bytes: int, columns: Columns, place: str, number: int) -> RowTooLargeError:
    """The error of a row over ``max_row_bytes``; ``number`` counts from 0."""
    return RowTooLargeError(
        f"{num_bytes:,} bytes, more than max_row_bytes ({columns.max_row_bytes:,}); "
        "raise max_row_bytes or cut the row",
        place=place,
        row=number + 1,
    )


def utf8_reason(raw: bytes) -> str | None:
    """Why these bytes are not UTF-8, in words, or None if they are."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"invalid UTF-8: byte 0x{raw[error.start]:02x} at position {error.start:,} ({error.reason})"
    return None


def is_utf8(batch: pa.RecordBatch) -> bool:
    """True if every string in the batch, at any depth, is UTF-8."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def null_rows(array: pa.Array) -> list[int]:
    """The rows that are null."""
    if not array.null_count:
        return []
    rows: list[int] = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)).tolist()
    return rows


def _error(reason: str, place: str, numbers: Rows, row: int) -> RowError:
    return RowError(reason, place=place, row=int(numbers[row]) + 1)


def _invalid_text(array: pa.Array) -> dict[int, str] | None:
    """Rows of a column that hold bytes that are not UTF-8, at any depth, with the reason.

    Returns:
        None if the column is in order. No rows at all: the bytes belong to rows outside of a slice.
    """
    if pa.types.is_dictionary(array.type):
        return None  # validating the dictionary would blame every row for a value that none may use
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        pass
    else:
        return None
    rows: dict[int, str] = {}
    if pa.types.is_string(array.type):
        for row, raw in enumerate(array.view(pa.binary()).to_pylist()):
            reason = None if raw is None else utf8_reason(raw)
            if reason is not None:
                rows[row] = reason
        return rows
    for row, value in enumerate(array):
        if not _is_readable(value):
            rows[row] = "invalid UTF-8"
    return rows


def _is_readable(value: pa.Scalar) -> bool:
    try:
        value.as_py()
    except UnicodeDecodeError:
        return False
    return True


def _invalid_ids(array: pa.Array) -> dict[int, str]:
    """Rows of a ``list<int32>`` column that hold a null or a negative number."""
    flat = array.flatten()
    lowest = pc.min(flat).as_py()
    if flat.null_count == 0 and (lowest is None or lowest >= 0):
        return {}
    rows: dict[int, str] = {}
    for row, ids in enumerate(array.to_pylist()):
        wrong = next((number for number in ids or () if number is None or number < 0), 0)
        if wrong != 0:
            rows[row] = f"holds the token id {'null' if wrong is None else wrong}; ids are numbers from 0"
    return rows


def _without_text(
    batch: pa.RecordBatch, columns: Columns, damaged: Mapping[str, Iterable[int]], failures: Iterable[int]
) -> pa.RecordBatch:
    """Null the text of failed rows, and each kept value that could not be decoded."""
    arrays = []
    for name in batch.schema.names:
        array = batch.column(name)
        rows = list(failures) if name in columns.texts else list(damaged.get(name, ()))
        if rows or name in damaged:
            mask = np.zeros(batch.num_rows, bool)
            mask[rows] = True
            array = without_rows(array, mask)
        arrays.append(array)
    return pa.record_batch(arrays, schema=batch.schema)


def _cut(batch: pa.RecordBatch, place: str, numbers: Rows, failures: dict[int, Exception]) -> list[Chunk]:
    """Chunks whose rows are numbered without a gap."""
    if not len(numbers):
        return []
    starts = np.concatenate(([0], np.flatnonzero(np.diff(numbers) != 1) + 1)).tolist()
    if len(starts) == 1:
        return [Chunk(batch, 0, place, int(numbers[0]), failures)]
    chunks = []
    for start, stop in zip(starts, [*starts[1:], len(numbers)], strict=True):
        inside = {row - start: error for row, error in failures.items() if start <= row < stop}
        chunks.append(Chunk(batch.slice(start, stop - start), start, place, int(numbers[start]), inside))
    return chunks
