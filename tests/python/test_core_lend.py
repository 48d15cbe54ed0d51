"""penstock._core.lend: the owner is let go exactly when nobody looks at its memory any more."""

from __future__ import annotations

import collections
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from penstock import _core

HOST = 1


class Slab:
    """Sixteen bytes that know whether they are still there."""

    def __init__(self) -> None:
        self.memory = np.arange(16, dtype=np.uint8)


class Loan:
    """A tensor over a slab that nobody else owns."""

    def __init__(self, consume: Callable[[Any], Any] = torch.utils.dlpack.from_dlpack) -> None:
        slab = Slab()
        self._slab = weakref.ref(slab)
        self.tensor = consume(_core.lend(slab.memory.ctypes.data, 16, HOST, 0, slab))

    @property
    def is_over(self) -> bool:
        return self._slab() is None


class Exporter:
    """What numpy and torch.from_dlpack want: an object that hands out a capsule."""

    def __init__(self, capsule: object) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: object) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return HOST, 0


def test_the_tensor_is_the_memory() -> None:
    slab = Slab()
    tensor = torch.utils.dlpack.from_dlpack(_core.lend(slab.memory.ctypes.data, 16, HOST, 0, slab))
    assert tensor.dtype == torch.uint8
    assert tensor.tolist() == list(range(16))
    tensor[3] = 200
    assert slab.memory[3] == 200
    assert tensor.data_ptr() == slab.memory.ctypes.data


def test_the_end_is_told_once_with_the_owner() -> None:
    slab, told = Slab(), collections.deque[Slab]()
    capsule = _core.lend(slab.memory.ctypes.data, 16, HOST, 0, slab, told.append)
    tensor = torch.utils.dlpack.from_dlpack(capsule)
    views = [tensor[2:], tensor.numpy()]
    del tensor, capsule
    assert not told
    views.clear()
    assert list(told) == [slab]


def test_the_end_is_told_of_a_capsule_that_nobody_used() -> None:
    slab, told = Slab(), collections.deque[Slab]()
    _core.lend(slab.memory.ctypes.data, 16, HOST, 0, slab, told.append)
    assert list(told) == [slab]


def test_an_end_that_raises_is_reported_and_ends_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", reports.append)

    def refuse(_: object) -> None:
        raise OSError("no room")

    slab = Slab()
    alive = weakref.ref(slab)
    _core.lend(slab.memory.ctypes.data, 16, HOST, 0, slab, refuse)
    del slab
    assert [str(report.exc_value) for report in reports] == ["no room"]
    reports.clear()
    assert alive() is None


def test_the_loan_ends_with_the_tensor() -> None:
    loan = Loan()
    assert not loan.is_over
    del loan.tensor
    assert loan.is_over


@pytest.mark.parametrize(
    "look",
    [
        lambda tensor: tensor[4:8],
        lambda tensor: tensor.view(torch.int64).reshape(2, 1),
        lambda tensor: tensor.untyped_storage(),
        lambda tensor: tensor.numpy(),
        lambda tensor: tensor.numpy()[2:],
        lambda tensor: memoryview(tensor.numpy()),
        lambda tensor: tensor.detach(),
        np.from_dlpack,
        torch.utils.dlpack.from_dlpack,
        lambda tensor: tensor.view(torch.int64).as_strided((1,), (1,), 1),
    ],
    ids=[
        "slice",
        "view",
        "storage",
        "numpy",
        "numpy-view",
        "memoryview",
        "detach",
        "dlpack",
        "re-lent",
        "strided",
    ],
)
def test_whoever_looks_last_ends_the_loan(look: Callable[[torch.Tensor], object]) -> None:
    loan = Loan()
    view = look(loan.tensor)
    del loan.tensor
    gc.collect()
    assert not loan.is_over
    del view
    gc.collect()
    assert loan.is_over


@pytest.mark.parametrize(
    "consume",
    [
        lambda capsule: torch.utils.dlpack.from_dlpack(Exporter(capsule)),
        lambda capsule: np.from_dlpack(Exporter(capsule)),
    ],
    ids=["torch", "numpy"],
)
def test_other_ways_to_consume_a_capsule(consume: Callable[[object], Any]) -> None:
    loan = Loan(consume)
    assert loan.tensor[5] == 5
    del loan.tensor
    assert loan.is_over


def test_a_capsule_that_nobody_consumes_ends_the_loan() -> None:
    loan = Loan(consume=lambda capsule: capsule)
    assert not loan.is_over
    del loan.tensor
    assert loan.is_over


def test_a_consumed_capsule_ends_nothing_as_it_dies() -> None:
    slab = Slab()
    seen = weakref.ref(slab)
    capsule = _core.lend(slab.memory.ctypes.data, 16, HOST, 0, slab)
    tensor = torch.utils.dlpack.from_dlpack(capsule)
    del slab, capsule
    assert seen() is not None
    assert tensor.tolist() == list(range(16))
    del tensor
    assert seen() is None


def test_a_tensor_may_die_in_another_thread() -> None:
    loan = Loan()
    tensors = [loan.tensor]
    del loan.tensor
    thread = threading.Thread(target=tensors.clear)
    thread.start()
    thread.join()
    assert loan.is_over


def test_a_tensor_may_die_in_a_thread_without_the_interpreter() -> None:
    """Autograd frees what it saved in threads of its own."""
    loan = Loan()
    weight = torch.ones(2, requires_grad=True, dtype=torch.float64)
    (weight * loan.tensor.view(torch.float64)).sum().backward()
    del loan.tensor
    gc.collect()
    assert loan.is_over


def test_many_threads_may_end_loans_at_once() -> None:
    loans = [Loan() for _ in range(400)]
    barrier = threading.Barrier(4)

    def drop(mine: list[Loan]) -> None:
        barrier.wait()
        for loan in mine:
            del loan.tensor

    threads = [threading.Thread(target=drop, args=(loans[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(loan.is_over for loan in loans)


def test_the_owner_may_raise_as_it_goes() -> None:
    class Owner:
        def __del__(self) -> None:
            raise RuntimeError("said by the owner")

    memory = np.zeros(8, np.uint8)
    said: list[str] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda raised: said.append(str(raised.exc_value))
    try:
        tensor = torch.utils.dlpack.from_dlpack(_core.lend(memory.ctypes.data, 8, HOST, 0, Owner()))
        del tensor
    finally:
        sys.unraisablehook = hook
    assert said == ["said by the owner"]


def test_no_reference_is_lost_or_kept() -> None:
    memory, owner = np.zeros(8, np.uint8), object()
    before = sys.getrefcount(owner)
    for _ in range(1000):
        capsule = _core.lend(memory.ctypes.data, 8, HOST, 0, owner)
        torch.utils.dlpack.from_dlpack(capsule)
    del capsule
    assert sys.getrefcount(owner) == before


def test_no_bytes_are_a_loan_too() -> None:
    assert torch.utils.dlpack.from_dlpack(_core.lend(0, 0, HOST, 0, None)).numel() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((16, -1, HOST, 0), "num_bytes must be at least 0, not -1"),
        ((0, 4, HOST, 0), "address is 0, which holds no 4 bytes"),
        ((16, 4, 0, 0), "device must be a DLPack device type .* not 0 and 0"),
        ((16, 4, HOST, -1), "not 1 and -1"),
    ],
)
def test_loans_that_cannot_be_are_refused_by_name(arguments: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^lend: .*{message}"):
        _core.lend(*arguments, object())


@pytest.mark.parametrize(
    "name", ["int8", "int32", "int64", "uint8", "float16", "float32", "complex64", "bool"]
)
def test_a_loan_may_have_a_shape_and_a_type(name: str) -> None:
    values = np.arange(6).reshape(2, 3).astype(name)
    code = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}[values.dtype.kind]
    size = values.dtype.itemsize
    told: list[object] = []
    capsule = _core.lend(
        values.ctypes.data, values.nbytes, HOST, 0, values, told.append, (2, 3), type_code=code, itemsize=size
    )
    tensor = torch.utils.dlpack.from_dlpack(capsule)
    assert tensor.is_contiguous()
    np.testing.assert_array_equal(tensor.numpy(), values, strict=True)
    assert told == []
    del tensor, capsule
    assert len(told) == 1


def test_a_loan_of_a_loan_ends_with_the_last_of_them() -> None:
    memory = np.zeros(16, np.uint8)
    told: list[object] = []
    whole = _core.lend(memory.ctypes.data, 16, HOST, 0, memory, told.append)
    tensors = [
        torch.utils.dlpack.from_dlpack(_core.lend(memory.ctypes.data + at, 8, HOST, 0, whole))
        for at in (0, 8)
    ]
    del whole
    tensors.pop(0)
    assert told == []
    tensors.pop()
    assert len(told) == 1


@pytest.mark.parametrize(
    ("shape", "itemsize", "message"),
    [
        ((2, 3), 1, "the shape takes 6 bytes; num_bytes is 16"),
        ((2, -8), 1, "no array has a side of -8"),
        ((1 << 40, 1 << 40), 1, "no array has a side of"),
        ((4,), 0, "itemsize must be 1 to 16, not 0"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shape: tuple[int, ...], itemsize: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^lend: {message}"):
        _core.lend(16, 16, HOST, 0, object(), shape=shape, itemsize=itemsize)


# Not with torch in the threads: on its own, too, it aborts when a daemon thread outlives the interpreter.
LOANS_AT_EXIT = """
import threading, time
import numpy as np, torch
from penstock import _core

class Exporter:
    def __dlpack__(self, **_):
        memory = np.zeros(64, np.uint8)
        return _core.lend(memory.ctypes.data, 64, 1, 0, memory)
    def __dlpack_device__(self):
        return 1, 0

def churn():
    while True:
        np.from_dlpack(Exporter())

kept = torch.from_dlpack(Exporter())
capsule = Exporter().__dlpack__()
for _ in range(2):
    threading.Thread(target=churn, daemon=True).start()
time.sleep(0.05)
"""


def test_loans_do_not_spoil_the_exit() -> None:
    for _ in range(3):
        subprocess.run([sys.executable, "-c", LOANS_AT_EXIT], check=True, timeout=50)
