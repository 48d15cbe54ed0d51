"""The input of a durable run, cut into units that depend on nothing but the input.

A unit is up to ``unit_rows`` rows or ``unit_bytes`` of text, whichever is less, that follow one another;
small files share a unit. The plan records what each file was, so that a resumed run notices a change.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa

from penstock.arguments import whole
from penstock.errors import ConfigError
from penstock.sources.chunk import MAX_ROW_BYTES, Columns
from penstock.sources.formats import FORMATS
from penstock.sources.paths import InputFile, expand

if TYPE_CHECKING:
    from penstock.sources.lines import Extent

UNIT_ROWS = 16_384
UNIT_BYTES = 16 << 20
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows of one file that belong to a unit.

    Attributes:
        path: The file.
        format: How it is read.
        start: Where the segment begins: a byte offset (after decompression) for JSONL, CSV and text,
            a row number for Parquet and Arrow.
        stop: Where it ends, in the same measure.
        first_row: 0-based number, as messages count, of the row or line at ``start``.
        num_rows: Rows in it, failed ones included.
    """

    path: str
    format: str
    start: int
    stop: int
    first_row: int
    num_rows: int

    def to_json(self) -> dict[str, Any]:
        """A dict ready for :mod:`json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Segment:
        """The segment that :meth:`to_json` described."""
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Unit:
    """Some rows that follow one another, done and redone as one.

    Attributes:
        id: Its number, from 0.
        segments: Its parts, in order.
        first_index: Input index of its first row.
        num_rows: Rows in it, failed ones included.
    """

    id: int
    segments: tuple[Segment, ...]
    first_index: int
    num_rows: int

    def to_json(self) -> dict[str, Any]:
        """A dict ready for :mod:`json`."""
        return asdict(self) | {"segments": [segment.to_json() for segment in self.segments]}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Unit:
        """The unit that :meth:`to_json` described."""
        segments = tuple(Segment.from_json(segment) for segment in fields["segments"])
        return cls(fields["id"], segments, fields["first_index"], fields["num_rows"])


@dataclass(frozen=True, slots=True)
class Plan(Sequence[Unit]):
    """The whole input: its files as they were, its units, and what is read from it.

    A plan is a sequence of its units. Two plans of the same input are equal.

    Attributes:
        files: Every file, with what tells it from a changed one.
        units: The units, tiling the input.
        columns: What is read.
        schema: The schema of every chunk; the kept columns have these types throughout.
    """

    files: tuple[InputFile, ...]
    units: tuple[Unit, ...]
    columns: Columns
    schema: pa.Schema

    def __len__(self) -> int:
        return len(self.units)

    @overload
    def __getitem__(self, place: int) -> Unit: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Unit, ...]: ...
    def __getitem__(self, place: int | slice) -> Unit | tuple[Unit, ...]:
        return self.units[place]

    @property
    def num_rows(self) -> int:
        """Rows of the whole input, failed ones included."""
        return sum(unit.num_rows for unit in self.units)

    def check_unchanged(self) -> None:
        """Compare every file with what it is now.

        Raises:
            SourceError: One is gone or was changed; the message names it.
        """
        for file in self.files:
            file.check_unchanged()

    def content_hash(self) -> str:
        """SHA-256, in hex, of everything in the plan: files, sizes, times, units, columns, types."""
        content = self.to_json() | {"schema": self.schema.to_string()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """A dict ready for :mod:`json`; files are numbered so that a long plan stays small."""
        numbers = {file.path: number for number, file in enumerate(self.files)}
        units = [[[numbers[part.path], *astuple(part)[2:]] for part in unit.segments] for unit in self.units]
        return {
            "version": _VERSION,
            "columns": asdict(self.columns) | {"keep": list(self.columns.keep)},
            "schema": base64.b64encode(self.schema.serialize().to_pybytes()).decode(),
            "files": [asdict(file) for file in self.files],
            "units": units,
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Plan:
        """The plan that :meth:`to_json` described.

        Raises:
            ConfigError: It was written by a version of Penstock that planned differently.
        """
        if fields.get("version") != _VERSION:
            version = fields.get("version")
            raise ConfigError(f"this plan has version {version!r}, but this Penstock reads {_VERSION}")
        files = tuple(InputFile(**file) for file in fields["files"])
        units: list[Unit] = []
        index = 0
        for parts in fields["units"]:
            segments = tuple(Segment(files[part[0]].path, files[part[0]].format, *part[1:]) for part in parts)
            units.append(Unit(len(units), segments, index, sum(each.num_rows for each in segments)))
            index += units[-1].num_rows
        columns = Columns(**fields["columns"])
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(fields["schema"])))
        return cls(files, tuple(units), columns, schema)


def plan_units(
    paths: Any,
    *,
    unit_rows: int = UNIT_ROWS,
    unit_bytes: int = UNIT_BYTES,
    text_column: str = "text",
    pair_column: str | None = None,
    keep: Iterable[str] = (),
    max_row_bytes: int = MAX_ROW_BYTES,
    ids: bool = False,
    format: str | None = None,
) -> Plan:
    """Cut the input into units.

    Every file is looked at: JSONL, CSV and text are read through once for their line ends (compressed
    files are decompressed for it), Parquet shows its rows in its footer.

    Args:
        paths: A path, folder, glob or fsspec URL, or a list of these.
        unit_rows: Most rows of a unit.
        unit_bytes: Most bytes of text of a unit (of lines in JSONL, CSV and text; in Parquet by the
            mean of each row group). A single larger row is a unit of its own.
        text_column: See :func:`penstock.sources.files`, as for the arguments behind it.

    Raises:
        MissingColumnError: A file does not have a wanted column.
        SourceError: A file cannot be read at all.
        ConfigError: The arguments cannot be right.
    """
    unit_rows, unit_bytes = whole("unit_rows", unit_rows), whole("unit_bytes", unit_bytes)
    columns = Columns(text_column, pair_column, keep, max_row_bytes, ids)  # type: ignore[arg-type]
    files = expand(paths, format)
    kept: dict[str, pa.DataType] | None = None
    for file in files:
        found = FORMATS[file.format].head(file, columns, kept is None)
        kept = found if kept is None else kept
    schema = columns.schema(kept or {})
    cutter = _Cutter(unit_rows, unit_bytes)
    for file in files:
        cutter.begin(file)
        for extent in FORMATS[file.format].scan(file, columns):
            cutter.add(extent)
    return Plan(tuple(files), tuple(cutter.units()), columns, schema)


class _Cutter:
    """Fills unit after unit with rows as they are found."""

    def __init__(self, unit_rows: int, unit_bytes: int) -> None:
        self._unit_rows = unit_rows
        self._unit_bytes = unit_bytes
        self._units: list[list[Segment]] = [[]]
        self._rows = 0
        self._bytes = 0
        self._file = InputFile("", "")
        self._position = 0
        self._number = 0
        self._segment: Segment | None = None

    def begin(self, file: InputFile) -> None:
        """The rows that follow are of this file, from its front."""
        self._file = file
        self._position = self._number = 0
        self._segment = None

    def add(self, extent: Extent) -> None:
        """The next rows of the file."""
        ends = np.cumsum(extent.sizes)
        start = 0
        while start < len(ends):
            before = int(ends[start - 1]) if start else 0
            stop = int(np.searchsorted(ends, before + self._unit_bytes - self._bytes, side="right"))
            stop = min(stop, start + self._unit_rows - self._rows)
            if stop <= start and self._rows:
                self._units.append([])
                self._rows = self._bytes = 0
                self._segment = None
                continue
            stop = max(stop, start + 1)
            self._extend(int(extent.stops[stop - 1]), int(extent.numbers[stop - 1]), stop - start)
            self._bytes += int(ends[stop - 1]) - before
            start = stop

    def _extend(self, position: int, number: int, rows: int) -> None:
        file, old = self._file, self._segment
        unit = self._units[-1]
        if old is None:
            new = Segment(file.path, file.format, self._position, position, self._number, rows)
            unit.append(new)
        else:
            new = Segment(old.path, old.format, old.start, position, old.first_row, old.num_rows + rows)
            unit[-1] = new
        self._segment = new
        self._position, self._number = position, number
        self._rows += rows

    def units(self) -> Iterator[Unit]:
        """The units, once every file was added."""
        index = 0
        for number, segments in enumerate(filter(None, self._units)):
            num_rows = sum(segment.num_rows for segment in segments)
            yield Unit(number, tuple(segments), index, num_rows)
            index += num_rows
