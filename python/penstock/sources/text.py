"""Plain text: a row per line, or a row per file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from penstock.errors import ConfigError, MissingColumnError, RowError
from penstock.sources.lines import (
    BOM,
    Block,
    Extent,
    LineReader,
    read_blocks,
    scan_blocks,
    without_return,
)
from penstock.sources.seal import failed_rows, seal, too_large
from penstock.sources.streams import BrokenStream, ByteStream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from penstock.sources.chunk import Chunk, Columns
    from penstock.sources.paths import InputFile, Span


def head(file: InputFile, columns: Columns, _typed: bool = True) -> dict[str, pa.DataType]:
    """Check that no more is wanted than text.

    Raises:
        MissingColumnError: A pair or kept column is wanted.
    """
    if columns.ids:
        raise ConfigError(
            f"{file.path}: token ids are read from Parquet, Arrow or JSONL, not from {file.format}"
        )
    for name in columns.names:
        if name != columns.text:
            raise MissingColumnError(
                f"{file.path}: there is no column {name!r}: a text file holds one column, its text. "
                "Leave it out (pair_column=, keep=), or use JSONL"
            )
    return {}


def scan(file: InputFile, columns: Columns) -> Iterator[Extent]:
    """Where the lines of a file are, for the planner."""
    return scan_blocks(file, _lines(file, columns).blocks)


def read(file: InputFile, columns: Columns, schema: pa.Schema, spans: Iterable[Span]) -> Iterator[Chunk]:
    """The lines of a file as rows; an empty line is an empty row."""

    def decode(block: Block) -> list[Chunk]:
        return _decode(block, columns, schema, file.path)

    return read_blocks(file, columns, schema, spans, _lines(file, columns).blocks, decode)


def scan_file(file: InputFile, _: Columns) -> Iterator[Extent]:
    """One row of the size of the file."""
    one = np.ones(1, np.int64)
    yield Extent(one * max(file.size, 0), one, one)


def read_file(file: InputFile, columns: Columns, schema: pa.Schema, spans: Iterable[Span]) -> Iterator[Chunk]:
    """A whole file as one row."""
    for span in spans:
        for chunk in _whole_file(file, columns, schema):
            chunk.unit = span.unit
            yield chunk


def _lines(file: InputFile, columns: Columns) -> LineReader:
    return LineReader(file.path, columns, blank_rows=True)


def _decode(block: Block, columns: Columns, schema: pa.Schema, place: str) -> list[Chunk]:
    """Lines as a string array, by leaving the line endings out of the bytes."""
    ends = without_return(block)
    lengths = ends - block.starts
    if block.failures:  # lines that are too large to be used are not copied
        lengths[list(block.failures)] = 0
    kept = np.ones(len(block.data), bool)
    kept[block.ends[block.ends < len(block.data)]] = False
    kept[ends[ends < block.ends]] = False
    for row in block.failures:
        kept[block.starts[row] : block.ends[row]] = False
    values = np.frombuffer(block.data, np.uint8)[kept]
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths))).astype(np.int32)
    array = pa.StringArray.from_buffers(len(block), pa.py_buffer(offsets), pa.py_buffer(values))
    return seal(pa.record_batch([array], schema=schema), columns, place, block.numbers, dict(block.failures))


def _whole_file(file: InputFile, columns: Columns, schema: pa.Schema) -> list[Chunk]:
    first = np.zeros(1, np.int64)
    parts: list[bytes] = []
    held = 0
    failure: Exception | None = None
    try:
        with ByteStream(file) as stream:
            while part := stream.read(1 << 20):
                held += len(part)
                if held <= columns.max_row_bytes:
                    parts.append(part)
    except BrokenStream as broken:
        failure = RowError(broken.reason, place=file.path, row=1)
    if failure is None and held > columns.max_row_bytes:
        failure = too_large(held, columns, file.path, 0)
    if failure is not None:
        return failed_rows(columns, schema, file.path, first, {0: failure})
    text = pa.array([b"".join(parts).removeprefix(BOM)], type=pa.binary()).view(pa.string())
    return seal(pa.record_batch([text], schema=schema), columns, file.path, first)
