"""Windows and packing: pure planning, against an obvious twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.windows import MAX_PENDING_ERRORS, Failure, PlannedBatch, Rows, WindowPlanner, join


def rows_of(
    lengths: list[int], first: int = 0, *, failures: tuple[int, ...] = (), unit: int = 0, row_bytes: int = 0
) -> Rows:
    good = [length for at, length in enumerate(lengths) if at not in failures]
    return Rows(
        ids=np.concatenate([np.full(n, at) for at, n in enumerate(good)] + [[]]).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(good)]).astype(np.int64),
        row=np.array([at for at in range(len(lengths)) if at not in failures], np.int64),
        index=np.arange(first, first + len(lengths)),
        failures={at: ValueError(first + at) for at in failures},
        kept=pa.table({"at": list(range(first, first + len(lengths)))}),
        unit=unit,
        text_bytes=np.full(len(lengths), row_bytes),
    )


def planner(**changes: Any) -> WindowPlanner:
    arguments: dict[str, Any] = {
        "window_rows": 10,
        "ramp": False,
        "max_batch_tokens": 64,
        "max_batch_rows": None,
        "max_window_bytes": 1 << 30,
        "on_error": "null",
    }
    return WindowPlanner(**(arguments | changes))


def indices(batch: PlannedBatch | Failure) -> list[int]:
    assert isinstance(batch, PlannedBatch)
    return [int(i) for rows, at in batch.parts for i in rows.index[rows.row[at]]]


def failed(batch: PlannedBatch | Failure) -> list[int]:
    assert isinstance(batch, PlannedBatch)
    return [row.index for row in batch.failed]


@given(
    lengths=st.lists(st.integers(0, 70), max_size=80),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=80),
    window_rows=st.sampled_from([1, 3, 10, 1000]),
    failing=st.sets(st.integers(0, 79)),
)
def test_batches_depend_on_the_input_alone_and_hold_every_row_once(
    lengths: list[int], cuts: list[int], window_rows: int, failing: set[int]
) -> None:
    def plan(sizes: list[int]) -> tuple[list[list[int]], list[int]]:
        batches, errors, start = [], [], 0
        windows = planner(window_rows=window_rows)
        for size in sizes:
            part = lengths[start : start + size]
            bad = tuple(at - start for at in failing if start <= at < start + len(part))
            for batch in windows.add(rows_of(part, start, failures=bad)):
                batches.append(indices(batch))
                errors += failed(batch)
            start += size
        for batch in windows.flush():
            batches.append(indices(batch))
            errors += failed(batch)
        assert windows.is_empty
        return [batch for batch in batches if batch], errors

    covered = [*cuts, max(0, len(lengths) - sum(cuts))]
    batches, errors = plan(covered)
    assert (batches, errors) == plan([len(lengths)])
    bad = sorted(at for at in failing if at < len(lengths))
    assert sorted(errors) == bad
    assert sorted(i for batch in batches for i in batch) == [
        i for i in range(len(lengths)) if i not in failing
    ]
    for batch in batches:
        width = max(-(-lengths[i] // 8) * 8 for i in batch)
        assert len(batch) == 1 or width * len(batch) <= 64
        if window_rows > 1:
            assert len({i // window_rows for i in batch}) == 1
    if window_rows == 1:
        assert [i for batch in batches for i in batch] == [i for i in range(len(lengths)) if i not in failing]


def test_a_unit_ends_its_window_and_its_errors() -> None:
    windows = planner(window_rows=100)
    assert list(windows.add(rows_of([8, 8, 8], failures=(2,)))) == []
    (first,) = windows.add(rows_of([8, 8], 3, unit=1))
    assert isinstance(first, PlannedBatch)
    assert (indices(first), first.unit, failed(first)) == ([0, 1], 0, [2])
    (second,) = windows.flush()
    assert (indices(second), second.unit) == ([3, 4], 1)


def test_with_raise_the_rows_before_the_failure_come_first() -> None:
    windows = planner(window_rows=100, on_error="raise")
    given = list(windows.add(rows_of([8] * 6, failures=(4, 5))))
    assert [indices(batch) for batch in given[:-1]] == [[0, 1, 2, 3]]
    assert isinstance(given[-1], Failure)
    assert given[-1].error.args == (4,)


def test_a_window_is_cut_by_bytes_too() -> None:
    windows = planner(window_rows=100, max_window_bytes=1_000)
    assert list(windows.add(rows_of([8, 8], row_bytes=300))) == []
    (batch,) = windows.add(rows_of([8, 8, 8], 2, row_bytes=300))
    assert sorted(indices(batch)) == [0, 1, 2, 3]  # the row that brings it to 1,000 bytes is its last
    assert not windows.is_empty


def test_errors_do_not_pile_up_without_end() -> None:
    windows = planner(window_rows=1)
    sizes = [
        len(batch.failed)
        for start in range(0, 3 * MAX_PENDING_ERRORS, 100)
        for batch in windows.add(rows_of([1] * 100, start, failures=tuple(range(100))))
        if isinstance(batch, PlannedBatch)
    ]
    assert sizes
    assert max(sizes) < MAX_PENDING_ERRORS + 100


@pytest.mark.parametrize("border", range(6))
def test_split_then_join_is_the_same_rows(border: int) -> None:
    rows = rows_of([3, 0, 5, 2, 4], 10, failures=(1, 3))
    again = join(list(rows.split(border)))
    assert again.ids.tolist() == rows.ids.tolist()
    assert again.offsets.tolist() == rows.offsets.tolist()
    assert again.row.tolist() == rows.row.tolist()
    assert again.index.tolist() == rows.index.tolist()
    assert sorted(again.failures) == [1, 3]
    assert again.kept is not None
    assert again.kept["at"].to_pylist() == [10, 11, 12, 13, 14]
