"""One worker's job on the way out: a planned batch into a slot, padded, and off to the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from penstock import _core
from penstock.batch import Batch
from penstock.errors import ConfigError
from penstock.planner import padded_length
from penstock.staging import ALIGNMENT, Place, Slot, Staging
from penstock.tokenizer import Ragged

if TYPE_CHECKING:
    import pyarrow as pa

    from penstock.stats import Clock
    from penstock.windows import FailedRow, PlannedBatch

Array = np.ndarray[Any, np.dtype[Any]]
Collate = Callable[[Ragged, dict[str, Any]], Mapping[str, Any]]

INT64 = np.dtype(np.int64)
KNOWN_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


Layout = dict[str, Place]


@dataclass(frozen=True, eq=False)
class Staged:
    """A batch with tensors over its slot, waiting in the ring."""

    slot: Slot
    batch: Batch
    num_tokens: int
    num_padded_tokens: int


class Collator:
    """Writes planned batches into slots, as many threads at once as call it.

    Args:
        staging: Where slots come from.
        clock: Counts the time.
        input_names: The model's inputs, of ``KNOWN_INPUTS``.
        pad_id, pad_type_id, pad_left: How rows are filled up.
        max_length: No row is padded past it: a model may have no more positions.
        collate: The caller's own function instead of ours.
    """

    def __init__(
        self,
        staging: Staging,
        clock: Clock,
        *,
        input_names: tuple[str, ...],
        pad_id: int,
        pad_type_id: int,
        pad_left: bool,
        max_length: int | None,
        collate: Collate | None,
    ) -> None:
        self._staging, self._clock = staging, clock
        self._input_names = input_names
        self._pad_id, self._pad_type_id, self._pad_left = pad_id, pad_type_id, pad_left
        self._max_length = max_length
        self._collate = collate

    def stage(self, planned: PlannedBatch, ticket: int) -> Staged | Batch:
        """Fill a slot and start its copy. A batch with nothing but errors needs no slot."""
        if not planned.num_windows:
            return self.empty_batch(planned.failed, ticket, planned.unit)
        with self._clock.stage("collate", ticket):
            tokens, batch = _gather(planned)
            batch.ticket = ticket
            if self._collate is None:
                slot, layout = self._fill(tokens)
            else:
                slot, layout = self._fill_with(self._collate, tokens.ragged(), batch.columns)
        with self._clock.stage("copy", ticket):
            self._staging.ship(slot)
            # Made here, and not when the loop asks: it is the loop's time that counts.
            batch.inputs.update(self._staging.lend(slot, layout))
        shape = next((place.shape for place in layout.values()), (0,))
        return Staged(slot, batch, int(batch.num_tokens.sum()), math.prod(shape))

    @property
    def runs_caller_code(self) -> bool:
        """Whether ``stage`` calls the caller's own collate."""
        return self._collate is not None

    def empty_batch(self, failed: list[FailedRow], ticket: int, unit: int) -> Batch:
        """A batch with no rows, only errors."""
        empty = np.empty(0, np.int64)
        batch = Batch({}, empty, empty.astype(np.int32), ticket=ticket, unit=unit)
        _carry(batch, failed)
        return batch

    def _fill(self, tokens: _Tokens) -> tuple[Slot, Layout]:
        longest = int(tokens.lengths.max())
        width = padded_length(longest)
        if self._max_length is not None:
            width = max(longest, min(width, self._max_length))
        shape = (len(tokens.starts), max(1, width))
        layout, num_bytes = _lay_out(tuple((name, shape, INT64) for name in self._input_names))
        slot = self._staging.take_slot(num_bytes)
        try:
            arrays = {
                name: slot.array(place.offset, place.shape, place.dtype) for name, place in layout.items()
            }
            _core.collate(
                tokens.ids,
                tokens.starts,
                tokens.stops,
                input_ids=arrays["input_ids"],
                attention_mask=arrays.get("attention_mask"),
                token_type_ids=arrays.get("token_type_ids"),
                position_ids=arrays.get("position_ids"),
                type_ids=tokens.type_ids,
                pad_id=self._pad_id,
                pad_type_id=self._pad_type_id,
                pad_left=self._pad_left,
            )
        except BaseException:
            self._staging.put_back(slot)
            raise
        return slot, layout

    def _fill_with(self, collate: Collate, ragged: Ragged, columns: dict[str, Any]) -> tuple[Slot, Layout]:
        made = collate(ragged, columns)
        if not isinstance(made, Mapping):
            raise ConfigError(f"collate must return a dict of arrays, not {type(made).__name__}.")
        arrays = {str(name): _as_torch_reads_it(value) for name, value in made.items()}
        layout, num_bytes = _lay_out(tuple((name, each.shape, each.dtype) for name, each in arrays.items()))
        slot = self._staging.take_slot(num_bytes)
        for name, value in arrays.items():
            slot.array(layout[name].offset, value.shape, value.dtype)[...] = value
        return slot, layout


def slot_bytes(num_inputs: int, max_batch_tokens: int) -> int:
    """Bytes of the largest batch within the budget: every input int64, each on its own cache line."""
    return max(1, num_inputs) * (max_batch_tokens * INT64.itemsize + ALIGNMENT)


def _as_torch_reads_it(value: Any) -> Array:
    """One run of memory, in this machine's order of bytes."""
    array = np.ascontiguousarray(value)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


@lru_cache(maxsize=1_024)
def _lay_out(arrays: tuple[tuple[str, tuple[int, ...], np.dtype[Any]], ...]) -> tuple[Layout, int]:
    """Where each array lies, and how many bytes they take together. Shared: not to be changed."""
    layout: Layout = {}
    offset = 0
    for name, shape, dtype in arrays:
        _check_dtype(name, dtype)
        layout[name] = Place(offset, shape, dtype)
        offset += -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
    return layout, max(ALIGNMENT, offset)


@cache
def _check_dtype(name: str, dtype: np.dtype[Any]) -> None:
    if not isinstance(getattr(torch, dtype.name, None), torch.dtype):
        raise ConfigError(f"collate gave {name!r} as {dtype}: torch has no such dtype; cast it.")


class _Tokens(NamedTuple):
    """The tokens of a batch: row ``i`` is ``ids[starts[i]:stops[i]]``, in any order, with gaps."""

    ids: Array
    starts: Array
    stops: Array
    type_ids: Array | None

    @property
    def lengths(self) -> Array:
        """int64[rows]."""
        lengths: Array = self.stops - self.starts
        return lengths

    def ragged(self) -> Ragged:
        """A copy in the order of the batch, for the caller's own collate."""
        lengths = self.lengths
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        at = np.repeat(self.starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(self.ids[at], offsets, type_ids=None if self.type_ids is None else self.type_ids[at])


def _gather(planned: PlannedBatch) -> tuple[_Tokens, Batch]:
    """The tokens of a batch, where they lie, and the batch without its tensors."""
    starts, stops, begin = [], [], 0
    for rows, positions in planned.parts:
        offsets = rows.offsets + begin if begin else rows.offsets
        starts.append(offsets[positions])
        stops.append(offsets[1:][positions])
        begin += len(rows.ids)

    def whole(name: str) -> Array | None:
        arrays = [getattr(rows, name) for rows, _ in planned.parts]
        return None if arrays[0] is None else _joined(arrays)

    def pick(name: str) -> Array | None:
        if getattr(planned.parts[0][0], name) is None:
            return None
        return _joined([getattr(rows, name)[positions] for rows, positions in planned.parts])

    ids = whole("ids")
    assert ids is not None
    tokens = _Tokens(ids, _joined(starts), _joined(stops), whole("type_ids"))
    batch = Batch(
        inputs={},
        input_index=_joined([rows.index[rows.row[positions]] for rows, positions in planned.parts]),
        num_tokens=tokens.lengths.astype(np.int32),
        columns=_kept(planned),
        unit=planned.unit,
        first_scored=pick("first_scored"),
        num_bytes=pick("num_bytes"),
        num_windows=pick("num_windows_of"),
    )
    _carry(batch, planned.failed)
    return tokens, batch


def _joined(arrays: list[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _carry(batch: Batch, failed: list[FailedRow]) -> None:
    """Put failed rows into the batch that carries them."""
    batch.errors = [(row.index, row.error) for row in failed]
    batch.error_columns = _columns([row.kept for row in failed if row.kept is not None])


def _kept(planned: PlannedBatch) -> dict[str, pa.Array]:
    return _columns([rows.kept.take(rows.row[at]) for rows, at in planned.parts if rows.kept is not None])


def _columns(tables: list[pa.Table]) -> dict[str, pa.Array]:
    if not tables:
        return {}
    import pyarrow as pa

    table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    return {name: _one_array(table.column(name)) for name in table.column_names}


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    array: pa.Array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return array
