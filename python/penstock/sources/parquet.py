"""Parquet, by row ranges."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from penstock.errors import SourceError
from penstock.sources.chunk import Columns, value_bytes
from penstock.sources.lines import Extent
from penstock.sources.rowfiles import Piece, raise_unless_damage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.sources.paths import InputFile

_CELL_ROWS = 1024
_CELL_BYTES = 4 << 20
_LARGEST_CELL_BYTES = 512 << 20
_FEWEST_CELL_ROWS = 128
_BUFFER_BYTES = 1 << 20


class ParquetRows:
    """A Parquet file.

    Rows are decoded in cells of at most 1,024, counted from the front of each row group. Where a page
    is damaged, Arrow cannot go on inside the row group: every row from that cell to the end of the
    row group fails by name, and reading goes on with the next row group. Which rows fail is therefore
    a property of the file, not of the unit that reads it. A damaged footer is a SourceError: without
    it nobody knows how many rows there are.

    Raises:
        SourceError: The footer cannot be read.
    """

    def __init__(self, file: InputFile, columns: Columns, raw: Any) -> None:
        self._file = file
        self._columns = columns
        self._raw = raw
        self._parquet = self._open()
        self.schema = self._parquet.schema_arrow
        metadata = self._parquet.metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        if min(counts, default=0) < 0 or sum(counts) != metadata.num_rows:
            raise SourceError(f"{file.path}: not a whole Parquet file: its footer contradicts itself")
        self._firsts = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)))

    def _open(self, **options: Any) -> pyarrow.parquet.ParquetFile:
        try:
            return pyarrow.parquet.ParquetFile(
                self._raw, buffer_size=_BUFFER_BYTES, page_checksum_verification=True, **options
            )
        except (pa.ArrowException, OSError) as error:
            raise_unless_damage(error, self._file)
            raise SourceError(f"{self._file.path}: not a whole Parquet file: {error}") from error

    def group_of(self, row: int) -> int:
        """The row group of a row."""
        return int(np.searchsorted(self._firsts, row, side="right")) - 1

    def pieces(self, row: int) -> Iterator[Piece]:
        """The rows from the front of the row group of ``row`` on."""
        for group in range(self.group_of(row), len(self._firsts) - 1):
            first, stop = int(self._firsts[group]), int(self._firsts[group + 1])
            try:
                for batch in self._parquet.iter_batches(
                    batch_size=self._cell_rows(group),
                    row_groups=[group],
                    columns=list(self._columns.names),
                    use_threads=False,
                ):
                    yield Piece(first, batch.num_rows, batch)
                    first += batch.num_rows
                reason = "it has fewer rows than its footer says"
            except (pa.ArrowException, OSError) as error:
                raise_unless_damage(error, self._file)
                reason = str(error)
            for start in range(first, stop, _CELL_ROWS):
                rows = min(stop - start, _CELL_ROWS)
                yield Piece(start, rows, None, f"row group {group} is damaged: {reason}")

    def extents(self) -> Iterator[Extent]:
        """The rows of each row group, with the mean size of its texts."""
        for group in range(len(self._firsts) - 1):
            first, stop = int(self._firsts[group]), int(self._firsts[group + 1])
            if first < stop:
                numbers = np.arange(first + 1, stop + 1, dtype=np.int64)
                sizes = np.full(stop - first, self._mean_text_bytes(group), np.int64)
                yield Extent(sizes, numbers, numbers)

    def _mean_text_bytes(self, group: int) -> int:
        row_group = self._parquet.metadata.row_group(group)
        leaves = self._parquet.schema
        texts = [leaf for leaf in range(len(leaves)) if leaves.column(leaf).path in self._columns.texts]
        if self._columns.ids:
            prefix = f"{self._columns.text}."
            texts = [leaf for leaf in range(len(leaves)) if leaves.column(leaf).path.startswith(prefix)]
        total = sum(row_group.column(leaf).total_uncompressed_size for leaf in texts)
        return -(-int(total) // max(1, int(row_group.num_rows)))

    def _cell_rows(self, group: int) -> int:
        """How many rows to decode at once, so that a cell holds about 4 MB, and never over 512 MB.

        A dictionary lets a few bytes of file stand for gigabytes of text: 2,000 rows that all point at
        one value of 1 MB. No value is larger than the row group is, so that a small row group needs no
        more than small cells. In a large one the largest value of each dictionary is looked up.
        """
        row_group = self._parquet.metadata.row_group(group)
        size = max(1, int(row_group.total_byte_size))
        cell = max(1, min(_CELL_ROWS, _CELL_BYTES * max(1, int(row_group.num_rows)) // size))
        if cell * size <= _LARGEST_CELL_BYTES:
            return cell
        if size * _FEWEST_CELL_ROWS <= _LARGEST_CELL_BYTES:
            return _LARGEST_CELL_BYTES // size
        names = [name for name in self._columns.names if _has_bytes(self.schema.field(name).type)]
        with contextlib.suppress(pa.ArrowException, OSError):
            encoded = self._open(metadata=self._parquet.metadata, read_dictionary=names)
            batch = next(encoded.iter_batches(1, row_groups=[group], columns=names, use_threads=False))
            dictionaries = [array.dictionary for array in batch.columns if pa.types.is_dictionary(array.type)]
            largest = sum(int(value_bytes(each).max(initial=0)) for each in dictionaries)
            return max(1, min(cell, _LARGEST_CELL_BYTES // max(1, largest)))
        return max(1, _LARGEST_CELL_BYTES // size)


def _has_bytes(kind: pa.DataType) -> bool:
    """True for a flat column of strings or bytes, which Parquet may hold as a dictionary."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return str(kind) in {"string", "large_string", "string_view", "binary", "large_binary", "binary_view"}
