"""The benchmarks run, and refuse to time contenders that disagree. Timings themselves are not tested."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock
from penstock.demo import CORPUS, MODEL

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PEERS = [name for name in ("torchdata", "spdl") if importlib.util.find_spec(name)]
"""Those that are installed: the group ``bench``."""


@pytest.fixture(scope="module")
def modules() -> Iterator[None]:
    """The scripts can be imported, as one of them imports another."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(BENCHMARKS)):
            del sys.modules[name]


def run(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A benchmark as its users run it."""
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env=os.environ | environment,
    )


def test_busy_times_the_steps_of_a_loop_beside_every_kind_of_work(tmp_path: Path) -> None:
    raw = tmp_path / "busy.json"
    done = run("busy.py", "--workers", 2, "--steps", 5, "--runs", 2, "--json", raw)
    assert done.returncode == 0, done.stderr
    seconds = json.loads(raw.read_text(encoding="utf-8"))["seconds"]
    assert len(seconds) == 5
    assert all([len(run) for run in runs] == [5, 5] for runs in seconds.values())
    assert all(name in done.stdout for name in seconds)


def bars_of_plots(raw: Path) -> list[int]:
    """Draws the figures; how many rectangles the light picture has, and the dark one."""
    subprocess.run([sys.executable, str(BENCHMARKS / "plot.py"), str(raw)], timeout=55, check=True)
    pictures = [raw.with_name(f"{raw.stem}-{theme}.svg") for theme in ("light", "dark")]
    return [len(ElementTree.parse(path).findall("{http://www.w3.org/2000/svg}rect")) for path in pictures]


@pytest.mark.parametrize("path", sorted((BENCHMARKS / "results").glob("*.json")), ids=lambda path: path.stem)
def test_every_result_has_pictures_of_its_own_figures(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    assert min(bars_of_plots(copy)) > 2
    for theme in ("light", "dark"):
        name = f"{path.stem}-{theme}.svg"
        assert (tmp_path / name).read_bytes() == path.with_name(name).read_bytes(), "run benchmarks/plot.py"


# --- feed -------------------------------------------------------------------------------------------------

EVENLY = ["--documents", 4, "--load-s", 0.001, "--step-s", 0.001, "--workers", 2, "--runs", 2]
UNEVENLY = ["--documents", 24, "--load-s", 0.001, "--load-p99-s", 0.02, "--workers", 4, "--rows", 4]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("case", "small", "runs", "own", "of_peers"),
    [
        ("even", EVENLY, 2, 10, {"torchdata": 2, "spdl": 2}),
        ("uneven", UNEVENLY, 1, 10, {"torchdata": 2, "spdl": 3}),
    ],
)
def test_feed_measures_every_loader_and_keeps_the_raw_seconds(
    case: str, small: list[object], runs: int, own: int, of_peers: dict[str, int], tmp_path: Path
) -> None:
    raw = tmp_path / "feed.json"
    done = run("feed.py", case, *small, "--json", raw)
    assert done.returncode == 0, done.stderr
    assert "penstock.Prefetcher" in done.stdout
    figures = json.loads(raw.read_text(encoding="utf-8"))
    contenders = own + sum(of_peers[peer] for peer in PEERS)
    assert len(figures["seconds"]) == contenders
    assert all(len(values) == runs for values in figures["seconds"].values())
    for name, values in figures["seconds"].items():
        for seconds, parts in zip(values, figures["parts_ms"][name], strict=True):
            assert min(parts) >= 0
            assert sum(parts) / 1e3 >= seconds  # the last thread may outlive the run
    assert len(figures["left_out"]) == own + sum(of_peers.values()) - contenders
    assert bars_of_plots(raw) == [1 + contenders + len(figures["floors_s"])] * 2  # the paper is one, too


def test_feed_names_the_peers_that_are_not_installed(tmp_path: Path) -> None:
    (tmp_path / "spdl").mkdir()  # hides an installed one: it holds no pipeline
    (tmp_path / "spdl" / "__init__.py").touch()
    places = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = run("feed.py", *EVENLY, "--only", "SPDL", PYTHONPATH=places)
    assert done.returncode == 0, done.stderr
    assert "left out: SPDL, threads: No module named 'spdl.pipeline'" in done.stdout
    assert "--group bench" in done.stdout


def test_feed_times_nothing_when_a_loader_delivers_another_order(modules: None) -> None:
    import feed
    from contenders import Contender, feeding

    def backwards(work: feeding.Work) -> feeding.Loop:
        loop = feeding.sequential(work)
        loop.seen.reverse()
        return loop

    tokenizer = penstock.Tokenizer.from_pretrained(MODEL)
    work = feeding.Work(["one", "two"], [0.0, 0.0], 0.0, 1, 2, 2, tokenizer)
    feed.check(work, [Contender("in order", feeding.sequential)])
    feed.check(work, [Contender("backwards", backwards, in_order=False)])
    with pytest.raises(SystemExit, match="backwards delivers other tokens, or another order; nothing was"):
        feed.check(work, [Contender("backwards", backwards)])


# --- the floors -------------------------------------------------------------------------------------------


def tick_by_tick(
    load: list[int], step: int, *, rows: int, in_flight: int, in_order: bool, window: int | None
) -> int:
    """The ideal loader, slow and obvious: everything that may happen happens, tick by tick."""
    num_started, starts, num_taken, busy_until, now = 0, [0] * len(load), 0, 0, 0
    while num_taken < len(load) or now < busy_until:
        is_there = [at < num_started and starts[at] + load[at] <= now for at in range(len(load))]
        first = is_there.index(False) if False in is_there else len(load)
        while (
            num_started < len(load)
            and num_started - sum(is_there) < in_flight
            and (window is None or num_started - first < window)
        ):
            starts[num_started] = now
            num_started += 1
        ready = (first if in_order else sum(is_there)) - num_taken
        if now >= busy_until and (ready >= rows or 0 < ready == len(load) - num_taken):
            num_taken += min(ready, rows)
            busy_until = now + step
        now += 1
    return busy_until


@given(
    load=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    step=st.integers(1, 4),
    rows=st.integers(1, 4),
    in_flight=st.integers(1, 5),
    window=st.none() | st.integers(1, 8),
)
def test_the_floor_is_that_of_a_loader_watched_tick_by_tick(
    modules: None, load: list[int], step: int, rows: int, in_flight: int, window: int | None
) -> None:
    from contenders.floors import ideal_s

    for in_order, bound in ((True, window), (False, None)):
        promise: dict[str, Any] = {"rows": rows, "in_flight": in_flight}
        promise |= {"in_order": in_order, "window": bound}
        assert ideal_s(list(map(float, load)), float(step), **promise) == tick_by_tick(load, step, **promise)


# --- handoff ----------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_handoff_measures_every_handoff_and_keeps_the_raw_figures(tmp_path: Path) -> None:
    raw = tmp_path / "handoff.json"
    done = run("handoff.py", "--producers", 2, "--runs", 1, "--seconds", 0.01, "--json", raw)
    assert done.returncode == 0, done.stderr
    assert "p50 / p99" in done.stdout
    figures = json.loads(raw.read_text(encoding="utf-8"))
    contenders = 10 + sum({"torchdata": 2, "spdl": 1}[peer] for peer in PEERS)
    assert len(figures["left_out"]) == 13 - contenders
    assert len(figures["handoffs"]) == 2 * contenders  # with 1 ms of work, and with none
    for each in figures["handoffs"]:
        (only,) = each["runs"]
        assert only["items"] >= 100
        assert 0 < only["p50_us"] <= only["p99_us"]
    simple = next(each for each in figures["handoffs"] if each["name"] == "queue.SimpleQueue")
    assert (simple["in_order"], simple["is_bounded"]) == (False, False)  # the table says what it lacks
    assert len(figures["pairs_ns"]) == 6
    assert bars_of_plots(raw) == [1 + contenders] * 2


@pytest.mark.parametrize("in_order", [True, False])
def test_handoff_times_nothing_that_loses_items_or_their_order(modules: None, in_order: bool) -> None:
    import handoff
    from contenders import Contender, handing

    def losing(case: handing.Case) -> list[handing.Arrival]:
        arrived = handing.queue_queue(case)
        return arrived[::-1] if in_order else arrived[:-1]

    assert (
        handoff.timed(Contender("good", handing.queue_queue, in_order=in_order), 1, 0.0, 0.0)["items"] == 100
    )
    with pytest.raises(ValueError, match="losing delivers other items, or another order; nothing was timed"):
        handoff.timed(Contender("losing", losing, in_order=in_order), 1, 0.0, 0.0)


# --- tutorial ---------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_tutorial_scores_alike_in_all_four_forms(tmp_path: Path) -> None:
    raw = tmp_path / "tutorial.json"
    done = run("tutorial.py", "--size", "small", "--load-s", 0.01, "--runs", 2, "--json", raw)
    assert done.returncode == 0, done.stderr
    figures = json.loads(raw.read_text(encoding="utf-8"))
    assert list(figures["seconds"])[-1] == "penstock.Prefetcher"
    assert [len(values) for values in figures["seconds"].values()] == [2, 2, 2, 2]
    assert len(figures["scores"]) == 5
    assert bars_of_plots(raw) == [1 + 4 + 1, 1 + 4 + 1]


def test_tutorial_times_nothing_when_scores_differ(modules: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import tutorial

    def backwards(example: tutorial.Example) -> list[float]:
        return tutorial.sequential(example)[::-1]

    example = tutorial.Example(load_s=0.0, size="small")
    monkeypatch.setitem(tutorial.FORMS, "backwards", backwards)
    with pytest.raises(SystemExit, match="backwards gives other scores; nothing was timed"):
        tutorial.measure(example, runs=1)


# --- pipeline ---------------------------------------------------------------------------------------------


def test_pipeline_measures_every_part_and_keeps_the_raw_figures(tmp_path: Path) -> None:
    raw = tmp_path / "pipeline.json"
    done = run("pipeline.py", "--file", CORPUS, "--tokenizer", MODEL, "--runs", 2, "--json", raw)
    assert done.returncode == 0, done.stderr
    for words in (
        "reader alone",
        "tokenizer alone, 2 threads",
        "the loop waited",
        "  tokenize ",
        "357 rows",
        "cores were busy",
    ):
        assert words in done.stdout
    figures = json.loads(raw.read_text(encoding="utf-8"))
    for unit in ("mb_s", "cpu_s"):
        assert [len(values) for values in figures[unit].values()] == [2, 2, 2, 2]
    assert all(run["elapsed_s"] >= run["read"] > 0 for run in figures["prefetcher_s"])
    assert bars_of_plots(raw) == [1 + 4, 1 + 4]  # the paper is a rectangle, too


def test_pipeline_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENSTOCK_TEST_DATA", raising=False)
    done = run("pipeline.py", "--runs", 1)
    assert done.returncode == 2
    assert "give --file and --tokenizer" in done.stderr
