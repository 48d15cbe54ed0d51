"""penstock._core.collate against the obvious way to write it."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import _core

NAMES = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
UNWRITTEN = -77


def twin(
    ids: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    width: int,
    type_ids: np.ndarray | None,
    **padding: int,
) -> dict[str, np.ndarray]:
    """What collate writes, one element after the other."""
    fill = {"input_ids": padding["pad_id"], "token_type_ids": padding["pad_type_id"]}
    out = {name: np.full((len(starts), width), fill.get(name, 0), np.int64) for name in NAMES}
    for row, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        first = width - (stop - start) if padding["pad_left"] else 0
        for position in range(stop - start):
            at = (row, first + position)
            out["input_ids"][at] = ids[start + position]
            out["attention_mask"][at] = 1
            out["token_type_ids"][at] = 0 if type_ids is None else type_ids[start + position]
            out["position_ids"][at] = position
    return out


def unwritten(rows: int, width: int, dtype: Any = np.int64) -> np.ndarray:
    return np.full((rows, width), UNWRITTEN, dtype)


@st.composite
def batches(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    ids = np.array(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=60)), np.int32)
    cut = st.integers(0, len(ids))
    spans = [sorted(pair) for pair in draw(st.lists(st.tuples(cut, cut), max_size=8))]
    starts, stops = (np.array([span[side] for span in spans], np.int64) for side in (0, 1))
    return ids, starts, stops, int((stops - starts).max(initial=0)) + draw(st.integers(0, 5))


@given(
    batch=batches(),
    typed=st.booleans(),
    wanted=st.sets(st.sampled_from(NAMES[1:])),
    dtype=st.sampled_from([np.int32, np.int64]),
    pad_id=st.integers(-(2**63), 2**63 - 1),
    pad_type_id=st.integers(0, 3),
    pad_left=st.booleans(),
)
def test_collate_writes_what_its_twin_writes(
    batch: tuple[np.ndarray, np.ndarray, np.ndarray, int],
    typed: bool,
    wanted: set[str],
    dtype: Any,
    **padding: Any,
) -> None:
    if dtype is np.int32:
        padding["pad_id"] >>= 32
    ids, starts, stops, width = batch
    type_ids = (np.abs(ids.astype(np.int64)) % 256).astype(np.uint8) if typed else None
    expected = twin(ids, starts, stops, width, type_ids, **padding)
    out: dict[str, Any] = {
        name: unwritten(len(starts), width, dtype) if name == "input_ids" or name in wanted else None
        for name in NAMES
    }
    _core.collate(ids, starts, stops, **out, type_ids=type_ids, **padding)
    for name, matrix in out.items():
        if matrix is not None:
            np.testing.assert_array_equal(matrix, expected[name], err_msg=name)


@given(
    batch=batches(),
    typed=st.booleans(),
    wanted=st.sets(st.sampled_from(["token_type_ids", "position_ids"])),
    dtype=st.sampled_from([np.int32, np.int64]),
    first_position=st.integers(0, 9),
)
def test_pack_puts_rows_behind_one_another(
    batch: tuple[np.ndarray, np.ndarray, np.ndarray, int],
    typed: bool,
    wanted: set[str],
    dtype: Any,
    first_position: int,
) -> None:
    ids, starts, stops, _ = batch
    type_ids = (np.abs(ids.astype(np.int64)) % 256).astype(np.uint8) if typed else None
    spans = list(zip(starts.tolist(), stops.tolist(), strict=True))
    ends = [0, *np.cumsum(stops - starts).tolist()]
    out = {name: np.full(ends[-1], UNWRITTEN, dtype) for name in ("input_ids", *sorted(wanted))}
    cu_seqlens = np.full(len(starts) + 1, UNWRITTEN, np.int32)
    _core.pack(
        ids,
        starts,
        stops,
        out["input_ids"],
        out.get("token_type_ids"),
        out.get("position_ids"),
        cu_seqlens,
        type_ids=type_ids,
        first_position=first_position,
    )
    assert cu_seqlens.tolist() == ends
    assert out["input_ids"].tolist() == [
        number for start, stop in spans for number in ids[start:stop].tolist()
    ]
    if "token_type_ids" in wanted:
        types = np.zeros(len(ids), np.uint8) if type_ids is None else type_ids
        assert out["token_type_ids"].tolist() == [
            number for start, stop in spans for number in types[start:stop].tolist()
        ]
    if "position_ids" in wanted:
        assert out["position_ids"].tolist() == [
            first_position + position for start, stop in spans for position in range(stop - start)
        ]


def pack_arguments(**changed: Any) -> dict[str, Any]:
    """Arguments of pack that are right, but for those changed."""
    good = {
        "ids": np.arange(10, dtype=np.int32),
        "starts": np.array([0, 4]),
        "stops": np.array([4, 10]),
        "input_ids": np.zeros(10, np.int64),
        "token_type_ids": None,
        "position_ids": None,
        "cu_seqlens": np.zeros(3, np.int32),
        "type_ids": None,
    }
    return good | changed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"input_ids": np.zeros(9, np.int64)}, r"input_ids has 9 places for 10 tokens"),
        ({"input_ids": np.zeros((1, 10), np.int64)}, r"input_ids must be .* 1 dimension"),
        (
            {"position_ids": np.zeros(9, np.int64)},
            r"position_ids has the shape \(9,\); input_ids has \(10,\)",
        ),
        ({"position_ids": np.zeros(10, np.int32)}, r"position_ids must be a C-contiguous int64 array"),
        ({"cu_seqlens": np.zeros(3, np.int64)}, r"cu_seqlens must be a C-contiguous int32 array"),
        (
            {"cu_seqlens": np.zeros(2, np.int32)},
            r"starts, stops and cu_seqlens but its first must have as many",
        ),
        (
            {
                "starts": np.array([], np.int64),
                "stops": np.array([], np.int64),
                "cu_seqlens": np.zeros(0, np.int32),
            },
            r"cu_seqlens has no room for its first entry",
        ),
        ({"stops": np.array([4, 11])}, r"row \[1\] is ids\[4:11\], which is not within the 10 ids given"),
        ({"type_ids": np.zeros(9, np.uint8)}, r"type_ids must be as long as ids, 10, not 9"),
        ({"input_ids": np.zeros(10, np.int32), "first_position": 2**31 - 5}, r"the last position=2147483649"),
    ],
)
def test_what_cannot_be_packed_is_refused_by_name(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.pack(**pack_arguments(**changed))


def arguments(**changed: Any) -> dict[str, Any]:
    """Arguments that are right, but for those changed."""
    good = {
        "ids": np.arange(10, dtype=np.int32),
        "starts": np.array([0, 4]),
        "stops": np.array([4, 10]),
        "input_ids": unwritten(2, 6),
        "attention_mask": None,
        "token_type_ids": None,
        "position_ids": None,
        "type_ids": None,
        "pad_id": 0,
    }
    return good | changed


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ids": np.arange(10)}, r"ids must be a C-contiguous int32 array of 1 dimension; it is int64"),
        ({"ids": np.zeros((2, 5), np.int32)}, r"ids must be .* 1 dimension; it is int32 of shape \(2, 5\)"),
        ({"ids": np.arange(20, dtype=np.int32)[::2]}, r"ids must be .*; it is a strided view, int32"),
        ({"starts": np.array([0, 4], np.int32)}, r"starts must be a C-contiguous int64 array"),
        ({"stops": np.array([4])}, r"starts, stops and input_ids must have as many rows, not 2, 1 and 2"),
        ({"starts": np.array([0]), "stops": np.array([4])}, r"not 1, 1 and 2"),
        ({"stops": np.array([4, 11])}, r"row \[1\] is ids\[4:11\], which is not within the 10 ids given"),
        ({"starts": np.array([-1, 4])}, r"row \[0\] is ids\[-1:4\], which is not within"),
        ({"starts": np.array([5, 4])}, r"row \[0\] is ids\[5:4\], which is not within"),
        ({"starts": np.array([0, 3])}, r"row \[1\] is ids\[3:10\], 7 tokens; the matrices hold 6 to a row"),
        ({"input_ids": np.zeros((2, 6))}, r"input_ids must be a C-contiguous int64 array of 2 dim"),
        ({"input_ids": np.zeros(6, np.int32)}, r"input_ids must be a C-contiguous int32 array of 2 dim"),
        (
            {"attention_mask": np.zeros((2, 6), np.int32)},
            r"attention_mask must be a C-contiguous int64 array of 2 dimensions; it is int32",
        ),
        (
            {"input_ids": np.zeros((2, 6), np.int32), "attention_mask": unwritten(2, 6)},
            r"attention_mask must be a C-contiguous int32 array of 2 dimensions; it is int64",
        ),
        (
            {"input_ids": np.zeros((2, 6), np.int32), "pad_id": 2**31},
            r"pad_id=2147483648 does not fit into int32",
        ),
        ({"input_ids": np.zeros((6, 2), np.int64).T}, r"input_ids must be .*; it is a strided view"),
        ({"input_ids": read_only(unwritten(2, 6))}, r"input_ids is read-only; it is written to"),
        (
            {"attention_mask": unwritten(2, 7)},
            r"attention_mask has the shape \(2, 7\); input_ids has \(2, 6\)",
        ),
        ({"position_ids": unwritten(1, 6)}, r"position_ids has the shape"),
        ({"type_ids": np.zeros(9, np.uint8)}, r"type_ids must be as long as ids, 10, not 9"),
        ({"type_ids": np.zeros(10, np.int64)}, r"type_ids must be a C-contiguous uint8 array"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.collate(**arguments(**changed))


def test_nothing_is_written_when_a_row_does_not_fit() -> None:
    given_arguments = arguments(stops=np.array([4, 11]))
    with pytest.raises(ValueError, match=r"row \[1\]"):
        _core.collate(**given_arguments)
    assert (given_arguments["input_ids"] == UNWRITTEN).all()


def test_an_output_must_be_an_array() -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _core.collate(**arguments(input_ids=[[0] * 6] * 2))


def test_a_batch_of_no_rows_is_fine() -> None:
    nothing = np.zeros(0, np.int64)
    _core.collate(**arguments(starts=nothing, stops=nothing, input_ids=unwritten(0, 6)))


def test_other_threads_run_meanwhile() -> None:
    rows, width = 4000, 2000
    ids = np.zeros(width, np.int32)
    starts, stops = np.zeros(rows, np.int64), np.full(rows, width)
    out: dict[str, Any] = {name: unwritten(rows, width) for name in NAMES}
    gaps: list[float] = []
    finished = threading.Event()

    def tick() -> None:
        while not finished.is_set():
            before = time.perf_counter()
            time.sleep(0)
            gaps.append(time.perf_counter() - before)

    thread = threading.Thread(target=tick)
    thread.start()
    time.sleep(0.01)
    steps = len(gaps)
    _core.collate(ids, starts, stops, **out, type_ids=None, pad_id=0)
    steps = len(gaps) - steps
    finished.set()
    thread.join()
    assert steps > 10
