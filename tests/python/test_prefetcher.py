"""What the prefetcher delivers: every row, in the promised order, within the promised bounds."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import penstock
from penstock import Prefetcher
from penstock.errors import (
    AbandonedWorkersError,
    ConfigError,
    RowError,
    RowTooLargeError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOUNS = ("river", "dam", "turbine", "pipe", "valley", "gate", "wheel")


def texts(count: int) -> list[str]:
    """Rows of very different lengths, the same each time."""
    rng = np.random.default_rng(7)
    return [" ".join(rng.choice(NOUNS, size=int(rng.integers(0, 40)))) for _ in range(count)]


def wait_until(is_so: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for other threads; the assertion that follows says what was hoped for."""
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.002)


def delivered(batches: Prefetcher) -> dict[int, list[int]]:
    """Input index → its real tokens, over all batches; fails if a row comes twice."""
    rows: dict[int, list[int]] = {}
    for batch in batches:
        ids = batch.inputs["input_ids"]
        mask = batch.inputs["attention_mask"].bool()
        assert mask.sum(1).tolist() == batch.num_tokens.tolist()
        for at, index in enumerate(batch.input_index.tolist()):
            assert index not in rows
            rows[index] = ids[at][mask[at]].tolist()
    return rows


@pytest.mark.parametrize("window_rows", [None, 1, 7, 10_000])
@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize("max_batch_tokens", [8, 300, 32_768])
def test_every_row_arrives_once_with_the_tokens_of_the_tokenizer(
    tiny_bpe: Path, window_rows: int | None, num_workers: int, max_batch_tokens: int
) -> None:
    rows = texts(500)
    twin = penstock.Tokenizer.from_pretrained(tiny_bpe).encode_batch(rows, max_length=64)
    with Prefetcher(
        rows,
        tiny_bpe,
        device="cpu",
        window_rows=window_rows,
        num_workers=num_workers,
        max_batch_tokens=max_batch_tokens,
    ) as batches:
        got = delivered(batches)
    assert got == {index: twin.row(index).tolist() for index in range(len(rows))}


def test_batches_keep_to_the_budget_and_tickets_count_up(tiny_bpe: Path) -> None:
    with Prefetcher(
        texts(400), tiny_bpe, device="cpu", max_batch_tokens=512, max_batch_rows=9, window_rows=100
    ) as batches:
        for ticket, batch in enumerate(batches):
            width = batch.inputs["input_ids"].shape[1]
            assert batch.ticket == ticket
            assert width % 8 == 0
            assert len(batch) <= 9
            assert len(batch) == 1 or width * len(batch) <= 512


def test_window_rows_1_is_the_order_of_the_input(tiny_bpe: Path) -> None:
    with Prefetcher(texts(300), tiny_bpe, device="cpu", window_rows=1, max_batch_tokens=256) as batches:
        order = [index for batch in batches for index in batch.input_index.tolist()]
    assert order == list(range(300))


def test_the_same_input_gives_the_same_batches_whatever_the_workers(tiny_bpe: Path) -> None:
    def plan(num_workers: int, rows_ahead: int) -> list[list[int]]:
        with Prefetcher(
            iter(texts(700)),
            tiny_bpe,
            device="cpu",
            window_rows=128,
            max_batch_tokens=512,
            num_workers=num_workers,
            rows_ahead=rows_ahead,
        ) as batches:
            return [batch.input_index.tolist() for batch in batches]

    assert plan(1, 1) == plan(4, 1000)


def test_kept_columns_ride_along_in_batch_order(tiny_bpe: Path) -> None:
    rows = [{"text": text, "label": at, "name": f"row {at}"} for at, text in enumerate(texts(200))]
    with Prefetcher(rows, tiny_bpe, device="cpu", keep=["label", "name"], window_rows=64) as batches:
        seen = 0
        for batch in batches:
            assert batch.columns["label"].to_pylist() == batch.input_index.tolist()
            assert batch.columns["name"].to_pylist() == [f"row {i}" for i in batch.input_index]
            seen += len(batch)
    assert seen == 200


def test_pairs_get_their_token_types(tiny_wordpiece: Path) -> None:
    rows = [("the river", "the dam"), ("a gate", "")]
    with Prefetcher(rows, tiny_wordpiece, device="cpu") as batches:
        (batch,) = list(batches)
    assert set(batch.inputs) == {"input_ids", "token_type_ids", "attention_mask"}
    twin = penstock.Tokenizer.from_pretrained(tiny_wordpiece).encode_batch(["the river"], ["the dam"])
    at = batch.input_index.tolist().index(0)
    types = batch.inputs["token_type_ids"][at][: batch.num_tokens[at]].tolist()
    assert twin.type_ids is not None
    assert types == twin.type_ids.tolist()
    assert set(types) == {0, 1}


def test_arrow_batches_and_files_are_rows_too(tiny_bpe: Path, tmp_path: Path) -> None:
    rows = texts(50)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    table = pa.table({"text": rows})
    found = []
    for source in (rows, table, table.to_batches(max_chunksize=7), str(path), path):
        with Prefetcher(source, tiny_bpe, device="cpu") as batches:
            found.append(delivered(batches))
    assert all(each == found[0] for each in found)


def test_token_ids_need_no_tokenizer() -> None:
    rows: list[Any] = [[1, 2, 3], np.array([4, 5]), []]
    with Prefetcher(rows, None, device="cpu", max_length=2) as batches:
        assert delivered(batches) == {0: [1, 2], 1: [4, 5], 2: []}


def test_load_is_called_many_at_once_and_rows_stay_in_order(tiny_bpe: Path) -> None:
    together, peak, lock = 0, 0, threading.Lock()

    def load(key: int) -> str:
        nonlocal together, peak
        with lock:
            together += 1
            peak = max(peak, together)
        time.sleep(0.02)
        with lock:
            together -= 1
        return f"row {key}"

    with Prefetcher(range(40), tiny_bpe, load=load, device="cpu", num_workers=8, max_batch_rows=3) as batches:
        order = [index for batch in batches for index in batch.input_index.tolist()]
    assert order == list(range(40))
    assert peak == 8


def test_load_may_be_a_coroutine_function(tiny_bpe: Path) -> None:
    peak, together = 0, 0

    async def load(key: int) -> dict[str, Any]:
        nonlocal together, peak
        together += 1
        peak = max(peak, together)
        await asyncio.sleep(0.02)
        together -= 1
        return {"text": f"row {key}", "key": key}

    with Prefetcher(range(100), tiny_bpe, load=load, device="cpu", keep=["key"], max_batch_rows=5) as batches:
        keys = [key for batch in batches for key in batch.columns["key"].to_pylist()]
    assert keys == list(range(100))
    assert peak == 64  # rows_ahead for coroutines


def test_unordered_delivers_every_row_and_does_not_wait_for_the_slow_one(tiny_bpe: Path) -> None:
    release = threading.Event()

    def load(key: int) -> str:
        if key == 0:
            release.wait(20)
        return f"row {key}"

    with Prefetcher(
        range(30), tiny_bpe, load=load, device="cpu", ordered=False, max_batch_rows=1, num_workers=4
    ) as batches:
        order = []
        for batch in batches:
            order += batch.input_index.tolist()
            if len(order) == 29:
                release.set()
    assert sorted(order) == list(range(30))
    assert order[-1] == 0


@pytest.mark.parametrize("ordered", [True, False])
def test_an_error_is_raised_after_all_earlier_batches(*, ordered: bool) -> None:
    class OddError(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(one, two)

    def load(key: int) -> list[int]:
        if key == 17:
            raise OddError(1, 2)
        return [key]

    order = []
    with Prefetcher(
        range(40), None, load=load, device="cpu", max_batch_rows=4, ordered=ordered, num_workers=1
    ) as it:
        with pytest.raises(OddError) as caught:
            for batch in it:
                order += batch.input_index.tolist()
    assert order == list(range(17))
    assert caught.value.args == (1, 2)
    if hasattr(caught.value, "__notes__"):
        assert "row 18" in caught.value.__notes__[0]


@pytest.mark.parametrize("on_error", ["skip", "null"])
def test_failed_rows_take_no_neighbour_with_them(on_error: Any) -> None:
    def load(key: int) -> list[int]:
        if key % 7 == 3:
            raise ValueError(f"no {key}")
        return [key]

    errors: dict[int, BaseException] = {}
    rows: list[int] = []
    with Prefetcher(range(50), None, load=load, device="cpu", max_batch_rows=4, on_error=on_error) as batches:
        for batch in batches:
            errors.update(batch.errors)
            rows += batch.input_index.tolist()
        stats = batches.stats()
    bad = [key for key in range(50) if key % 7 == 3]
    assert rows == [key for key in range(50) if key % 7 != 3]
    assert stats.num_failed == len(bad)
    assert sorted(errors) == (bad if on_error == "null" else [])
    assert all(isinstance(error, ValueError) for error in errors.values())


def test_when_every_row_fails_the_errors_still_arrive() -> None:
    def load(key: int) -> list[int]:
        raise ValueError(key)

    with Prefetcher(range(5_000), None, load=load, device="cpu", on_error="null") as batches:
        failed = [index for batch in batches for index, _ in batch.errors]
    assert failed == list(range(5_000))


def test_retries_call_load_again_and_are_counted() -> None:
    calls: dict[int, int] = defaultdict(int)

    def load(key: int) -> list[int]:
        calls[key] += 1
        if calls[key] <= 2:
            raise OSError("flaky")
        return [key]

    with Prefetcher(range(6), None, load=load, device="cpu", retries=2) as batches:
        assert sorted(delivered(batches)) == list(range(6))
        assert batches.stats().num_retries == 12
    with (
        Prefetcher([99], None, load=load, device="cpu", retries=1) as batches,
        pytest.raises(OSError, match="flaky") as caught,
    ):
        next(iter(batches))
    if hasattr(caught.value, "__notes__"):
        assert caught.value.__notes__ == ["penstock: in load(), row 1 of the source, tried 2 times"]


def test_more_hung_loads_than_workers_is_an_error() -> None:
    release = threading.Event()
    try:
        with (
            Prefetcher(
                range(100),
                None,
                load=lambda _: release.wait(30),
                device="cpu",
                timeout=0.05,
                on_error="skip",
                num_workers=2,
            ) as batches,
            pytest.raises(AbandonedWorkersError, match="num_workers=2"),
        ):
            list(batches)
    finally:
        release.set()


def test_max_wait_sends_what_a_live_source_has_so_far(tiny_bpe: Path) -> None:
    go_on = threading.Event()

    def live() -> Iterator[str]:
        yield "river"
        yield "dam"
        go_on.wait(20)
        yield "gate"

    with Prefetcher(live(), tiny_bpe, device="cpu", max_wait=0.05) as batches:
        iterator = iter(batches)
        early = next(iterator).input_index.tolist()
        if len(early) == 1:
            early += next(iterator).input_index.tolist()
        go_on.set()
        late = [index for batch in iterator for index in batch.input_index.tolist()]
    assert sorted(early) == [0, 1]
    assert late == [2]


def test_a_row_over_max_row_bytes_fails_by_name(tiny_bpe: Path) -> None:
    with Prefetcher(
        ["short", "x" * 2_000, "also short"], tiny_bpe, device="cpu", max_row_bytes=1_000, on_error="null"
    ) as batches:
        (batch,) = list(batches)
    assert sorted(batch.input_index.tolist()) == [0, 2]
    ((index, error),) = batch.errors
    assert index == 1
    assert isinstance(error, RowTooLargeError)
    assert "row 2" in str(error)


def test_a_row_that_is_no_row_names_its_position(tiny_bpe: Path) -> None:
    rows: list[Any] = ["fine", 3.5]
    with Prefetcher(rows, tiny_bpe, device="cpu") as batches, pytest.raises(RowError, match=r"row 2.*float"):
        list(batches)


def test_own_collate_replaces_the_padding(tiny_bpe: Path) -> None:
    def collate(rows: penstock.Ragged, columns: dict[str, Any]) -> dict[str, Any]:
        return {"flat": rows.ids, "lengths": rows.lengths, "label": columns["label"].to_numpy()}

    rows = [{"text": text, "label": float(at)} for at, text in enumerate(["a river", "dam", ""])]
    with Prefetcher(rows, tiny_bpe, device="cpu", keep=["label"], window_rows=1, collate=collate) as batches:
        (batch,) = list(batches)
    assert set(batch.inputs) == {"flat", "lengths", "label"}
    assert batch.inputs["label"].tolist() == [0.0, 1.0, 2.0]
    assert batch.inputs["lengths"].tolist() == batch.num_tokens.tolist()
    twin = penstock.Tokenizer.from_pretrained(tiny_bpe).encode_batch(["a river", "dam", ""])
    assert batch.inputs["flat"].tolist() == twin.ids.tolist()


@pytest.mark.parametrize("on_error", ["raise", "null", "skip"])
def test_an_error_in_own_collate_has_an_outcome(on_error: Any) -> None:
    def collate(rows: penstock.Ragged, columns: dict[str, Any]) -> dict[str, Any]:
        if 3 in rows.ids:
            raise ZeroDivisionError
        return {"ids": rows.ids}

    with Prefetcher(
        [[i] for i in range(6)],
        None,
        device="cpu",
        collate=collate,
        max_batch_rows=2,
        window_rows=1,
        on_error=on_error,
    ) as batches:
        if on_error == "raise":
            with pytest.raises(ZeroDivisionError):
                list(batches)
            return
        rows: list[int] = []
        errors: dict[int, BaseException] = {}
        for batch in batches:
            rows += batch.input_index.tolist()
            errors.update(batch.errors)
        assert batches.stats().num_failed == 2
    assert rows == [0, 1, 4, 5]
    assert sorted(errors) == ([2, 3] if on_error == "null" else [])


def test_stats_say_who_waited() -> None:
    def load(key: int) -> list[int]:
        time.sleep(0.05)
        return [key]

    with Prefetcher(range(20), None, load=load, device="cpu", num_workers=1, max_batch_rows=1) as batches:
        for _ in batches:
            pass
        slow_load = batches.stats()
    assert slow_load.num_rows == 20
    assert slow_load.wait_share > 0.5
    assert slow_load.bottleneck == "load"
    assert "loading is the bottleneck; raise num_workers" in str(slow_load)
    with Prefetcher(range(20), None, load=lambda key: [key], device="cpu", max_batch_rows=1) as batches:
        for _ in batches:
            time.sleep(0.05)
        slow_loop = batches.stats()
    assert slow_loop.bottleneck == "model"
    assert "the model is the bottleneck" in str(slow_loop)
    assert slow_loop.blocked_claims.total_s > 0.1


def test_trace_is_a_timeline_of_every_stage(tiny_bpe: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with Prefetcher(texts(50), tiny_bpe, device="cpu", trace=path) as batches:
        delivered(batches)
    events = json.loads(path.read_text())["traceEvents"]
    assert {"read", "tokenize", "collate", "copy"} <= {event["name"] for event in events}
    assert all(event["dur"] >= 0 for event in events if event["ph"] == "X")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_batch_tokens": 0}, "max_batch_tokens=0"),
        ({"on_error": "ignore"}, "on_error='ignore'"),
        ({"keep": "label"}, "keep='label'"),
        ({"timeout": 1.0}, "load="),
        ({"device": "meta"}, "device='meta'"),
        ({"stride": 64}, "stride=64"),
        ({"stride": 8, "pair_column": "more"}, "stride=8 and pair_column='more'"),
        ({"retries": -1}, "retries=-1"),
        ({"window_rows": 0}, "window_rows=0"),
    ],
)
def test_wrong_arguments_are_named(tiny_bpe: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Prefetcher(["a"], tiny_bpe, **({"device": "cpu"} | arguments))


def test_stride_cuts_long_rows_into_windows_that_share_their_index(tiny_bpe: Path) -> None:
    rows = ["river dam " * 60, "gate"]
    whole = penstock.Tokenizer.from_pretrained(tiny_bpe).encode_batch(rows)
    with Prefetcher(rows, tiny_bpe, device="cpu", max_length=32, stride=16, max_batch_rows=2) as batches:
        scored: dict[int, int] = defaultdict(int)
        for batch in batches:
            assert batch.first_scored is not None
            assert batch.inputs["input_ids"].shape[1] <= 32
            for index, tokens, first in zip(
                batch.input_index, batch.num_tokens, batch.first_scored, strict=True
            ):
                scored[int(index)] += int(tokens - first)
    assert dict(scored) == {0: int(whole.lengths[0]), 1: int(whole.lengths[1])}


def test_no_row_is_padded_past_max_length() -> None:
    with Prefetcher([[1] * 50, [1] * 3], None, device="cpu", max_length=50) as batches:
        assert max(batch.inputs["input_ids"].shape[1] for batch in batches) == 50


def test_a_plain_torch_loop_gets_tensors_it_can_use(tiny_gpt2: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    model.train(False)
    with (
        Prefetcher(texts(20), tiny_gpt2, device="cpu", max_batch_tokens=512) as batches,
        torch.inference_mode(),
    ):
        shapes = [
            tuple(model(**batch.inputs).logits.shape[:2]) for batch in batches if batch.num_tokens.any()
        ]
    assert shapes
