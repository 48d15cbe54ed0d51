"""Odd arguments together: whatever the bounds, every good row arrives once and every failed one is told."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from penstock import Prefetcher

BAD = [key for key in range(120) if key % 11 == 5]


def load(key: int) -> list[int]:
    if key in BAD:
        raise ValueError(key)
    return [key % 50] * (key % 40)


@pytest.mark.parametrize("rows_ahead", [1, None])
@pytest.mark.parametrize("window_rows", [None, 7, 1_000])
@pytest.mark.parametrize("max_buffered_bytes", [1, 5_000, 1 << 30])
def test_no_bound_is_too_small_to_go_on(
    rows_ahead: int | None, window_rows: int | None, max_buffered_bytes: int
) -> None:
    others: Any = product([True, False], [1, None], ["skip", "null"], [None, 0.001])
    for ordered, max_batch_rows, on_error, max_wait in others:
        with Prefetcher(
            range(120),
            None,
            load=load,
            device="cpu",
            rows_ahead=rows_ahead,
            window_rows=window_rows,
            ordered=ordered,
            max_batch_rows=max_batch_rows,
            max_buffered_bytes=max_buffered_bytes,
            on_error=on_error,
            max_wait=max_wait,
            batches_ahead=1,
            num_workers=2,
        ) as batches:
            rows: list[int] = []
            listed: list[int] = []
            for batch in batches:
                rows += batch.input_index.tolist()
                listed += [index for index, _ in batch.errors]
            assert sorted(rows) == [key for key in range(120) if key not in BAD]
            assert sorted(listed) == (BAD if on_error == "null" else [])
            assert batches.stats().num_failed == len(BAD)
