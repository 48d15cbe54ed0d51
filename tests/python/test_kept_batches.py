"""What the loop keeps stays as it was (rule 4): whatever it keeps, for however long, and at no wait.

Each thing that is kept is compared, at the end, with a slow twin made from the rows themselves.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from passes import take_away
from penstock import Batch, Prefetcher
from penstock.planner import padded_length
from penstock.staging import Staging

Array = np.ndarray[Any, np.dtype[Any]]


def length(at: int) -> int:
    return 1 + at * 7 % 22


def row(at: int) -> dict[str, Any]:
    return {"input_ids": [at + 1] * length(at), "label": at * 3}


def twin(batch: Batch) -> Array:
    """The ids of a batch, built one row at a time."""
    rows = batch.input_index.tolist()
    made = np.zeros((len(rows), padded_length(max(map(length, rows)))), np.int64)
    for line, at in enumerate(rows):
        made[line, : length(at)] = at + 1
    return made


@dataclass
class Keeper:
    """One way to keep something of a batch, and what is to be seen in it."""

    name: str
    keep: Callable[[Batch], Any]
    expected: Callable[[Batch, Array], Array]
    look: Callable[[Any], Any] = np.asarray
    is_of_the_host: bool = False


def ids(batch: Batch) -> torch.Tensor:
    return batch.inputs["input_ids"]


def on_host(tensor: torch.Tensor) -> Array:
    array: Array = tensor.cpu().numpy()
    return array


KEEPERS = [
    Keeper("batch", lambda b: b, lambda _, t: t, lambda b: on_host(ids(b))),
    Keeper("inputs", lambda b: b.inputs, lambda _, t: t, lambda i: on_host(i["input_ids"])),
    Keeper("tensor", ids, lambda _, t: t, on_host),
    Keeper("slice", lambda b: ids(b)[::2, 1:], lambda _, t: t[::2, 1:], on_host),
    Keeper("view", lambda b: ids(b).view(-1)[3:], lambda _, t: t.reshape(-1)[3:], on_host),
    Keeper("transposed", lambda b: ids(b).T, lambda _, t: t.T, on_host),
    Keeper("row", lambda b: ids(b)[-1], lambda _, t: t[-1], on_host),
    Keeper("detached", lambda b: ids(b).detach(), lambda _, t: t, on_host),
    Keeper("mask", lambda b: b.inputs["attention_mask"], lambda _, t: (t > 0).astype(np.int64), on_host),
    Keeper("dlpack", lambda b: torch.utils.dlpack.from_dlpack(ids(b)), lambda _, t: t, on_host),
    Keeper("index", lambda b: b.input_index, lambda _, t: t.max(axis=1) - 1),
    Keeper("column", lambda b: b.columns["label"], lambda b, _: b.input_index * 3, lambda c: c.to_numpy()),
    Keeper("numpy", lambda b: ids(b).numpy(), lambda _, t: t, is_of_the_host=True),
    Keeper("numpy slice", lambda b: ids(b).numpy()[:, ::3], lambda _, t: t[:, ::3], is_of_the_host=True),
    Keeper("memoryview", lambda b: ids(b).numpy().data, lambda _, t: t, is_of_the_host=True),
    Keeper("numpy dlpack", lambda b: np.from_dlpack(ids(b)), lambda _, t: t, is_of_the_host=True),
    Keeper(
        "buffer",
        lambda b: np.frombuffer(ids(b).numpy().data.cast("B"), np.int64),
        lambda _, t: t.reshape(-1),
        is_of_the_host=True,
    ),
    Keeper(
        "storage",
        lambda b: (ids(b).untyped_storage(), ids(b).storage_offset(), ids(b).numel()),
        lambda _, t: t.reshape(-1),
        lambda s: on_host(torch.empty(0, dtype=torch.int64, device=s[0].device).set_(s[0]))[s[1] :][: s[2]],
    ),
]


def kept_as_it_was(device: str, plan: list[tuple[list[int], list[int]]], **arguments: Any) -> bool:
    """Run a pass and keep and drop as the plan says; whether all that was kept is what it was.

    The plan has a line for each batch: which keepers keep something of it, and which of all that is kept is
    dropped then.
    """
    kept: list[tuple[Any, Array, Keeper]] = []
    with Prefetcher(
        map(row, range(6 * len(plan))),
        None,
        device=device,
        keep=("label",),
        max_batch_rows=3,
        max_batch_tokens=100,
        window_rows=1,
        **arguments,
    ) as batches:
        for step, batch in enumerate(batches):
            whole = twin(batch)
            assert np.array_equal(on_host(ids(batch)), whole)
            keep, drop = plan[step % len(plan)]
            for number in keep:
                keeper = KEEPERS[number]
                if device == "cpu" or not keeper.is_of_the_host:
                    kept.append((keeper.keep(batch), np.array(keeper.expected(batch, whole)), keeper))
            for number in drop:
                if kept:
                    del kept[number % len(kept)]
            del batch
    del batches
    return all(np.array_equal(keeper.look(thing), expected) for thing, expected, keeper in kept)


PLANS = st.lists(
    st.tuples(
        st.lists(st.integers(0, len(KEEPERS) - 1), max_size=3),
        st.lists(st.integers(0, 1_000), max_size=3),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60)
@given(plan=PLANS, batches_ahead=st.integers(1, 3), ordered=st.booleans())
def test_what_is_kept_stays_as_it_was(
    plan: list[tuple[list[int], list[int]]], batches_ahead: int, *, ordered: bool
) -> None:
    assert kept_as_it_was("cpu", plan, batches_ahead=batches_ahead, ordered=ordered, num_workers=2)


@pytest.mark.proof
@pytest.mark.timeout(600)
@settings(max_examples=2_000)
@given(plan=PLANS, batches_ahead=st.integers(1, 3), ordered=st.booleans())
def test_what_is_kept_stays_as_it_was_in_many_plans(
    plan: list[tuple[list[int], list[int]]], batches_ahead: int, *, ordered: bool
) -> None:
    assert kept_as_it_was("cpu", plan, batches_ahead=batches_ahead, ordered=ordered, num_workers=2)


@pytest.mark.gpu
@settings(max_examples=60)
@given(plan=PLANS, batches_ahead=st.integers(1, 3), ordered=st.booleans())
def test_on_cuda_what_is_kept_stays_as_it_was(
    plan: list[tuple[list[int], list[int]]], batches_ahead: int, *, ordered: bool
) -> None:
    assert kept_as_it_was("cuda", plan, batches_ahead=batches_ahead, ordered=ordered, num_workers=2)


@pytest.mark.parametrize("keeper", range(len(KEEPERS)), ids=[keeper.name for keeper in KEEPERS])
def test_each_way_to_keep_keeps(keeper: int) -> None:
    assert kept_as_it_was("cpu", [([keeper], [])] * 10, batches_ahead=1)


ON_THE_HOST = {"index", "column"}  # not in a slot, so without a lease


@pytest.mark.parametrize(
    "keeper",
    [number for number, keeper in enumerate(KEEPERS) if keeper.name not in ON_THE_HOST],
    ids=[keeper.name for keeper in KEEPERS if keeper.name not in ON_THE_HOST],
)
def test_without_the_lease_it_does_not(monkeypatch: pytest.MonkeyPatch, keeper: int) -> None:
    """The negative control: a slab that is free again as soon as it is lent."""
    rule = "put_back = self._free_devices.append if self._is_kept(slab) else None"
    take_away(monkeypatch, Staging, "lend", rule, "put_back = self._free_devices.append(slab)")
    with pytest.raises(AssertionError):
        assert kept_as_it_was("cpu", [([keeper], [])] * 10, batches_ahead=1)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_list_of_batches_works_and_takes_new_memory(device: str) -> None:
    rows = [[key] * 8 for key in range(200)]
    arguments: dict[str, Any] = {"max_batch_rows": 1, "window_rows": 1, "batches_ahead": 2}
    with Prefetcher(rows, None, device=device, **arguments) as batches:
        kept = list(batches)
        allocated = batches.stats().num_slots_allocated
    del batches
    gc.collect()
    assert allocated >= 200
    assert [ids(batch).unique().tolist() for batch in kept] == [[key] for key in range(200)]


def test_batches_that_are_let_go_reuse_their_slots() -> None:
    rows = [[key] * 8 for key in range(500)]
    with Prefetcher(rows, None, device="cpu", max_batch_rows=1, window_rows=1, batches_ahead=2) as batches:
        for batch in batches:
            assert ids(batch).unique().tolist() == batch.input_index.tolist()
        assert batches.stats().num_slots_allocated <= 2 + 2 + 1
