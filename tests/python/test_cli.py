"""The command line: what it says, where it says it, and with which exit code it ends."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner, Result

from penstock.cli import app, bench, machine
from penstock.cli.exits import Ending, Terminated, visible
from penstock.cli.progress import Tokenized, display
from penstock.errors import ConfigError, OutputError, RowError, SourceError

COMMANDS = ("score", "tokenize", "inspect", "demo", "doctor", "bench")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_rows(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_help_lists_the_commands_and_the_exit_codes() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in result.stdout
    for code in (0, 1, 2, 3, 130, 143):
        assert f" {code}  " in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_fits_eighty_columns(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize(("command", "argument"), [("score", "INPUT"), ("inspect", "DIR"), ("bench", "NAME")])
def test_help_names_arguments_without_types_of_python(command: str, argument: str) -> None:
    shown = invoke(command, "--help").stdout
    assert re.search(rf"^  {argument}  +\w", shown, re.MULTILINE)
    assert "<" not in shown


def test_help_of_bench_names_every_benchmark() -> None:
    folder = Path(__file__).parents[2] / "benchmarks"
    names = {path.stem for path in folder.glob("*.py")} | {
        path.parent.name for path in folder.glob("*/__main__.py")
    }
    shown = " ".join(invoke("bench", "--help").stdout.split())
    listed = re.search(r"NAME ((?:\w+, )*\w+ or \w+);", shown)
    assert listed is not None
    assert set(re.split(", | or ", listed[1])) == names - {"plot"}  # which draws what they measured


def test_help_imports_nothing_slow() -> None:
    code = (
        "import sys, penstock.cli; print([n for n in ('torch', 'transformers', 'numpy') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_help_is_quick() -> None:
    assert min(_seconds_of_help() for _ in range(3)) < 0.5


def _seconds_of_help() -> float:
    """CPU seconds: what the clock would say if nothing else ran."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "penstock", "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_wrong_command_line_is_exit_code_2() -> None:
    assert invoke("score").exit_code == 2
    assert invoke("fly").exit_code == 2
    assert invoke("score", "--batch-size", "3").exit_code == 2


@pytest.mark.parametrize(
    ("error", "before", "on_the_way"),
    [
        (ConfigError("x"), 2, 2),
        (SourceError("no such file"), 2, 1),
        (OutputError("disk full"), 2, 1),
        (RowError("bad"), 1, 1),
        (ZeroDivisionError("x"), 1, 1),
        (KeyboardInterrupt(), 130, 130),
        (Terminated(), 143, 143),
    ],
)
def test_the_exit_code_tells_what_cannot_start_from_what_failed(
    error: BaseException, before: int, on_the_way: int
) -> None:
    end = Ending()
    assert end.code_and_message(error)[0] == before
    end.has_begun = True
    assert end.code_and_message(error)[0] == on_the_way


def test_control_characters_are_escaped() -> None:
    assert visible("a\x1b[2J\r\x85\u202eb\ud800\n") == "a\\x1b[2J\\r\\x85\\u202eb\\ud800\n"


def test_a_file_name_cannot_steer_the_terminal(tmp_path: Path) -> None:
    result = invoke("inspect", tmp_path / "a\x1b[2Jb")
    assert result.exit_code == 2
    assert "\x1b" not in result.output
    assert "a\\x1b[2Jb" in result.stderr


def test_without_a_terminal_progress_is_lines_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with display(quiet=False, has_model=False) as show:
        for rows in (10, 20, 30):
            show(Tokenized(num_rows=rows, total_rows=40, num_tokens=rows * 5, elapsed_s=rows / 10))
    assert capsys.readouterr() == ("", "10 of 40 rows, 50 tokens/s, 0:03 to go\n")


def test_quiet_progress_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with display(quiet=True) as show:
        show(Tokenized(num_rows=1, total_rows=2, num_tokens=3, elapsed_s=1.0))
    assert capsys.readouterr() == ("", "")


def test_doctor_finds_no_fault_in_looking() -> None:
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    for what in ("python", "torch", "transformers", "pyarrow", "cores", "memory", "CUDA", "to sync a file"):
        assert what in " ".join(result.stdout.split())
    assert "could not be found out" not in result.stdout


def test_doctor_says_what_costs_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    monkeypatch.setattr(machine, "usable_cores", lambda: 1.5)
    monkeypatch.setattr(machine, "affinity", lambda: 8)
    result = invoke("doctor")
    assert result.exit_code == 0
    assert "unset it" in result.stdout
    assert "--num-workers" in result.stdout
    assert not re.search(r"\b0 (ok|slow|missing)", result.stdout)


def test_doctor_survives_a_check_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> float:
        raise OSError("no such thing here")

    monkeypatch.setattr(machine, "usable_cores", broken)
    result = invoke("doctor")
    assert result.exit_code == 0
    assert "could not be found out: OSError: no such thing here" in " ".join(result.stdout.split())


def test_doctor_looks_at_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("out of locked memory\nand more lines")

    old = SimpleNamespace(name="Old Card", major=7, minor=0)
    busy = SimpleNamespace(name="Busy Card", major=9, minor=0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: (old, busy)[index])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: ((60 << 30, 10 << 30)[index], 64 << 30))
    monkeypatch.setattr(torch, "empty", refused)
    found = list(machine._cuda())
    assert [finding.verdict for finding in found] == ["ok", "slow", "slow", "slow"]
    assert "float16" in found[1].remedy
    assert "10 GiB free" in found[2].found
    assert found[3].found == "refused: out of locked memory"


def test_a_cgroup_quota_counts_as_cores(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert list(machine._cgroup_quotas(tmp_path)) == [1.5]
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert list(machine._cgroup_quotas(tmp_path)) == []


def test_bench_needs_a_clone_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a clone"):
        bench.script_of("feed", [tmp_path])
    with pytest.raises(ConfigError, match="benchmarks of this clone are busy, feed"):
        bench.script_of("speed", [Path(__file__).parent])


def test_bench_finds_the_script_of_a_clone_from_inside_it(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "penstock"\n')
    script = tmp_path / "benchmarks" / "feed.py"
    script.write_text("import sys; sys.exit(len(sys.argv))")
    (tmp_path / "deep").mkdir()
    assert bench.script_of("feed", [tmp_path / "deep"]) == script


def test_bench_hands_its_arguments_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "penstock"\n')
    (tmp_path / "benchmarks" / "feed.py").write_text("import sys; sys.exit(40 + len(sys.argv))")
    monkeypatch.chdir(tmp_path)
    assert invoke("bench", "feed", "--runs", "3", "--help").exit_code == 44
