"""How much does a loop slow down while others work? Its steps are 200 short torch operations each.

The loop is the same for all; what goes on beside it differs:

``no workers``
    Nothing. The step's own price.
``native threads``
    As many threads as there are workers, each inside one long call of C that never asks for the GIL and
    touches no Python object: what the cores alone cost. Who computes as much cannot be cheaper.
``native threads, low priority``
    The same, at the priority that Penstock gives its workers.
``penstock.Prefetcher``
    Its workers tokenize all the time; the loop takes a batch before each step. Only the step is timed:
    waiting for the batch is not a slower step.
``futures window``
    The same texts through a ``ThreadPoolExecutor`` whose calls tokenize and pad as most people write it.

Run it with nothing else running::

    python benchmarks/busy.py --workers 4 --steps 400
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

import penstock
from penstock.demo import MODEL
from penstock.pool import be_low_priority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NUM_OPERATIONS = 200
ROWS = 64
TEXT = "The water falls and the wheel begins to turn; what the miller grinds is not his own. " * 24


def step(values: torch.Tensor) -> float:
    """Seconds for the operations of one step."""
    start = perf_counter()
    for _ in range(NUM_OPERATIONS):
        values.add_(1)
    return perf_counter() - start


def steps(num_steps: int, batches: Iterator[object]) -> list[float]:
    """Seconds of each step."""
    values = torch.zeros(64)
    seconds = []
    for _ in range(num_steps):
        next(batches)
        seconds.append(step(values))
    return seconds


def no_workers(num_steps: int, num_workers: int) -> list[float]:  # noqa: ARG001 - as the others are called
    """Nothing beside the loop."""
    return steps(num_steps, cycle([None]))


@contextmanager
def native_threads(num_threads: int, init: Callable[[], None]) -> Iterator[None]:
    """Threads that compute in C without the GIL; each call takes a fraction of a second."""
    is_over = threading.Event()

    def compute() -> None:
        init()
        while not is_over.is_set():
            hashlib.pbkdf2_hmac("sha256", b"wheel", b"water", 300_000)

    threads = [threading.Thread(target=compute, daemon=True) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def native(num_steps: int, num_workers: int) -> list[float]:
    """The cores' price."""
    with native_threads(num_workers, lambda: None):
        return steps(num_steps, cycle([None]))


def native_low(num_steps: int, num_workers: int) -> list[float]:
    """The cores' price at our workers' priority."""
    with native_threads(num_workers, be_low_priority):
        return steps(num_steps, cycle([None]))


def documents(count: int) -> list[str]:
    """Texts of 1,000 to 2,000 characters."""
    lengths = cycle(range(1_000, 2_000, 10))
    return [TEXT[: next(lengths)] for _ in range(count)]


def tokenizer() -> penstock.Tokenizer:
    """The demo model's."""
    return penstock.Tokenizer.from_pretrained(MODEL)


def prefetcher(num_steps: int, num_workers: int) -> list[float]:
    """Penstock."""
    texts = documents(ROWS * num_steps)
    with penstock.Prefetcher(
        texts, tokenizer(), device="cpu", max_batch_rows=ROWS, num_workers=num_workers
    ) as batches:
        return steps(num_steps, iter(batches))


def futures_window(num_steps: int, num_workers: int) -> list[float]:
    """Tokenizing and padding in calls of a thread pool."""
    texts = documents(ROWS)
    encode = tokenizer().encode_batch

    def batch() -> torch.Tensor:
        rows = encode(texts)
        ids = [torch.from_numpy(rows.ids[a:b].copy()) for a, b in pairwise(rows.offsets)]
        return torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)

    with ThreadPoolExecutor(num_workers) as pool:
        window: deque[Future[torch.Tensor]] = deque(pool.submit(batch) for _ in range(2 * num_workers))

        def batches() -> Iterator[torch.Tensor]:
            while True:
                window.append(pool.submit(batch))
                yield window.popleft().result()

        return steps(num_steps, batches())


BESIDE: dict[str, Callable[[int, int], list[float]]] = {
    "no workers": no_workers,
    "native threads": native,
    "native threads, low priority": native_low,
    "penstock.Prefetcher": prefetcher,
    "futures window": futures_window,
}


def measure(num_steps: int, num_workers: int, runs: int) -> dict[str, list[list[float]]]:
    """Seconds of every step of every run; all in turn, so that the machine's moods fall on all alike."""
    seconds: dict[str, list[list[float]]] = {name: [] for name in BESIDE}
    for _ in range(runs):
        for name, beside in BESIDE.items():
            seconds[name].append(beside(num_steps, num_workers))
    return seconds


def report(seconds: dict[str, list[list[float]]]) -> Iterator[str]:
    """The table: medians over the runs."""
    yield f"{'beside the loop':<32}{'mean ms':>9}{'p50':>8}{'p99':>8}{'x alone: mean':>15}{'p50':>8}"
    alone = [median(figures) for figures in zip(*map(summary, seconds["no workers"]), strict=True)]
    for name, runs in seconds.items():
        mean, p50, p99 = (median(figures) for figures in zip(*map(summary, runs), strict=True))
        yield (
            f"{name:<32}{mean * 1e3:>9.3f}{p50 * 1e3:>8.3f}{p99 * 1e3:>8.3f}"
            f"{mean / alone[0]:>15.2f}{p50 / alone[1]:>8.2f}"
        )


def summary(run: list[float]) -> tuple[float, float, float]:
    """Mean, p50 and p99 of the steps of a run."""
    ordered = sorted(run)
    return sum(run) / len(run), ordered[len(run) // 2], ordered[int(len(run) * 0.99)]


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
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the raw seconds here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    seconds = measure(given.steps, given.workers, given.runs)
    print(f"{given.workers} workers, {NUM_OPERATIONS} operations a step, {given.steps} steps a run")
    print("\n".join(report(seconds)))
    if given.json:
        asked = {name: value for name, value in vars(given).items() if name != "json"}
        raw = {"asked": asked, "seconds": seconds, "conditions": conditions()}
        given.json.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
