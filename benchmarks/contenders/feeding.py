"""The loaders of ``feed.py``: the same documents to the same loop, each written as its makers would have it.

All have the same number of loads in flight. Each hands the loop tensors of token ids; ``Prefetcher`` also
pads and stacks them, which the others leave to the loop.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

import penstock
from contenders import Contender

Row = tuple[int, torch.Tensor]  # which document, int64[tokens]


@dataclass(frozen=True)
class Work:
    """What every loader is given to do.

    Attributes:
        documents: The texts.
        load_s: How long each takes to fetch.
        step_s: How long the loop takes for a step.
        rows: Documents of a step.
        in_flight: Loads at once.
        queue: Places in the queue of the tutorial's loader.
        tokenizer: For all the same.
        is_timed: The loop leaves its rows unread: only the loader's time counts, and not what it takes to
            take a tensor apart.
    """

    documents: list[str]
    load_s: list[float]
    step_s: float
    rows: int
    in_flight: int
    queue: int
    tokenizer: penstock.Tokenizer
    is_timed: bool = False

    @property
    def keys(self) -> range:
        """What is fetched."""
        return range(len(self.documents))

    def load(self, key: int) -> str:
        """Fetch a document. Blocks, GIL released."""
        time.sleep(self.load_s[key])
        return self.documents[key]

    async def load_async(self, key: int) -> str:
        """Fetch a document, on an event loop."""
        await asyncio.sleep(self.load_s[key])
        return self.documents[key]

    def row(self, key: int, text: str) -> Row:
        """As the loop wants it."""
        return key, torch.from_numpy(self.tokenizer.encode_batch([text]).ids).long()

    def fetch(self, key: int) -> Row:
        """Load and tokenize: the job of a worker."""
        return self.row(key, self.load(key))

    async def fetch_async(self, key: int) -> Row:
        """Load and tokenize: the job of a task."""
        return self.row(key, await self.load_async(key))


@dataclass
class Loop:
    """The consumer: takes its time for each step, notes what came and when."""

    work: Work
    start: float = field(default_factory=time.perf_counter)
    first: float = 0.0
    last: float = 0.0
    ended: float = 0.0
    seen: list[tuple[int, list[int]]] = field(default_factory=list)

    def step(self, rows: Iterable[Row]) -> None:
        """The model's time."""
        self.first = self.first or time.perf_counter()
        if not self.work.is_timed:
            self.seen += [(key, ids.tolist()) for key, ids in rows]
        time.sleep(self.work.step_s)
        self.last = time.perf_counter()

    def end(self) -> Loop:
        """The loader says that this was all. What follows is closing it."""
        self.ended = time.perf_counter()
        return self


Feed = Callable[[Work], Loop]


def steps_of(rows: Iterable[Row], work: Work) -> Iterator[list[Row]]:
    """As many rows as a step takes."""
    iterator = iter(rows)
    while step := list(islice(iterator, work.rows)):
        yield step


# --- the standard library ---------------------------------------------------------------------------------


def nothing_to_load(work: Work) -> Loop:
    """No loader at all: one load and every step, the documents ready."""
    ready = [work.row(key, work.documents[key]) for key in work.keys]
    loop = Loop(work)
    time.sleep(work.load_s[0])
    for rows in steps_of(ready, work):
        loop.step(rows)
    return loop.end()


def nothing_to_load_unevenly(work: Work) -> Loop:
    """No loader at all: threads that sleep and say so, the documents ready."""
    ready = [work.row(key, work.documents[key]) for key in work.keys]
    loop, keys = Loop(work), iter(work.keys)
    done: queue.SimpleQueue[int] = queue.SimpleQueue()

    def sleeper() -> None:
        for key in keys:
            time.sleep(work.load_s[key])
            done.put(key)

    threads = [threading.Thread(target=sleeper) for _ in range(work.in_flight)]
    for thread in threads:
        thread.start()
    for rows in steps_of((ready[done.get()] for _ in work.keys), work):
        loop.step(rows)
    for thread in threads:
        thread.join()
    return loop.end()


def sequential(work: Work) -> Loop:
    """Load, then step, then load: the loop most people begin with."""
    loop = Loop(work)
    for rows in steps_of(map(work.fetch, work.keys), work):
        loop.step(rows)
    return loop.end()


def asyncio_tutorial(work: Work) -> Loop:
    """One loader task, one queue, the step on the event loop: the loader of the usual tutorial, mended."""

    async def main() -> Loop:
        loop = Loop(work)
        ready: asyncio.Queue[Row | None] = asyncio.Queue(work.queue)

        async def load_all() -> None:
            for key in work.keys:
                await ready.put(await work.fetch_async(key))
            await ready.put(None)

        loader = asyncio.create_task(load_all())
        rows = []
        while (row := await ready.get()) is not None:
            rows.append(row)
            if len(rows) == work.rows:
                loop.step(rows)
                rows = []
        if rows:
            loop.step(rows)
        await loader
        return loop.end()

    return asyncio.run(main())


def asyncio_window(work: Work) -> Loop:
    """Asyncio as an expert writes it: a bounded window of loads, the steps in a thread."""

    async def main() -> Loop:
        loop = Loop(work)
        keys = iter(work.keys)
        window: deque[asyncio.Task[Row]] = deque()

        def refill() -> None:
            for key in islice(keys, work.in_flight - len(window)):
                window.append(asyncio.create_task(work.fetch_async(key)))

        refill()
        rows = []
        while window:
            rows.append(await window.popleft())
            refill()
            if len(rows) == work.rows or not window:
                await asyncio.to_thread(loop.step, rows)
                rows = []
        return loop.end()

    return asyncio.run(main())


def asyncio_as_completed(work: Work) -> Loop:
    """The same where order does not matter: a fixed crew of tasks, a bounded queue, the steps in a thread."""

    async def main() -> Loop:
        loop = Loop(work)
        keys = iter(work.keys)
        ready: asyncio.Queue[Row] = asyncio.Queue(work.in_flight)

        async def crew() -> None:
            for key in keys:
                await ready.put(await work.fetch_async(key))

        tasks = [asyncio.create_task(crew()) for _ in range(work.in_flight)]
        left = len(work.documents)
        while left:
            rows = [await ready.get() for _ in range(min(work.rows, left))]
            left -= len(rows)
            await asyncio.to_thread(loop.step, rows)
        await asyncio.gather(*tasks)
        return loop.end()

    return asyncio.run(main())


def futures_window(work: Work) -> Loop:
    """``ThreadPoolExecutor`` and a deque of futures: the best that the standard library does."""
    loop = Loop(work)
    with ThreadPoolExecutor(work.in_flight) as pool:

        def rows_in_order() -> Iterator[Row]:
            keys = iter(work.keys)
            window = deque(pool.submit(work.fetch, key) for key in islice(keys, work.in_flight))
            while window:
                row = window.popleft().result()
                window.extend(pool.submit(work.fetch, key) for key in islice(keys, 1))
                yield row

        for rows in steps_of(rows_in_order(), work):
            loop.step(rows)
        loop.end()
    return loop


def futures_as_completed(work: Work) -> Loop:
    """The same where order does not matter: finished futures call a queue."""
    loop = Loop(work)
    ready: queue.SimpleQueue[Future[Row]] = queue.SimpleQueue()
    with ThreadPoolExecutor(work.in_flight) as pool:

        def rows_as_completed() -> Iterator[Row]:
            keys = iter(work.keys)
            for key in islice(keys, work.in_flight):
                pool.submit(work.fetch, key).add_done_callback(ready.put)
            for _ in work.keys:
                row = ready.get().result()
                for key in islice(keys, 1):
                    pool.submit(work.fetch, key).add_done_callback(ready.put)
                yield row

        for rows in steps_of(rows_as_completed(), work):
            loop.step(rows)
        loop.end()
    return loop


# --- torch, torchdata, SPDL -------------------------------------------------------------------------------


class Documents(torch.utils.data.Dataset[Row]):
    """The documents, as a ``DataLoader`` wants them."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __getitem__(self, key: int) -> Row:
        return self.work.fetch(key)

    def __len__(self) -> int:
        return len(self.work.documents)


def as_it_is(rows: Any) -> Any:
    """A collate_fn that leaves the rows alone."""
    return rows


def data_loader(num_workers: Callable[[Work], int]) -> Feed:
    """``torch.utils.data.DataLoader``, one step's documents a batch, with so many processes."""

    def feed(work: Work) -> Loop:
        loop = Loop(work)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more processes than cores
            loader = torch.utils.data.DataLoader(
                Documents(work),
                batch_size=work.rows,
                num_workers=(count := num_workers(work)),
                multiprocessing_context="fork" if count else None,
                collate_fn=as_it_is,
            )
            for rows in loader:
                loop.step(rows)
        return loop.end()

    return feed


def torchdata_nodes(*, in_order: bool, prefetch: int) -> Feed:
    """``torchdata.nodes``: ParallelMapper in threads, and a Prefetcher behind it or none."""

    def feed(work: Work) -> Loop:
        from torchdata import nodes

        loop = Loop(work)
        root: Any = nodes.IterableWrapper(work.keys)
        root = nodes.ParallelMapper(root, work.fetch, num_workers=work.in_flight, in_order=in_order)
        root = nodes.Batcher(root, batch_size=work.rows, drop_last=False)
        if prefetch:
            root = nodes.Prefetcher(root, prefetch_factor=prefetch)
        for rows in nodes.Loader(root):
            loop.step(rows)
        return loop.end()

    return feed


def spdl(*, in_order: bool, is_async: bool) -> Feed:
    """SPDL: one stage with so many threads or coroutines, batches of a step's documents, a sink of three."""

    def feed(work: Work) -> Loop:
        from spdl.pipeline import PipelineBuilder

        loop = Loop(work)
        builder: Any = PipelineBuilder()
        pipeline = (
            builder.add_source(work.keys)
            .pipe(
                work.fetch_async if is_async else work.fetch,
                concurrency=work.in_flight,
                output_order="input" if in_order else "completion",
                max_failures=0,
            )
            .aggregate(work.rows)
            .add_sink(3)
            .build(num_threads=1 if is_async else work.in_flight)
        )
        with pipeline.auto_stop():
            for rows in pipeline:
                loop.step(rows)
            loop.end()
        return loop

    return feed


# --- ours -------------------------------------------------------------------------------------------------


def prefetcher(*, in_order: bool = True, is_async: bool = False, rows_ahead: int | None = None) -> Feed:
    """``penstock.Prefetcher``."""

    def feed(work: Work) -> Loop:
        loop = Loop(work)
        with penstock.Prefetcher(
            work.keys,
            work.tokenizer,
            load=work.load_async if is_async else work.load,
            device="cpu",
            max_batch_rows=work.rows,
            rows_ahead=rows_ahead or work.in_flight,
            num_workers=None if is_async else work.in_flight,
            ordered=in_order,
        ) as batches:
            for batch in batches:
                loop.step(rows_of(batch))
            loop.end()
        return loop

    return feed


def rows_of(batch: penstock.Batch) -> Iterator[Row]:
    """The rows of a batch, if somebody asks for them."""
    for key, ids, length in zip(batch.input_index, batch.inputs["input_ids"], batch.num_tokens, strict=True):
        yield int(key), ids[:length]


NOTHING = "(nothing to load: the sleeps alone)"
TORCHDATA, SPDL = "torchdata.nodes", "spdl.pipeline"
WIDE_ROWS_AHEAD = 4096

EVEN: list[Contender[Feed]] = [
    Contender(NOTHING, nothing_to_load),
    Contender("sequential", sequential),
    Contender("asyncio, queue", asyncio_tutorial),
    Contender("asyncio, window, step in a thread", asyncio_window),
    Contender("futures window", futures_window),
    Contender("DataLoader, in process", data_loader(lambda _: 0)),
    Contender("DataLoader, half the processes", data_loader(lambda work: max(1, work.in_flight // 2))),
    Contender("DataLoader, processes", data_loader(lambda work: work.in_flight)),
    Contender("torchdata.nodes", torchdata_nodes(in_order=True, prefetch=0), TORCHDATA),
    Contender("torchdata.nodes, Prefetcher(2)", torchdata_nodes(in_order=True, prefetch=2), TORCHDATA),
    Contender("SPDL, threads", spdl(in_order=True, is_async=False), SPDL),
    Contender("SPDL, coroutines", spdl(in_order=True, is_async=True), SPDL),
    Contender("penstock.Prefetcher", prefetcher()),
    Contender("penstock.Prefetcher, coroutines", prefetcher(is_async=True)),
]
"""Loads that all take the same time: order costs nothing."""

UNEVEN: list[Contender[Feed]] = [
    Contender(NOTHING, nothing_to_load_unevenly, in_order=False),
    Contender("asyncio, window, step in a thread", asyncio_window),
    Contender("asyncio, as completed", asyncio_as_completed, in_order=False),
    Contender("futures window", futures_window),
    Contender("futures, as completed", futures_as_completed, in_order=False),
    Contender("torchdata.nodes", torchdata_nodes(in_order=True, prefetch=2), TORCHDATA),
    Contender(
        "torchdata.nodes, unordered", torchdata_nodes(in_order=False, prefetch=2), TORCHDATA, in_order=False
    ),
    Contender("SPDL, threads", spdl(in_order=True, is_async=False), SPDL),
    Contender("SPDL, threads, as completed", spdl(in_order=False, is_async=False), SPDL, in_order=False),
    Contender("SPDL, coroutines, as completed", spdl(in_order=False, is_async=True), SPDL, in_order=False),
    Contender("penstock.Prefetcher", prefetcher()),
    Contender("penstock.Prefetcher, coroutines", prefetcher(is_async=True)),
    Contender(f"penstock.Prefetcher, rows_ahead={WIDE_ROWS_AHEAD}", prefetcher(rows_ahead=WIDE_ROWS_AHEAD)),
    Contender("penstock.Prefetcher, unordered", prefetcher(in_order=False), in_order=False),
    Contender(
        "penstock.Prefetcher, unordered, coroutines",
        prefetcher(in_order=False, is_async=True),
        in_order=False,
    ),
]
"""Loads of very different lengths: what order costs, and with which bound."""
