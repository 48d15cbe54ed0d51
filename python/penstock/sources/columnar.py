"""Parquet and Arrow IPC files as formats: told apart, checked, planned, read."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from penstock.errors import SourceError
from penstock.sources.ipc import ArrowFileRows, ArrowStreamRows
from penstock.sources.lines import Extent
from penstock.sources.parquet import ParquetRows
from penstock.sources.paths import InputFile, Span, is_url
from penstock.sources.rowfiles import RowFile, read_rows
from penstock.sources.tables import check_schema, text_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from penstock.sources.chunk import Chunk, Columns


@contextlib.contextmanager
def _opened(file: InputFile, columns: Columns) -> Iterator[RowFile]:
    """The file as rows, by its format and, for Arrow, its first bytes."""
    with contextlib.ExitStack() as stack:
        raw: Any = stack.enter_context(file.open())
        front = raw.read(6)
        raw.seek(0)
        if not front:
            raise SourceError(f"{file.path}: the file is empty, not even a schema is in it; write it again")
        if not is_url(file.path):  # Arrow reads a local file without asking Python for the bytes
            raw = stack.enter_context(pa.OSFile(file.path))
        kind: Any = ParquetRows if file.format == "parquet" else ArrowStreamRows
        if kind is ArrowStreamRows and front == b"ARROW1":
            kind = ArrowFileRows
        try:
            yield kind(file, columns, raw)
        except (pa.ArrowException, UnicodeDecodeError) as error:  # such as names that are not UTF-8
            raise SourceError(f"{file.path}: cannot be read: {error}") from error


def head(file: InputFile, columns: Columns, _typed: bool = True) -> dict[str, pa.DataType]:
    """Check the schema; the types of the kept columns.

    Raises:
        MissingColumnError: A wanted column is not there.
        SourceError: The text column is not text, or the file is not whole.
    """
    with _opened(file, columns) as rows:
        check_schema(rows.schema, columns, file.path)
        return {name: rows.schema.field(name).type for name in columns.kept}


def scan(file: InputFile, columns: Columns) -> Iterator[Extent]:
    """Rows and sizes of texts, for the planner: from the footer of Parquet, else from the texts."""
    with _opened(file, columns) as rows:
        if isinstance(rows, ParquetRows):
            yield from rows.extents()
            return
        for piece in rows.pieces(0):
            sizes = np.zeros(piece.num_rows, np.int64)
            if piece.batch is not None:
                sizes = text_bytes(piece.batch, columns)
            numbers = np.arange(piece.first_row + 1, piece.first_row + piece.num_rows + 1, dtype=np.int64)
            yield Extent(sizes, numbers, numbers)


def read(file: InputFile, columns: Columns, schema: pa.Schema, spans: Iterable[Span]) -> Iterator[Chunk]:
    """The rows of a file, by row number."""
    with _opened(file, columns) as rows:
        yield from read_rows(rows, file, columns, schema, spans)
