"""``penstock demo``: what it says, that it is quick, and that it fails when its scores make no sense."""

from __future__ import annotations

import json
import math
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from penstock.cli import demo
from penstock.demo import CORPUS, MODEL, report
from penstock.demo.report import Axis, Kind
from penstock.sink import read_parts
from test_cli import invoke

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ORDER = re.compile(r"in order, as it should be: prose \S+ < web \S+ < shuffled \S+ < base64 \S+")


def run_demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "penstock", "demo", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, float]:
    """The folder it ran in, what it said, and the CPU seconds it took."""
    folder = tmp_path_factory.mktemp("demo")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run_demo(folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_sense_scores_below_nonsense(first: tuple[Path, str, float]) -> None:
    assert ORDER.search(first[1])


def test_it_is_quick(first: tuple[Path, str, float]) -> None:
    assert first[2] < 40  # seconds of two cores, however busy the machine: 20 seconds of the clock


def test_it_shows_kinds_a_picture_the_time_and_the_file(first: tuple[Path, str, float]) -> None:
    folder, shown, _ = first
    for kind in ("prose", "web", "code", "languages", "shuffled", "base64"):
        assert f"\n{kind} " in shown
    assert "█" in shown
    assert "the loop waited" in shown
    assert "load the model" in shown
    (part,) = (folder / "penstock-demo").glob("part-*.parquet")
    assert f"\n  penstock-demo/{part.name}\n" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_every_row_of_the_corpus_has_its_score(first: tuple[Path, str, float]) -> None:
    table = pa.concat_tables(read_parts(first[0] / "penstock-demo"))
    lines = CORPUS.read_text(encoding="utf-8").splitlines()
    assert table["id"].to_pylist() == [json.loads(line)["id"] for line in lines]
    assert table["error"].null_count == len(lines)


def test_a_second_time_it_shows_what_the_first_wrote(first: tuple[Path, str, float]) -> None:
    again = run_demo(first[0])
    assert again.returncode == 0, again.stderr
    assert "penstock-demo holds a finished run" in again.stdout
    assert ORDER.search(again.stdout)
    assert sorted(path.name for path in first[0].iterdir()) == ["penstock-demo"]


def test_the_default_folder_of_another_version_is_left_alone(
    first: tuple[Path, str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(first[0] / "penstock-demo", tmp_path / "penstock-demo")
    stored = json.loads((tmp_path / "penstock-demo" / "_run.json").read_text())
    stored["fingerprint"]["torch"] = "0.0"
    (tmp_path / "penstock-demo" / "_run.json").write_text(json.dumps(stored))
    monkeypatch.chdir(tmp_path)
    result = invoke("demo", "--quiet")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "penstock-demo-2" / "_SUCCESS.json").exists()


def test_kinds_out_of_order_are_a_failure(
    first: tuple[Path, str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Finished:
        output = str(first[0] / "penstock-demo")
        num_scored_rows = 0

    def finished(*_: Any, **__: Any) -> Any:
        return Finished()

    monkeypatch.setattr(demo, "_run", finished)
    monkeypatch.setattr(report, "EXPECTED_ORDER", ("base64", "shuffled", "web", "prose"))
    result = invoke("demo", "--quiet")
    assert result.exit_code == 1
    assert "are not in order" in result.stderr
    assert "base64 < shuffled < web < prose" in result.stderr


def test_the_bundled_files_are_where_they_should_be() -> None:
    assert (MODEL / "tokenizer.json").is_file()
    assert CORPUS.is_file()


def test_a_kind_without_a_scored_row_comes_last_and_breaks_nothing() -> None:
    table = pa.table(
        {
            "kind": ["a"] * 5 + ["b"],
            "logprob": [-2.0] * 5 + [0.0],
            "perplexity": [math.e] * 5 + [None],
            "num_tokens": [2] * 5 + [0],
            "num_bytes": [4] * 5 + [0],
        }
    )
    low, none = report.summarize([table])
    assert (low.name, low.num_tokens, none.name, none.median, none.bits_per_byte) == (
        "a",
        10,
        "b",
        math.inf,
        None,
    )
    assert low.bits_per_byte == pytest.approx(10 / math.log(2) / 20)
    assert report.ordered([low, none])[0] is False


def test_the_axis_holds_every_value_and_labels_do_not_touch() -> None:
    kinds = [Kind("a", 3, 3, (3.0, 40.0, 20_000.0), 1.0)]
    for width in (20, 60, 90):
        axis = Axis.over(kinds, width)
        assert [round(axis.column(value)) in range(width) for value in (3.0, 20_000.0)] == [True, True]
        line, labels = axis.ruler()
        assert len(line) == width >= len(labels)
        assert {"10", "100", "10,000"} <= set(labels.split()) <= {"5", "10", "100", "1,000", "10,000"}
        assert len(axis.hill(kinds[0].perplexities)) == width
