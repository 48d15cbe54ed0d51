"""The benchmarks run, and refuse to time contenders that disagree. Timings themselves are not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from penstock.demo import CORPUS, MODEL

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FEED, PIPELINE, BUSY = (BENCHMARKS / name for name in ("feed.py", "pipeline.py", "busy.py"))


def test_feed_measures_every_loader_and_keeps_the_raw_seconds(tmp_path: Path) -> None:
    raw = tmp_path / "feed.json"
    small = ["--documents", "4", "--load-s", "0.001", "--step-s", "0.001", "--runs", "2", "--json", str(raw)]
    done = subprocess.run(
        [sys.executable, str(FEED), *small], capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "penstock.Prefetcher" in done.stdout
    seconds = json.loads(raw.read_text(encoding="utf-8"))["seconds"]
    assert len(seconds) == 6
    assert all(len(values) == 2 for values in seconds.values())
    assert bars_of_plots(raw) == [1 + 6, 1 + 6]


def test_busy_times_the_steps_of_a_loop_beside_every_kind_of_work(tmp_path: Path) -> None:
    raw = tmp_path / "busy.json"
    small = ["--workers", "2", "--steps", "5", "--runs", "2", "--json", str(raw)]
    done = subprocess.run(
        [sys.executable, str(BUSY), *small], capture_output=True, text=True, timeout=55, check=False
    )
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


def run_pipeline(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PIPELINE), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


def test_pipeline_measures_every_part_and_keeps_the_raw_figures(tmp_path: Path) -> None:
    raw = tmp_path / "pipeline.json"
    done = run_pipeline("--file", CORPUS, "--tokenizer", MODEL, "--runs", 2, "--json", raw)
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
    done = run_pipeline("--runs", 1)
    assert done.returncode == 2
    assert "give --file and --tokenizer" in done.stderr
