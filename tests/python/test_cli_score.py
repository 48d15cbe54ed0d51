"""``penstock score``: files in, parts out, and what happens when something is wrong or in the way."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from penstock.sink import inspect, read_parts
from test_cli import invoke, write_rows

pytestmark = pytest.mark.timeout(120)

# Where pytest runs in the background of a shell, SIGINT may be ignored, and would be in its children too.
MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from penstock.cli import main
main()
"""


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", MAIN, *(str(argument) for argument in arguments)]


def table_of(output: Path) -> pa.Table:
    return pa.concat_tables(read_parts(output))


@pytest.fixture
def corpus(tmp_path: Path, sentences: tuple[str, ...]) -> Path:
    rows = [{"id": i, "text": sentences[i % len(sentences)]} for i in range(60)]
    return write_rows(tmp_path / "rows.jsonl", rows)


def score(corpus: Path, model: Path, output: Path, *options: object) -> Sequence[object]:
    return ("score", corpus, "--model", model, "--task", "perplexity", "--output", output, *options)


def test_rows_come_out_in_order_with_what_was_kept(corpus: Path, tiny_gpt2: Path, tmp_path: Path) -> None:
    output = tmp_path / "scored"
    result = invoke(*score(corpus, tiny_gpt2, output, "--keep", "id", "--keep", "text", "--unit-rows", 25))
    assert result.exit_code == 0, result.output
    table = table_of(output)
    assert table.column_names[:2] == ["id", "text"]
    assert table["id"].to_pylist() == list(range(60))
    assert all(value > 1 for value in table["perplexity"].to_pylist())
    assert "60 rows scored" in result.stdout
    assert "of 60 rows" in result.stderr
    assert "tokens/s" in result.stderr


def test_a_second_run_skips_what_is_done(corpus: Path, tiny_gpt2: Path, tmp_path: Path) -> None:
    arguments = score(corpus, tiny_gpt2, tmp_path / "scored", "--unit-rows", 25)
    assert invoke(*arguments).exit_code == 0
    result = invoke(*arguments)
    assert result.exit_code == 0
    assert "0 rows scored (skipped as finished before: 3 of 3 units)" in result.stdout
    assert "waited" not in result.stdout


def test_options_reach_the_task(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    output = tmp_path / "embedded"
    arguments = (
        "score",
        corpus,
        "--model",
        tiny_bert,
        "--task",
        "embed",
        "--output",
        output,
        "--format",
        "jsonl",
    )
    options = ("--pooling", "cls", "--normalize-embeddings", "--truncate-dim", 8, "--max-length", 16)
    assert invoke(*arguments, *options).exit_code == 0
    stored = inspect(output).fingerprint
    assert stored["pooling"] == "cls"
    assert stored["normalize_embeddings"] is True
    assert (stored["truncate_dim"], stored["max_length"]) == (8, 16)
    assert all(name.name.endswith(".jsonl") for name in inspect(output).parts)


def test_no_bos_reaches_the_task(corpus: Path, tiny_gpt2: Path, tmp_path: Path) -> None:
    assert invoke(*score(corpus, tiny_gpt2, tmp_path / "scored", "--no-bos")).exit_code == 0
    assert inspect(tmp_path / "scored").fingerprint["bos_id"] is None


def test_an_unknown_task_is_one_message_that_names_the_tasks(corpus: Path, tmp_path: Path) -> None:
    result = invoke("score", corpus, "--model", "none", "--task", "perplexty", "--output", tmp_path / "x")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "'classify', 'embed', 'perplexity'. Did you mean 'perplexity'?" in result.stderr


@pytest.mark.parametrize("option", [("--stride", 4), ("--no-bos",), ("--score-range", 0, 3)])
def test_an_option_of_another_task_is_refused(
    corpus: Path, tiny_bert: Path, tmp_path: Path, option: tuple[object, ...]
) -> None:
    arguments = ("score", corpus, "--model", tiny_bert, "--task", "embed", "--output", tmp_path / "x")
    result = invoke(*arguments, *option)
    assert result.exit_code == 2
    assert "task 'embed' has no option" in result.stderr


def test_a_missing_column_names_the_file_and_the_column(
    corpus: Path, tiny_gpt2: Path, tmp_path: Path
) -> None:
    result = invoke(*score(corpus, tiny_gpt2, tmp_path / "scored", "--text-column", "content"))
    assert result.exit_code == 2
    assert str(corpus) in result.stderr
    assert "'content'" in result.stderr
    assert "--text-column" in result.stderr


def test_the_folder_of_another_run_is_refused_by_the_field_that_differs(
    corpus: Path, tiny_gpt2: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scored"
    assert invoke(*score(corpus, tiny_gpt2, output)).exit_code == 0
    result = invoke(*score(corpus, tiny_gpt2, output, "--max-length", 32))
    assert result.exit_code == 2
    assert "max_length was 64 there and is 32 now" in result.stderr


def test_a_folder_of_somebody_else_is_refused(corpus: Path, tiny_gpt2: Path, tmp_path: Path) -> None:
    result = invoke(*score(corpus, tiny_gpt2, tmp_path))
    assert result.exit_code == 2
    assert "holds files but no run" in result.stderr


def test_a_model_without_a_tokenizer_is_exit_code_2(corpus: Path, tiny_gpt2: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_gpt2, tmp_path / "model")
    (model / "tokenizer.json").unlink()
    result = invoke(*score(corpus, model, tmp_path / "scored"))
    assert result.exit_code == 2
    assert "there is no tokenizer.json" in result.stderr


def test_debug_shows_the_traceback_and_without_it_there_is_none(
    corpus: Path, tiny_gpt2: Path, tmp_path: Path
) -> None:
    wrong = score(corpus, tiny_gpt2, tmp_path / "scored", "--device", "nowhere", "--quiet")
    without, debugged = invoke(*wrong), invoke(*wrong, "--debug")
    assert without.exit_code == debugged.exit_code != 0
    assert "Traceback" not in without.output
    assert "Traceback" in debugged.stderr


def test_quiet_is_silent(corpus: Path, tiny_gpt2: Path, tmp_path: Path) -> None:
    arguments = score(corpus, tiny_gpt2, tmp_path / "scored", "--quiet")
    done = subprocess.run(command(*arguments), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_libraries_do_not_litter_the_output(corpus: Path, tiny_gpt2: Path, tmp_path: Path) -> None:
    arguments = score(corpus, tiny_gpt2, tmp_path / "scored")
    done = subprocess.run(command(*arguments), capture_output=True, text=True)
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert lines[0].startswith("scoring ")
    assert all("of 60 rows" in line for line in lines[1:]), done.stderr


def test_rows_with_errors_are_told_and_strict_makes_them_an_exit_code(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"text": "water"}, {"text": None}, {"text": "falls"}])
    arguments = score(path, tiny_gpt2, tmp_path / "scored")
    assert invoke(*score(path, tiny_gpt2, tmp_path / "quietly", "--quiet")).output == ""
    result = invoke(*arguments)
    assert result.exit_code == 0
    assert "1 row has an error" in result.stderr
    assert "1 with an error" in result.stdout
    strict = invoke(*arguments, "--strict")  # all was finished before, and the row still counts
    assert strict.exit_code == 3
    assert table_of(tmp_path / "scored")["error"].null_count == 2


def test_inspect_shows_the_run_and_lists_its_parts(corpus: Path, tiny_gpt2: Path, tmp_path: Path) -> None:
    output = tmp_path / "scored"
    assert invoke(*score(corpus, tiny_gpt2, output, "--unit-rows", 5)).exit_code == 0
    result = invoke("inspect", output)
    assert result.exit_code == 0
    assert "units   12 of 12" in result.stdout
    assert result.stdout.count("part-000") == 10
    assert "and 2 more parts" in result.stdout
    assert invoke("inspect", output, "--all").stdout.count("part-000") == 12


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_cleanly_and_the_same_command_goes_on(
    tiny_gpt2: Path, tmp_path: Path, sentences: tuple[str, ...], number: signal.Signals, code: int
) -> None:
    rows = [{"id": i, "text": sentences[i % len(sentences)] * 2} for i in range(600)]
    corpus, output = write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "scored"
    options = ("--keep", "id", "--unit-rows", 20, "--max-batch-rows", 16)
    arguments = command(*score(corpus, tiny_gpt2, output, *options))
    running = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    try:
        while not list(output.glob("part-*")):
            assert running.poll() is None
            time.sleep(0.02)
        running.send_signal(number)
        _, stderr = running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode == code
    assert stderr.splitlines()[-1] == (
        "interrupted; what is finished is kept, run the same command again to go on"
    )
    assert "Traceback" not in stderr
    done = inspect(output)
    assert 0 < done.units_done < done.units_total
    assert not list(output.glob(".penstock-*"))

    resumed = subprocess.run(arguments, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert inspect(output).success
    assert table_of(output)["id"].to_pylist() == list(range(600))
