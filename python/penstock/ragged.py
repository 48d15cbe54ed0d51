"""Rows of different lengths, end to end in one array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from penstock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Token ids of many rows in one flat array; row ``i`` is ``ids[offsets[i]:offsets[i + 1]]``.

    Usually one row stands for one input row. Where long inputs were cut into windows, a row is a window,
    and ``row_of`` says whose.

    Args:
        ids: ``int32[n]``, the tokens of all rows.
        offsets: ``int64[rows + 1]``, where each row begins; the last entry is ``n``.
        type_ids: ``uint8[n]``, the ``token_type_ids``; None for tokenizers whose models take none.
        row_of: ``int64[rows]``, the input row a window belongs to, ascending, every input row at least
            once; None: one row each, in order.
        first_scored: ``int32[rows]``: tokens before this position of the row are context only, because
            they are special tokens or were scored in the window before; None: nothing was said about
            scoring.
        num_bytes: ``int64[rows]``: UTF-8 bytes of text that the scored tokens stand for; of the windows
            of one input row the first carries all, the others 0. None where ``first_scored`` is.

    Raises:
        ConfigError: The arrays do not fit each other.

    Example:
        >>> rows = Ragged(np.array([5, 6, 7], np.int32), np.array([0, 2, 2, 3], np.int64))
        >>> len(rows), rows.lengths.tolist(), rows.row(0).tolist()
        (3, [2, 0, 1], [5, 6])
    """

    ids: Int32Array
    offsets: Int64Array
    type_ids: UInt8Array | None = None
    row_of: Int64Array | None = None
    first_scored: Int32Array | None = None
    num_bytes: Int64Array | None = None

    def __post_init__(self) -> None:
        _check(self.ids, "ids", np.int32, None)
        _check(self.offsets, "offsets", np.int64, None)
        offsets, size = self.offsets, len(self.ids)
        is_flat = len(offsets) > 0 and int(offsets[0]) == 0 and int(offsets[-1]) == size
        if not is_flat or (len(offsets) > 2 and (offsets[1:] < offsets[:-1]).any()):
            raise ConfigError(
                f"offsets: must begin with 0, never fall, and end with the number of ids ({len(self.ids):,})"
            )
        _check(self.type_ids, "type_ids", np.uint8, len(self.ids))
        _check(self.row_of, "row_of", np.int64, len(self))
        _check(self.first_scored, "first_scored", np.int32, len(self))
        _check(self.num_bytes, "num_bytes", np.int64, len(self))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64Array:
        """``int64[rows]``: the number of tokens of each row."""
        lengths: Int64Array = (
            self.offsets[1:] - self.offsets[:-1]
        )  # np.diff() takes twice as long for few rows
        return lengths

    @property
    def num_inputs(self) -> int:
        """The number of input rows: smaller than ``len()`` where some were cut into windows."""
        if self.row_of is None:
            return len(self)
        return int(self.row_of[-1]) + 1 if len(self.row_of) else 0

    def row(self, index: int) -> Int32Array:
        """The ids of one row, as a view.

        Raises:
            IndexError: There is no such row.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @staticmethod
    def concatenate(parts: Sequence[Ragged]) -> Ragged:
        """Put the rows of several objects one after another; ``row_of`` counts on.

        Args:
            parts: Objects that agree on which optional arrays they have (``row_of`` may differ).

        Raises:
            ConfigError: Some have an optional array and others do not.

        Example:
            >>> one = Ragged(np.array([5, 6], np.int32), np.array([0, 2], np.int64))
            >>> Ragged.concatenate([one, one]).offsets.tolist()
            [0, 2, 4]
        """
        if len(parts) == 1:
            return parts[0]
        lengths = np.concatenate([np.zeros(1, np.int64), *(part.lengths for part in parts)])
        return Ragged(
            _joined([part.ids for part in parts], np.int32),
            np.cumsum(lengths, dtype=np.int64),
            _joined_or_none(parts, "type_ids"),
            _joined_row_of(parts),
            _joined_or_none(parts, "first_scored"),
            _joined_or_none(parts, "num_bytes"),
        )


def _check(array: Any, name: str, dtype: type[np.generic], size: int | None) -> None:
    if array is None:
        return
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
        is_array = isinstance(array, np.ndarray)
        found = f"{array.dtype}, shape {array.shape}" if is_array else type(array).__name__
        raise ConfigError(f"{name}: must be a one-dimensional {dtype.__name__} array, not {found}")
    if size is not None and len(array) != size:
        raise ConfigError(f"{name}: has {len(array):,} entries where {size:,} are needed")


def _joined(arrays: Sequence[npt.NDArray[Any]], dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype)


def _joined_or_none(parts: Sequence[Ragged], name: str) -> Any:
    arrays = [getattr(part, name) for part in parts]
    missing = sum(array is None for array in arrays)
    if missing == len(arrays):
        return None
    if missing:
        raise ConfigError(f"{name}: {missing} of {len(arrays)} parts lack it; encode all parts the same way")
    return np.concatenate(arrays)


def _joined_row_of(parts: Sequence[Ragged]) -> Int64Array | None:
    if all(part.row_of is None for part in parts):
        return None
    shifted, first = [], 0
    for part in parts:
        shifted.append(first + (np.arange(len(part)) if part.row_of is None else part.row_of))
        first += part.num_inputs
    return np.concatenate(shifted)
