"""What each file format can do, and a source that reads files of any of them, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.sources import columnar, csv, jsonl, text
from penstock.sources.chunk import MAX_ROW_BYTES, Chunk, Columns
from penstock.sources.paths import InputFile, Span, expand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import pyarrow as pa

    from penstock.sources.lines import Extent


class Format(NamedTuple):
    """How files of one format are read.

    Attributes:
        head: Checks the wanted columns; the types of the kept ones, or None if the file shows none. With
            False they may be those of the first few rows.
        scan: Where its rows are, for the planner.
        read: The rows of some spans, in one pass; chunks carry the unit of their span.
    """

    head: Callable[[InputFile, Columns, bool], dict[str, pa.DataType] | None]
    scan: Callable[[InputFile, Columns], Iterator[Extent]]
    read: Callable[[InputFile, Columns, pa.Schema, Iterable[Span]], Iterator[Chunk]]


FORMATS: Mapping[str, Format] = {
    "jsonl": Format(jsonl.head, jsonl.scan, jsonl.read),
    "parquet": Format(columnar.head, columnar.scan, columnar.read),
    "arrow": Format(columnar.head, columnar.scan, columnar.read),
    "csv": Format(csv.head, csv.scan, csv.read),
    "tsv": Format(csv.head, csv.scan, csv.read),
    "text": Format(text.head, text.scan, text.read),
    "text-file": Format(text.head, text.scan_file, text.read_file),
}


def resolve(files: Iterable[InputFile], columns: Columns) -> pa.Schema:
    """The schema of every chunk: the kept columns have the types that the first file with rows shows.

    Raises:
        MissingColumnError: A file that was looked at does not have a wanted column.
    """
    for file in files:
        kept = FORMATS[file.format].head(file, columns, True)
        if kept is not None:
            return columns.schema(kept)
    return columns.schema({})


class FileSource:
    """Rows of files, one file after the other.

    Args:
        files: The files, in order.
        columns: What is wanted.
    """

    def __init__(self, files: Iterable[InputFile], columns: Columns) -> None:
        self.files = tuple(files)
        self.columns = columns
        self.text_column = columns.text
        self.pair_column = columns.pair
        self.keep = columns.keep
        self._schema: pa.Schema | None = None

    def chunks(self) -> Iterator[Chunk]:
        """A fresh pass over all rows.

        Raises:
            MissingColumnError: A file does not have a wanted column.
            SourceError: A file cannot be read at all.
        """
        if self._schema is None:
            self._schema = resolve(self.files, self.columns)
        index = 0
        for file in self.files:
            form = FORMATS[file.format]
            form.head(file, self.columns, False)
            for chunk in form.read(file, self.columns, self._schema, [Span()]):
                chunk.first_index = index
                index += len(chunk)
                yield chunk


def files(
    paths: Any,
    *,
    text_column: str = "text",
    pair_column: str | None = None,
    keep: Iterable[str] = (),
    max_row_bytes: int = MAX_ROW_BYTES,
    ids: bool = False,
    format: str | None = None,
) -> FileSource:
    """A source of the rows of one or many files.

    Args:
        paths: A path, folder, glob or fsspec URL, or a list of these.
        text_column: The column that holds the text.
        pair_column: The column that holds the second text of each row, if there is one.
        keep: Further columns to carry along.
        max_row_bytes: A row with more bytes than this is a failed row. In JSONL, CSV and text the whole
            line counts.
        ids: The text column holds token ids.
        format: ``jsonl``, ``parquet``, ``arrow``, ``csv``, ``tsv``, ``text`` (a row per line) or
            ``text-file`` (a row per file). None: each file by its ending.

    Raises:
        ConfigError: The arguments cannot be right, or an ending says nothing.
        SourceError: A path leads to no file.

    Example:
        >>> files(["corpus/*.parquet", "s3://bucket/more/"], keep=["id"])  # doctest: +SKIP
    """
    columns = Columns(text_column, pair_column, keep, max_row_bytes, ids)  # type: ignore[arg-type]
    return FileSource(expand(paths, format), columns)
