"""Where the records of a CSV file begin and end.

A newline ends a record unless it is between quotes. Where every quote stands at the edge of a field that
is a matter of counting quotes, done with numpy; a block with any other quote is walked through field by
field.

A quote inside an unquoted field is an ordinary character. A record whose quoted field is followed by
anything but a delimiter, or whose quote is never closed, is one failed row, and reading goes on with the
line behind its first line, so that one stray quote does not swallow its neighbours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from penstock.errors import RowError
from penstock.sources.lines import Block, missing_record, read_piece, without_return
from penstock.sources.seal import too_large

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from penstock.sources.chunk import Columns, Rows
    from penstock.sources.streams import ByteStream

NEWLINE, RETURN, QUOTE = 10, 13, 34
_BROKEN, _INSIDE, _OUTSIDE = -1, -2, -3
_UNCLOSED = "a quoted field is opened in this row and not properly closed"


class _Split(NamedTuple):
    """Records found in some bytes: offsets, which of them are broken, and how far they reach."""

    starts: Rows
    ends: Rows
    stops: Rows
    broken: list[int]
    reached: int


@dataclass(slots=True)
class RecordReader:
    """Cuts a stream into blocks of records."""

    place: str
    columns: Columns
    delimiter: bytes

    def blocks(self, stream: ByteStream, number: int, stop: int | None) -> Iterator[Block]:
        """The records from where the stream is; see :meth:`LineReader.blocks`."""
        held = b""
        final = False
        while not final:
            piece = read_piece(stream, stop, self.place, len(held))
            final = not piece
            held = held + piece if held else piece
            while held:
                split = _split(held, self.delimiter, final, self.columns.max_row_bytes)
                if split.reached:
                    block = self._block(held[: split.reached], split, stream.offset - len(held), number)
                    held = held[split.reached :]
                elif len(held) > self.columns.max_row_bytes:
                    block, held = self._skip_record(stream, number, stop, held)
                else:
                    break
                number = block.next_number
                yield block

    def _block(self, data: bytes, split: _Split, offset: int, number: int) -> Block:
        starts, ends, stops = split.starts, split.ends, split.stops
        numbers = np.arange(number, number + len(starts), dtype=np.int64)
        block = Block(data, starts, ends, stops + offset, numbers, number + len(starts))
        failures: dict[int, Exception] = {
            row: RowError(_UNCLOSED, place=self.place, row=number + row + 1) for row in split.broken
        }
        for row in np.flatnonzero(ends - starts > self.columns.max_row_bytes).tolist():
            failures[row] = too_large(int(ends[row] - starts[row]), self.columns, self.place, number + row)
        block.ends = without_return(block)
        filled = block.ends > starts
        if not filled.all():
            places = np.cumsum(filled) - 1
            failures = {int(places[row]): error for row, error in failures.items() if filled[row]}
            block.starts, block.ends = starts[filled], block.ends[filled]
            block.stops, block.numbers = block.stops[filled], numbers[filled]
        block.failures = failures
        return block

    def _skip_record(
        self, stream: ByteStream, number: int, stop: int | None, held: bytes
    ) -> tuple[Block, bytes]:
        """Pass over the rest of a record that is too large, counting its quotes.

        Where it stands at the limit is known exactly; from there on a quote opens or closes a field.
        A record that was found broken before ends with its line, as broken records do.
        """
        size = self.columns.max_row_bytes + 1
        state = _record_end(held, 0, size, self.delimiter, final=False)
        quotes = int(state == _INSIDE)
        piece = held[size:]
        while True:
            array = np.frombuffer(piece, np.uint8)
            ends = np.flatnonzero(array == NEWLINE)
            if state != _BROKEN:
                ends = ends[(np.searchsorted(np.flatnonzero(array == QUOTE), ends) + quotes) % 2 == 0]
            if len(ends):
                size += int(ends[0])
                piece = piece[int(ends[0]) + 1 :]
                break
            size += len(piece)
            quotes += piece.count(b'"')
            piece = read_piece(stream, stop, self.place)
            if not piece:
                break
        error = too_large(size, self.columns, self.place, number)
        return missing_record(error, stream.offset - len(piece), number), piece


def _split(data: bytes, delimiter: bytes, final: bool, most: int) -> _Split:
    """The whole records at the front of ``data``, which begins with a record.

    Args:
        final: True if nothing follows ``data``.
        most: ``max_row_bytes``; whether a record is in order is decided within so many bytes, so that
            it does not depend on how much was read.
    """
    array = np.frombuffer(data, np.uint8)
    newlines = np.flatnonzero(array == NEWLINE)
    quotes = np.flatnonzero(array == QUOTE)
    if len(quotes):
        if not at_edges(array, quotes, delimiter) or (final and len(quotes) % 2):
            return _walk(data, delimiter, final, most)
        newlines = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
    if final and (not len(newlines) or newlines[-1] != len(data) - 1):
        newlines = np.append(newlines, len(data))
    stops = np.minimum(newlines + 1, len(data))
    starts = np.concatenate((np.zeros(1, np.int64), stops[:-1]))[: len(stops)]
    return _Split(starts, newlines, stops, [], int(stops[-1]) if len(stops) else 0)


def at_edges(array: npt.NDArray[np.uint8], quotes: Rows, delimiter: bytes) -> bool:
    """True if every quote, counted off as opening and closing in turn, stands at the edge of a field.

    A doubled quote counts as closing and opening again. What follows the last byte is not judged yet.
    """
    opening, closing = quotes[0::2], quotes[1::2]
    before = array[np.maximum(opening - 1, 0)]  # of a quote at offset 0: itself, which is right too
    if not ((before == delimiter[0]) | (before == NEWLINE) | (before == QUOTE)).all():
        return False
    last = len(array) - 1
    behind = array[np.minimum(closing + 1, last)]
    second = array[np.minimum(closing + 2, last)]
    returned = (behind == RETURN) & ((second == NEWLINE) | (closing + 2 > last))
    open_end = closing == last
    edges = (behind == delimiter[0]) | (behind == NEWLINE) | (behind == QUOTE) | returned | open_end
    return bool(edges.all())


_QUOTED = re.compile(rb'"[^"]*(?:""[^"]*)*"(?!")')


def _walk(data: bytes, delimiter: bytes, final: bool, most: int) -> _Split:
    """The records at the front of ``data``, field by field."""
    starts: list[int] = []
    ends: list[int] = []
    stops: list[int] = []
    broken: list[int] = []
    start = 0
    while start < len(data):
        limit = min(len(data), start + most + 1)
        last = final and limit == len(data)
        end = _record_end(data, start, limit, delimiter, last)
        is_broken = end == _BROKEN
        if is_broken:  # go on behind the first line of the record, once it is there
            newline = data.find(b"\n", start, limit)
            end = newline if newline >= 0 else limit if last else _OUTSIDE
        if end < 0:
            break
        if is_broken:
            broken.append(len(starts))
        starts.append(start)
        ends.append(end)
        start = min(end + 1, len(data))
        stops.append(start)
    starts_, ends_, stops_ = (np.array(each, np.int64) for each in (starts, ends, stops))
    return _Split(starts_, ends_, stops_, broken, stops[-1] if stops else 0)


def _record_end(data: bytes, start: int, limit: int, delimiter: bytes, final: bool) -> int:
    """Where the record that begins at ``start`` ends: the offset of its newline, or of the end.

    Returns:
        _BROKEN, or if that is not decided before ``limit`` where it stands there: _INSIDE a quoted
        field, or _OUTSIDE.
    """
    at = start
    while True:
        if at < limit and data[at] == QUOTE:
            quoted = _QUOTED.match(data, at, limit)
            if quoted is None:
                return _BROKEN if final else _INSIDE
            at = quoted.end()
            if not final and (at >= limit or (data[at] == RETURN and at + 1 >= limit)):
                return _OUTSIDE  # what follows the quote decides
            behind = data[at : min(at + 2, limit)]
            if behind in (b"", b"\r", b"\r\n"):
                return min(at + 1, limit) if behind else at
            if behind[:1] == b"\n":
                return at
            if behind[:1] != delimiter:
                return _BROKEN
            at += 1
            continue
        newline = data.find(b"\n", at, limit)
        comma = data.find(delimiter, at, limit if newline < 0 else newline)
        if comma >= 0:
            at = comma + 1
            continue
        if newline < 0:
            return limit if final else _OUTSIDE
        return newline


def record_of(block: Block, row: int) -> bytes:
    """The bytes of one record."""
    return block.data[block.starts[row] : block.ends[row]]


def fields_of(record: bytes, delimiter: bytes) -> list[bytes]:
    """The fields of one record, quotes resolved."""
    fields = []
    at = 0
    while True:
        if record[at : at + 1] == b'"':
            quoted = _QUOTED.match(record, at)
            end = len(record) if quoted is None else quoted.end()
            fields.append(record[at + 1 : end - 1].replace(b'""', b'"'))
        else:
            comma = record.find(delimiter, at)
            end = len(record) if comma < 0 else comma
            fields.append(record[at:end])
        if end >= len(record):
            return fields
        at = end + 1
