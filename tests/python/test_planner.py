"""Which rows go together."""

from __future__ import annotations

import time
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.planner import Packer, padded_length, plan_batches, window_sizes

LENGTHS = st.lists(st.integers(0, 200) | st.sampled_from([0, 7, 8, 9, 1000]), max_size=120)
BUDGETS = st.integers(1, 600)
ROWS = st.none() | st.integers(1, 20)


def plan(lengths: list[int], budget: int, rows: int | None, *, sort: bool) -> list[list[int]]:
    batches = plan_batches(
        np.array(lengths, np.int64), max_batch_tokens=budget, max_batch_rows=rows, sort=sort
    )
    assert all(positions.dtype == np.int64 for positions in batches)
    return [positions.tolist() for positions in batches]


def cost(lengths: list[int], batch: list[int]) -> int:
    return len(batch) * max(padded_length(lengths[at]) for at in batch)


def slow_plan(lengths: list[int], budget: int, rows: int | None, *, sort: bool) -> list[list[int]]:
    """The rule, word for word: pack until the budget or the number of rows is reached."""
    order = list(range(len(lengths)))
    if sort:
        order.sort(key=lambda at: -lengths[at])
    batches: list[list[int]] = []
    for at in order:
        if batches:
            grown = [*batches[-1], at]
            if cost(lengths, grown) <= budget and (rows is None or len(grown) <= rows):
                batches[-1] = grown
                continue
        batches.append([at])
    return batches


@given(LENGTHS, BUDGETS, ROWS, st.booleans())
def test_planning_does_what_the_rule_says(
    lengths: list[int], budget: int, rows: int | None, sort: bool
) -> None:
    batches = plan(lengths, budget, rows, sort=sort)
    assert batches == slow_plan(lengths, budget, rows, sort=sort)
    assert sorted(at for batch in batches for at in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or cost(lengths, batch) <= budget
        assert rows is None or len(batch) <= rows


@given(LENGTHS, BUDGETS, ROWS)
def test_rows_stay_in_input_order_without_sorting(lengths: list[int], budget: int, rows: int | None) -> None:
    batches = plan(lengths, budget, rows, sort=False)
    assert [at for batch in batches for at in batch] == list(range(len(lengths)))


@given(LENGTHS, BUDGETS, ROWS)
def test_sorting_puts_the_longest_first_and_equals_in_input_order(
    lengths: list[int], budget: int, rows: int | None
) -> None:
    order = [at for batch in plan(lengths, budget, rows, sort=True) for at in batch]
    assert order == sorted(range(len(lengths)), key=lambda at: (-lengths[at], at))


@given(LENGTHS, BUDGETS, ROWS)
def test_the_same_lengths_give_the_same_batches(lengths: list[int], budget: int, rows: int | None) -> None:
    assert plan(lengths, budget, rows, sort=True) == plan(list(lengths), budget, rows, sort=True)


@given(LENGTHS, BUDGETS, ROWS)
def test_a_packer_closes_batches_where_planning_in_order_does(
    lengths: list[int], budget: int, rows: int | None
) -> None:
    batches: list[list[int]] = []
    packer = Packer(budget, rows)
    for at, length in enumerate(lengths):
        if packer.num_rows == 0:
            batches.append([])
        elif not packer.add(length):
            packer = Packer(budget, rows)
            batches.append([])
        if packer.num_rows == 0:
            assert packer.add(length), "an empty batch takes any row"
        batches[-1].append(at)
        if packer.is_full:
            assert not packer.add(0), "a full batch takes not even the shortest row"
            packer = Packer(budget, rows)
    assert batches == plan(lengths, budget, rows, sort=False)


def test_a_row_over_the_budget_is_a_batch_of_its_own() -> None:
    assert plan([10, 100, 10, 10], 48, None, sort=True) == [[1], [0, 2, 3]]
    assert plan([10, 100, 10, 10], 48, None, sort=False) == [[0], [1], [2, 3]]


def test_lengths_count_as_rounded_up_to_eight() -> None:
    assert [padded_length(length) for length in (0, 1, 8, 9, 16, 17)] == [8, 8, 8, 16, 16, 24]
    assert plan([9, 9], 31, None, sort=True) == [[0], [1]]
    assert plan([9, 9], 32, None, sort=True) == [[0, 1]]


def test_rows_without_tokens_count_too() -> None:
    assert plan([0, 0, 0], 16, None, sort=True) == [[0, 1], [2]]


def test_no_rows_make_no_batches() -> None:
    assert plan([], 100, None, sort=True) == plan([], 100, None, sort=False) == []


@pytest.mark.parametrize("sort", [True, False])
def test_a_window_of_16384_rows_is_planned_within_milliseconds(sort: bool) -> None:
    lengths = np.random.default_rng(0).lognormal(6, 1, 16_384).astype(np.int64)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        plan_batches(lengths, max_batch_tokens=32_768, sort=sort)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05  # 1 to 3 ms on a quiet machine; this one may not be


def test_windows_ramp_up_and_never_exceed_their_size() -> None:
    assert list(islice(window_sizes(16_384, ramp=True), 11))[:9] == [64 << i for i in range(9)]
    assert list(islice(window_sizes(200, ramp=True), 5)) == [64, 128, 200, 200, 200]
    assert list(islice(window_sizes(64, ramp=True), 3)) == [64, 64, 64]
    assert list(islice(window_sizes(1, ramp=True), 3)) == [1, 1, 1]


def test_windows_are_of_one_size_without_a_ramp() -> None:
    assert list(islice(window_sizes(200, ramp=False), 3)) == [200, 200, 200]


@pytest.mark.parametrize(("tokens", "rows"), [(0, None), (-1, None), (8, 0)])
def test_limits_below_one_are_refused_by_name(tokens: int, rows: int | None) -> None:
    with pytest.raises(ConfigError, match="max_batch_"):
        plan_batches(np.array([1]), max_batch_tokens=tokens, max_batch_rows=rows)
    with pytest.raises(ConfigError, match="max_batch_"):
        Packer(tokens, rows)


def test_a_window_without_rows_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="window_rows=0"):
        window_sizes(0, ramp=False)
