"""The sink on a real disk: what it promises to its caller and to readers of the folder."""

from __future__ import annotations

import errno
import gc
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.errors import ClosedError, ConfigError, FingerprintError, OutputError
from penstock.sink import Sink, inspect, read_parts
from penstock.sink.files import LocalFiles
from penstock.sources import Columns, InputFile, Plan, Segment, Unit

FINGERPRINT: dict[str, Any] = {"model": "tiny", "task": "perplexity", "max_length": 512, "schema": ["a", "b"]}


def plan_object(num_units: int, num_rows: int = 2) -> Plan:
    file = InputFile("in.jsonl", "jsonl", size=10 * num_units * num_rows)
    units = []
    for number in range(num_units):
        first = number * num_rows
        segment = Segment("in.jsonl", "jsonl", 10 * first, 10 * (first + num_rows), first, num_rows)
        units.append(Unit(number, (segment,), first, num_rows))
    return Plan((file,), tuple(units), Columns(), pa.schema([("text", pa.string())]))


def unit_of(number: int, num_rows: int = 2) -> Unit:
    return plan_object(number + 1, num_rows).units[number]


def plan_of(num_units: int, num_rows: int = 2) -> dict[str, Any]:
    return plan_object(num_units, num_rows).to_json()


def table_of(number: int) -> pa.Table:
    errors = pa.array([None, "row 2: no text"], pa.string())
    return pa.table(
        {"id": [2 * number, 2 * number + 1], "num_tokens": [3, 4], "num_bytes": [9, 8], "error": errors}
    )


def write_units(output: Path, numbers: range, num_units: int = 3, **options: Any) -> frozenset[int]:
    with Sink.open(output, plan_of(num_units), FINGERPRINT, **options) as sink:
        before = sink.finished
        for number in numbers:
            sink.write(unit_of(number), table_of(number))
    return before


def ids(output: Path) -> list[int]:
    return [row["id"] for table in read_parts(output) for row in table.to_pylist()]


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_a_second_run_finds_what_the_first_finished_and_completes_it(tmp_path: Path, format: str) -> None:
    output = tmp_path / "new" / "scored"
    assert write_units(output, range(1, 3), format=format) == frozenset()
    assert not inspect(output).success
    assert ids(output) == [2, 3, 4, 5]
    assert write_units(output, range(1), format=format) == {1, 2}
    assert ids(output) == [0, 1, 2, 3, 4, 5]
    totals = json.loads((output / "_SUCCESS.json").read_text())
    sizes = sum(path.stat().st_size for path in output.glob("part-*"))
    assert totals == {
        "version": 1, "rows": 6, "errors": 3, "tokens": 21, "bytes": 51, "parts": 3, "file_bytes": sizes,
    }  # fmt: skip


def test_the_report_says_what_a_run_holds(tmp_path: Path) -> None:
    write_units(tmp_path, range(2))
    report = inspect(tmp_path)
    assert (report.model, report.task, report.files) == ("tiny", "perplexity", ("in.jsonl",))
    assert (report.units_done, report.units_total, report.rows, report.rows_total) == (2, 3, 4, 6)
    assert [part.unit for part in report.parts] == [0, 1]
    assert report.parts[1].segments == (("in.jsonl", 2, 2),)
    assert report.fingerprint == FINGERPRINT
    assert "2 of 3" in str(report) and "perplexity with tiny, not complete" in str(report)
    with pytest.raises(OutputError, match="no run here"):
        inspect(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("fingerprint", "plan", "format", "message"),
    [
        (
            FINGERPRINT | {"max_length": 1024},
            plan_of(3),
            "parquet",
            "max_length was 512 there and is 1024 now",
        ),
        (
            FINGERPRINT | {"schema": ["a", "c"]},
            plan_of(3),
            "parquet",
            r'schema\[1\] was "b" there and is "c" now',
        ),
        (FINGERPRINT | {"dtype": "float16"}, plan_of(3), "parquet", "dtype was absent"),
        (FINGERPRINT, plan_of(4), "parquet", r"plan.files\[0\].size was 60 there and is 80 now"),
        (
            FINGERPRINT,
            plan_of(3, 5),
            "jsonl",
            r"format was \"parquet\".*also different: plan.files\[0\].size",
        ),
    ],
)
def test_other_settings_are_refused_by_name(
    tmp_path: Path, fingerprint: dict[str, Any], plan: dict[str, Any], format: Any, message: str
) -> None:
    write_units(tmp_path, range(1))
    with pytest.raises(FingerprintError, match=f"(?s){message}.*Use another --output, or the same settings"):
        Sink.open(tmp_path, plan, fingerprint, format=format)


def test_a_folder_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match=r"thesis\.tex.*new or an empty folder"):
        write_units(tmp_path, range(1))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(OutputError, match=r"Not a directory|File exists"):
        write_units(tmp_path / "thesis.tex", range(1))


def test_only_parts_are_seen_by_those_who_glob_or_read_the_folder(tmp_path: Path) -> None:
    write_units(tmp_path / "p", range(3))
    write_units(tmp_path / "j", range(3), format="jsonl")
    assert pq.read_table(tmp_path / "p")["id"].to_pylist() == list(range(6))
    lines = [
        line
        for path in sorted((tmp_path / "j").glob("*.jsonl"))
        for line in path.read_text("utf-8").splitlines()
    ]
    assert [json.loads(line)["id"] for line in lines] == list(range(6))


def test_two_sinks_on_one_folder_have_two_names_and_finish_each_unit_once(tmp_path: Path) -> None:
    with Sink.open(tmp_path, plan_of(2), FINGERPRINT) as first:
        with pytest.raises(OutputError, match="writer '0' is at work in another process"):
            Sink.open(tmp_path, plan_of(2), FINGERPRINT, writer="0")
        with Sink.open(tmp_path, plan_of(2), FINGERPRINT) as second:
            assert (first.writer, second.writer) == ("0", "1")
            second.write(unit_of(0), table_of(0))
        first.write(unit_of(0), table_of(0), splits=[[0, 1]])
        first.write(unit_of(1), table_of(1))
    assert inspect(tmp_path).success
    assert ids(tmp_path) == [0, 1, 2, 3]
    assert len(list(tmp_path.glob("part-*"))) == 2
    assert (tmp_path / "_manifests" / "manifest-0.jsonl").read_bytes().count(b"\n") == 1
    with Sink.open(tmp_path, plan_of(2), FINGERPRINT) as again:
        assert again.writer == "0"


def test_splits_and_quarantined_rows_are_in_the_manifest(tmp_path: Path) -> None:
    with Sink.open(tmp_path, plan_of(1), FINGERPRINT) as sink:
        sink.write(unit_of(0), table_of(0), splits=[[0, 1]], quarantined={1: "SIGSEGV " + "x" * 400})
    (part,) = inspect(tmp_path).parts
    assert part.splits == ([0, 1],)
    assert part.quarantined is not None and len(part.quarantined["1"]) == 300
    assert part.num_quarantined == 1


def test_wrong_use_is_refused_by_name(tmp_path: Path) -> None:
    with Sink.open(tmp_path, plan_of(2), FINGERPRINT) as sink:
        with pytest.raises(ConfigError, match="unit 7: not in the plan"):
            sink.write(unit_of(7), table_of(0))
        with pytest.raises(ConfigError, match="the table has 1 row, the unit 2"):
            sink.write(unit_of(0), table_of(0).slice(1))
        sink.write(unit_of(0), table_of(0))
        with pytest.raises(ConfigError, match="unit 0: finished or written before"):
            sink.write(unit_of(0), table_of(0))
    sink.close()
    with pytest.raises(ClosedError):
        sink.write(unit_of(1), table_of(1))
    with pytest.raises(ConfigError, match="finite JSON"):
        Sink.open(tmp_path, plan_of(2), {"threshold": float("nan")})
    with pytest.raises(ConfigError, match="not a URL"):
        Sink.open("s3://bucket/scored", plan_of(2), FINGERPRINT)


class FullDisk(LocalFiles):
    """Room for one part only."""

    def write(self, handle: int, content: memoryview | bytes) -> None:
        if "part-00001" in str(Path(f"/proc/self/fd/{handle}").readlink()):
            super().write(handle, memoryview(content)[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(handle, content)


def test_a_full_disk_stops_the_run_and_keeps_what_was_finished(tmp_path: Path) -> None:
    def run() -> None:
        with Sink.open(tmp_path, plan_of(3), FINGERPRINT, files=FullDisk(), parts_ahead=1) as sink:
            for number in range(3):
                sink.write(unit_of(number), table_of(number))

    message = (
        r"part-00001-\w+\.parquet: writing a part failed: No space left.*parts are kept. Free some space"
    )
    with pytest.raises(OutputError, match=message) as caught:
        run()
    assert isinstance(caught.value.__cause__, OutputError)
    assert ids(tmp_path) == [0, 1]
    assert not list(tmp_path.glob(".penstock-*")), "the torn file keeps its room"
    assert write_units(tmp_path, range(1, 3)) == {0}
    assert ids(tmp_path) == list(range(6))


def test_a_table_that_cannot_be_written_is_an_error_that_names_the_unit(tmp_path: Path) -> None:
    union = pa.UnionArray.from_sparse(pa.array([0, 0], pa.int8()), [pa.array([1, 2])])
    sink = Sink.open(tmp_path, plan_of(1), FINGERPRINT)
    sink.write(unit_of(0), pa.table({"u": union}))
    with pytest.raises(OutputError, match="unit 0: cannot be written as parquet"):
        sink.close()


def test_an_error_in_the_loop_goes_first_and_loses_nothing_handed_over(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mine"), Sink.open(tmp_path, plan_of(2), FINGERPRINT) as sink:
        sink.write(unit_of(0), table_of(0))
        raise KeyError("mine")
    assert ids(tmp_path) == [0, 1]


class SlowDisk(LocalFiles):
    """Writes nothing until `go`."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def rename(self, old: str, new: str) -> None:
        if "part-" in new:
            self.go.wait(30)
        super().rename(old, new)


def test_no_more_tables_are_held_than_asked_for(tmp_path: Path) -> None:
    disk, handed = SlowDisk(), []
    sink = Sink.open(tmp_path, plan_of(6), FINGERPRINT, files=disk, parts_ahead=2)

    def produce() -> None:
        for number in range(6):
            sink.write(unit_of(number), table_of(number))
            handed.append(number)

    producer = threading.Thread(target=produce)
    producer.start()
    producer.join(0.3)
    assert handed == [0, 1]
    disk.go.set()
    producer.join()
    sink.close()
    assert ids(tmp_path) == list(range(12))


def test_a_sink_that_is_only_dropped_ends_its_thread_and_gives_its_lock_up(tmp_path: Path) -> None:
    sink = Sink.open(tmp_path, plan_of(2), FINGERPRINT)
    sink.write(unit_of(0), table_of(0))
    del sink
    gc.collect()
    assert "penstock-sink" not in [thread.name for thread in threading.enumerate()]
    with Sink.open(tmp_path, plan_of(2), FINGERPRINT, writer="0") as sink:
        assert sink.finished == {0}


def test_importing_the_sink_brings_no_torch_along() -> None:
    code = "import sys, penstock.sink; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=50).returncode == 0
