"""From batches in ticket order back to rows in input order.

The model's answers come per batch, and where rows are cut into windows, per window. ``Answers`` holds them
until every row of a range is there, then has the task make that range's columns.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from penstock.tasks.rows import NO_ANSWER, reasons

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from penstock.batch import Batch
    from penstock.tasks import Task

Array = np.ndarray[Any, np.dtype[Any]]

COPIES_IN_FLIGHT = 2
"""Batches whose answers are on their way to the host while the next one is computed."""


@dataclass(eq=False)
class Answered:
    """A batch with its answers on the host. ``outputs`` is empty for a batch with no rows."""

    batch: Batch
    outputs: dict[str, Array]


@dataclass(eq=False)
class _Copying:
    """A batch whose answers are on their way to the host."""

    batch: Batch
    counts: dict[str, Array]
    hosts: dict[str, torch.Tensor]
    done: list[torch.cuda.Event]


class Drain:
    """Brings answers to the host without making the device wait.

    On CUDA each batch's answers are copied to pinned memory behind its own kernels, and read one or two
    batches later, when the copy has long been done.
    """

    def __init__(self) -> None:
        self._pending: deque[_Copying] = deque()

    def put(
        self, batch: Batch, outputs: dict[str, torch.Tensor], counts: dict[str, Array]
    ) -> Iterator[Answered]:
        """Start the copy of one batch's answers; gives batches whose answers are there, in order.

        Args:
            batch: Its tensors are let go: the slot is free for another batch.
            outputs: The answers, on the device.
            counts: What the host knows already; put beside the answers.
        """
        batch.inputs = {}
        self._pending.append(_Copying(batch, counts, *_to_host(outputs)))
        while len(self._pending) > COPIES_IN_FLIGHT or (self._pending and not self._pending[0].done):
            yield self._next()

    def rest(self) -> Iterator[Answered]:
        """The batches that are still under way. Blocks until each is there."""
        while self._pending:
            yield self._next()

    def _next(self) -> Answered:
        copying = self._pending.popleft()
        for event in copying.done:
            event.synchronize()
        answers = {name: tensor.numpy() for name, tensor in copying.hosts.items()}
        return Answered(copying.batch, {**answers, **copying.counts})


def _to_host(outputs: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[torch.cuda.Event]]:
    """Host copies of the answers, and the events after which they may be read: one a device."""
    import torch

    hosts: dict[str, torch.Tensor] = {}
    devices: set[torch.device] = set()
    for name, tensor in outputs.items():
        if not tensor.is_cuda:
            hosts[name] = tensor
            continue
        # torch caches pinned blocks: after the first batches this allocates nothing.
        hosts[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        hosts[name].copy_(tensor, non_blocking=True)
        devices.add(tensor.device)
    events = []
    for device in devices:
        # The copy ran on the stream of the tensor's device, which need not be the current device.
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(device))
        events.append(event)
    return hosts, events


class Answers:
    """Rows of a range, until all of them are there.

    Args:
        task: Makes columns of answers.
        first_index: Input index of the first row.
    """

    def __init__(self, task: Task, first_index: int) -> None:
        self._task = task
        self.first_index = first_index
        self._index: list[Array] = []
        self._outputs: list[dict[str, Array]] = []
        self._kept: list[tuple[Array, dict[str, pa.Array]]] = []
        self._failures: dict[int, BaseException] = {}
        self._done: set[int] = set()
        self._windows_left: dict[int, int] = {}

    def add(self, answered: Answered) -> int:
        """Take in a batch's answers and the failures it carried; gives how many rows are now done."""
        batch, already = answered.batch, len(self._done)
        if len(batch):
            self._index.append(batch.input_index)
            self._outputs.append(answered.outputs)
            self._kept.append((batch.input_index, batch.columns))
        if batch.errors:
            failed = np.array([index for index, _ in batch.errors], np.int64)
            self._failures.update(batch.errors)
            self._kept.append((failed, batch.error_columns))
            self._done.update(failed.tolist())
        self._mark_done(batch)
        return len(self._done) - already

    @property
    def num_ready(self) -> int:
        """Rows from ``first_index`` on that are there without a gap."""
        stop = self.first_index
        while stop in self._done:
            stop += 1
        return stop - self.first_index

    def take(self, num_rows: int) -> pa.Table:
        """The first ``num_rows`` rows as a table, kept columns first; forgets them."""
        first, stop = self.first_index, self.first_index + num_rows
        index = np.concatenate(self._index) if self._index else np.empty(0, np.int64)
        names = self._outputs[0] if self._outputs else {}
        outputs = {name: np.concatenate([each[name] for each in self._outputs]) for name in names}
        mine = index < stop
        here = {name: values[mine] for name, values in outputs.items()}
        failures = {at - first: error for at, error in self._failures.items() if at < stop}
        columns = self._kept_columns(first, stop)
        if mine.any():
            values = self._task.combine(index[mine] - first, here, num_rows)
            columns.update(self._task.columns(values, failures))
        else:
            columns.update(self._nothing(failures, num_rows))
        self._index, self._outputs = [index[~mine]], [{name: each[~mine] for name, each in outputs.items()}]
        if not outputs or not len(self._index[0]):
            self._index, self._outputs = [], []
        self._failures = {at: error for at, error in self._failures.items() if at >= stop}
        self._done = {at for at in self._done if at >= stop}
        self.first_index = stop
        return pa.table(columns)

    def _mark_done(self, batch: Batch) -> None:
        if batch.num_windows is None:
            self._done.update(batch.input_index.tolist())
            return
        for at, count in zip(batch.input_index.tolist(), batch.num_windows.tolist(), strict=True):
            left = self._windows_left.pop(at, count) - 1
            if left:
                self._windows_left[at] = left
            else:
                self._done.add(at)

    def _kept_columns(self, first: int, stop: int) -> dict[str, pa.Array]:
        """Each row's kept fields, in input order. Windows of a row repeat them: the first is taken."""
        if not self._kept or not self._kept[0][1]:
            self._kept = [part for part in self._kept if len(part[0]) and part[0].max() >= stop]
            return {}
        index = np.concatenate([part for part, _ in self._kept])
        table = pa.concat_tables(
            [pa.table(columns) for _, columns in self._kept], promote_options="permissive"
        )
        rows, at = np.unique(index, return_index=True)
        mine = (rows >= first) & (rows < stop)
        here = table.take(at[mine]).combine_chunks()
        later = at[rows >= stop]
        rest = table.take(later).combine_chunks()
        self._kept = (
            [(index[later], {name: _array(rest, name) for name in rest.column_names})] if len(later) else []
        )
        return {name: _array(here, name) for name in here.column_names}

    def _nothing(self, failures: dict[int, BaseException], num_rows: int) -> dict[str, pa.Array]:
        """Columns for rows that all failed: the model was never asked, so the task has nothing to go by."""
        columns: dict[str, pa.Array] = {
            name: pa.nulls(num_rows, kind) for name, kind in self._task.schema().items()
        }
        columns["error"], _ = reasons(failures, num_rows, [(np.ones(num_rows, bool), NO_ANSWER)])
        return columns


def _array(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    array: pa.Array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    return array
