"""How much of the bare tokenizer's speed is left once its texts come from a file and leave as batches?

``Prefetcher`` reads a JSONL file, tokenizes, plans and collates, for a loop that does nothing with a batch.
Beside it, on the same texts: the tokenizer alone, with the texts in memory as ``str`` and the ids dropped, in
one thread and in as many as the Prefetcher has workers; and the reader alone, file to Arrow. The word caches
of all are warm, as after the first seconds of a long run; with ``--fresh`` every run has a new tokenizer,
and each of its threads has everything to learn. Before anything is timed, every token of every row of the
batches must be the tokenizer's.

MB/s are megabytes of the rows' text, in UTF-8, also of what is cut off after ``--max-length`` tokens::

    python benchmarks/pipeline.py                   # books_en and GPT-2 in PENSTOCK_TEST_DATA, 2 workers
    python benchmarks/pipeline.py --file rows.jsonl --tokenizer path-or-id
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import penstock
from contenders import conditions
from penstock.sources import files
from penstock.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from penstock.stats import Stats

CALL_ROWS = 256
"""Rows of a call of the bare tokenizer; as many as a tokenizing job of the Prefetcher has."""

BARE, BARE_THREADS = "tokenizer alone, 1 thread", "tokenizer alone, {} threads"
READER, PREFETCHER = "reader alone", "penstock.Prefetcher"


@dataclass
class Work:
    """What every contender is given to do."""

    file: Path
    tokenizer: penstock.Tokenizer
    max_length: int | None
    num_workers: int
    renew: Callable[[], penstock.Tokenizer] | None = None
    stats: list[Stats] = field(default_factory=list)

    @cached_property
    def texts(self) -> list[str]:
        """The rows, in memory."""
        with self.file.open(encoding="utf-8") as lines:
            return [json.loads(line)["text"] for line in lines]

    @cached_property
    def megabytes(self) -> float:
        """Text of the rows."""
        return sum(len(text.encode()) for text in self.texts) / 1e6

    def batches(self) -> penstock.Prefetcher:
        """The whole path, to where a model would begin."""
        return penstock.Prefetcher(
            self.file, self.tokenizer, device="cpu", max_length=self.max_length, num_workers=self.num_workers
        )


def tokenizer_alone(work: Work, num_threads: int) -> None:
    """Texts in memory to ids that nobody keeps."""
    calls = [work.texts[start : start + CALL_ROWS] for start in range(0, len(work.texts), CALL_ROWS)]

    def encode(texts: list[str]) -> None:
        work.tokenizer.encode_batch(texts, max_length=work.max_length)

    with ThreadPoolExecutor(num_threads) as pool:
        for _ in pool.map(encode, calls):
            pass


def reader_alone(work: Work) -> None:
    """The file to Arrow."""
    for _ in files(work.file).chunks():
        pass


def prefetcher(work: Work) -> None:
    """The file to batches, and a loop that wants the next one at once."""
    with work.batches() as batches:
        for _ in batches:
            pass
        work.stats.append(batches.stats())


def contenders(work: Work) -> dict[str, Callable[[], None]]:
    """Name and what to time."""
    threads = work.num_workers
    found: dict[str, Callable[[], None]] = {
        READER: lambda: reader_alone(work),
        BARE: lambda: tokenizer_alone(work, 1),
    }
    if threads > 1:
        found[BARE_THREADS.format(threads)] = lambda: tokenizer_alone(work, threads)
    return found | {PREFETCHER: lambda: prefetcher(work)}


def check(work: Work) -> None:
    """Every row must arrive once, with the tokens that the bare tokenizer gives."""
    rows = work.tokenizer.encode_batch(work.texts, max_length=work.max_length)
    expected = [rows.ids[start:stop].tolist() for start, stop in pairwise(rows.offsets.tolist())]
    seen: dict[int, list[int]] = {}
    with work.batches() as batches:
        for batch in batches:
            lines = zip(batch.input_index, batch.inputs["input_ids"], batch.num_tokens, strict=True)
            seen |= {int(index): ids[:length].tolist() for index, ids, length in lines}
    if seen != dict(enumerate(expected)):
        raise SystemExit("the batches hold other tokens than the tokenizer gives; nothing was timed.")


@dataclass
class Times:
    """Of each run of a contender: MB/s, and the seconds of all cores together."""

    mb_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)


def measure(work: Work, runs: int) -> dict[str, Times]:
    """All contenders in turn, so that the machine's moods fall on all alike."""
    check(work)
    times = {name: Times() for name in contenders(work)}
    for _ in range(runs):
        for name, contender in contenders(work).items():
            if work.renew is not None:
                work.tokenizer = work.renew()
            cpu, start = time.process_time(), time.perf_counter()
            contender()
            times[name].mb_s.append(work.megabytes / (time.perf_counter() - start))
            times[name].cpu_s.append(time.process_time() - cpu)
    return times


def rest(work: Work, times: dict[str, Times]) -> Iterator[str]:
    """What the Prefetcher's time is, apart from tokenizing."""
    bare, all_cores = median(times[BARE].cpu_s), median(times[PREFETCHER].cpu_s)
    reader = median(times[READER].cpu_s)
    shares = {
        "the tokenizer alone": bare,
        "the reader alone": reader,
        "planning, collating, hand-over, and what threads cost one another": all_cores - bare - reader,
    }
    yield f"\nprocessor time of the Prefetcher, all threads, median {all_cores * 1e3:.0f} ms:"
    for name, seconds in shares.items():
        yield f"  {seconds * 1e3:>6.0f} ms {seconds / all_cores:>5.0%}  {name}"
    elapsed = median(work.megabytes / speed for speed in times[PREFETCHER].mb_s)
    yield f"  {all_cores / elapsed:.2f} cores were busy of {counted(len(os.sched_getaffinity(0)), 'core')}"


def report(work: Work, times: dict[str, Times]) -> Iterator[str]:
    """The table, and where the Prefetcher's time went in its median run."""
    speeds = {name: each.mb_s for name, each in times.items()}
    cut = f"cut after {counted(work.max_length, 'token')}" if work.max_length else "whole"
    yield (
        f"{work.file.name}: {counted(len(work.texts), 'row')}, {work.megabytes:.1f} MB of text, {cut}; "
        f"{counted(work.num_workers, 'worker')}"
    )
    middle = {name: median(values) for name, values in speeds.items()}
    yield f"{'':<30}{'median MB/s':>12}{'min':>9}{'max':>9}{'Prefetcher / it':>17}"
    for name, values in speeds.items():
        ratio = middle[PREFETCHER] / middle[name]
        yield f"{name:<30}{middle[name]:>12.1f}{min(values):>9.1f}{max(values):>9.1f}{ratio:>17.0%}"
    best = max(speeds[PREFETCHER]) / max(speeds[BARE])
    yield f"best run against best run of the tokenizer alone, 1 thread: {best:.0%}"
    yield from rest(work, times)
    stats = sorted(work.stats, key=lambda each: each.elapsed_s)[len(work.stats) // 2]
    yield f"\nof the Prefetcher's median run, {stats.elapsed_s:.3f} s:"
    for stage, seconds in stats.stage_s.items():
        threads = 1 if stage == "read" else stats.num_workers
        share = seconds / threads / stats.elapsed_s
        if seconds:
            yield f"  {stage:<10}{seconds:>8.3f} s{share:>7.0%} of the time of {counted(threads, 'thread')}"
    yield str(stats)


def defaults() -> tuple[Path | None, Path | None]:
    """The file and the tokenizer that are used where nobody names others."""
    folder = os.environ.get("PENSTOCK_TEST_DATA")
    if not folder:
        return None, None
    return Path(folder) / "corpora" / "books_en.jsonl", Path(folder) / "tokenizers" / "gpt2"


def main() -> None:
    """Measure and print; with --json also write the raw figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    file, tokenizer = defaults()
    parser.add_argument("--file", type=Path, default=file, help="JSONL with a field text")
    parser.add_argument("--tokenizer", default=tokenizer, help="a folder, a tokenizer.json, or a hub id")
    parser.add_argument("--max-length", type=int, help="default: what the tokenizer says")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--fresh", action="store_true", help="a new tokenizer for each run: cold word caches")
    parser.add_argument("--json", type=Path, help="write the raw figures here")
    given = parser.parse_args()
    if given.file is None or given.tokenizer is None:
        parser.error("give --file and --tokenizer, or set PENSTOCK_TEST_DATA to the folder that holds both")

    def load() -> penstock.Tokenizer:
        return penstock.Tokenizer.from_pretrained(given.tokenizer)

    loaded = load()
    max_length = given.max_length or loaded.model_max_length
    work = Work(given.file, loaded, max_length, given.workers, load if given.fresh else None)
    measured_on = conditions()
    times = measure(work, given.runs)
    print("\n".join(report(work, times)))
    if given.json:
        asked: dict[str, Any] = {name: value for name, value in vars(given).items() if name != "json"}
        asked |= {"file": work.file.name, "tokenizer": Path(given.tokenizer).name}
        asked |= {"max_length": work.max_length}
        stages = [{"elapsed_s": each.elapsed_s, **each.stage_s} for each in work.stats]
        raw = {
            "asked": asked,
            "mb_s": {name: each.mb_s for name, each in times.items()},
            "cpu_s": {name: each.cpu_s for name, each in times.items()},
            "prefetcher_s": stages,
            "conditions": measured_on,
        }
        given.json.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
