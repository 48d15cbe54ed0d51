"""Blocks of whole lines: the ground that JSONL and text stand on, and CSV in part.

A :class:`Block` holds about 1 MB of whole records and where each begins and ends.
Reading and planning go through the same blocks, so that a unit planned at some byte is a unit that
reads the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from penstock import _core
from penstock.errors import RowError, SourceError
from penstock.sources.seal import failed_rows, too_large
from penstock.sources.streams import BrokenStream, ByteStream

if TYPE_CHECKING:
    import pyarrow as pa

    from penstock.sources.chunk import Chunk, Columns, Rows
    from penstock.sources.paths import InputFile, Span

BLOCK_BYTES = 1 << 20
BOM = b"\xef\xbb\xbf"
_RETURN, _SPACE = 13, 32


@dataclass(slots=True)
class Block:
    """Some whole records of a file.

    Attributes:
        data: Their bytes.
        starts: int64[rows], where each record begins in ``data``.
        ends: int64[rows], where it ends, its newline not counted.
        stops: int64[rows], the offset in the file behind each record.
        numbers: int64[rows], the 0-based number of each record (of its line) in the file.
        next_number: The number of the record behind the block.
        failures: Records that cannot be read: offset -> why. A record that was never in memory is
            empty in ``data``.
    """

    data: bytes
    starts: Rows
    ends: Rows
    stops: Rows
    numbers: Rows
    next_number: int
    failures: dict[int, Exception] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.starts)


@dataclass(slots=True)
class Extent:
    """Some rows of a file, as the planner sees them.

    Attributes:
        sizes: int64[rows], bytes of text of each row, or a near guess.
        stops: int64[rows], the position behind each row: bytes for lines, else row numbers.
        numbers: int64[rows], the number of the row that would follow each row.
    """

    sizes: Rows
    stops: Rows
    numbers: Rows


BlockReader = Callable[[ByteStream, int, "int | None"], Iterator[Block]]
"""(stream, number of the next record, offset to stop at) -> blocks."""


@dataclass(slots=True)
class LineReader:
    """Cuts a stream into blocks of lines.

    A line over ``max_row_bytes`` is passed over without being held in memory.

    Args:
        place: The file.
        columns: For ``max_row_bytes``.
        blank_rows: True if an empty line is a row.
    """

    place: str
    columns: Columns
    blank_rows: bool

    def blocks(self, stream: ByteStream, number: int, stop: int | None) -> Iterator[Block]:
        """The lines from where the stream is, up to the offset ``stop`` or the end.

        Args:
            number: 0-based number of the next line.
        """
        carry: list[bytes] = []
        held = 0
        while piece := read_piece(stream, stop, self.place):
            while piece:
                cut = piece.rfind(b"\n") + 1
                if cut:
                    data = b"".join((*carry, memoryview(piece)[:cut]))
                    carry, held = [], 0
                    block = self.block(data, stream.offset - (len(piece) - cut) - len(data), number)
                    number = block.next_number
                    yield block
                if cut < len(piece):
                    carry.append(piece[cut:])
                    held += len(piece) - cut
                piece = b""
                if held > self.columns.max_row_bytes:
                    block, piece = self._skip_line(stream, number, stop, held)
                    carry, held = [], 0
                    number = block.next_number
                    yield block
        if carry:
            data = b"".join(carry)
            yield self.block(data, stream.offset - len(data), number)

    def block(self, data: bytes, offset: int, number: int) -> Block:
        """The lines in ``data``, which begins at ``offset`` in the file."""
        array = np.frombuffer(data, np.uint8)
        ends = _core.newlines(data)
        stops = ends + 1
        if not len(stops) or stops[-1] != len(data):
            ends = np.append(ends, len(data))
            stops = np.append(stops, len(data))
        starts = np.concatenate((np.zeros(1, np.int64), stops[:-1]))
        numbers = np.arange(number, number + len(starts), dtype=np.int64)
        next_number = number + len(starts)
        if not self.blank_rows:
            blank = _blank(data, array, starts, ends) & (ends - starts <= self.columns.max_row_bytes)
            if blank.any():
                starts, ends, stops, numbers = (each[~blank] for each in (starts, ends, stops, numbers))
        failures: dict[int, Exception] = {}
        for row in np.flatnonzero(ends - starts > self.columns.max_row_bytes).tolist():
            size = int(ends[row] - starts[row])
            failures[row] = too_large(size, self.columns, self.place, int(numbers[row]))
        return Block(data, starts, ends, stops + offset, numbers, next_number, failures)

    def _skip_line(self, stream: ByteStream, number: int, stop: int | None, held: int) -> tuple[Block, bytes]:
        """Pass over the rest of a line that is too large; what was read behind it comes back."""
        rest = b""
        while piece := read_piece(stream, stop, self.place):
            cut = piece.find(b"\n")
            if cut >= 0:
                held += cut
                rest = piece[cut + 1 :]
                break
            held += len(piece)
        error = too_large(held, self.columns, self.place, number)
        return missing_record(error, stream.offset - len(rest), number), rest


def missing_record(error: Exception, stop: int, number: int) -> Block:
    """A block of one record that was not kept in memory."""
    zero = np.zeros(1, np.int64)
    return Block(b"", zero, zero, zero + stop, zero + number, number + 1, {0: error})


def read_piece(stream: ByteStream, stop: int | None, place: str, at_least: int = 0) -> bytes:
    """The next bytes, never beyond ``stop``; a byte order mark at the front of the file is dropped.

    Raises:
        SourceError: The file is UTF-16.
    """
    at_front = stream.offset == 0
    size = max(BLOCK_BYTES, at_least)
    wanted = size if stop is None else min(size, stop - stream.offset)
    piece = stream.read(wanted) if wanted > 0 else b""
    if not at_front:
        return piece
    if piece.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SourceError(f"{place}: the file is UTF-16; convert it: iconv -f UTF-16 -t UTF-8")
    if not piece.startswith(BOM):
        return piece
    return piece[len(BOM) :] or read_piece(stream, stop, place, at_least)


def read_blocks(
    file: InputFile,
    columns: Columns,
    schema: pa.Schema,
    spans: Iterable[Span],
    blocks: BlockReader,
    decode: Callable[[Block], list[Chunk]],
) -> Iterator[Chunk]:
    """The rows of some spans of a file of records, in one pass.

    Where a compressed stream breaks, one failed row stands for everything behind.
    """
    with ByteStream(file) as stream:
        for span in spans:
            number = span.first_row
            rows = 0
            # The row that stands for a break has no bytes: it is found by reading on.
            for stop in (span.stop, None) if span.stop is not None else (None,):
                try:
                    stream.skip_to(max(span.start, stream.offset))
                    for block in blocks(stream, number, stop):
                        number = block.next_number
                        rows += len(block)
                        for chunk in decode(block) if len(block) else ():
                            chunk.unit = span.unit
                            yield chunk
                except BrokenStream as broken:
                    error = RowError(broken.reason, place=file.path, row=number + 1)
                    where = np.full(1, number, np.int64)
                    for chunk in failed_rows(columns, schema, file.path, where, {0: error}):
                        chunk.unit = span.unit
                        yield chunk
                    break
                if file.compression is None or span.num_rows is None or rows >= span.num_rows:
                    break


def scan_blocks(file: InputFile, blocks: BlockReader, start: int = 0, number: int = 0) -> Iterator[Extent]:
    """Where the records of a file are, for the planner."""
    position = start
    with ByteStream(file) as stream:
        try:
            stream.skip_to(start)
            for block in blocks(stream, number, None):
                number = block.next_number
                if len(block):
                    sizes = np.diff(block.stops, prepend=position)
                    position = int(block.stops[-1])
                    yield Extent(sizes, block.stops, block.numbers + 1)
        except BrokenStream:
            zero = np.zeros(1, np.int64)
            yield Extent(zero, zero + position, zero + number + 1)


def without_return(block: Block) -> Rows:
    """Where each record ends if a carriage return at its end is not counted: int64[rows]."""
    array = np.frombuffer(block.data, np.uint8)
    if not len(array):
        return block.ends
    returned = (array[np.maximum(block.ends - 1, 0)] == _RETURN) & (block.ends > block.starts)
    return np.asarray(block.ends - returned, np.int64)


def _blank(data: bytes, array: npt.NDArray[np.uint8], starts: Rows, ends: Rows) -> npt.NDArray[np.bool_]:
    """Which lines hold nothing but white space."""
    first = array[np.minimum(starts, len(array) - 1)]
    blank = starts == ends
    for row in np.flatnonzero((first <= _SPACE) & ~blank).tolist():
        blank[row] = not data[starts[row] : ends[row]].strip(b" \t\r")
    return np.asarray(blank, np.bool_)
