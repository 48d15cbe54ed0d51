"""The handoffs of ``handoff.py``: objects from producers that run beside the loop into the loop's hands.

Each takes a ``Case`` and returns what arrived, in the order of arrival: ``(index, stamp, received)``, in
nanoseconds. The stamp is drawn just before the object is put, when the work of the item is done. Every bound
is 64 items, but for DataLoader (64 over all workers, two each at least) and where a peer has one of its own.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from time import perf_counter_ns
from typing import Any

from contenders import Contender

BOUND = 64

Item = tuple[int, int]  # index, stamp
Arrival = tuple[int, int, int]  # index, stamp, received


@dataclass(frozen=True)
class Case:
    """What every handoff is given to do.

    Attributes:
        items: Objects to hand over.
        producers: Threads, tasks or processes that make them.
        work_s: How long each takes to make: a sleep, without the GIL. 0: no work at all.
    """

    items: int
    producers: int
    work_s: float

    def make(self, index: int) -> Item:
        """The work of one item. Blocks."""
        if self.work_s:
            time.sleep(self.work_s)
        return index, perf_counter_ns()


Handoff = Callable[[Case], list[Arrival]]


def arrivals(items: Iterator[Item]) -> list[Arrival]:
    """What comes, with the moment at which it is here."""
    received = [(item, perf_counter_ns()) for item in items]
    return [(index, stamp, moment) for (index, stamp), moment in received]


def free_producers(case: Case, put: Callable[[Item], Any], get: Callable[[], Item]) -> list[Arrival]:
    """Threads that put whenever they have something: the order is that of completion."""
    indices = count()

    def produce() -> None:
        while (index := next(indices)) < case.items:
            put(case.make(index))

    with threads(case.producers, produce):
        return arrivals(get() for _ in range(case.items))


class threads:  # noqa: N801 - reads as a function
    """So many threads run this, joined at the end."""

    def __init__(self, number: int, run: Callable[[], None]) -> None:
        self._threads = [threading.Thread(target=run, daemon=True) for _ in range(number)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join()


# --- the standard library ---------------------------------------------------------------------------------


def queue_queue(case: Case) -> list[Arrival]:
    """``queue.Queue(64)``."""
    ready: queue.Queue[Item] = queue.Queue(BOUND)
    return free_producers(case, ready.put, ready.get)


def simple_queue(case: Case) -> list[Arrival]:
    """``queue.SimpleQueue()``: nobody waits for a slow consumer."""
    ready: queue.SimpleQueue[Item] = queue.SimpleQueue()
    return free_producers(case, ready.put, ready.get)


def simple_queue_bounded(case: Case) -> list[Arrival]:
    """``queue.SimpleQueue()`` and a semaphore of 64."""
    ready: queue.SimpleQueue[Item] = queue.SimpleQueue()
    room = threading.Semaphore(BOUND)

    def put(item: Item) -> None:
        room.acquire()
        ready.put(item)

    def get() -> Item:
        item = ready.get()
        room.release()
        return item

    return free_producers(case, put, get)


def asyncio_same_loop(case: Case) -> list[Arrival]:
    """``asyncio.Queue(64)``; producers and consumer are tasks of one event loop."""

    async def main() -> list[Arrival]:
        ready: asyncio.Queue[Item] = asyncio.Queue(BOUND)
        indices = count()

        async def produce() -> None:
            while (index := next(indices)) < case.items:
                if case.work_s:
                    await asyncio.sleep(case.work_s)
                await ready.put((index, perf_counter_ns()))

        tasks = [asyncio.create_task(produce()) for _ in range(case.producers)]
        received = [(await ready.get(), perf_counter_ns()) for _ in range(case.items)]
        await asyncio.gather(*tasks)
        return [(index, stamp, moment) for (index, stamp), moment in received]

    return asyncio.run(main())


def asyncio_from_threads(case: Case) -> list[Arrival]:
    """``asyncio.Queue``, filled by threads with ``call_soon_threadsafe``; a semaphore of 64 bounds it."""

    async def main() -> list[Arrival]:
        loop, ready = asyncio.get_running_loop(), asyncio.Queue[Item]()
        room = threading.Semaphore(BOUND)
        indices = count()

        def produce() -> None:
            while (index := next(indices)) < case.items:
                item = case.make(index)
                room.acquire()
                loop.call_soon_threadsafe(ready.put_nowait, item)

        received = []
        with threads(case.producers, produce):
            for _ in range(case.items):
                item = await ready.get()
                received.append((item, perf_counter_ns()))
                room.release()
        return [(index, stamp, moment) for (index, stamp), moment in received]

    return asyncio.run(main())


def futures_window(case: Case) -> list[Arrival]:
    """``ThreadPoolExecutor`` and a deque of 64 futures."""
    with ThreadPoolExecutor(case.producers) as pool:

        def in_order() -> Iterator[Item]:
            indices = iter(range(case.items))
            window: deque[Future[Item]] = deque()
            window.extend(pool.submit(case.make, index) for index in islice(indices, BOUND))
            while window:
                item = window.popleft().result()
                yield item
                window.extend(pool.submit(case.make, index) for index in islice(indices, 1))

        return arrivals(in_order())


# --- torch, torchdata, SPDL -------------------------------------------------------------------------------


class Items:
    """The items, as a ``DataLoader`` wants them."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def __getitem__(self, index: int) -> Item:
        return self.case.make(index)

    def __len__(self) -> int:
        return self.case.items


def as_it_is(item: Any) -> Any:
    """A collate_fn that leaves the item alone."""
    return item


def data_loader(case: Case) -> list[Arrival]:
    """``torch.utils.data.DataLoader``: so many processes, one item a batch."""
    from torch.utils.data import DataLoader

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more processes than cores
        loader: DataLoader[Any] = DataLoader(
            Items(case),  # type: ignore[arg-type]  # it need not be a Dataset
            batch_size=None,
            num_workers=case.producers,
            prefetch_factor=max(2, BOUND // case.producers),
            multiprocessing_context="fork",
            collate_fn=as_it_is,
        )
        return arrivals(iter(loader))


def torchdata_nodes(case: Case, prefetch: int = 0) -> list[Arrival]:
    """``torchdata.nodes``: ParallelMapper in threads, in order."""
    from torchdata import nodes

    root: Any = nodes.IterableWrapper(range(case.items))
    root = nodes.ParallelMapper(root, case.make, num_workers=case.producers, in_order=True)
    if prefetch:
        root = nodes.Prefetcher(root, prefetch_factor=prefetch)
    return arrivals(iter(nodes.Loader(root)))


def torchdata_prefetcher(case: Case) -> list[Arrival]:
    """The same, and a Prefetcher behind it."""
    return torchdata_nodes(case, prefetch=2)


def spdl(case: Case) -> list[Arrival]:
    """SPDL: one stage in so many threads, output in the order of the input."""
    from spdl.pipeline import PipelineBuilder

    builder: Any = PipelineBuilder()
    pipeline = (
        builder.add_source(range(case.items))
        .pipe(case.make, concurrency=case.producers, output_order="input", max_failures=0)
        .add_sink(BOUND)
        .build(num_threads=case.producers)
    )
    with pipeline.auto_stop():
        return arrivals(iter(pipeline))


# --- ours -------------------------------------------------------------------------------------------------


def ring_free(case: Case) -> list[Arrival]:
    """``Ring(64)``, tickets drawn when an item is put: the order is that of completion."""
    from penstock._core import Ring

    ring, feeder = Ring(BOUND), threading.Lock()

    def put(item: Item) -> None:
        with feeder:  # one thread at a time is the feeder
            ring.put(item)

    return free_producers(case, put, lambda: taken(ring))


def ring_in_order(case: Case) -> list[Arrival]:
    """``Ring(64)``, a worker draws a ticket and then makes its item: the order is that of the tickets."""
    from penstock._core import Ring

    ring, tickets, feeder = Ring(BOUND), count(), threading.Lock()

    def produce() -> None:
        while True:
            with feeder:
                if (ticket := next(tickets)) >= case.items:
                    return
                ring.claim(ticket)
            ring.publish(ticket, case.make(ticket))

    with threads(case.producers, produce):
        return arrivals(taken(ring) for _ in range(case.items))


def taken(ring: Any) -> Any:
    """The next item of a ring."""
    _, item = ring.take()
    return item


def prefetcher(case: Case) -> list[Arrival]:
    """``penstock.Prefetcher`` with ``load=``: not the bare object, but a tensor of ids, padded and masked."""
    import penstock

    stamps = [0] * case.items

    def load(index: int) -> list[int]:
        _, stamps[index] = case.make(index)
        return [index % 1000]

    with penstock.Prefetcher(
        range(case.items),
        None,
        load=load,
        device="cpu",
        max_batch_rows=1,
        num_workers=case.producers,
        rows_ahead=BOUND,
    ) as batches:
        received = [(batch, perf_counter_ns()) for batch in only_what_is_checked(batches)]
    if any(ids != index % 1000 for (index, ids), _ in received):
        raise ValueError("the Prefetcher delivered other ids than load gave it")
    return [(index, stamps[index], moment) for (index, _), moment in received]


def only_what_is_checked(batches: Any) -> Iterator[tuple[int, int]]:
    """Index and id of each batch: a kept batch would take its memory with it."""
    for batch in batches:
        yield int(batch.input_index[0]), int(batch.inputs["input_ids"][0, 0])


TORCH, TORCHDATA, SPDL = "torch.utils.data", "torchdata.nodes", "spdl.pipeline"

HANDOFFS: list[Contender[Handoff]] = [
    Contender("queue.Queue", queue_queue, in_order=False),
    Contender("queue.SimpleQueue", simple_queue, in_order=False, is_bounded=False),
    Contender("SimpleQueue and Semaphore", simple_queue_bounded, in_order=False),
    Contender("asyncio.Queue, one loop", asyncio_same_loop, in_order=False),
    Contender("asyncio.Queue, from threads", asyncio_from_threads, in_order=False),
    Contender("futures window", futures_window),
    Contender("DataLoader, processes", data_loader, TORCH),
    Contender("torchdata.nodes", torchdata_nodes, TORCHDATA),
    Contender("torchdata.nodes, Prefetcher(2)", torchdata_prefetcher, TORCHDATA),
    Contender("SPDL", spdl, SPDL),
    Contender("penstock ring, any order", ring_free, in_order=False),
    Contender("penstock ring", ring_in_order),
    Contender("penstock.Prefetcher", prefetcher, TORCH),
]


# --- one pair of calls, in one thread ---------------------------------------------------------------------


def empty_loop(pairs: int) -> None:
    """What the loop itself costs, which all figures include."""
    for _ in range(pairs):
        pass


def simple_queue_pairs(pairs: int) -> None:
    """put, get."""
    ready: queue.SimpleQueue[object] = queue.SimpleQueue()
    put, get, item = ready.put, ready.get, object()
    for _ in range(pairs):
        put(item)
        get()


def queue_pairs(pairs: int) -> None:
    """put, get."""
    ready: queue.Queue[object] = queue.Queue(BOUND)
    put, get, item = ready.put, ready.get, object()
    for _ in range(pairs):
        put(item)
        get()


def future_pairs(pairs: int) -> None:
    """A new future, set_result, result."""
    item = object()
    for _ in range(pairs):
        future: Future[object] = Future()
        future.set_result(item)
        future.result()


def ring_pairs(pairs: int) -> None:
    """put, take."""
    from penstock._core import Ring

    ring, item = Ring(BOUND), object()
    put, take = ring.put, ring.take
    for _ in range(pairs):
        put(item)
        take()


def ring_in_bulk(pairs: int) -> None:
    """Put and take_ready, 32 at once: what was taken keeps its slots until the next call."""
    from penstock._core import Ring

    ring, items = Ring(BOUND), [object()] * (BOUND // 2)
    put, take_ready = ring.put, ring.take_ready
    for _ in range(pairs // len(items)):
        put(*items)
        take_ready(len(items))


PAIRS: dict[str, Callable[[int], None]] = {
    "an empty loop": empty_loop,
    "queue.SimpleQueue: put, get": simple_queue_pairs,
    "queue.Queue: put, get": queue_pairs,
    "Future: make, set_result, result": future_pairs,
    "penstock ring: put, take": ring_pairs,
    "penstock ring: put, take_ready, 32 at once": ring_in_bulk,
}
