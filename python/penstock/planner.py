"""Which rows go together in a batch, and how many rows make a planning window.

Pure functions of lengths: no threads, no tensors, no clock. The same lengths give the same batches.

The cost of a batch is what the model computes on: its rows times its padded length. A batch is closed
when one more row would take the cost over ``max_batch_tokens``, or when it holds ``max_batch_rows``.
A row that is over the budget on its own is a batch of its own.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from penstock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

PAD_MULTIPLE = 8  # what matrix units like; and few distinct shapes
FIRST_WINDOW_ROWS = 64

Int64Array = npt.NDArray[np.int64]


def padded_length(length: int) -> int:
    """The length a row counts as: rounded up to a multiple of 8, and never 0.

    Example:
        >>> padded_length(0), padded_length(8), padded_length(9)
        (8, 8, 16)
    """
    return max(PAD_MULTIPLE, -(-length // PAD_MULTIPLE) * PAD_MULTIPLE)


def plan_batches(
    lengths: Int64Array, *, max_batch_tokens: int, max_batch_rows: int | None = None, sort: bool = True
) -> list[Int64Array]:
    """Plan the batches of one window.

    Sorted, the longest rows come first: the batch that needs most memory is the first to be tried, not
    the last of an hour, and later ones fit into the memory it leaves. Rows of one length keep their order.

    Args:
        lengths: ``int64[rows]``, the tokens of each row.
        max_batch_tokens: Rows times padded length of a batch at most, unless it is a single row.
        max_batch_rows: Rows of a batch at most; None: no limit.
        sort: Put rows of similar length together; if not, rows are packed in input order.

    Returns:
        For each batch the positions of its rows in ``lengths``, ``int64``; every position once.

    Raises:
        ConfigError: A limit is below 1.

    Example:
        >>> plan = plan_batches(np.array([3, 20, 5, 17]), max_batch_tokens=48)
        >>> [positions.tolist() for positions in plan]
        [[1, 3], [2, 0]]
    """
    _check_limits(max_batch_tokens, max_batch_rows)
    if not sort:
        return _pack_in_order(lengths.tolist(), max_batch_tokens, max_batch_rows)
    order = np.argsort(-lengths, kind="stable")
    plan, start = [], 0
    while start < len(order):
        # The first row is the longest, so it alone says how many rows the batch holds.
        rows = max(1, max_batch_tokens // padded_length(int(lengths[order[start]])))
        if max_batch_rows is not None:
            rows = min(rows, max_batch_rows)
        plan.append(order[start : start + rows])
        start += rows
    return plan


def _pack_in_order(lengths: list[int], max_batch_tokens: int, max_batch_rows: int | None) -> list[Int64Array]:
    packer = Packer(max_batch_tokens, max_batch_rows)
    cuts = [0]
    for position, length in enumerate(lengths):
        if not packer.add(length):
            cuts.append(position)
            packer = Packer(max_batch_tokens, max_batch_rows)
            packer.add(length)
    if not lengths:
        return []
    positions = np.arange(len(lengths))
    return [positions[start:stop] for start, stop in pairwise([*cuts, len(lengths)])]


class Packer:
    """One open batch, filled in input order, across windows.

    Args:
        max_batch_tokens: Rows times padded length at most, unless it is a single row.
        max_batch_rows: Rows at most; None: no limit.

    Raises:
        ConfigError: A limit is below 1.

    Example:
        >>> packer = Packer(max_batch_tokens=16)
        >>> [packer.add(length) for length in (5, 7, 1)], packer.num_rows
        ([True, True, False], 2)
    """

    __slots__ = ("_max_rows", "_max_tokens", "_rows", "_width")

    def __init__(self, max_batch_tokens: int, max_batch_rows: int | None = None) -> None:
        _check_limits(max_batch_tokens, max_batch_rows)
        # A batch of n rows costs at least 8 n, so the budget limits the rows in any case.
        self._max_tokens = max_batch_tokens
        self._max_rows = max_batch_tokens if max_batch_rows is None else max_batch_rows
        self._rows = 0
        self._width = PAD_MULTIPLE

    @property
    def num_rows(self) -> int:
        """Rows in the batch."""
        return self._rows

    @property
    def is_full(self) -> bool:
        """Whether no row whatever fits any more: the batch need not wait for the next row."""
        return self._rows > 0 and not self._fits(self._width)

    def add(self, length: int) -> bool:
        """Put a row into the batch if it fits.

        Returns:
            False: the row is not in the batch; close the batch and add the row to a new one. An empty
            batch takes any row.
        """
        width = self._width
        if length > width:
            width = -(-length // PAD_MULTIPLE) * PAD_MULTIPLE
        if self._rows and not self._fits(width):
            return False
        self._rows += 1
        self._width = width
        return True

    def _fits(self, width: int) -> bool:
        return self._rows < self._max_rows and (self._rows + 1) * width <= self._max_tokens


def window_sizes(window_rows: int, *, ramp: bool) -> Iterator[int]:
    """How many rows each planning window holds, without end.

    Args:
        window_rows: Rows of a window.
        ramp: Begin with small windows (64 rows, then doubling), so that the first batch is there at once.

    Raises:
        ConfigError: ``window_rows`` is below 1.

    Example:
        >>> from itertools import islice
        >>> list(islice(window_sizes(200, ramp=True), 4))
        [64, 128, 200, 200]
    """
    if window_rows < 1:
        raise ConfigError(f"window_rows={window_rows}: a window holds at least 1 row")
    return _window_sizes(window_rows, FIRST_WINDOW_ROWS if ramp else window_rows)


def _window_sizes(window_rows: int, size: int) -> Iterator[int]:
    while size < window_rows:
        yield size
        size *= 2
    while True:
        yield window_rows


def _check_limits(max_batch_tokens: int, max_batch_rows: int | None) -> None:
    if max_batch_tokens < 1:
        raise ConfigError(f"max_batch_tokens={max_batch_tokens}: must be at least 1")
    if max_batch_rows is not None and max_batch_rows < 1:
        raise ConfigError(f"max_batch_rows={max_batch_rows}: must be at least 1, or None for no limit")
