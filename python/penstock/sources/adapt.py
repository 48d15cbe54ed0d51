"""Whatever a caller passes as input, as a source."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from penstock.errors import ConfigError
from penstock.sources.chunk import MAX_ROW_BYTES, Columns, Source
from penstock.sources.formats import FileSource
from penstock.sources.paths import expand
from penstock.sources.rows import MOST_ROWS, RowReader, RowSource
from penstock.sources.tables import arrow_source


def as_source(
    source: Any,
    *,
    text_column: str = "text",
    pair_column: str | None = None,
    keep: Sequence[str] = (),
    max_row_bytes: int = MAX_ROW_BYTES,
    ids: bool = False,
    format: str | None = None,
    most_rows: int = MOST_ROWS,
) -> Source:
    """Make a source of anything that holds rows.

    Args:
        source: A path, folder, glob or URL (a str is always one of these); a Hugging Face dataset; an
            Arrow table, record batch, reader, or any object that hands itself over as Arrow; an
            iterable of str, (str, str), dict, token ids (with ``ids=True``) or Arrow batches; a
            source, which is returned as it is.
        text_column: Column or key of the text.
        pair_column: Column or key of the second text of each row.
        keep: Further columns to carry along.
        max_row_bytes: A row with more bytes of text than this is a failed row.
        ids: Rows are token ids.
        format: How to read files, whatever their ending.
        most_rows: The largest chunk of an iterable. 1 for a live source of which no row may wait for
            the next.

    Raises:
        ConfigError: It is not a source of rows.
        SourceError: A path leads nowhere, or the text column is missing or not text.

    Example:
        >>> [chunk.batch["text"].to_pylist() for chunk in as_source(["a", "b", "c"]).chunks()]
        [['a'], ['b', 'c']]
    """
    if isinstance(source, Source) and not isinstance(source, type):
        return source
    columns = Columns(text_column, pair_column, keep, max_row_bytes, ids)  # type: ignore[arg-type]
    if isinstance(source, (str, os.PathLike)):
        return FileSource(expand(source, format), columns)
    if format is not None:
        raise ConfigError(f"format={format!r} is for files, and {type(source).__name__} is not a path")
    arrow = arrow_source(source, columns)
    if arrow is not None:
        return arrow
    remedy = _remedy(source)
    if remedy is not None:
        raise ConfigError(f"{type(source).__name__} is not a source of rows: {remedy}")
    return RowSource(source, RowReader(text_column, pair_column, columns.keep, max_row_bytes, ids), most_rows)


def _remedy(source: object) -> str | None:
    """What to pass instead, if this cannot be iterated over row by row."""
    if isinstance(source, Mapping):
        return "a dict is one row; pass [row], or a table: pyarrow.table(columns)"
    if isinstance(source, (bytes, bytearray)):
        return "bytes are not text; pass [text.decode()]"
    if isinstance(source, Iterable) or hasattr(source, "__getitem__"):
        return None
    if callable(source):
        return "call it, and pass what it returns"
    return "pass a path, an iterable of rows, a dataset or an Arrow table"
