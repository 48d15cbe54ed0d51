"""Arrow IPC: files, by row ranges, and streams, read through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from penstock.errors import SourceError
from penstock.sources.rowfiles import Piece, raise_unless_damage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from penstock.sources.chunk import Columns
    from penstock.sources.paths import InputFile


class ArrowFileRows:
    """An Arrow IPC file (Feather version 2).

    The rows of a damaged record batch fail; if not even their number can be read, the batch is one
    failed row.
    """

    def __init__(self, file: InputFile, columns: Columns, raw: Any) -> None:
        self._file = file
        self._reader, self.schema = _reader(pyarrow.ipc.open_file, raw, file, columns.names)
        counter, _ = _reader(pyarrow.ipc.open_file, raw, file, _cheapest(self.schema))
        counts = [self._count(counter, index) for index in range(self._reader.num_record_batches)]
        self._firsts = [0, *np.cumsum(counts).tolist()]

    def _count(self, counter: Any, index: int) -> int:
        try:
            return int(counter.get_batch(index).num_rows)
        except (pa.ArrowException, OSError) as error:
            raise_unless_damage(error, self._file)
            return 1

    def group_of(self, row: int) -> int:
        """The record batch of a row."""
        return int(np.searchsorted(self._firsts, row, side="right")) - 1

    def pieces(self, row: int) -> Iterator[Piece]:
        """The record batches from the one that ``row`` is in on."""
        for index in range(self.group_of(row), self._reader.num_record_batches):
            first, stop = self._firsts[index], self._firsts[index + 1]
            try:
                yield _sound(self._reader.get_batch(index), first)
            except (pa.ArrowException, OSError) as error:
                raise_unless_damage(error, self._file)
                yield Piece(first, stop - first, None, f"record batch {index} is damaged: {error}")


class ArrowStreamRows:
    """An Arrow IPC stream. Where it breaks, one failed row stands for everything behind."""

    def __init__(self, file: InputFile, columns: Columns, raw: Any) -> None:
        self._file = file
        self._reader, self.schema = _reader(pyarrow.ipc.open_stream, raw, file, columns.names)

    def group_of(self, _: int) -> int:
        """A stream is one group."""
        return 0

    def pieces(self, _: int) -> Iterator[Piece]:
        """Every record batch, in order; only once."""
        first = 0
        try:
            for batch in self._reader:
                yield _sound(batch, first)
                first += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise_unless_damage(error, self._file)
            yield Piece(first, 1, None, f"the Arrow stream is damaged or ends early: {error}")


def _reader(
    opener: Callable[..., Any], raw: Any, file: InputFile, names: Sequence[str]
) -> tuple[Any, pa.Schema]:
    """An IPC reader of some columns, and the schema of all."""
    try:
        raw.seek(0)
        schema = opener(raw).schema
        wanted = sorted(schema.get_field_index(name) for name in names if name in schema.names)
        raw.seek(0)
        options = pyarrow.ipc.IpcReadOptions(included_fields=wanted, use_threads=False)
        return opener(raw, options=options), schema
    except (pa.ArrowException, OSError) as error:
        raise_unless_damage(error, file)
        raise SourceError(f"{file.path}: not a whole Arrow IPC file or stream: {error}") from error


def _cheapest(schema: pa.Schema) -> list[str]:
    """The column whose values take the fewest bytes to read, to count rows by."""

    def width(kind: pa.DataType) -> int:
        try:
            return int(kind.bit_width)
        except ValueError:
            return 1 << 30

    return [min(schema, key=lambda each: width(each.type)).name] if len(schema) else []


def _sound(batch: pa.RecordBatch, first: int) -> Piece:
    """The batch, if its offsets lie inside its buffers; UTF-8 is looked at later, row by row."""
    for array in batch.columns:
        raw = array
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            raw = array.view(pa.binary() if pa.types.is_string(array.type) else pa.large_binary())
        try:
            raw.validate(full=True)
        except pa.ArrowInvalid as error:
            if "UTF8" not in str(error):
                raise
    return Piece(first, batch.num_rows, batch)
