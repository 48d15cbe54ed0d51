"""How well is a loop fed? ``Prefetcher`` beside asyncio, futures, DataLoader, torchdata.nodes and SPDL.

The work is the same for all: each document takes a while to load (a sleep stands for network or disk), is
tokenized and made a tensor, and the loop takes a while for each step (a sleep stands for an accelerator that
the host waits for without the GIL). Before anything is timed, all loaders must deliver the same tokens, in
the same order where they promise one::

    penstock bench feed                        # 64 documents, 50 ms load, 5 ms step, 16 loads at once
    penstock bench feed --documents 5 --load-s 0.5 --step-s 0
    penstock bench feed uneven                 # loads of very different lengths, steps of 16 documents
    penstock bench feed uneven --documents 10000

even: all loads take the same time. The floor is ``load + documents * step``: the first load, then every step.
"Nothing to load" is a loop that just sleeps so long: what this machine makes of the floor. first, body, end
and close are the milliseconds to the first document, from there to the end of the last step, until the loader
says that this was all, and until its last thread is gone. (torchdata.nodes has no close: its threads look
every 0.1 s whether to end, which its seconds do not show and its close does.)

uneven: lognormal loads (median 20 ms, 99th percentile 400 ms), 64 at once. The floor is an ideal loader,
simulated (``contenders/floors.py``): it starts documents in the order of the source, 64 at once, and loses
no time. A loader that keeps order and holds few documents must wait behind a slow one, whatever it is written
in: floors for that are printed, too.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import threading
import time
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import penstock
from contenders import conditions, present
from contenders.feeding import EVEN, NOTHING, UNEVEN, WIDE_ROWS_AHEAD, Feed, Loop, Work
from contenders.floors import ideal_s
from penstock.demo import MODEL
from penstock.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contenders import Contender

P99_DEVIATIONS = 2.3263478740408408  # standard deviations from the median to the 99th percentile

DEFAULTS: dict[str, dict[str, Any]] = {
    "even": {"documents": 64, "load_s": 0.05, "workers": 16, "rows": 1, "runs": 5},
    "uneven": {"documents": 2000, "load_s": 0.02, "workers": 64, "rows": 16, "runs": 1},
}


@dataclass
class Figures:
    """The runs of one loader."""

    in_order: bool
    seconds: list[float] = field(default_factory=list)
    parts_ms: list[list[float]] = field(default_factory=list)  # first, body, end, close

    def add(self, loop: Loop, stop: float, gone: float) -> None:
        """One more run, which ended then, and the last of its threads."""
        marks = [loop.start, loop.first, loop.last, loop.ended, gone]
        self.seconds.append(stop - loop.start)
        self.parts_ms.append([(after - before) * 1e3 for before, after in pairwise(marks)])


def lognormal(count: int, middle: float, p99: float, seed: int = 0) -> list[float]:
    """So many load times with this median and 99th percentile, always the same."""
    dice, sigma = random.Random(seed), math.log(p99 / middle) / P99_DEVIATIONS
    return [middle * math.exp(sigma * dice.gauss(0.0, 1.0)) for _ in range(count)]


def check(work: Work, contenders: list[Contender[Feed]]) -> None:
    """Every loader must deliver every document once, with the right tokens, in order if it keeps order."""
    expected = [(key, work.row(key, work.documents[key])[1].tolist()) for key in work.keys]
    for each in contenders:
        seen = each.run(work).seen
        if (seen if each.in_order else sorted(seen)) != expected:
            raise SystemExit(f"{each.name} delivers other tokens, or another order; nothing was timed.")


def measure(work: Work, contenders: list[Contender[Feed]], runs: int) -> dict[str, Figures]:
    """All loaders in turn, so that the machine's moods fall on all alike."""
    figures = {each.name: Figures(each.in_order) for each in contenders}
    work = replace(work, is_timed=True)
    for _ in range(runs):
        for each in contenders:
            gc.collect()
            loop = each.run(work)
            stop = time.perf_counter()
            figures[each.name].add(loop, stop, last_thread_gone())
    return figures


def last_thread_gone() -> float:
    """When the threads that a loader left behind have ended; they would take time from the next."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(timeout=1.0)
    return time.perf_counter()


def floors(work: Work, case: str) -> dict[str, float]:
    """What nothing could beat, and with which promise; the first is the floor of the table."""
    if case == "even":
        return {"the first load, then every step": work.load_s[0] + len(work.documents) * work.step_s}

    def floor(*, in_order: bool, window: int | None = None) -> float:
        kept: dict[str, Any] = {"rows": work.rows, "in_flight": work.in_flight}
        return ideal_s(work.load_s, work.step_s, in_order=in_order, window=window, **kept)

    windows = (WIDE_ROWS_AHEAD, 2 * work.in_flight, work.in_flight)
    return {
        "as they complete": floor(in_order=False),
        "in order, and as many held as that takes": floor(in_order=True),
    } | {
        f"in order, {window:,} at most from the first that is not there": floor(in_order=True, window=window)
        for window in windows
    }


def report(what: str, known: dict[str, float], figures: dict[str, Figures]) -> Iterator[str]:
    """The table, fastest last."""
    yield what
    for promise, seconds in known.items():
        yield f"  floor {seconds:8.3f} s: {promise}"
    floor = next(iter(known.values()))
    sleeps = median(figures[NOTHING].seconds) if NOTHING in figures else None
    yield (
        f"{'loader':<46}{'order':>6}{'median s':>10}{'min':>8}{'max':>8}{'x floor':>9}"
        f"{'' if sleeps is None else 'x sleeps':>9}"
        f"{'first':>9}{'body':>8}{'end':>7}{'close':>7} ms"
    )
    for name, each in sorted(figures.items(), key=lambda item: -median(item[1].seconds)):
        middle = median(each.seconds)
        parts = [median(values) for values in zip(*each.parts_ms, strict=True)]
        yield (
            f"{name:<46}{'yes' if each.in_order else 'no':>6}{middle:>10.4f}{min(each.seconds):>8.3f}"
            f"{max(each.seconds):>8.3f}{middle / floor:>9.3f}"
            f"{'' if sleeps is None else format(middle / sleeps, '.3f'):>9}"
            f"{parts[0]:>9.1f}{parts[1]:>8.0f}{parts[2]:>7.1f}{parts[3]:>7.1f}"
        )


def described(work: Work, case: str, given: argparse.Namespace) -> str:
    """The work in words."""
    times = f"{given.load_s * 1e3:g} ms load"
    if case == "uneven":
        times = f"lognormal load (median {given.load_s * 1e3:g} ms, p99 {given.load_p99_s * 1e3:g} ms)"
    step = f"{work.step_s * 1e3:g} ms step" + (f" of {work.rows}" if work.rows > 1 else "")
    return f"{counted(len(work.documents), 'document')}, {times}, {step}, {work.in_flight} loads at once"


def make_work(case: str, given: argparse.Namespace) -> Work:
    """What was asked for."""
    texts = [
        f"Document {index}: the water falls and the wheel begins to turn." for index in range(given.documents)
    ]
    load_s = [given.load_s] * given.documents
    if case == "uneven":
        load_s = lognormal(given.documents, given.load_s, given.load_p99_s)
    tokenizer = penstock.Tokenizer.from_pretrained(MODEL)
    return Work(texts, load_s, given.step_s, given.rows, given.workers, given.queue, tokenizer)


def parsed() -> argparse.Namespace:
    """The command line; what was not given is the default of the case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", nargs="?", choices=DEFAULTS, default="even")
    parser.add_argument("--documents", type=int, help="default: 64; uneven 2,000")
    parser.add_argument("--load-s", type=float, help="default: 0.05; uneven, the median, 0.02")
    parser.add_argument("--load-p99-s", type=float, default=0.4, help="uneven: the 99th percentile")
    parser.add_argument("--step-s", type=float, default=0.005)
    parser.add_argument("--rows", type=int, help="documents of a step; default: 1; uneven 16")
    parser.add_argument("--workers", type=int, help="loads at once; default: 16; uneven 64")
    parser.add_argument("--queue", type=int, default=2, help="places in the queue of the tutorial's loader")
    parser.add_argument("--runs", type=int, help="default: 5; uneven 1")
    parser.add_argument("--only", help="loaders whose name holds this")
    parser.add_argument("--json", type=Path, help="write the raw seconds here")
    given = parser.parse_args()
    for name, value in DEFAULTS[given.case].items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    return given


def main() -> None:
    """Measure and print; with --json also write the raw seconds."""
    given = parsed()
    able, absent = present(EVEN if given.case == "even" else UNEVEN)
    contenders = [each for each in able if given.only is None or given.only in each.name]
    for absence in absent:
        print(f"left out: {absence}", flush=True)
    work, measured_on = make_work(given.case, given), conditions()
    small = min(given.documents, 4 * given.workers)
    check(Work(**{**vars(work), "documents": work.documents[:small], "load_s": [0.001] * small}), contenders)
    figures, known = measure(work, contenders, given.runs), floors(work, given.case)
    what = described(work, given.case, given)
    print("\n".join(report(what, known, figures)))
    if given.json:
        asked = {name: value for name, value in vars(given).items() if name not in ("json", "only")}
        raw = {
            "asked": asked,
            "what": what,
            "floors_s": known,
            "seconds": {name: each.seconds for name, each in figures.items()},
            "parts_ms": {name: each.parts_ms for name, each in figures.items()},
            "left_out": absent,
            "conditions": measured_on,
        }
        given.json.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
