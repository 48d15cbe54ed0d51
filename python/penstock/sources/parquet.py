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
_LARGEST_CELL_BYTES = 256 << 20
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
            if first < stop:
                yield Piece(first, stop - first, None, f"row group {group} is damaged: {reason}")

    def extents(self) -> Iterator[Extent]:
        """The rows of each row group, with the mean size of its texts."""
        for group in range(len(self._firsts) - 1):
            first, stop = int(self._firsts[group]), int(self._firsts[group + 1])
            if first < stop:
                numbers = np.arange(first + 1, stop + 1, dtype=np.int64)
                sizes = np.full(stop - first, self._mean_bytes(group, self._columns.texts), np.int64)
                yield Extent(sizes, numbers, numbers)

    def _chunks_of(self, group: int, names: tuple[str, ...]) -> list[Any]:
        """The metadata of the column chunks (leaves) of some columns."""
        row_group = self._parquet.metadata.row_group(group)
        chunks = [row_group.column(place) for place in range(row_group.num_columns)]
        return [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in names]

    def _mean_bytes(self, group: int, names: tuple[str, ...]) -> int:
        num_rows = int(self._firsts[group + 1] - self._firsts[group])
        total = sum(chunk.total_uncompressed_size for chunk in self._chunks_of(group, names))
        return -(-int(total) // max(1, num_rows))

    def _cell_rows(self, group: int) -> int:
        """How many rows to decode at once.

        A dictionary lets a few bytes of file stand for gigabytes of text: 2,000 rows that all point at
        one value of 1 MB. So where a column chunk has a dictionary, its largest value is looked up
        first, and cells are cut so that even if every row held it they stay below 256 MB.
        """
        mean = self._mean_bytes(group, self._columns.names)
        cell = max(1, min(_CELL_ROWS, _CELL_BYTES // max(1, mean)))
        chunks = self._chunks_of(group, self._columns.names)
        flat = [each for each in chunks if each.has_dictionary_page and "." not in each.path_in_schema]
        flat = [each for each in flat if each.physical_type == "BYTE_ARRAY"]
        suspects = [
            each.path_in_schema for each in flat if cell * each.total_uncompressed_size > _LARGEST_CELL_BYTES
        ]
        if not suspects:
            return cell
        with contextlib.suppress(pa.ArrowException, OSError):
            encoded = self._open(metadata=self._parquet.metadata, read_dictionary=suspects)
            batch = next(encoded.iter_batches(1, row_groups=[group], columns=suspects, use_threads=False))
            dictionaries = [array.dictionary for array in batch.columns if pa.types.is_dictionary(array.type)]
            largest = sum(int(value_bytes(each).max(initial=0)) for each in dictionaries)
            cell = max(1, min(cell, _LARGEST_CELL_BYTES // max(1, largest)))
        return cell
