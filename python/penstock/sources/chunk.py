"""What every source yields: chunks of rows as Arrow record batches, and what is wrong with them.

A :class:`Chunk` keeps every row in its place. A row that cannot be used has null text and an entry in
``failures``, so that the rows around it keep their positions. ``seal`` is where chunks are made:
whatever reads rows ends there, so that null text, invalid UTF-8 and rows over ``max_row_bytes`` are
found in one place, whatever the format.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from penstock.arguments import column_name, column_names, optional, whole
from penstock.errors import ConfigError, MissingColumnError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

MAX_ROW_BYTES = 64 << 20
LARGEST_MAX_ROW_BYTES = 1 << 30  # a chunk's text is addressed with 32-bit offsets

Rows = npt.NDArray[np.int64]


@dataclass(slots=True)
class Chunk:
    """Some rows that follow one another in one place.

    Row ``i`` of ``batch`` is input ``first_index + i``, and row ``first_row + i`` of ``place``.

    Attributes:
        batch: The text column under its own name, then the pair column, then the kept columns.
            A row that cannot be used has null text.
        first_index: Input index of the first row, counted over the whole input.
        place: The file the rows come from, or ``"rows"``.
        first_row: 0-based number of the first row within ``place``. In JSONL and text it is the
            line, in CSV the row as a spreadsheet shows it (the header is row 0).
        failures: Offset in ``batch`` -> why that row cannot be used.
        unit: The unit of a durable run that the rows belong to; 0 otherwise.
    """

    batch: pa.RecordBatch
    first_index: int
    place: str
    first_row: int
    failures: dict[int, Exception] = field(default_factory=dict)
    unit: int = 0

    def __len__(self) -> int:
        """Number of rows, failed ones included."""
        return int(self.batch.num_rows)


@runtime_checkable
class Source(Protocol):
    """Anything that yields chunks of rows."""

    @property
    def text_column(self) -> str:
        """Name of the text column."""
        ...

    @property
    def pair_column(self) -> str | None:
        """Name of the column of second texts, or None."""
        ...

    @property
    def keep(self) -> tuple[str, ...]:
        """Names of further columns carried along."""
        ...

    def chunks(self) -> Iterator[Chunk]:
        """A fresh pass over the rows.

        Raises:
            SourceExhaustedError: The rows came from an iterator that was already used up.
        """
        ...


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of the input are wanted, and how large a row may be.

    Attributes:
        text: Name of the text column.
        pair: Name of the second text of each row, or None.
        keep: Names of further columns to carry along; any iterable of them may be given.
        max_row_bytes: A row with more bytes of text than this is a failed row.
        ids: The text column holds token ids (``list<int32>``) instead of text.
    """

    text: str = "text"
    pair: str | None = None
    keep: tuple[str, ...] = ()
    max_row_bytes: int = MAX_ROW_BYTES
    ids: bool = False

    def __post_init__(self) -> None:
        column_name("text_column", self.text)
        optional(column_name, "pair_column", self.pair)
        object.__setattr__(self, "keep", column_names("keep", self.keep))
        most = whole("max_row_bytes", self.max_row_bytes, most=LARGEST_MAX_ROW_BYTES)
        object.__setattr__(self, "max_row_bytes", most)
        if self.pair == self.text:
            raise ConfigError(f"text_column and pair_column are both {self.text!r}: name two columns")
        if self.ids and self.pair is not None:
            raise ConfigError("token ids have no pair_column: join the two halves into one row of ids")

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns that a row cannot do without: text, and pair if there is one."""
        return (self.text,) if self.pair is None else (self.text, self.pair)

    @property
    def kept(self) -> tuple[str, ...]:
        """The kept columns that are not a text column already, each once."""
        return tuple(name for name in dict.fromkeys(self.keep) if name not in self.texts)

    @property
    def names(self) -> tuple[str, ...]:
        """Every wanted column once, in the order of a batch."""
        return self.texts + self.kept

    @property
    def text_type(self) -> pa.DataType:
        """The Arrow type of the text columns."""
        return pa.list_(pa.int32()) if self.ids else pa.string()

    def schema(self, kept: Mapping[str, pa.DataType]) -> pa.Schema:
        """The schema of a batch, given the types of the kept columns (string where unknown)."""
        texts = [pa.field(name, self.text_type) for name in self.texts]
        return pa.schema([*texts, *(pa.field(name, kept.get(name, pa.string())) for name in self.kept)])

    def check(self, available: Iterable[str], place: str) -> None:
        """Check that every wanted column exists.

        Args:
            available: The columns there are.
            place: Where they are, for the message.

        Raises:
            MissingColumnError: One of them is not there; the message lists those that are.
        """
        present = list(available)
        listed = ", ".join(repr(name) for name in present) or "none"
        for name in self.names:
            if name in present:
                continue
            option = "--text-column" if name == self.text else "--keep"
            argument = "text_column" if name == self.text else "keep"
            if name == self.pair:
                option, argument = "--pair-column", "pair_column"
            raise MissingColumnError(
                f"{place}: there is no column {name!r}; the columns are: {listed}. "
                f"Name one of them with {option} ({argument}=)"
            )


def row_bytes(batch: pa.RecordBatch, columns: Columns) -> Rows:
    """Bytes of text (or of token ids) of each row: int64[rows]; null counts 0."""
    sizes = np.zeros(batch.num_rows, np.int64)
    for name in columns.texts:
        sizes += value_bytes(batch.column(name))
    return sizes


def value_bytes(array: pa.Array) -> Rows:
    """Bytes that each value of a string, binary, dictionary or integer list array stands for: int64[n]."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        each = value_bytes(array.dictionary)
        indices = array.indices.fill_null(0).to_numpy(zero_copy_only=False)
        sizes = each[indices] if len(each) else np.zeros(len(array), np.int64)
        return np.where(array.is_valid().to_numpy(zero_copy_only=False), sizes, 0)
    if pa.types.is_null(kind) or not len(array):
        return np.zeros(len(array), np.int64)
    if pa.types.is_string(kind) and not array.null_count:  # the good case, without a detour over Arrow
        offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
        return np.diff(offsets).astype(np.int64)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        lengths = pc.binary_length(array)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = pc.multiply(pc.list_value_length(array).cast(pa.int64()), 4)
    else:
        lengths = pc.binary_length(array.cast(pa.large_string()))
    return np.asarray(lengths.fill_null(0).to_numpy(zero_copy_only=False), np.int64)


def without_rows(array: pa.Array, mask: npt.NDArray[np.bool_]) -> pa.Array:
    """A copy of the array that is null where ``mask`` is true, and holds nothing that is not in it."""
    indices = pa.array(np.arange(len(array)), mask=mask)
    try:
        return array.take(indices)
    except pa.ArrowNotImplementedError:  # string views cannot be taken from
        return array.cast(pa.large_string()).take(indices).cast(array.type)


def concat(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """One record batch from many, widening kept columns where their types grew.

    The kept columns of Python rows may begin as null or int64 and become string or float64 later; a
    column that an early batch lacks is null there.

    Example:
        >>> early = pa.record_batch({"text": ["a"], "n": pa.array([1])})
        >>> late = pa.record_batch({"text": ["b"], "n": pa.array([0.5])})
        >>> concat([early, late])["n"].to_pylist()
        [1.0, 0.5]
    """
    if len(batches) == 1:
        return batches[0]
    tables = [pa.Table.from_batches([batch]) for batch in batches]
    table = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries().combine_chunks()
    columns = [each.chunk(0) if each.num_chunks else pa.array([], each.type) for each in table.columns]
    return pa.record_batch(columns, schema=table.schema)
