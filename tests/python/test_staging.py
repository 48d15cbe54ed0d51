"""Slots: their states, and memory that is never used again while anyone can see it."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from penstock.errors import ConfigError
from penstock.staging import Place, Slot, Staging, resolve_device

if TYPE_CHECKING:
    from collections.abc import Callable

INT64 = np.dtype(np.int64)
SLOT_BYTES = 4_096


def filled(staging: Staging, value: int, num_bytes: int = SLOT_BYTES) -> Slot:
    slot = staging.take_slot(num_bytes)
    assert slot.state == "FILLING"
    slot.array(0, (num_bytes // 8,), INT64)[...] = value
    staging.ship(slot)
    assert slot.state == "COPYING"
    return slot


def lent(staging: Staging, slot: Slot) -> torch.Tensor:
    places = {"all": Place(0, (slot.size // 8,), np.dtype(np.int64))}
    tensor = staging.lend(slot, places)["all"]
    assert slot.state == "READY"
    staging.hand_over(slot)
    assert slot.state == "IN_USE"
    return tensor


def is_free(staging: Staging, slot: Slot) -> bool:
    return slot.device in staging._free_devices


@pytest.fixture
def staging() -> Staging:
    return Staging(torch.device("cpu"), SLOT_BYTES, num_slots=2)


def test_a_slot_goes_through_its_states_and_is_used_again(staging: Staging) -> None:
    slot = filled(staging, 1)
    tensor = lent(staging, slot)
    assert not is_free(staging, slot)
    del tensor
    gc.collect()
    assert is_free(staging, slot)
    assert filled(staging, 2).device is slot.device
    assert staging.num_allocated == 1


@pytest.mark.parametrize("keep", ["slice", "reshape", "numpy", "storage", "detach"])
def test_any_view_keeps_the_memory(staging: Staging, keep: str) -> None:
    slot = filled(staging, 1)
    tensor = lent(staging, slot)
    views: dict[str, Callable[[torch.Tensor], object]] = {
        "slice": lambda whole: whole[3:5],
        "reshape": lambda whole: whole.view(2, -1)[1],
        "numpy": lambda whole: whole.numpy()[7:9],
        "storage": torch.Tensor.untyped_storage,
        "detach": torch.Tensor.detach,
    }
    kept = views[keep](tensor)
    del tensor
    gc.collect()
    assert not is_free(staging, slot)
    others = [filled(staging, 9) for _ in range(4)]
    assert all(other.device is not slot.device for other in others)
    del kept
    gc.collect()
    assert is_free(staging, slot)


def test_a_lease_may_end_in_any_thread(staging: Staging) -> None:
    slot = filled(staging, 1)
    holder = [lent(staging, slot)]
    thread = threading.Thread(target=holder.clear)
    thread.start()
    thread.join()
    gc.collect()
    assert is_free(staging, slot)


def test_only_so_many_free_slots_are_kept(staging: Staging) -> None:
    tensors = [lent(staging, filled(staging, at)) for at in range(6)]
    assert [int(tensor[0]) for tensor in tensors] == list(range(6))
    del tensors
    gc.collect()
    assert len(staging._free_devices) == 2


def test_a_batch_over_the_budget_gets_memory_of_its_own_that_is_not_kept(staging: Staging) -> None:
    tensor = lent(staging, filled(staging, 5, num_bytes=4 * SLOT_BYTES))
    assert tensor.numel() == 4 * SLOT_BYTES // 8
    del tensor
    gc.collect()
    assert len(staging._free_devices) == 0


def test_without_the_lease_a_kept_tensor_is_overwritten(staging: Staging) -> None:
    """The negative control: end the lease while the tensor lives, and the next batch shows through."""
    slot = filled(staging, 1)
    tensor = lent(staging, slot)
    staging._free_devices.append(slot.device)
    filled(staging, 2)
    assert int(tensor[0]) == 2


def test_devices_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="'cpu' or 'cuda'"):
        resolve_device("meta")
    assert resolve_device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        assert resolve_device(None) == torch.device("cpu")
        with pytest.raises(ConfigError, match="no CUDA device"):
            resolve_device("cuda")
