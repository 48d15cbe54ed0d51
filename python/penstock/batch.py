"""What the loop is handed: the rows of one batch, on the device, with the way back to the input."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock.wording import counted

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch

    Int32Rows = np.ndarray[tuple[int], np.dtype[np.int32]]
    Int64Rows = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(eq=False)
class Batch:
    """One batch, ready for the model.

    The tensors in ``inputs`` own their memory as far as you can see: keep them, slice them, hand them to
    another thread. The memory is used again only after the last tensor, view or array over it is gone.

    Attributes:
        inputs: Model inputs by name, each int64[rows, width], on the device.
        input_index: int64[rows]: which input row each row is, counted from 0 over the whole input. With
            ``stride`` the windows of one input row share its index.
        num_tokens: int32[rows]: tokens of each row, padding not counted.
        columns: Kept fields, in batch order.
        errors: ``(input_index, error)`` of rows that failed, with ``on_error="null"``. A batch may hold no
            rows and only errors, when no other batch could carry them.
        ticket: Its place in the order of delivery.
        unit: The durable unit its rows belong to; 0 outside of ``score``.
        error_columns: Kept fields of the rows in ``errors``, in that order.
        num_windows: int32[rows], with ``stride``: how many windows its input row was cut into.
        first_scored: int32[rows], with ``stride`` or a BOS: tokens before this position are context only.
        num_bytes: int64[rows]: UTF-8 bytes of text that the row's scored tokens stand for.
    """

    inputs: dict[str, torch.Tensor]
    input_index: Int64Rows
    num_tokens: Int32Rows
    columns: dict[str, pa.Array] = field(default_factory=dict)
    errors: list[tuple[int, BaseException]] = field(default_factory=list)
    ticket: int = -1
    unit: int = 0
    error_columns: dict[str, pa.Array] = field(default_factory=dict)
    num_windows: Int32Rows | None = None
    first_scored: Int32Rows | None = None
    num_bytes: Int64Rows | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.input_index)

    def __repr__(self) -> str:
        """A line that names the shape instead of printing tensors."""
        shapes = ", ".join(f"{name}{list(tensor.shape)}" for name, tensor in self.inputs.items())
        failed = f", {counted(len(self.errors), 'error')}" if self.errors else ""
        return f"Batch(ticket={self.ticket}, rows={len(self)}, {shapes}{failed})"
