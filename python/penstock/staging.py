"""Slots: where a batch is written, copied to the device, and handed out without being handed over.

Each slot lives through FREE → FILLING → COPYING → READY → IN_USE → FREE::

    worker      take_slot()  FREE → FILLING    waits for the slot's own earlier copy before it writes
    worker      ship()       FILLING → COPYING  starts the copy on the one copy stream, records ``copied``
    worker      lend()       COPYING → READY    makes the tensors
    consumer    hand_over()  READY → IN_USE     its current stream waits for ``copied``; tensors go out
    last tensor dies         IN_USE → FREE      records ``used`` on the stream that is current then

The two edges that make reuse safe: the host slab is written again only after ``copied``, the device slab
only after ``used``. On a CPU device host and device slab are one, and there is nothing to copy or to wait
for; the states and the lease are the same.

A lease ends when the last tensor, view or array over the slab dies, not when the next batch is asked for.
Who keeps a batch keeps its slab: the slot is then given new memory, and nothing blocks.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.utils.dlpack

from penstock import _core
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ALIGNMENT = 64  # a cache line, and more than any dtype or copy engine asks for
_DLPACK_CPU, _DLPACK_CUDA = 1, 2
_DLPACK_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}


class Place(NamedTuple):
    """Where an array lies in a slot."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device to deliver to: ``None`` is cuda if there is one, else cpu.

    Raises:
        ConfigError: The device is not a CPU or CUDA device, or this machine has none of that kind.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device is None else device
    try:
        chosen = torch.device(name)
    except (RuntimeError, TypeError):
        raise ConfigError(
            f"device={str(device)!r}: torch knows no such device; use 'cpu' or 'cuda'."
        ) from None
    kind: str = chosen.type
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"device={str(device)!r}: batches are delivered to 'cpu' or 'cuda' devices only.")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(f"device={str(device)!r}: torch sees no CUDA device here; use device='cpu'.")
        index: int | None = chosen.index
        if index is None:
            chosen = torch.device("cuda", torch.cuda.current_device())
    return chosen


@dataclass(eq=False)
class Slab:
    """One allocation, and the events that must pass before it is written again."""

    memory: torch.Tensor  # uint8[num_bytes]
    fences: list[torch.cuda.Event] = field(default_factory=list)

    @cached_property
    def bytes(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The memory as an array, where it is the host's."""
        view: np.ndarray[Any, np.dtype[np.uint8]] = self.memory.numpy()
        return view


@dataclass(eq=False)
class Slot:
    """A batch on its way to the loop. ``state`` follows the picture above."""

    host: Slab  # pinned where the device is CUDA
    device: Slab  # the same slab on a CPU device
    size: int  # bytes that this batch uses
    state: str = "FILLING"
    copied: torch.cuda.Event | None = None
    lease: _Lease | None = None  # until it is handed over; the tensors keep it from then on

    def array(
        self, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> np.ndarray[Any, np.dtype[Any]]:
        """A view of the host slab, to be written by a worker."""
        view: np.ndarray[Any, np.dtype[Any]] = np.ndarray(shape, dtype, self.host.bytes, offset)
        return view


class _Lease:
    """Owns a CUDA slab while tensors over it are alive. Deleted by the last of them."""

    __slots__ = ("_slab", "_staging", "consumer")

    def __init__(self, slab: Slab, staging: Staging) -> None:
        self._slab, self._staging = slab, staging
        self.consumer: torch.cuda.Stream | None = None  # the loop's when it took the batch; None: nobody did

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self._staging._end_lease(self._slab, self.consumer)


class Gaps:
    """Time that a stream has nothing to do, between a moment when the loop asks and one when it is served.

    An event goes into the stream at each of the two. The device passes the first when it is done with all
    that was queued before, and the second at once if it still is at work: then there is no gap. Reading the
    events never waits for the device.

    Args:
        make_event: Gives an event that keeps the time.
    """

    def __init__(self, make_event: Callable[[], torch.cuda.Event]) -> None:
        self._make_event = make_event
        self._spare: list[torch.cuda.Event] = []
        self._open: torch.cuda.Event | None = None
        self._closed: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self.seconds = 0.0
        """The gaps that the device had passed when the loop last came here."""

    def begin(self, stream: torch.cuda.Stream) -> None:
        """What is queued from now on comes behind the gap. The loop's thread."""
        self._collect()
        if self._open is None:
            self._open = self._record(stream)

    def end(self, stream: torch.cuda.Stream) -> None:
        """The gap is over once the stream gets here. The loop's thread."""
        if self._open is not None:
            self._closed.append((self._open, self._record(stream)))
            self._open = None
            self._collect()

    def _record(self, stream: torch.cuda.Stream) -> torch.cuda.Event:
        event = self._spare.pop() if self._spare else self._make_event()
        event.record(stream)
        return event

    def _collect(self) -> None:
        while self._closed and self._closed[0][1].query():
            first, last = self._closed.popleft()
            self.seconds += first.elapsed_time(last) / 1e3
            self._spare += (first, last)


class Staging:
    """The slots of one prefetcher, and the one stream that copies.

    Args:
        device: Where the loop wants its tensors.
        slot_bytes: Size of a slab: what the largest planned batch needs. A larger batch (one row over
            the budget) gets memory of its own, which is not kept.
        num_slots: Slabs kept for reuse; ``batches_ahead + 2``.
    """

    def __init__(self, device: torch.device, slot_bytes: int, num_slots: int) -> None:
        self.device = device
        self._slot_bytes = slot_bytes
        # deque.append and popleft are atomic: a lease may end inside the garbage collector, in any thread,
        # so no lock may be taken there.
        self._free_hosts: deque[Slab] = deque(maxlen=num_slots)
        self._free_devices: deque[Slab] = deque(maxlen=num_slots)
        self._copy_stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._gaps = Gaps(partial(torch.cuda.Event, enable_timing=True)) if self._copy_stream else None
        self.num_allocated = 0

    @property
    def idle_s(self) -> float | None:
        """Seconds that the loop's stream had nothing to do between batches; None on a CPU device."""
        return None if self._gaps is None else self._gaps.seconds

    def loop_asks(self) -> None:
        """The loop has queued its work on a batch and comes for the next. Does not block."""
        if self._gaps is not None:
            self._gaps.begin(torch.cuda.current_stream(self.device))

    def take_slot(self, num_bytes: int) -> Slot:
        """A slot to fill. Never waits for the loop; may wait (GIL released) for an earlier copy to end."""
        if self._copy_stream is None:
            slab = self._take(self._free_devices, num_bytes, self._allocate_on_device)
            return Slot(slab, slab, num_bytes)
        host = self._take(self._free_hosts, num_bytes, self._allocate_pinned)
        for copied in host.fences:
            if not copied.query():
                copied.synchronize()
        host.fences.clear()
        return Slot(host, self._take(self._free_devices, num_bytes, self._allocate_on_device), num_bytes)

    def ship(self, slot: Slot) -> None:
        """Start the copy to the device. Does not block."""
        slot.state = "COPYING"
        if self._copy_stream is not None:
            with torch.cuda.stream(self._copy_stream):
                for used in slot.device.fences:
                    self._copy_stream.wait_event(used)
                slot.device.fences.clear()
                slot.device.memory[: slot.size].copy_(slot.host.memory[: slot.size], non_blocking=True)
                slot.copied = torch.cuda.Event()
                slot.copied.record(self._copy_stream)
            slot.host.fences.append(slot.copied)
            self._keep(self._free_hosts, slot.host)

    def lend(self, slot: Slot, places: Mapping[str, Place]) -> dict[str, torch.Tensor]:
        """Tensors over the slot, which is free when the last of them, and of their views, is gone.

        Does not block, nor let go of the GIL: a view that torch makes of a tensor does, and whoever takes
        the GIL then may keep it for milliseconds.
        """
        slot.state = "READY"
        slab = slot.device
        address = slab.memory.data_ptr()
        if slot.copied is None:
            # The deque's own append, so that the slab is back without a step of the interpreter: a signal
            # handler that raised inside a Python function called by a dying tensor would not be heard.
            put_back = self._free_devices.append if self._is_kept(slab) else None
            device = _DLPACK_CPU, 0
            # Each tensor keeps this capsule, which dies with the last of them: then the slab is put back.
            whole = _core.lend(address, slot.size, *device, slab, put_back)
        else:
            slot.lease = _Lease(slab, self)
            device = _DLPACK_CUDA, self.device.index or 0
            whole = _core.lend(address, slot.size, *device, slot.lease)
        tensors = {}
        for name, (offset, shape, dtype) in places.items():
            capsule = _core.lend(
                address + offset,
                math.prod(shape) * dtype.itemsize,
                *device,
                whole,
                shape=shape,
                type_code=_DLPACK_CODES[dtype.kind],
                itemsize=dtype.itemsize,
            )
            tensors[name] = torch.utils.dlpack.from_dlpack(capsule)
        return tensors

    def hand_over(self, slot: Slot) -> None:
        """What the consumer does next on its current stream comes after the copy. Does not block."""
        slot.state = "IN_USE"
        if slot.copied is None or slot.lease is None:
            return
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(slot.copied)
        if self._gaps is not None:
            self._gaps.end(stream)
        slot.lease.consumer = stream
        slot.lease = None

    def put_back(self, slot: Slot) -> None:
        """Return a slot that was taken and will not be shipped."""
        slot.state = "FREE"
        if slot.host is not slot.device:
            self._keep(self._free_hosts, slot.host)
        self._keep(self._free_devices, slot.device)

    def _take(self, free: deque[Slab], num_bytes: int, allocate: Callable[[int], torch.Tensor]) -> Slab:
        if num_bytes <= self._slot_bytes:
            try:
                return free.popleft()
            except IndexError:
                pass
        self.num_allocated += 1
        return Slab(allocate(max(num_bytes, self._slot_bytes)))

    def _keep(self, free: deque[Slab], slab: Slab) -> None:
        """Keep a slab for reuse, in place of the oldest if there are enough (batches were kept)."""
        if self._is_kept(slab):
            free.append(slab)

    def _is_kept(self, slab: Slab) -> bool:
        """Whether it is of the size that any batch within the budget fits into."""
        return slab.memory.numel() == self._slot_bytes

    def _allocate_pinned(self, num_bytes: int) -> torch.Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)

    def _allocate_on_device(self, num_bytes: int) -> torch.Tensor:
        if self._copy_stream is None:
            return torch.empty(num_bytes, dtype=torch.uint8)
        with torch.cuda.stream(self._copy_stream):
            return torch.empty(num_bytes, dtype=torch.uint8, device=self.device)

    def _end_lease(self, slab: Slab, consumer: torch.cuda.Stream | None) -> None:
        if consumer is None:
            # Only the copy touched it, and the next one comes behind that on the same stream.
            self._keep(self._free_devices, slab)
            return
        # The loop may work on another stream by now, or the last reference may die in another thread, whose
        # current stream says nothing of the loop.
        for stream in {consumer, torch.cuda.current_stream(self.device)}:
            used = torch.cuda.Event()
            used.record(stream)
            slab.fences.append(used)
            # Should the slab not be kept: torch's allocator must not hand it out before the loop is done.
            slab.memory.record_stream(stream)
        self._keep(self._free_devices, slab)
