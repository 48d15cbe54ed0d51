"""One of a thing is not "1 things": what is said of small runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import penstock
from penstock.batch import Batch
from penstock.cli import app, machine
from penstock.cli.progress import Tokenized, sentence
from penstock.scorer import Run
from penstock.stats import Stats

ONE_OF_MANY = re.compile(
    r"\b(?<![.,])1 (more )?(batches|bytes|cores|errors|fields|inputs|parts|rows|threads|tokens|units)\b(?!/s)"
)


def test_the_summaries_of_a_run_of_one_row(tiny_gpt2: Path, tmp_path: Path) -> None:
    rows, out, ids = tmp_path / "in.jsonl", tmp_path / "out", tmp_path / "ids"
    rows.write_text('{"text": "a"}\n', encoding="utf-8")
    score = ["score", rows, "--model", tiny_gpt2, "--task", "perplexity", "--output", out, "--device", "cpu"]
    tokenize = ["tokenize", rows, "--tokenizer", tiny_gpt2, "--num-workers", "1", "--output", ids]
    said = ""
    for command in (score, score, ["inspect", out], tokenize, ["inspect", ids]):
        result = CliRunner().invoke(app, [str(word) for word in command])
        assert result.exit_code == 0, result.output
        said += result.output
    for words in (
        "1 row scored",
        "1 row, 2 tokens in 1 batch",
        "1 of 1 unit",
        "1 token, 1 byte of text",
        "1 part out",
    ):
        assert words in said
    assert ", 1 thread, engine native\n" in said
    assert "1 of 1 row," in said
    assert not ONE_OF_MANY.search(said), said


def test_a_part_that_is_gone_and_one_that_is_not_shown(tiny_gpt2: Path, tmp_path: Path) -> None:
    rows, out = tmp_path / "in.jsonl", tmp_path / "out"
    rows.write_text('{"text": "a"}\n' * 11, encoding="utf-8")
    penstock.score(rows, model=tiny_gpt2, task="perplexity", output=out, device="cpu", unit_rows=1)
    shown = CliRunner().invoke(app, ["inspect", str(out)]).output
    assert "and 1 more part; --all lists every one" in shown
    next(out.glob("part-*")).unlink()
    assert "missing 1 part, first part-" in CliRunner().invoke(app, ["inspect", str(out)]).output


def test_the_words_of_small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    one = np.ones(1, np.int64)
    batch = Batch(inputs={}, input_index=one, num_tokens=one.astype(np.int32), errors=[(0, ValueError())])
    assert repr(batch).endswith(", 1 error)")
    run = Run("out", 1, 0, 0, 1, 1, True, Stats(num_batches=1, num_rows=1, num_tokens=1, num_failed=1))
    assert "(skipped as finished before: 1 of 1 unit)" in str(run)
    assert sentence(Tokenized(1, 0, 1, 0.0), has_model=False) == "1 row"
    monkeypatch.setattr(machine, "affinity", lambda: 1)
    monkeypatch.setattr(machine, "_cgroup_quotas", lambda: iter([0.5]))
    remedies = [found.remedy for _, group in machine.findings(Path()) for found in group]
    assert any(remedy.startswith("A cgroup allows 0.5 of 1 core:") for remedy in remedies)
    assert not ONE_OF_MANY.search("\n".join([repr(batch), str(run), *remedies]))
