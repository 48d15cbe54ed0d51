"""JSON Lines: one object per line, parsed a block at a time.

Arrow's parser is fast, and it is lenient and fragile in ways that would lose or invent rows: it takes
several objects on a line, does not look at UTF-8, tells nobody which line was bad, and a line that is
``null`` at the top crashes the process. So a block goes to Arrow only if every line begins with ``{``
and ends with ``}``, and its answer counts only if it has as many rows as the block has lines: then line
and row are one to one, because ``}`` and ``{`` with only white space between them can stand nowhere in
one JSON value. Any other block is read line by line with :mod:`json`, and a line that only Arrow can
read (``Inf``, bad UTF-8 in a field nobody wants) goes to Arrow alone. What becomes of a row therefore
depends on the row, not on the block it is in.

Before all that, a block of which only strings are wanted goes to ``_core.read_json_strings``, which takes
it only if every line is strictly one object with all of them: there the three agree, and it is the fastest.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.json

from penstock import _core
from penstock.errors import RowError, SourceError
from penstock.sources.kept import KeptColumn, holds_struct, settled
from penstock.sources.lines import Block, Extent, LineReader, read_blocks, scan_blocks, without_return
from penstock.sources.seal import in_order, is_utf8, null_rows, seal, utf8_reason
from penstock.sources.streams import BrokenStream, ByteStream
from penstock.sources.values import checked_ids, checked_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from penstock.sources.chunk import Chunk, Columns
    from penstock.sources.paths import InputFile, Span

_OPEN, _CLOSE = b"{}"


def head(file: InputFile, columns: Columns, typed: bool = True) -> dict[str, pa.DataType] | None:
    """Look at the first block: are the wanted columns there, and of which type are the kept ones?

    Args:
        file: The file.
        columns: What is wanted.
        typed: False if the types do not matter: then the first rows are mostly enough.

    Returns:
        The types of the kept columns, or None if the block has no usable row.

    Raises:
        MissingColumnError: No row of the block has a wanted column.
        SourceError: The file is a JSON array, or UTF-16.
    """
    values: dict[str, list[Any]] = {name: [] for name in columns.kept}
    seen: dict[str, None] = {}
    block = _first_block(file, columns)
    objects = 0
    for row in range(0 if block is None else len(block)):
        try:
            found = _object(block.data[block.starts[row] : block.ends[row]])  # type: ignore[union-attr]
        except ValueError:
            continue
        objects += 1
        seen.update(dict.fromkeys(found))
        for name, column in values.items():
            column.append(found.get(name))
        if not (typed and values) and all(name in seen for name in columns.names):
            break
    if block is not None and _opens_array(_line(block, 0), objects):
        raise SourceError(
            f"{file.path}: this is a JSON array, not JSON Lines (one object per line); "
            f"convert it: jq -c '.[]' {file.path}"
        )
    if not objects:
        return None
    columns.check(seen, file.path)
    return {name: _kind(column) for name, column in values.items()}


def scan(file: InputFile, columns: Columns) -> Iterator[Extent]:
    """Where the rows of a file are, for the planner; nothing is parsed."""
    return scan_blocks(file, _lines(file, columns).blocks)


def read(file: InputFile, columns: Columns, schema: pa.Schema, spans: Iterable[Span]) -> Iterator[Chunk]:
    """The lines of a file as rows; blank lines are not rows."""
    decoder = _Decoder(file.path, columns, schema)
    return read_blocks(file, columns, schema, spans, _lines(file, columns).blocks, decoder.decode)


def _lines(file: InputFile, columns: Columns) -> LineReader:
    return LineReader(file.path, columns, blank_rows=False)


def _first_block(file: InputFile, columns: Columns) -> Block | None:
    with ByteStream(file) as stream:
        try:
            blocks = _lines(file, columns).blocks(stream, 0, None)
            return next((block for block in blocks if len(block)), None)
        except BrokenStream:
            return None


def _opens_array(line: bytes, objects: int) -> bool:
    """True if the first line of a file shows that the file is one array, on one line or on many."""
    return line == b"[" or (line.startswith(b"[") and not objects)


def _kind(values: list[Any]) -> pa.DataType:
    """The type of the first rows of a kept column; where they conflict the first one counts."""
    column = KeptColumn()
    column.convert(values)
    return settled(column.type)


class _Decoder:
    """Makes chunks from blocks of lines of one file."""

    def __init__(self, place: str, columns: Columns, schema: pa.Schema) -> None:
        self._place = place
        self._columns = columns
        self._schema = schema
        # Arrow drops unknown fields inside a struct without a word: such columns go line by line
        self._by_line = any(holds_struct(schema.field(name).type) for name in columns.kept)
        self._are_strings = all(field.type == pa.string() for field in schema)

    def decode(self, block: Block) -> list[Chunk]:
        """The rows of one block."""
        if self._are_strings and not block.failures:
            batch = read_strings(block, self._schema)
            if batch is not None:
                return in_order(batch, self._place, block.numbers)
        batch = None
        if not self._by_line and not block.failures and _whole(block):
            batch = self._parse(block.data, len(block))
        if batch is None:
            return self._decode_lines(block)
        failures: dict[int, Exception] = {}
        for name in self._columns.texts:
            for row in null_rows(batch.column(name)):  # only its line tells null from missing
                _, reason = self._cells(_line(block, row))
                failures[row] = self._error(block, row, reason)
        return seal(batch, self._columns, self._place, block.numbers, failures)

    def _parse(self, data: bytes, rows: int) -> pa.RecordBatch | None:
        """Whole lines as Arrow parses them, or None if it cannot, or does not see one row per line."""
        try:
            table = pyarrow.json.read_json(
                pa.BufferReader(data),
                read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
                parse_options=pyarrow.json.ParseOptions(
                    explicit_schema=self._schema, unexpected_field_behavior="ignore"
                ),
            )
        except pa.ArrowException:
            return None
        if table.num_rows != rows:
            return None
        (batch,) = table.combine_chunks().to_batches()
        return batch if is_utf8(batch) else None

    def _decode_lines(self, block: Block) -> list[Chunk]:
        """The slow way: every line alone."""
        cells: dict[str, list[Any]] = {name: [None] * len(block) for name in self._columns.names}
        failures = dict(block.failures)
        for row in range(len(block)):
            if row in failures:
                continue
            values, reason = self._cells(_line(block, row))
            for name, value in values.items():
                cells[name][row] = value
            if reason:
                failures[row] = self._error(block, row, reason)
        arrays = [pa.array(cells[name], type=self._columns.text_type) for name in self._columns.texts]
        arrays += [self._kept(block, name, cells[name], failures) for name in self._columns.kept]
        batch = pa.record_batch(arrays, schema=self._schema)
        return seal(batch, self._columns, self._place, block.numbers, failures)

    def _cells(self, line: bytes) -> tuple[dict[str, Any], str]:
        """The wanted values of one line (a text only if it is one), and why the row fails, or ``""``."""
        try:
            found = _object(line)
        except ValueError as error:
            appealed = self._appeal(line)
            if appealed is None:
                return {}, str(error)
            found = appealed
        values: dict[str, Any] = {}
        reasons: list[str] = []
        for name in self._columns.names:
            value = found.get(name)
            repeated = isinstance(found, _Repeating) and name in found.repeated
            if repeated or _repeats_inside(value):
                reasons.append(f"column {name!r}: a key is there twice, with no rule which one counts")
                continue
            if name in self._columns.texts:
                checked = checked_ids(value) if self._columns.ids else checked_text(value)
                if isinstance(checked, str) and checked:
                    reasons.append(f"column {name!r} {checked if name in found else _MISSING}")
                    continue
            values[name] = value
        return values, "; ".join(reasons)

    def _appeal(self, line: bytes) -> dict[str, Any] | None:
        """A line that :mod:`json` refuses, as Arrow reads it alone; None if it refuses too."""
        if self._by_line or not (line.startswith(b"{") and line.endswith(b"}")):
            return None
        batch = self._parse(line, 1)
        if batch is None:
            return None
        return {name: batch.column(name)[0].as_py() for name in self._columns.names}

    def _kept(self, block: Block, name: str, values: list[Any], failures: dict[int, Exception]) -> pa.Array:
        """A kept column; rows that do not fit its type are added to ``failures``."""
        column = KeptColumn(self._schema.field(name).type, fixed=True)
        array, misfits = column.convert(values)
        appealed = {row: self._appeal(_line(block, row)) for row in misfits}
        if any(appealed.values()):  # such as a whole number over 2**53 where floats are kept
            values = [(appealed.get(row) or {name: value})[name] for row, value in enumerate(values)]
            array, misfits = column.convert(values)
        for row, reason in misfits.items():
            failures.setdefault(row, self._error(block, row, f"kept column {name!r}: {reason}"))
        return array

    def _error(self, block: Block, row: int, reason: str) -> RowError:
        return RowError(reason, place=self._place, row=int(block.numbers[row]) + 1)


def read_strings(block: Block, schema: pa.Schema) -> pa.RecordBatch | None:
    """Lines of which strings are wanted, if each is strictly one object with all of them; else None."""
    num_rows = len(block)
    texts = [pa.allocate_buffer(len(block.data) + _SLACK, resizable=True) for _ in schema]
    offsets: list[Any] = [np.empty(num_rows + 1, np.int32) for _ in schema]
    if not _core.read_json_strings(block.data, block.starts, block.ends, schema.names, texts, offsets):
        return None
    arrays = []
    for text, ends in zip(texts, offsets, strict=True):
        # Where much of the lines is not wanted, its memory must not live as long as the strings.
        text.resize(int(ends[-1]), shrink_to_fit=int(ends[-1]) < len(block.data) // 2)
        arrays.append(pa.StringArray.from_buffers(num_rows, pa.py_buffer(ends), text))
    return pa.record_batch(arrays, schema=schema)


_SLACK = 16  # bytes behind a block's strings that may be written


class _Repeating(dict[str, Any]):
    """A JSON object in which some keys are there more than once."""

    repeated: frozenset[str] = frozenset()


class _NumberTooLarge:
    """A number that no float64 holds; it fits no column."""

    def __init__(self, literal: str) -> None:
        self._literal = literal

    def __repr__(self) -> str:
        return self._literal


def _object(line: bytes) -> dict[str, Any]:
    """One line as a dict.

    Raises:
        ValueError: It is not a JSON object in UTF-8; the message says why.
    """
    reason = utf8_reason(line)
    if reason is not None:
        raise ValueError(reason)
    try:
        value = json.loads(
            line.decode(), object_pairs_hook=_pairs, parse_int=_whole_number, parse_float=_number
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"broken JSON at column {error.colno:,}: {error.msg}") from None
    except RecursionError:
        raise ValueError("broken JSON: nested too deeply") from None
    if isinstance(value, dict):
        return value
    raise ValueError(f"expected a JSON object, got {_JSON_NAMES.get(type(value), 'a number')}")


_JSON_NAMES = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
_MISSING = "is missing from this row"


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    counts = Counter(key for key, _ in pairs)
    repeating = _Repeating(found)
    repeating.repeated = frozenset(key for key, count in counts.items() if count > 1)
    return repeating


def _repeats_inside(value: Any) -> bool:
    if isinstance(value, dict):
        return isinstance(value, _Repeating) or any(map(_repeats_inside, value.values()))
    return isinstance(value, list) and any(map(_repeats_inside, value))


def _whole_number(literal: str) -> Any:
    if literal == "-0":
        return -0.0  # in a column of floats it has a sign; in one of whole numbers Arrow is asked
    return int(literal) if len(literal) < 309 else _NumberTooLarge(literal)


def _number(literal: str) -> Any:
    value = float(literal)
    return _NumberTooLarge(literal) if math.isinf(value) else value


def _line(block: Block, row: int) -> bytes:
    return block.data[block.starts[row] : block.ends[row]].strip(b" \t\r")


def _whole(block: Block) -> bool:
    """True if every record begins with ``{`` and ends with ``}``."""
    array = np.frombuffer(block.data, np.uint8)
    ends = without_return(block)
    return bool((array[block.starts] == _OPEN).all() and (array[ends - 1] == _CLOSE).all())
