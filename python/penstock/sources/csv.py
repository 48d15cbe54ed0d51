"""CSV and TSV with a header, quoted as RFC 4180 says; kept columns stay the strings that they are.

Whole records (see :mod:`penstock.sources.records`) go to Arrow's parser a block at a time. If it does
not see exactly as many rows as there are records, each record is taken apart here instead.

Rows are numbered as a spreadsheet shows them: the header is row 1, a cell with newlines is in one row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.csv

from penstock.errors import ConfigError, RowError, SourceError
from penstock.sources.chunk import MAX_ROW_BYTES
from penstock.sources.lines import Block, Extent, read_blocks, scan_blocks
from penstock.sources.records import NEWLINE, QUOTE, RETURN, RecordReader, at_edges, fields_of, record_of
from penstock.sources.seal import seal
from penstock.sources.streams import BrokenStream, ByteStream
from penstock.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from penstock.sources.chunk import Chunk, Columns
    from penstock.sources.paths import InputFile, Span


def head(file: InputFile, columns: Columns, _typed: bool = True) -> dict[str, pa.DataType] | None:
    """Check the header.

    Returns:
        The types of the kept columns, all string; None for an empty file.

    Raises:
        MissingColumnError: A wanted column is not in the header.
        SourceError: The header cannot be read, or has a wanted column twice.
    """
    if columns.ids:
        raise ConfigError(
            f"{file.path}: token ids are read from Parquet, Arrow or JSONL, not from {file.format}"
        )
    header = _header(file, columns)
    if header is None:
        return None
    columns.check(header.names, file.path)
    for name in columns.names:
        if header.names.count(name) > 1:
            raise SourceError(f"{file.path}: there are several columns named {name!r}; rename all but one")
    return {name: pa.string() for name in columns.kept}


def scan(file: InputFile, columns: Columns) -> Iterator[Extent]:
    """Where the records of a file are, for the planner."""
    header = _header(file, columns)
    if header is not None:
        yield from scan_blocks(file, _records(file, columns).blocks, header.stop, header.number)


def read(file: InputFile, columns: Columns, schema: pa.Schema, spans: Iterable[Span]) -> Iterator[Chunk]:
    """The records of a file as rows; blank lines are not rows."""
    header = _header(file, columns)
    if header is None:
        return iter(())
    decoder = _Decoder(file.path, columns, schema, header.names, _delimiter(file))
    behind = (
        span if span.start >= header.stop else span._replace(start=header.stop, first_row=header.number)
        for span in spans
    )
    return read_blocks(file, columns, schema, behind, _records(file, columns).blocks, decoder.decode)


@dataclass(frozen=True, slots=True)
class _Header:
    names: list[str]
    stop: int  # offset of the first record
    number: int  # and its row number


def _delimiter(file: InputFile) -> bytes:
    return b"\t" if file.format == "tsv" else b","


def _records(file: InputFile, columns: Columns) -> RecordReader:
    return RecordReader(file.path, columns, _delimiter(file))


def _header(file: InputFile, columns: Columns) -> _Header | None:
    columns = replace(
        columns, max_row_bytes=max(columns.max_row_bytes, MAX_ROW_BYTES)
    )  # of rows, not of this
    with ByteStream(file) as stream:
        try:
            blocks = _records(file, columns).blocks(stream, 0, None)
            block = next((block for block in blocks if len(block)), None)
        except BrokenStream as broken:
            raise SourceError(f"{file.path}: the header cannot be read: {broken.reason}") from None
    if block is None:
        return None
    if 0 in block.failures:
        raise SourceError(f"{file.path}: the header cannot be read: {block.failures[0]}")
    try:
        names = [value.decode() for value in fields_of(record_of(block, 0), _delimiter(file))]
    except UnicodeDecodeError as error:
        raise SourceError(f"{file.path}: the header is not UTF-8: {error}") from None
    return _Header(names, int(block.stops[0]), int(block.numbers[0]) + 1)


class _Decoder:
    """Makes chunks from blocks of records of one file."""

    def __init__(
        self, place: str, columns: Columns, schema: pa.Schema, names: list[str], delimiter: bytes
    ) -> None:
        self._place = place
        self._columns = columns
        self._schema = schema
        self._delimiter = delimiter
        self._width = len(names)
        self._where = [names.index(name) for name in columns.names]

    def decode(self, block: Block) -> list[Chunk]:
        """The rows of one block."""
        batch = None if block.failures else self._parse(block)
        failures = dict(block.failures)
        if batch is None:
            batch = self._take_apart(block, failures)
        return seal(batch, self._columns, self._place, block.numbers, failures)

    def _parse(self, block: Block) -> pa.RecordBatch | None:
        """The block as Arrow parses it, or None if it does not see the same records."""
        array = np.frombuffer(block.data, np.uint8)
        quotes = np.flatnonzero(array == QUOTE)
        if not at_edges(array, quotes, self._delimiter):
            return None
        returns = np.flatnonzero(array == RETURN)
        if len(returns):  # Arrow ends a record at a lone carriage return too
            outside = returns[np.searchsorted(quotes, returns) % 2 == 0]
            if (array[np.minimum(outside + 1, len(array) - 1)] != NEWLINE).any():
                return None
        names = [str(place) for place in range(self._width)]
        wanted = [names[place] for place in self._where]
        try:
            table = pyarrow.csv.read_csv(
                pa.BufferReader(block.data),
                read_options=pyarrow.csv.ReadOptions(
                    column_names=names, use_threads=False, block_size=len(block.data) + 1
                ),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=self._delimiter.decode(), newlines_in_values=True
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    include_columns=wanted,
                    column_types=dict.fromkeys(wanted, pa.string()),
                    check_utf8=False,
                    strings_can_be_null=False,
                    null_values=[],
                ),
            )
        except pa.ArrowException:
            return None
        if table.num_rows != len(block):
            return None
        columns = [table.column(name).combine_chunks() for name in wanted]
        return pa.record_batch(columns, schema=self._schema)

    def _take_apart(self, block: Block, failures: dict[int, Exception]) -> pa.RecordBatch:
        """The slow way: every record alone."""
        cells: list[list[bytes | None]] = [[] for _ in self._where]
        for row in range(len(block)):
            fields = [] if row in failures else fields_of(record_of(block, row), self._delimiter)
            if row not in failures and len(fields) != self._width:
                failures[row] = RowError(
                    f"{counted(len(fields), 'field')}, but the header has {self._width:,}",
                    place=self._place,
                    row=int(block.numbers[row]) + 1,
                )
            for place, column in zip(self._where, cells, strict=True):
                column.append(None if row in failures else fields[place])
        arrays = [pa.array(column, type=pa.binary()).view(pa.string()) for column in cells]
        return pa.record_batch(arrays, schema=self._schema)
