"""How well is a loop fed? ``Prefetcher`` beside a sequential loop, asyncio loaders and a futures window.

The work is the same for all: each document takes a while to load (``time.sleep`` stands for network or disk),
is tokenized and made a tensor, and the loop takes a while for each (``time.sleep`` stands for an accelerator
that the host waits for without the GIL). One document a batch. Before anything is timed, all loaders must
deliver the same tokens in the same order.

The floor is what no loader can beat: the first load, then every step: ``load + documents * step``. The line
"nothing to load" is a loop that sleeps for just that: what this machine makes of the floor.

Run it with nothing else running::

    python benchmarks/feed.py                       # 64 documents, 50 ms load, 5 ms step, 16 workers
    python benchmarks/feed.py --documents 5 --load-s 0.5 --step-s 0 --queue 2
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

import penstock
from penstock.demo import MODEL
from penstock.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Seen = list[torch.Tensor]


@dataclass(frozen=True)
class Work:
    """What every loader is given to do."""

    documents: list[str]
    load_s: float
    step_s: float
    num_workers: int
    queue: int
    tokenizer: penstock.Tokenizer

    def load(self, index: int) -> str:
        """Fetch a document. Blocks, GIL released."""
        time.sleep(self.load_s)
        return self.documents[index]

    def tensor(self, text: str) -> torch.Tensor:
        """int64[1, tokens], as the loop wants it."""
        ids = self.tokenizer.encode_batch([text]).ids
        return torch.from_numpy(ids).long()[None]

    def step(self, ids: torch.Tensor, seen: Seen) -> None:
        """The model's time; notes what it was given."""
        time.sleep(self.step_s)
        seen.append(ids.clone())

    @cached_property
    def ready(self) -> list[torch.Tensor]:
        """What the loaders must deliver."""
        return [self.tensor(text) for text in self.documents]

    @property
    def floor_s(self) -> float:
        """No loader can be faster."""
        return self.load_s + len(self.documents) * self.step_s


def nothing_to_load(work: Work) -> Seen:
    """No loader at all: one load and every step, the documents ready."""
    seen: Seen = []
    time.sleep(work.load_s)
    for ids in work.ready:
        work.step(ids, seen)
    return seen


def sequential(work: Work) -> Seen:
    """Load, then step, then load: the loop most people begin with."""
    seen: Seen = []
    for index in range(len(work.documents)):
        work.step(work.tensor(work.load(index)), seen)
    return seen


def asyncio_queue(work: Work) -> Seen:
    """One loader task, one queue, the step on the event loop: the loader of the usual tutorial, mended."""

    async def main() -> Seen:
        seen: Seen = []
        queue: asyncio.Queue[torch.Tensor | None] = asyncio.Queue(work.queue)

        async def load_all() -> None:
            for text in work.documents:
                await asyncio.sleep(work.load_s)
                await queue.put(work.tensor(text))
            await queue.put(None)

        loader = asyncio.create_task(load_all())
        while (ids := await queue.get()) is not None:
            work.step(ids, seen)
        await loader
        return seen

    return asyncio.run(main())


def asyncio_window(work: Work) -> Seen:
    """Asyncio at its best: as many loads in flight as we have workers, the step in a thread."""

    async def main() -> Seen:
        seen: Seen = []

        async def load(text: str) -> torch.Tensor:
            await asyncio.sleep(work.load_s)
            return work.tensor(text)

        texts = iter(work.documents)
        window: deque[asyncio.Task[torch.Tensor]] = deque()

        def refill() -> None:
            while len(window) < work.num_workers and (text := next(texts, None)) is not None:
                window.append(asyncio.create_task(load(text)))

        refill()
        while window:
            ids = await window.popleft()
            refill()
            await asyncio.to_thread(work.step, ids, seen)
        return seen

    return asyncio.run(main())


def futures_window(work: Work) -> Seen:
    """``ThreadPoolExecutor`` and a deque of futures: the best that the standard library does."""
    seen: Seen = []
    with ThreadPoolExecutor(work.num_workers) as pool:
        indices = iter(range(len(work.documents)))
        window: deque[Future[torch.Tensor]] = deque()

        def submit() -> None:
            if (index := next(indices, None)) is not None:
                window.append(pool.submit(lambda: work.tensor(work.load(index))))

        for _ in range(work.num_workers):
            submit()
        while window:
            ids = window.popleft().result()
            submit()
            work.step(ids, seen)
    return seen


def prefetcher(work: Work) -> Seen:
    """Penstock."""
    seen: Seen = []
    with penstock.Prefetcher(
        range(len(work.documents)),
        work.tokenizer,
        load=work.load,
        device="cpu",
        max_batch_rows=1,
        num_workers=work.num_workers,
    ) as batches:
        for batch in batches:
            work.step(batch.inputs["input_ids"][:, : batch.num_tokens[0]], seen)
    return seen


NOTHING = "(nothing to load: the sleeps alone)"
LOADERS: dict[str, Callable[[Work], Seen]] = {
    NOTHING: nothing_to_load,
    "sequential": sequential,
    "asyncio, queue": asyncio_queue,
    "asyncio, window, step in a thread": asyncio_window,
    "futures window": futures_window,
    "penstock.Prefetcher": prefetcher,
}


def measure(work: Work, runs: int) -> dict[str, list[float]]:
    """Seconds of each run, all loaders in turn so that the machine's moods fall on all alike."""
    expected = [ids[0].tolist() for ids in work.ready]
    for name, loader in LOADERS.items():
        if [ids[0].tolist() for ids in loader(work)] != expected:
            raise SystemExit(f"{name} delivers other tokens; nothing was timed.")
    seconds: dict[str, list[float]] = {name: [] for name in LOADERS}
    for _ in range(runs):
        for name, loader in LOADERS.items():
            start = time.perf_counter()
            loader(work)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def report(work: Work, seconds: dict[str, list[float]]) -> Iterator[str]:
    """The table, fastest last."""
    yield (
        f"{counted(len(work.documents), 'document')}, {work.load_s * 1e3:g} ms load, "
        f"{work.step_s * 1e3:g} ms step, {counted(work.num_workers, 'worker')}, "
        f"asyncio queue of {work.queue}; floor {work.floor_s:.3f} s"
    )
    yield f"{'loader':<36}{'median s':>10}{'min':>8}{'max':>8}{'x floor':>10}{'x sleeps':>10}"
    sleeps = median(seconds[NOTHING])
    for name, values in sorted(seconds.items(), key=lambda item: -median(item[1])):
        middle = median(values)
        yield (
            f"{name:<36}{middle:>10.4f}{min(values):>8.3f}{max(values):>8.3f}"
            f"{middle / work.floor_s:>10.3f}{middle / sleeps:>10.3f}"
        )


def conditions() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "penstock": penstock.__version__,
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    """Measure and print; with --json also write the raw seconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--load-s", type=float, default=0.05)
    parser.add_argument("--step-s", type=float, default=0.005)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--queue", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the raw seconds here")
    given = parser.parse_args()
    texts = [
        f"Document {index}: the water falls and the wheel begins to turn." for index in range(given.documents)
    ]
    tokenizer = penstock.Tokenizer.from_pretrained(MODEL)
    work = Work(texts, given.load_s, given.step_s, given.workers, given.queue, tokenizer)
    seconds = measure(work, given.runs)
    print("\n".join(report(work, seconds)))
    if given.json:
        asked = {name: value for name, value in vars(given).items() if name != "json"}
        raw = {"asked": asked, "floor_s": work.floor_s, "seconds": seconds, "conditions": conditions()}
        given.json.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
