"""``CachedPrefetcher``: the same batches over and over, to learn the most that any loader could give."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle, islice
from time import perf_counter
from typing import TYPE_CHECKING

from penstock.arguments import whole
from penstock.errors import ConfigError
from penstock.stats import Stats

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.batch import Batch
    from penstock.prefetcher import Prefetcher


class CachedPrefetcher:
    """Replays the first batches of a ``Prefetcher`` from the device's memory.

    Nothing is read, tokenized or copied while it does, so the speed of a loop over it is the ceiling: what
    the model alone can do. The distance between that and the loop over the ``Prefetcher`` itself is all that
    a faster loader could still bring.

    Args:
        batches: Where the batches come from. Its pass is ended once there are enough.
        num_batches: How many batches to hand out in all, in turn.
        num_cached: How many different batches to keep on the device. The whole input, if it has fewer.

    Raises:
        ConfigError: The input has no batch to replay.

    Example:
        >>> import penstock
        >>> rows = [[5, 6, 7], [8, 9], [3]]
        >>> source = penstock.Prefetcher(rows, None, device="cpu", max_batch_rows=2)
        >>> ceiling = penstock.CachedPrefetcher(source, num_batches=5)
        >>> [len(batch) for batch in ceiling]
        [2, 1, 2, 1, 2]
        >>> ceiling.stats().num_rows
        8
    """

    def __init__(self, batches: Prefetcher, *, num_batches: int, num_cached: int = 16) -> None:
        self._batches = batches
        self._num_batches = whole("num_batches", num_batches)
        self._num_cached = whole("num_cached", num_cached)
        self._cached: list[Batch] = []
        self._elapsed_s = 0.0
        self._num_handed_out = self._num_rows = self._num_tokens = self._num_padded_tokens = 0

    def __iter__(self) -> Iterator[Batch]:
        """Fill the cache, the first time; then hand out. Blocks while it fills."""
        self._fill()
        self._num_handed_out = self._num_rows = self._num_tokens = self._num_padded_tokens = 0
        start = perf_counter()
        for batch in islice(cycle(self._cached), self._num_batches):
            self._num_handed_out += 1
            self._num_rows += len(batch)
            self._num_tokens += int(batch.num_tokens.sum())
            self._num_padded_tokens += max((tensor.numel() for tensor in batch.inputs.values()), default=0)
            # A loop may put labels in, or take inputs out: the next round must not find that.
            yield replace(batch, inputs=dict(batch.inputs), columns=dict(batch.columns))
            self._elapsed_s = perf_counter() - start

    def stats(self) -> Stats:
        """The counters of the current or last pass; filling the cache is not in them."""
        return Stats(
            elapsed_s=self._elapsed_s,
            num_batches=self._num_handed_out,
            num_rows=self._num_rows,
            num_tokens=self._num_tokens,
            num_padded_tokens=self._num_padded_tokens,
        )

    def _fill(self) -> None:
        if self._cached:
            return
        with self._batches as batches:
            self._cached = list(islice((batch for batch in batches if len(batch)), self._num_cached))
        if not self._cached:
            raise ConfigError("CachedPrefetcher: the input has no batch to replay.")
