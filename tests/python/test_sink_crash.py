"""The sink on a simulated disk: crash or fail at every operation, lose what was not synced, resume.

Redone units get scores that differ in the last digits, as on another machine, so that a leftover of an
earlier try never has the name of the new part by chance.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import suppress

import pyarrow as pa
import pytest

from penstock.errors import OutputError
from penstock.sink import Sink, inspect, read_parts
from penstock.sink import files as sink_files
from penstock.sink import manifest as sink_manifest
from penstock.sink import run as sink_run
from test_sink import plan_object
from test_sink_disk import LOSSES, Crash, SimulatedDisk

ROWS = 3
PLAN = plan_object(3, ROWS)
PART_NAME = re.compile(r"part-\d{5}-([0-9a-f]{8})\.jsonl")


def table_of(unit: int, attempt: int) -> pa.Table:
    rows = range(unit * ROWS, (unit + 1) * ROWS)
    return pa.table({"id": list(rows), "score": [row + attempt * 1e-9 for row in rows]})


def run(disk: SimulatedDisk, attempt: int, claimed: set[int]) -> None:
    """One process: opens, does what is left, closes; `claimed` collects what it was told is durable."""
    sink = Sink.open("out", PLAN.to_json(), {"model": "tiny"}, format="jsonl", files=disk)
    try:
        for unit in PLAN.units:
            if unit.id not in sink.finished:
                sink.write(unit, table_of(unit.id, attempt))
    finally:
        try:
            sink.close()
        finally:
            claimed |= sink.finished


def check_part_names(disk: SimulatedDisk) -> None:
    """Whoever globs for parts never sees one that is torn."""
    for path, inode in disk.names.items():
        if match := PART_NAME.fullmatch(path.rpartition("/")[2]):
            assert hashlib.sha256(inode.seen).hexdigest().startswith(match[1]), f"{path} is torn"


def check_resumed(disk: SimulatedDisk, attempt: int, claimed: set[int]) -> None:
    """Resume without faults: nothing wrong, doubled or missing, and nothing done twice."""
    check_part_names(disk)
    sink = Sink.open("out", PLAN.to_json(), {"model": "tiny"}, format="jsonl", files=disk)
    kept = sink.finished
    sink.close()
    assert claimed <= kept, f"units {claimed - kept} were called durable and are gone"
    run(disk, attempt, set())
    rows = [row for table in read_parts("out", files=disk) for row in table.to_pylist()]
    assert [row["id"] for row in rows] == list(range(9)), "rows are wrong, missing or doubled"
    assert all(abs(row["score"] - row["id"]) < 1e-6 for row in rows)
    left = [path.rpartition("/")[2] for path in disk.names if path.startswith("out/")]
    assert sum(bool(PART_NAME.fullmatch(name)) for name in left) == 3, (
        f"not one file per unit: {sorted(left)}"
    )
    assert not [name for name in left if name.startswith(".penstock-0")], "a staged file was left"
    assert inspect("out", files=disk).success
    assert json.loads(disk.names["out/_SUCCESS.json"].seen)["rows"] == 9


def attempt_until_fault(disk: SimulatedDisk, attempt: int, claimed: set[int]) -> None:
    """Run; if it fails, it must say so with an error of ours."""
    if disk.fault:
        with suppress(OutputError):
            run(disk, attempt, claimed)
        assert not disk.locks and not disk.handles, "a failed sink kept a file open"
    else:
        with suppress(Crash, OutputError):  # the writer thread's Crash arrives as an OutputError
            run(disk, attempt, claimed)
            assert not disk.crashed, "the crash was swallowed"


def number_of_steps() -> int:
    disk = SimulatedDisk()
    run(disk, 0, set())
    return len(disk.steps)


def every_single_fault() -> Iterator[tuple[int, bool, float, str | None]]:
    for fail_at in range(number_of_steps()):
        for fault, done in ((True, 0.0), (False, 0.5), (False, 1.0)):
            for loses in LOSSES:
                yield fail_at, fault, done, loses


def sweep_single_faults() -> int:
    """Fail once at every operation, in every way, lose every kind of thing; the number of episodes."""
    episodes = 0
    for fail_at, fault, done, loses in every_single_fault():
        claimed: set[int] = set()
        disk = SimulatedDisk(fail_at=fail_at, fault=fault, done=done)
        attempt_until_fault(disk, 1, claimed)
        check_resumed(disk.restart(loses, random.Random(fail_at)), 2, claimed)
        episodes += 1
    return episodes


def sweep_many_faults(episodes: int) -> None:
    """Several faults in a row, also while resuming, at random."""
    steps = number_of_steps()
    for seed in range(episodes):
        rng, claimed = random.Random(seed), set[int]()
        disk = SimulatedDisk()
        attempts = rng.randint(2, 6)
        for attempt in range(attempts):
            faults = {
                "fail_at": rng.randrange(steps),
                "fault": rng.random() < 0.2,
                "done": rng.choice([0, 0.5, 1]),
            }
            disk = disk.restart(rng.choice([*LOSSES, None, None]), rng, **faults)
            check_part_names(disk)
            attempt_until_fault(disk, attempt, claimed)
        check_resumed(disk.restart(rng.choice(LOSSES), rng), attempts, claimed)


def watch_every_step() -> int:
    """A reader that looks at any moment sees whole parts only; the number of looks."""
    disk, looks = SimulatedDisk(), []

    def look() -> None:
        if "out/_run.json" in disk.names:
            report = inspect("out", files=disk)
            assert not report.missing, f"{report.missing} are called finished and are not there"
            assert sum(table.num_rows for table in read_parts("out", files=disk)) == report.rows
            assert report.units_done == 3 or not report.success
            looks.append(report.units_done)

    disk.watch = look
    run(disk, 0, set())
    assert looks == sorted(looks) and looks[-1] == 3
    return len(looks)


def test_a_reader_at_any_moment_sees_whole_parts_only() -> None:
    assert watch_every_step() > 20


def test_the_order_of_a_commit_is_what_the_design_says() -> None:
    disk = SimulatedDisk()
    run(disk, 0, set())
    names = [re.sub(r"-[0-9a-f]{8}\b", "", step) for step in disk.steps]
    start = names.index("create out/.penstock-0-part-00001.jsonl")
    assert names[start : start + 7] == [
        "create out/.penstock-0-part-00001.jsonl",
        "write",
        "fsync",
        "rename out/part-00001.jsonl",
        "fsync_folder out",
        "write",
        "fsync",
    ]


@pytest.mark.timeout(180)
def test_a_fault_at_any_operation_loses_doubles_and_forges_nothing() -> None:
    assert sweep_single_faults() > 500


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("episodes", [1000, pytest.param(50_000, marks=pytest.mark.proof)])
def test_faults_in_a_row_lose_double_and_forge_nothing(episodes: int) -> None:
    sweep_many_faults(episodes)


def with_rename_before_fsync(patch: pytest.MonkeyPatch) -> None:
    stage, publish = sink_files.stage, sink_files.publish

    def unsynced_stage(disk: SimulatedDisk, path: str, content: bytes) -> None:
        disk.ignores_fsync = bool(PART_NAME.search(path))
        stage(disk, path, content)
        disk.ignores_fsync = False

    def late_fsync(disk: SimulatedDisk, folder: str, staged: str, name: str) -> None:
        publish(disk, folder, staged, name)
        handle = disk.open(f"{folder}/{name}")
        try:
            disk.fsync(handle)
        finally:
            disk.close(handle)

    patch.setattr(sink_files, "stage", unsynced_stage)
    patch.setattr(sink_files, "publish", late_fsync)


def without_fsync_of_folder(patch: pytest.MonkeyPatch) -> None:
    def publish(disk: SimulatedDisk, folder: str, staged: str, name: str) -> None:
        disk.rename(f"{folder}/{staged}", f"{folder}/{name}")

    patch.setattr(sink_files, "publish", publish)


def with_line_before_part(patch: pytest.MonkeyPatch) -> None:
    publish, append, waiting = sink_files.publish, sink_manifest.Manifests.append, []

    def late_publish(disk: SimulatedDisk, folder: str, staged: str, name: str) -> None:
        if PART_NAME.fullmatch(name):
            waiting.append((disk, folder, staged, name))
        else:
            publish(disk, folder, staged, name)

    def append_first(self: sink_manifest.Manifests, line: bytes) -> None:
        append(self, line)
        publish(*waiting.pop())

    patch.setattr(sink_files, "publish", late_publish)
    patch.setattr(sink_manifest.Manifests, "append", append_first)


def without_fsync_of_line(patch: pytest.MonkeyPatch) -> None:
    def append(self: sink_manifest.Manifests, line: bytes) -> None:
        assert self._handle is not None
        good, lines = self._read[self._own]
        self._files.write(self._handle, line)
        self._read[self._own] = (good + len(line), lines + 1)

    patch.setattr(sink_manifest.Manifests, "append", append)


def without_newline_rule(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sink_manifest, "_is_whole", lambda line: True)


def without_checksum(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sink_manifest, "_has_right_checksum", lambda line: True)


def without_repair(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sink_manifest.Manifests, "repair", lambda self: None)


def without_sync_of_what_is_read(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sink_manifest.Manifests, "sync", lambda self: None)


def without_sweep(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sink_run, "sweep", lambda *arguments: None)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("plant", "finding"),
    [
        (with_rename_before_fsync, "is torn"),
        (without_fsync_of_folder, "called durable and are gone"),
        (with_line_before_part, "called finished and are not there"),
        (without_fsync_of_line, "called durable and are gone"),
        (without_newline_rule, "checksum is wrong, and lines follow"),
        (without_checksum, "not a line this version can read"),
        (without_repair, "checksum is wrong, and lines follow"),
        (without_sync_of_what_is_read, "called durable and are gone"),
        (without_sweep, "a staged file was left"),
    ],
)
def test_the_sweeps_find_each_planted_bug(
    plant: Callable[[pytest.MonkeyPatch], None], finding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, OutputError), match=finding):
        watch_every_step()
        sweep_single_faults()
        sweep_many_faults(1000)
