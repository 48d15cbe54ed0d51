"""The sink among real processes: killed at any moment, racing, over a limit, forked."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from penstock.sink import inspect, read_parts
from test_sink import plan_object

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
NUM_UNITS, ROWS = 80, 50
PLAN = json.dumps(plan_object(NUM_UNITS, ROWS).to_json())

SCORER = f"""
import json, random, sys, time
import pyarrow as pa
from penstock.sink import Sink
from penstock.sources import Plan

output, jitter, pause = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
plan = Plan.from_json(json.loads(sys.argv[4]))
sink = Sink.open(output, plan.to_json(), {{"model": "tiny"}})
print("open", len(sink.finished), flush=True)
for unit in plan.units:
    if unit.id in sink.finished:
        continue
    rows = range(unit.first_index, unit.first_index + {ROWS})
    table = pa.table({{"id": list(rows), "score": [row + jitter for row in rows]}})
    table = table.append_column("text", pa.array([f"{{row:999}}" for row in rows]))
    time.sleep(random.random() * pause)
    sink.write(unit, table)
"""
CLOSE = "sink.close()\n"


def start(
    output: Path, jitter: float = 0.0, pause: float = 0.01, code: str = SCORER + CLOSE
) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", code, str(output), str(jitter), str(pause), PLAN]
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )


def finish(scorer: subprocess.Popen[str]) -> None:
    _, errors = scorer.communicate(timeout=100)
    assert scorer.returncode == 0, errors


def check_complete(output: Path) -> None:
    rows = [row for table in read_parts(output) for row in table.select(["id", "score"]).to_pylist()]
    assert [row["id"] for row in rows] == list(range(NUM_UNITS * ROWS))
    assert all(abs(row["score"] - row["id"]) < 1e-6 for row in rows)
    assert inspect(output).success
    assert json.loads((output / "_SUCCESS.json").read_text())["rows"] == NUM_UNITS * ROWS
    assert len(list(output.glob("part-*"))) == NUM_UNITS, "a glob must find each unit once"
    assert not list(output.glob(".penstock-*"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [10, pytest.param(150, marks=pytest.mark.proof)])
def test_kill_9_at_any_moment_and_nothing_finished_is_lost(tmp_path: Path, kills: int) -> None:
    rng = random.Random(7)
    output, finished, done = tmp_path / "0", set[str](), 0
    while done < kills:
        scorer = start(output, jitter=rng.random() * 1e-7, pause=0.04)
        assert scorer.stdout is not None
        assert scorer.stdout.readline().startswith("open")
        while len(list(output.glob("part-*"))) <= len(finished) and scorer.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.random() * 0.05)  # anywhere in the next few commits
        scorer.send_signal(signal.SIGKILL)
        _, errors = scorer.communicate(timeout=30)
        assert scorer.returncode in (-signal.SIGKILL, 0), errors
        done += scorer.returncode != 0
        parts = {part.name for part in inspect(output).parts}
        assert finished <= parts, "a finished part was lost or done again"
        finished = parts
        if len(finished) > NUM_UNITS * 3 // 4:
            finish(start(output, pause=0.0))
            check_complete(output)
            output, finished = tmp_path / str(done), set()
    finish(start(output, pause=0.0))
    check_complete(output)


@pytest.mark.timeout(120)
def test_processes_that_race_for_the_same_units_write_each_once(tmp_path: Path) -> None:
    scorers = [start(tmp_path, jitter=number * 1e-9) for number in range(3)]
    for scorer in scorers:
        finish(scorer)
    check_complete(tmp_path)
    lines = [path.read_bytes().count(b"\n") for path in (tmp_path / "_manifests").iterdir()]
    assert len(lines) == 3 and sum(lines) == NUM_UNITS


def test_a_file_size_limit_is_an_error_that_says_so(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))\n"
    scorer = start(tmp_path, code=limit + SCORER + CLOSE)
    _, errors = scorer.communicate(timeout=50)
    assert scorer.returncode == 1
    assert (
        "OutputError" in errors
        and "File too large. Finished parts are kept. Raise the file size limit" in errors
    )
    finish(start(tmp_path))
    check_complete(tmp_path)


def test_a_scorer_that_ends_without_close_keeps_what_it_handed_over(tmp_path: Path) -> None:
    finish(start(tmp_path, code=SCORER))
    check_complete(tmp_path)


def test_a_forked_child_can_neither_write_nor_end_the_parents_sink(tmp_path: Path) -> None:
    code = """
import os
from penstock.errors import ForkedError
child = os.fork()
if child == 0:
    try:
        sink.close()
    except ForkedError:
        del sink
        os._exit(42)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
"""
    finish(start(tmp_path, code=SCORER + code + CLOSE))
    check_complete(tmp_path)
