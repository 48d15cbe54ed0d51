"""From tokenized rows to planned batches: windows, packing, and what becomes of failed rows.

No threads here: the feeder adds rows in order and takes out batches in ticket order.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.planner import Packer, plan_batches, window_sizes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

Array = np.ndarray[Any, np.dtype[Any]]

MAX_PENDING_ERRORS = 1_024
"""Failed rows wait for the next batch to carry them; from this many on they get one of their own."""


@dataclass(eq=False)
class Rows:
    """Tokenized rows, in input order. A long row may be several windows, each with its own tokens.

    Attributes:
        ids: int32[n]: tokens of all windows, one after the other.
        offsets: int64[windows + 1]: where each window begins in ``ids``.
        row: int64[windows]: which row (position in ``index``) a window belongs to; failed rows have none.
        index: int64[rows]: input index of each row.
        failures: Position in ``index`` → why that row failed.
        num_windows_of: int32[windows]: how many windows the row of this window has.
        kept: The kept columns, one line a row.
        text_bytes: int64[rows]: bytes of text each row was made from: what it counts for the byte bound.
    """

    ids: Array
    offsets: Array
    row: Array
    index: Array
    text_bytes: Array
    failures: dict[int, BaseException] = field(default_factory=dict)
    type_ids: Array | None = None
    first_scored: Array | None = None
    num_bytes: Array | None = None
    num_windows_of: Array | None = None
    kept: pa.Table | None = None
    unit: int = 0

    @property
    def num_windows(self) -> int:
        """Windows (rows, where none was cut) that the model is asked about."""
        return len(self.row)

    @property
    def lengths(self) -> Array:
        """int64[windows]: tokens of each window."""
        lengths: Array = np.diff(self.offsets)
        return lengths

    def windows(self, start: int, stop: int) -> Rows:
        """Only the windows [start, stop), with every row's index: a view, no copy of ids."""
        first, last = self.offsets[start], self.offsets[stop]

        def cut(values: Array | None) -> Array | None:
            return None if values is None else values[start:stop]

        return replace(
            self,
            ids=self.ids[first:last],
            offsets=self.offsets[start : stop + 1] - first,
            row=self.row[start:stop],
            type_ids=None if self.type_ids is None else self.type_ids[first:last],
            first_scored=cut(self.first_scored),
            num_bytes=cut(self.num_bytes),
            num_windows_of=cut(self.num_windows_of),
        )

    def split(self, num_rows: int) -> tuple[Rows, Rows]:
        """The first ``num_rows`` rows, and the rest."""
        border = int(np.searchsorted(self.row, num_rows))
        head = replace(
            self.windows(0, border),
            index=self.index[:num_rows],
            failures={at: error for at, error in self.failures.items() if at < num_rows},
            kept=None if self.kept is None else self.kept.slice(0, num_rows),
            text_bytes=self.text_bytes[:num_rows],
        )
        rest = self.windows(border, self.num_windows)
        tail = replace(
            rest,
            row=rest.row - num_rows,
            index=self.index[num_rows:],
            failures={at - num_rows: error for at, error in self.failures.items() if at >= num_rows},
            kept=None if self.kept is None else self.kept.slice(num_rows),
            text_bytes=self.text_bytes[num_rows:],
        )
        return head, tail


def join(parts: list[Rows]) -> Rows:
    """Rows of several parts as one, in order."""
    if len(parts) == 1:
        return parts[0]
    firsts = np.cumsum([0] + [len(part.index) for part in parts])
    begins = np.cumsum([0] + [len(part.ids) for part in parts])

    def glue(name: str) -> Array | None:
        values = [getattr(part, name) for part in parts if part.num_windows]
        return np.concatenate(values) if values and values[0] is not None else None

    kept = None
    if parts[0].kept is not None:
        import pyarrow as pa

        kept = pa.concat_tables([part.kept for part in parts], promote_options="permissive")
    return Rows(
        ids=np.concatenate([part.ids for part in parts]),
        offsets=np.concatenate(
            [part.offsets[:-1] + begin for part, begin in zip(parts, begins, strict=False)] + [begins[-1:]]
        ),
        row=np.concatenate([part.row + first for part, first in zip(parts, firsts, strict=False)]),
        index=np.concatenate([part.index for part in parts]),
        failures={
            at + int(first): error
            for part, first in zip(parts, firsts, strict=False)
            for at, error in part.failures.items()
        },
        type_ids=glue("type_ids"),
        first_scored=glue("first_scored"),
        num_bytes=glue("num_bytes"),
        num_windows_of=glue("num_windows_of"),
        kept=kept,
        unit=parts[0].unit,
        text_bytes=np.concatenate([part.text_bytes for part in parts]),
    )


@dataclass(frozen=True, eq=False)
class FailedRow:
    """A row that no batch will hold, and its kept columns (a table of one line)."""

    index: int
    error: BaseException
    kept: pa.Table | None = None


@dataclass(eq=False)
class PlannedBatch:
    """Windows that go together: positions into each part's windows, and the failures that ride along."""

    parts: list[tuple[Rows, Array]]
    unit: int = 0
    failed: list[FailedRow] = field(default_factory=list)

    @property
    def num_windows(self) -> int:
        """Rows of the batch that the model will see."""
        return sum(len(positions) for _, positions in self.parts)


def _rows_begun(rows: Rows, positions: Array) -> int:
    """How many of these windows are the first of their row."""
    if rows.num_windows_of is None:  # no row was cut: each has one window
        return len(positions)
    return int(np.count_nonzero((positions == 0) | (rows.row[positions] != rows.row[positions - 1])))


@dataclass(frozen=True, eq=False)
class Failure:
    """Takes the place of a batch: the consumer raises ``error`` when its turn comes."""

    error: BaseException


class WindowPlanner:
    """Collects rows into windows and plans each window's batches.

    Args:
        window_rows: Rows of a window; 1 packs rows in input order, across windows.
        ramp: The first windows are small and double.
        max_batch_tokens, max_batch_rows: A batch's budget.
        max_window_bytes: A window is also cut once its text reaches this size, which like the row count
            depends on the input alone.
        on_error: What becomes of failed rows: "raise", "skip" or "null".
    """

    def __init__(
        self,
        *,
        window_rows: int,
        ramp: bool,
        max_batch_tokens: int,
        max_batch_rows: int | None,
        max_window_bytes: int,
        on_error: str,
    ) -> None:
        self._window_rows, self._ramp = window_rows, ramp
        self._max_batch_tokens, self._max_batch_rows = max_batch_tokens, max_batch_rows
        self._max_window_bytes = max_window_bytes
        self._on_error = on_error
        self._sizes = window_sizes(window_rows, ramp=ramp)
        self._target = next(self._sizes)
        self._packer = Packer(max_batch_tokens, max_batch_rows)
        self._open: list[Rows] = []
        self._open_rows = self._open_bytes = 0
        self._packed: list[tuple[Rows, Array]] = []
        self._failed: list[FailedRow] = []
        self._unit = 0
        self.num_planned = 0
        """Rows that are in a batch so far, in one that is still being packed too."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits for more rows."""
        return not (self._open or self._packed or self._failed)

    def add(self, rows: Rows) -> Iterator[PlannedBatch | Failure]:
        """Take in rows; gives the batches that are now complete. A ``Failure`` is the last thing it gives."""
        if rows.unit != self._unit:
            yield from self.flush()
            self._unit = rows.unit
        failure = self._note_failures(rows)
        if failure is not None:
            position, error = failure
            yield from self._absorb(rows.split(position)[0])
            yield from self.flush()
            yield Failure(error)
            return
        yield from self._absorb(rows)
        if len(self._failed) >= MAX_PENDING_ERRORS:
            yield PlannedBatch([], self._unit, self._take_failed())

    def add_sound(self, rows: Rows) -> Iterator[PlannedBatch]:
        """``add`` for rows of which none failed, and of the same unit as those before."""
        return self._absorb(rows)

    def flush(self) -> Iterator[PlannedBatch]:
        """Cut here: the end of the input or of a unit, or waiting rows are due."""
        yield from self._plan_window()
        if self._packed:
            yield self._close_packed()
        if self._failed:
            yield PlannedBatch([], self._unit, self._take_failed())

    def _note_failures(self, rows: Rows) -> tuple[int, BaseException] | None:
        if rows.failures and self._on_error == "raise":
            return min(rows.failures.items(), key=lambda item: item[0])
        if self._on_error == "null":
            for at, error in sorted(rows.failures.items(), key=lambda item: item[0]):
                kept = None if rows.kept is None else rows.kept.slice(at, 1)
                self._failed.append(FailedRow(int(rows.index[at]), error, kept))
        return None

    def _absorb(self, rows: Rows) -> Iterator[PlannedBatch]:
        if self._window_rows == 1:
            yield from self._pack(rows)
            return
        while len(rows.index):
            room = self._room(rows.text_bytes)
            part, rest = (rows, None) if room > len(rows.index) else rows.split(room)
            self._open.append(part)
            self._open_rows += len(part.index)
            self._open_bytes += int(part.text_bytes.sum())
            if rest is None:
                return
            yield from self._plan_window()
            rows = rest

    def _room(self, text_bytes: Array) -> int:
        """Rows until the window is full: it is cut behind the row that brings it to one of its limits."""
        within = np.searchsorted(np.cumsum(text_bytes), self._max_window_bytes - self._open_bytes)
        return min(self._target - self._open_rows, int(within) + 1)

    def _plan_window(self) -> Iterator[PlannedBatch]:
        if not self._open:
            return
        window = join(self._open)
        self._open = []
        self._open_rows = self._open_bytes = 0
        self._target = next(self._sizes)
        for positions in plan_batches(
            window.lengths,
            max_batch_tokens=self._max_batch_tokens,
            max_batch_rows=self._max_batch_rows,
            sort=True,
        ):
            self.num_planned += _rows_begun(window, positions)
            yield PlannedBatch([(window, positions)], self._unit, self._take_failed())

    def _pack(self, rows: Rows) -> Iterator[PlannedBatch]:
        start = 0
        for at, length in enumerate(rows.lengths.tolist()):
            if not self._packer.add(length):
                self._hold(rows, start, at)
                yield self._close_packed()
                self._packer.add(length)
                start = at
            if self._packer.is_full:
                self._hold(rows, start, at + 1)
                yield self._close_packed()
                start = at + 1
        self._hold(rows, start, rows.num_windows)

    def _hold(self, rows: Rows, start: int, stop: int) -> None:
        if stop > start:
            positions = np.arange(start, stop)
            self._packed.append((rows, positions))
            self.num_planned += _rows_begun(rows, positions)

    def _close_packed(self) -> PlannedBatch:
        batch = PlannedBatch(self._packed, self._unit, self._take_failed())
        self._packed = []
        self._packer = Packer(self._max_batch_tokens, self._max_batch_rows)
        return batch

    def _take_failed(self) -> list[FailedRow]:
        failed, self._failed = self._failed, []
        return failed
