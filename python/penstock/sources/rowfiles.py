"""Files of rows in groups (Parquet, Arrow): reading spans of rows from them in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from penstock.errors import RowError, SourceError
from penstock.sources.seal import failed_rows
from penstock.sources.streams import is_damage
from penstock.sources.tables import ArrowRows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

    from penstock.sources.chunk import Chunk, Columns
    from penstock.sources.paths import InputFile, Span


class Piece(NamedTuple):
    """Rows of a file that follow one another: a batch, or a number of rows that cannot be read."""

    first_row: int
    num_rows: int
    batch: pa.RecordBatch | None
    reason: str = ""


class RowFile(Protocol):
    """A file of rows in groups; a group can be read only from its front."""

    schema: pa.Schema

    def group_of(self, row: int, /) -> int:
        """The group that a row is in."""
        ...

    def pieces(self, row: int, /) -> Iterator[Piece]:
        """The rows of the file from the front of the group of ``row`` on."""
        ...


def read_rows(
    rows: RowFile, file: InputFile, columns: Columns, schema: pa.Schema, spans: Iterable[Span]
) -> Iterator[Chunk]:
    """The rows of some spans, in one pass: what was decoded for one span is used for the next."""
    arrow = ArrowRows(columns, {name: schema.field(name).type for name in columns.kept})
    pieces: Iterator[Piece] = iter(())
    piece: Piece | None = None
    group = -1
    for span in spans:
        if piece is None or rows.group_of(span.start) > group:
            pieces = rows.pieces(span.start)
            piece = next(pieces, None)
        while piece is not None and (span.stop is None or piece.first_row < span.stop):
            group = rows.group_of(piece.first_row)
            first = max(span.start, piece.first_row)
            stop = piece.first_row + piece.num_rows
            stop = stop if span.stop is None else min(stop, span.stop)
            if first < stop:
                for chunk in _chunks(piece, first, stop, arrow, file.path, columns, schema):
                    chunk.unit = span.unit
                    yield chunk
            if span.stop is not None and piece.first_row + piece.num_rows > span.stop:
                break
            piece = next(pieces, None)


def _chunks(
    piece: Piece, first: int, stop: int, arrow: ArrowRows, place: str, columns: Columns, schema: pa.Schema
) -> Iterator[Chunk]:
    if piece.batch is not None:
        part = piece.batch.slice(first - piece.first_row, stop - first)
        yield from arrow.chunks(part, place, first, checked=True)
        return
    numbers = np.arange(first, stop, dtype=np.int64)
    errors = {
        offset: RowError(piece.reason, place=place, row=int(row) + 1) for offset, row in enumerate(numbers)
    }
    yield from failed_rows(columns, schema, place, numbers, errors)


def raise_unless_damage(error: Exception, file: InputFile) -> None:
    """A disk or network that fails says nothing about the rows: the run stops, and can be resumed."""
    if not is_damage(error):
        raise SourceError(f"{file.path}: reading stopped: {error}") from error
