"""What does it cost to hand an object from a worker to the loop? Penstock's ring beside queues and loaders.

Producers make items and hand them to one consumer. The latency of an item is the time from just before it is
put to when the consumer has it in hand; where a handoff keeps the order of the input, waiting for the items
before it is part of that. Two kinds of work: 1 ms without the GIL (a sleep), where latency is what matters,
and none at all, where every handoff is asked for all it can do and only operations per second mean something.

``queue.SimpleQueue`` is the fastest way to hand one object over, and it gives less: it keeps no order of the
input, and nothing bounds it (without work, its items are milliseconds old). The columns "order" and "bound"
say what each gives. ``Prefetcher`` is in the table as what it is, the whole path: its worker's row is
planned, padded, made a tensor and handed on.

Each figure is the median of several processes of its own, forked from a server that has imported everything,
all contenders in turn. In each, a short run must deliver every item once, in order where that is promised,
before the timed one, which is checked as well::

    penstock bench handoff
    penstock bench handoff --producers 4 --only ring --runs 9
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from contenders import PACKAGES, conditions, present
from contenders.handing import HANDOFFS, PAIRS, Arrival, Case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

    from contenders import Contender
    from contenders.handing import Handoff

WORKS = {"1 ms": 0.001, "none": 0.0}
WARM_UP_ITEMS = 100
MOST_ITEMS = 50_000
PAIRS_TIMED = 100_000
TIMEOUT_S = 60.0

Result = dict[str, Any]


# --- one process: one case --------------------------------------------------------------------------------


def timed(contender: Contender[Handoff], producers: int, work_s: float, seconds: float) -> Result:
    """A short run, checked, then a run of about so many seconds."""
    warm = checked(contender, Case(WARM_UP_ITEMS, producers, work_s))
    items = int(operations_s(warm) * seconds)
    arrived = checked(contender, Case(max(WARM_UP_ITEMS, min(items, MOST_ITEMS)), producers, work_s))
    latencies = [(received - stamp) / 1e3 for _, stamp, received in arrived]
    percentiles = quantiles(latencies, n=100, method="inclusive")
    return {
        "items": len(arrived),
        "ops_s": operations_s(arrived),
        "p50_us": percentiles[49],
        "p99_us": percentiles[98],
    }


def checked(contender: Contender[Handoff], case: Case) -> list[Arrival]:
    """What arrived, if it is what should."""
    arrived = contender.run(case)
    indices = [index for index, _, _ in arrived]
    if (indices if contender.in_order else sorted(indices)) != list(range(case.items)):
        raise ValueError(f"{contender.name} delivers other items, or another order; nothing was timed")
    return arrived


def operations_s(arrived: list[Arrival]) -> float:
    """From the first item put to the last one in hand."""
    first, last = min(stamp for _, stamp, _ in arrived), max(received for _, _, received in arrived)
    return len(arrived) / (last - first) * 1e9


def pair_ns(name: str) -> float:
    """Nanoseconds of a pair of calls."""
    PAIRS[name](PAIRS_TIMED // 10)
    start = time.perf_counter_ns()
    PAIRS[name](PAIRS_TIMED)
    return (time.perf_counter_ns() - start) / PAIRS_TIMED


def child(answer: Connection, job: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Do a job in this process and send what it gives, or what went wrong."""
    try:
        answer.send(job(*arguments))
    except BaseException as error:  # noqa: BLE001 - the parent says which case it was
        answer.send(f"{type(error).__name__}: {error}")


def timed_by_name(name: str, producers: int, work_s: float, seconds: float) -> Result:
    """As ``timed``."""
    contender = next(each for each in HANDOFFS if each.name == name)
    return timed(contender, producers, work_s, seconds)


# --- all processes ----------------------------------------------------------------------------------------


def in_a_process(job: Callable[..., Any], *arguments: Any) -> Any:
    """What a job gives in a process of its own.

    Raises:
        SystemExit: It failed, or gave nothing in time.
    """
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(sender, job, arguments))
    process.start()
    sender.close()
    try:
        answer = receiver.recv() if receiver.poll(TIMEOUT_S) else f"nothing within {TIMEOUT_S:g} s"
    except EOFError:
        answer = "the process died"
    process.join(timeout=5.0)
    if process.is_alive():
        process.kill()
    if isinstance(answer, str):
        raise SystemExit(f"{job.__name__}{arguments}: {answer}")
    return answer


def measure(
    contenders: list[Contender[Handoff]], producers: list[int], works: list[str], runs: int, seconds: float
) -> list[Result]:
    """All cases, contenders in turn so that the machine's moods fall on all alike."""
    cases = [(work, number, each) for work in works for number in producers for each in contenders]
    results: list[Result] = [
        {
            "name": each.name,
            "work": work,
            "producers": number,
            "in_order": each.in_order,
            "is_bounded": each.is_bounded,
            "runs": [],
        }
        for work, number, each in cases
    ]
    for done in range(runs):
        print(f"run {done + 1} of {runs}: {len(cases)} processes", file=sys.stderr, flush=True)
        for result, (work, number, each) in zip(results, cases, strict=True):
            result["runs"].append(in_a_process(timed_by_name, each.name, number, WORKS[work], seconds))
    return results


def measure_pairs(runs: int) -> dict[str, list[float]]:
    """Nanoseconds of a pair of calls, in every run."""
    found: dict[str, list[float]] = {name: [] for name in PAIRS}
    for _ in range(runs):
        for name, values in found.items():
            values.append(in_a_process(pair_ns, name))
    return found


def report(results: list[Result], pairs: dict[str, list[float]]) -> Iterator[str]:
    """The tables."""
    for work in WORKS:
        of_work = [each for each in results if each["work"] == work]
        if of_work:
            yield from table(of_work, work)
    yield "\none object in and out, one thread (ns, medians; the loop itself included)"
    for name, values in pairs.items():
        yield f"{name:<46}{median(values):>8.0f}   [{min(values):.0f}-{max(values):.0f}]"


def table(results: list[Result], work: str) -> Iterator[str]:
    """A line for each contender, a column for each number of producers."""
    numbers = sorted({each["producers"] for each in results})
    if work == "none":
        yield "\nno work: operations per second"
    else:
        yield f"\n{work} of work without the GIL: operations per second, p50 / p99 of the latency in us"
    yield f"{'':<32}{'order':>6}{'bound':>6}" + "".join(f"{f'P={number}':>26}" for number in numbers)
    for name in dict.fromkeys(each["name"] for each in results):
        mine = {each["producers"]: each for each in results if each["name"] == name}
        head = mine[numbers[0]]
        words = ["yes" if head[promise] else "no" for promise in ("in_order", "is_bounded")]
        cells = [cell(mine[number]["runs"], work) for number in numbers]
        yield f"{name:<32}{words[0]:>6}{words[1]:>6}" + "".join(f"{each:>26}" for each in cells)


def cell(runs: list[Result], work: str) -> str:
    """Medians over the runs."""
    ops_s, p50, p99 = (median(run[name] for run in runs) for name in ("ops_s", "p50_us", "p99_us"))
    return f"{ops_s:,.0f}" if work == "none" else f"{ops_s:,.0f} · {p50:,.0f} / {p99:,.0f}"


def main() -> None:
    """Measure and print; with --json also write the raw figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--producers", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--works", nargs="*", choices=WORKS, default=list(WORKS))
    parser.add_argument("--only", help="contenders whose name holds this")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.3, help="of one timed run, about")
    parser.add_argument("--json", type=Path, help="write the raw figures here")
    given = parser.parse_args()
    able, absent = present(HANDOFFS)
    contenders = [each for each in able if given.only is None or given.only in each.name]
    for absence in absent:
        print(f"left out: {absence}", flush=True)
    multiprocessing.set_forkserver_preload([*PACKAGES, "penstock", "penstock._core"])
    measured_on = conditions()
    results = measure(contenders, given.producers, given.works, given.runs, given.seconds)
    pairs = measure_pairs(given.runs)
    print("\n".join(report(results, pairs)))
    if given.json:
        raw = {
            "handoffs": results,
            "pairs_ns": pairs,
            "seconds": given.seconds,
            "left_out": absent,
            "conditions": measured_on,
        }
        given.json.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
