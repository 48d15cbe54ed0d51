"""From answers per window to columns per row: who answered, who failed, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.tasks import Array, Failures

NO_ANSWER = "no answer came for this row"
NO_TOKEN = "the row has no token for the model to look at"
NOT_A_NUMBER = "the model's answer is not a number; try dtype='bfloat16' or dtype='float32'"


def place(input_index: Array, outputs: Mapping[str, Array], num_rows: int) -> dict[str, Array]:
    """Put one answer per row where the row is. ``is_answered`` says which rows have one.

    Example:
        >>> place(np.array([2, 0]), {"score": np.array([5.0, 7.0])}, 3)["score"].tolist()
        [7.0, 0.0, 5.0]
    """
    values: dict[str, Array] = {"is_answered": np.zeros(num_rows, bool)}
    values["is_answered"][input_index] = True
    for name, array in outputs.items():
        values[name] = np.zeros((num_rows, *array.shape[1:]), array.dtype)
        values[name][input_index] = array
    return values


def add_up(input_index: Array, output: Array, num_rows: int) -> Array:
    """float64[rows]: the sum over the windows of each row, in the order of delivery.

    Example:
        >>> add_up(np.array([1, 0, 1]), np.array([1.0, 2.0, 4.0]), 3).tolist()
        [2.0, 5.0, 0.0]
    """
    total: Array = np.bincount(input_index, weights=output, minlength=num_rows)
    return total


def reasons(failures: Failures, num_rows: int, checks: Sequence[tuple[Array, str]]) -> tuple[pa.Array, Array]:
    """Why each row has no score: its own failure, else the first check that is true for it, else null.

    Returns:
        The ``error`` column, and bool[rows]: which rows have no score.
    """
    found: list[str | None] = [None] * num_rows
    for is_wrong, reason in reversed(checks):
        for row in np.flatnonzero(is_wrong).tolist():
            found[row] = reason
    for row, failure in failures.items():
        found[row] = failure if isinstance(failure, str) else f"{type(failure).__name__}: {failure}"
    errors = pa.array(found, pa.string())
    return errors, errors.is_valid().to_numpy(zero_copy_only=False)


def column(values: Array, is_null: Array, kind: pa.DataType) -> pa.Array:
    """An Arrow column; lists from an array of two dimensions.

    Not lists of a fixed size: with a null among them, no release of pyarrow before 26 reads or writes them in
    Parquet.
    """
    if not pa.types.is_list(kind):
        return pa.array(values, kind, mask=is_null)
    ends = np.cumsum(np.where(is_null, 0, values.shape[1]))
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    flat = pa.array(np.ascontiguousarray(values[~is_null]).reshape(-1), kind.value_type)
    return pa.ListArray.from_arrays(offsets, flat, type=kind, mask=pa.array(is_null))
