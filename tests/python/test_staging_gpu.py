"""Staging on a CUDA device: the two edges, streams that change, and copies beside the compute."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from penstock import Prefetcher
from penstock.staging import Place, Slot, Staging

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.gpu

INT64 = np.dtype(np.int64)
MEGABYTE = 1 << 20
COUNT = MEGABYTE // 8
LONG = 20_000_000  # cycles: some 10 ms of a kernel that does nothing


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def filled(staging: Staging, value: int) -> Slot:
    slot = staging.take_slot(MEGABYTE)
    slot.array(0, (COUNT,), INT64)[...] = value
    staging.ship(slot)
    return slot


def lent(staging: Staging, slot: Slot) -> torch.Tensor:
    tensor = staging.lend(slot, {"all": Place(0, (COUNT,), INT64)})["all"]
    staging.hand_over(slot)
    return tensor


def sums_of_a_busy_loop(staging: Staging, *, keeps_the_rule: bool) -> list[int]:
    """A loop that reads each batch long after it let go of it, as the host runs ahead of the device."""
    sums = []
    for value in range(50):
        slot = filled(staging, value)
        tensor = lent(staging, slot)
        torch.cuda._sleep(LONG)
        sums.append(tensor.sum())
        del tensor  # the lease ends now, on the host; the event keeps the device memory
        if not keeps_the_rule:
            slot.device.fences.clear()
    return [int(total) for total in sums]


def test_the_loop_never_sees_the_next_batch_through_its_own(device: torch.device) -> None:
    staging = Staging(device, MEGABYTE, num_slots=2)
    assert sums_of_a_busy_loop(staging, keeps_the_rule=True) == [value * COUNT for value in range(50)]
    assert staging.num_allocated <= 2 * 3


def test_without_the_used_event_the_loop_reads_a_later_batch(device: torch.device) -> None:
    """The negative control of the second edge."""
    staging = Staging(device, MEGABYTE, num_slots=2)
    assert sums_of_a_busy_loop(staging, keeps_the_rule=False) != [value * COUNT for value in range(50)]


@pytest.mark.parametrize("keeps_the_rule", [True, False])
def test_a_host_slab_is_not_rewritten_under_its_copy(device: torch.device, keeps_the_rule: bool) -> None:
    """The first edge and its negative control: hold the copy back, rewrite the host slab, compare."""
    staging = Staging(device, MEGABYTE, num_slots=1)
    assert staging._copy_stream is not None
    with torch.cuda.stream(staging._copy_stream):
        torch.cuda._sleep(5 * LONG)
    first = filled(staging, 1)
    if not keeps_the_rule:
        first.host.fences.clear()
    second = filled(staging, 2)
    assert second.host is first.host
    assert bool((lent(staging, first) == 1).all()) is keeps_the_rule


@pytest.mark.parametrize("keeps_the_rule", [True, False])
def test_a_loop_may_take_on_one_stream_and_let_go_on_another(
    device: torch.device, keeps_the_rule: bool
) -> None:
    """It works on the stream on which it took the batch; the batch dies while another one is current."""
    staging = Staging(device, MEGABYTE, num_slots=1)
    side = torch.cuda.Stream(device)
    with torch.cuda.stream(side):
        slot = filled(staging, 1)
        tensor = lent(staging, slot)
        torch.cuda._sleep(5 * LONG)
        total = tensor.sum()
    del tensor  # the default stream is current, and has nothing to do
    if not keeps_the_rule:
        slot.device.fences.clear()
    second = filled(staging, 2)
    assert second.device is slot.device
    torch.cuda.synchronize(device)
    assert (int(total) == COUNT) is keeps_the_rule


def test_the_loop_may_change_its_stream_between_batches(device: torch.device) -> None:
    streams = [torch.cuda.Stream(device) for _ in range(3)]
    rows = [[value] * 512 for value in range(200)]
    sums = []
    with Prefetcher(rows, None, device=device, max_batch_rows=1) as batches:
        iterator = iter(batches)
        for turn in range(200):
            with torch.cuda.stream(streams[turn % 3]):
                batch = next(iterator)
                torch.cuda._sleep(LONG // 20)
                sums.append(batch.inputs["input_ids"].sum())
                del batch
    assert [int(total) for total in sums] == [512 * value for value in range(200)]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="this machine has one CUDA device")
def test_a_second_device_gets_its_own_batches() -> None:
    rows = [[value] * 512 for value in range(100)]
    second = torch.device("cuda", 1)
    with Prefetcher(rows, None, device=second, max_batch_rows=1) as batches, torch.cuda.device(1):
        seen = [batch.inputs["input_ids"] for batch in batches]
    assert all(tensor.device == second for tensor in seen)
    assert [int(tensor[0, 0]) for tensor in seen] == list(range(100))


def test_slabs_are_pinned_and_no_more_of_them_than_computed(device: torch.device) -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.host_memory_stats()["allocated_bytes.current"]
    rows = [[value] * 64 for value in range(400)]
    with Prefetcher(rows, None, device=device, max_batch_tokens=4_096, batches_ahead=3) as batches:
        for batch in batches:
            del batch
        held = torch.cuda.host_memory_stats()["allocated_bytes.current"] - before
        num_slabs = 3 + 2
        # Two inputs of int64; torch's allocator rounds a block up to a power of two.
        slab = 2 * (4_096 * 8 + 64)
        assert slab <= held <= num_slabs * (1 << (slab - 1).bit_length())
    assert Staging(device, 4_096, num_slots=1).take_slot(64).host.memory.is_pinned()


def test_a_copy_does_not_block_the_worker(device: torch.device) -> None:
    """With the copy stream held back, shipping returns before the copy has begun."""
    staging = Staging(device, MEGABYTE, num_slots=2)
    assert staging._copy_stream is not None
    with torch.cuda.stream(staging._copy_stream):
        torch.cuda._sleep(10 * LONG)
    slot = filled(staging, 1)
    assert slot.copied is not None
    assert not slot.copied.query()
    torch.cuda.synchronize(device)
    assert slot.copied.query()


def test_copies_overlap_compute(device: torch.device, tmp_path: Path) -> None:
    """In the profiler's own timeline: most copies begin while a kernel of the loop is running."""
    rows = [[value] * 8_192 for value in range(60)]
    weight = torch.randn(2_048, 2_048, device=device)
    path = tmp_path / "profile.json"
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        with Prefetcher(rows, None, device=device, max_batch_rows=1, max_batch_tokens=8_192) as batches:
            for batch in batches:
                for _ in range(20):
                    weight @ weight
                batch.inputs["input_ids"].sum()
        torch.cuda.synchronize(device)
    profiler.export_chrome_trace(str(path))
    events: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    kernels = [(each["ts"], each["ts"] + each["dur"]) for each in events if each.get("cat") == "kernel"]
    copies = [each for each in events if each.get("cat") == "gpu_memcpy" and "HtoD" in each["name"]]
    assert len(copies) >= 60
    overlapping = sum(any(start < each["ts"] < stop for start, stop in kernels) for each in copies)
    assert overlapping > 0.7 * len(copies)


def test_the_idle_share_is_what_the_loop_leaves_idle(device: torch.device) -> None:
    def load(key: int) -> list[int]:
        threading.Event().wait(0.02)
        return [key]

    def idle_share(num_workers: int, cycles: int) -> float:
        with Prefetcher(
            range(60), None, load=load, device=device, max_batch_rows=1, num_workers=num_workers
        ) as batches:
            for _ in batches:
                torch.cuda._sleep(cycles)
            torch.cuda.synchronize(device)
            share = batches.stats().device_idle_share
        assert share is not None
        return share

    assert idle_share(num_workers=1, cycles=1_000) > 0.8  # 20 ms of loading for each microsecond of work
    assert idle_share(num_workers=16, cycles=5 * LONG) < 0.2
