"""Memory stays flat however long the input is: nothing is kept per row that was delivered."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import penstock


def resident_bytes() -> int:
    gc.collect()
    return int(psutil.Process(os.getpid()).memory_info().rss)


def growth(tokenizer: Path, first: int, last: int) -> int:
    """How much the process grows between row ``first`` and row ``last`` of one long pass."""

    def rows() -> Iterator[str]:
        for number in range(last):
            yield f"short document number {number} about a river"

    begin, seen = 0, 0
    with penstock.Prefetcher(rows(), tokenizer, device="cpu") as batches:
        for batch in batches:
            seen += len(batch)
            if not begin and seen >= first:
                begin = resident_bytes()
    assert seen == last
    return resident_bytes() - begin


@pytest.mark.timeout(500)
@pytest.mark.parametrize(
    ("first", "last"), [(20_000, 50_000), pytest.param(20_000, 200_000, marks=pytest.mark.proof)]
)
def test_a_warmed_process_grows_by_at_most_10_mb(tiny_bpe: Path, first: int, last: int) -> None:
    growth(tiny_bpe, first, first)  # allocators and windows at their full size
    assert growth(tiny_bpe, first, last) <= 10 << 20


def test_kept_batches_are_seen_by_the_measure(tiny_bpe: Path) -> None:
    """The negative control: a loop that keeps what it is given does grow."""
    rows = [f"short document number {number} about a river " * 8 for number in range(8_000)]
    start = resident_bytes()
    with penstock.Prefetcher(rows, tiny_bpe, device="cpu") as batches:
        kept = list(batches)
    assert resident_bytes() - start > 10 << 20
    del kept
