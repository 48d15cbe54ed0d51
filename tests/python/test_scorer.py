"""From files and rows to scores: exact, in order, resumable, and whole whatever the rows hold."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer as Backend

import penstock
from penstock import reference
from penstock.errors import (
    ConfigError,
    FingerprintError,
    MissingColumnError,
    ModelError,
    SourceError,
)
from penstock.scorer import Progress
from penstock.sink import inspect, read_parts

WORDS = ("river", "dam", "turbine", "pipe", "valley", "gate", "wheel", "рыба", "水車", "é", "\U0001f30a")


def documents(count: int, longest: int = 120) -> list[str]:
    """Mixed rows: empty, one character, non-BMP, many times the context."""
    rng = np.random.default_rng(11)
    made = ["", "a", "\U0001f30a", "é" * 3, " ", "river " * 400]
    made += [
        " ".join(rng.choice(WORDS, size=int(rng.integers(0, longest)))) for _ in range(count - len(made))
    ]
    return made


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def close(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return abs(a - b) <= 1e-5 * max(1.0, abs(b))


def scored(output: Path) -> pa.Table:
    return pa.concat_tables(read_parts(output))


@pytest.fixture(scope="module")
def expected(tiny_gpt2: Path) -> list[Any]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    model.train(False)
    return reference.perplexity(
        model, Backend.from_file(str(tiny_gpt2 / "tokenizer.json")), documents(60), max_length=64
    )


@pytest.mark.parametrize("max_batch_tokens", [64, 1_000, 32_768])
@pytest.mark.parametrize("window_rows", [1, 16, 16_384])
@pytest.mark.parametrize("num_workers", [1, 4])
def test_perplexity_equals_the_plain_loop_whatever_the_batches(
    tiny_gpt2: Path, expected: list[Any], max_batch_tokens: int, window_rows: int, num_workers: int
) -> None:
    rows = list(
        penstock.stream(
            documents(60),
            model=tiny_gpt2,
            task="perplexity",
            device="cpu",
            max_batch_tokens=max_batch_tokens,
            window_rows=window_rows,
            num_workers=num_workers,
        )
    )
    assert len(rows) == 60
    for got, want in zip(rows, expected, strict=True):
        assert got["error"] is None
        assert got["num_tokens"] == want["num_tokens"]
        assert got["num_bytes"] == want["num_bytes"]
        for name in ("logprob", "perplexity", "bits_per_byte"):
            assert close(got[name], want[name]), name


def test_padding_counted_as_text_would_be_seen(tiny_gpt2: Path, expected: list[Any]) -> None:
    """The negative control of the test above: one scored token too many is far outside the tolerance."""
    (row,) = penstock.stream(["river dam"], model=tiny_gpt2, task="perplexity", device="cpu")
    (longer,) = penstock.stream(["river dam<|endoftext|>"], model=tiny_gpt2, task="perplexity", device="cpu")
    assert not close(row["logprob"], longer["logprob"])


def test_a_row_with_no_token_is_no_error(tiny_gpt2: Path) -> None:
    (row,) = penstock.stream([""], model=tiny_gpt2, task="perplexity", device="cpu")
    assert row == {
        "logprob": 0.0,
        "perplexity": None,
        "bits_per_byte": None,
        "num_tokens": 0,
        "num_bytes": 0,
        "error": None,
    }


def test_embeddings_and_labels_equal_the_plain_loop(tiny_bert: Path) -> None:
    from transformers import AutoModel, AutoModelForSequenceClassification

    rows, tokenizer = documents(40), Backend.from_file(str(tiny_bert / "tokenizer.json"))
    options: dict[str, Any] = {"device": "cpu", "max_batch_tokens": 700, "window_rows": 16}
    vectors = [row["embedding"] for row in penstock.stream(rows, model=tiny_bert, task="embed", **options)]
    plain = reference.embed(AutoModel.from_pretrained(tiny_bert).eval(), tokenizer, rows, max_length=64)
    for vector, want in zip(vectors, plain, strict=True):
        assert np.linalg.norm(np.asarray(vector) - want) <= 1e-5 * np.linalg.norm(want)
    labels = list(penstock.stream(rows, model=tiny_bert, task="classify", **options))
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert).eval()
    for got, want in zip(labels, reference.classify(model, tokenizer, rows, max_length=64), strict=True):
        assert got["label"] == want["label"]
        assert close(got["score"], want["score"])
        assert np.allclose(got["probs"], want["probs"], atol=1e-5)


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_files_in_the_same_rows_out_in_order_with_their_columns(
    tiny_gpt2: Path, expected: list[Any], tmp_path: Path, format: str
) -> None:
    texts = documents(60)
    rows = [{"text": text, "id": f"row {at}", "n": at} for at, text in enumerate(texts)]
    write_jsonl(tmp_path / "a.jsonl", rows[:25])
    write_jsonl(tmp_path / "b.jsonl", rows[25:])
    seen: list[Progress] = []
    run = penstock.score(
        str(tmp_path / "*.jsonl"),
        model=tiny_gpt2,
        task="perplexity",
        output=tmp_path / "out",
        device="cpu",
        id_column="id",
        keep=["n"],
        unit_rows=7,
        format=format,
        progress=seen.append,
    )
    table = scored(tmp_path / "out")
    assert table["id"].to_pylist() == [row["id"] for row in rows]
    assert table["n"].to_pylist() == list(range(60))
    assert all(close(a, b["logprob"]) for a, b in zip(table["logprob"].to_pylist(), expected, strict=True))
    assert (run.num_rows, run.num_units, run.num_errors, run.is_complete) == (60, 9, 0, True)
    assert (tmp_path / "out" / "_SUCCESS.json").is_file()
    assert (seen[-1].num_rows, seen[-1].total_rows) == (60, 60)
    held = [(part.segments, part.num_rows) for part in inspect(tmp_path / "out").parts]
    assert sum(count for _, count in held) == 60
    assert all("a.jsonl" in str(held[0][0]) for _ in held[:1])


def test_a_second_run_skips_what_is_finished_and_redoes_what_is_not(tiny_gpt2: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{"text": text} for text in documents(40)])
    arguments: dict[str, Any] = {
        "model": tiny_gpt2,
        "task": "perplexity",
        "output": tmp_path / "out",
        "device": "cpu",
        "unit_rows": 8,
    }

    class Stop(Exception):  # noqa: N818
        pass

    def stop(progress: Progress) -> None:
        if progress.num_rows >= 16:
            raise Stop

    with pytest.raises(Stop):
        penstock.score(tmp_path / "in.jsonl", progress=stop, max_batch_rows=2, **arguments)
    done = inspect(tmp_path / "out").units_done
    assert 1 <= done < 5
    parts = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("part-*")}
    run = penstock.score(tmp_path / "in.jsonl", max_batch_rows=2, **arguments)
    assert (run.num_skipped_units, run.num_units, run.is_complete) == (done, 5, True)
    assert "skipped" in str(run)
    again = penstock.score(tmp_path / "in.jsonl", max_batch_rows=2, **arguments)
    assert (again.num_skipped_units, again.num_scored_rows) == (5, 0)
    for name, content in parts.items():
        assert (tmp_path / "out" / name).read_bytes() == content
    whole = tmp_path / "whole"
    penstock.score(tmp_path / "in.jsonl", max_batch_rows=2, **(arguments | {"output": whole}))
    assert scored(whole).equals(scored(tmp_path / "out"))


@pytest.mark.parametrize(
    ("change", "field"),
    [({"task": "perplexity", "stride": 8}, "stride"), ({"max_batch_tokens": 99}, "max_batch_tokens")],
)
def test_an_output_folder_of_another_run_is_refused(
    tiny_gpt2: Path, tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{"text": "river"}])
    arguments: dict[str, Any] = {
        "model": tiny_gpt2,
        "task": "perplexity",
        "output": tmp_path / "out",
        "device": "cpu",
    }
    penstock.score(tmp_path / "in.jsonl", **arguments)
    with pytest.raises(FingerprintError, match=field):
        penstock.score(tmp_path / "in.jsonl", **(arguments | change))


def test_bad_rows_name_file_and_row_and_the_rest_is_intact(tiny_gpt2: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines: list[bytes] = [json.dumps({"text": f"river {at}", "id": at}).encode() for at in range(2_000)]
    lines[1_233] = b'{"text": "broken'
    lines[100] = b'{"text": "bad \xff utf-8", "id": 100}'
    lines[200] = b'{"text": null, "id": 200}'
    lines[300] = b'{"text": 7, "id": 300}'
    lines[400] = json.dumps({"text": "x" * 5_000, "id": 400}).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")
    run = penstock.score(
        path,
        model=tiny_gpt2,
        task="perplexity",
        output=tmp_path / "out",
        device="cpu",
        keep=["id"],
        max_row_bytes=1_000,
    )
    table = scored(tmp_path / "out")
    errors = {at: error for at, error in enumerate(table["error"].to_pylist()) if error is not None}
    assert sorted(errors) == [100, 200, 300, 400, 1_233]
    assert run.num_errors == 5
    for at, reason in ((1_233, "JSON"), (100, "UTF-8"), (200, "null"), (300, "int"), (400, "max_row_bytes")):
        assert "rows.jsonl" in errors[at]
        assert f"row {at + 1:,}" in errors[at]
        assert reason in errors[at]
    good = [at for at in range(2_000) if at not in errors]
    assert [table["id"][at].as_py() for at in good] == good
    assert all(table["logprob"][at].as_py() < 0 for at in good)
    assert all(table["logprob"][at].as_py() is None for at in errors)
    assert [table["id"][at].as_py() for at in (200, 300)] == [200, 300]  # a row set aside keeps its id
    with pytest.raises(penstock.RowError, match=r"rows\.jsonl, row 101.*UTF-8"):
        list(penstock.stream(path, model=tiny_gpt2, task="perplexity", device="cpu", on_error="raise"))


def test_a_truncated_gzip_gives_its_rows_and_one_that_says_so(tiny_gpt2: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    rng = np.random.default_rng(3)
    rows = [{"text": " ".join(rng.choice(WORDS, 9)), "id": at} for at in range(500)]
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    path.write_bytes(whole[: len(whole) // 2])
    penstock.score(
        path, model=tiny_gpt2, task="perplexity", output=tmp_path / "out", device="cpu", keep=["id"]
    )
    table = scored(tmp_path / "out")
    good = table.num_rows - 1
    assert 50 < good < 500
    assert table["id"].to_pylist()[:good] == list(range(good))
    assert table["error"].null_count == good
    assert "rows.jsonl.gz" in table["error"][good].as_py()


def test_wrong_calls_are_refused_by_name(tiny_gpt2: Path, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", [{"text": "river", "number": 3}])
    out = tmp_path / "out"
    good: dict[str, Any] = {"model": tiny_gpt2, "task": "perplexity", "output": out, "device": "cpu"}
    with pytest.raises(ConfigError, match=r"penstock\.stream"):
        penstock.score(iter(["a"]), **good)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"perplexty.*Did you mean 'perplexity'"):
        penstock.score(path, **(good | {"task": "perplexty"}))
    with pytest.raises(MissingColumnError, match=r"in\.jsonl.*'body'.*'text'"):
        penstock.score(path, text_column="body", **good)
    with pytest.raises(ConfigError, match="inside the input folder"):
        penstock.score(tmp_path, **good)
    with pytest.raises(ConfigError, match="device='bogus'"):
        penstock.score(path, **(good | {"device": "bogus"}))
    with pytest.raises(SourceError, match="nowhere"):
        penstock.score(tmp_path / "nowhere.jsonl", **good)
    with pytest.raises(ConfigError, match="on_error='skip'"):
        penstock.score(path, on_error="skip", **good)
    with pytest.raises(ConfigError, match="max_wait"):
        penstock.score(path, max_wait=1.0, **good)
    with pytest.raises(ConfigError, match="poolin"):
        penstock.score(path, poolin="mean", **good)
    with pytest.raises(ConfigError, match="max_batch_rows=0"):
        penstock.score(path, max_batch_rows=0, **good)
    with pytest.raises(ConfigError, match="'classify' has no option 'stride'"):
        penstock.score(path, stride=4, **(good | {"task": "classify"}))
    with pytest.raises(ConfigError, match="load"):
        penstock.score(path, load=len, **good)
    with pytest.raises(ConfigError, match="logprob"):
        penstock.stream([{"text": "a", "logprob": 1}], model=tiny_gpt2, task="perplexity", keep=["logprob"])
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((tiny_gpt2 / name).read_bytes())
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        penstock.score(path, **(good | {"model": bare}))
    assert not out.exists()


@pytest.mark.parametrize("on_error", ["null", "skip", "raise"])
def test_stream_keeps_order_around_failed_rows(tiny_gpt2: Path, on_error: str) -> None:
    rows: list[Any] = ["river", None, "dam", 7, "gate"]

    def live() -> Iterator[Any]:
        yield from rows

    found = penstock.stream(live(), model=tiny_gpt2, task="perplexity", device="cpu", on_error=on_error)
    if on_error == "raise":
        with pytest.raises(penstock.RowError, match="row 2"):
            list(found)
        return
    errors = [row["error"] for row in found]
    if on_error == "skip":
        assert errors == [None] * 3
    else:
        assert [error is None for error in errors] == [True, False, True, False, True]


def test_stream_gives_a_row_before_the_input_ends(tiny_gpt2: Path) -> None:
    pulled = 0

    def endless() -> Iterator[str]:
        nonlocal pulled
        while True:
            pulled += 1
            yield "the river"

    rows = penstock.stream(endless(), model=tiny_gpt2, task="perplexity", device="cpu")
    assert all(next(rows)["num_tokens"] > 0 for _ in range(500))
    rows.close()  # type: ignore[attr-defined]
    assert pulled < 100_000


def test_a_window_of_rows_that_all_fail_still_comes_out(tiny_gpt2: Path, tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "in.jsonl", [{"text": "ok", "id": 0}] + [{"text": None, "id": 1 + at} for at in range(30)]
    )
    run = penstock.score(
        path,
        model=tiny_gpt2,
        task="perplexity",
        output=tmp_path / "o",
        device="cpu",
        unit_rows=10,
        keep=["id"],
    )
    table = scored(tmp_path / "o")
    assert (table.num_rows, run.num_errors) == (31, 30)
    assert table["id"].to_pylist() == list(range(31))


def test_an_empty_input_is_a_finished_run(tiny_gpt2: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("")
    run = penstock.score(
        tmp_path / "in.jsonl", model=tiny_gpt2, task="perplexity", output=tmp_path / "o", device="cpu"
    )
    assert (run.num_rows, run.is_complete) == (0, True)


def test_a_batch_that_does_not_fit_is_run_in_halves(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    import torch

    from penstock.tasks.perplexity import Perplexity

    whole, calls = Perplexity.forward, []

    def forward(self: Perplexity, batch: penstock.Batch) -> Any:
        calls.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError
        return whole(self, batch)

    rows = documents(30)
    plain = list(penstock.stream(rows, model=tiny_gpt2, task="perplexity", device="cpu"))
    monkeypatch.setattr(Perplexity, "forward", forward)
    path = write_jsonl(tmp_path / "in.jsonl", [{"text": text} for text in rows])
    penstock.score(path, model=tiny_gpt2, task="perplexity", output=tmp_path / "o", device="cpu")
    assert max(calls) > 3
    for got, want in zip(scored(tmp_path / "o")["logprob"].to_pylist(), plain, strict=True):
        assert close(got, want["logprob"])
    assert any(part.splits for part in inspect(tmp_path / "o").parts)


def test_a_model_spread_by_a_device_map_works(tiny_gpt2: Path) -> None:
    pytest.importorskip("accelerate")
    rows = documents(12)
    plain = list(penstock.stream(rows, model=tiny_gpt2, task="perplexity", device="cpu"))
    spread = list(penstock.stream(rows, model=tiny_gpt2, task="perplexity", device_map="auto"))
    assert all(close(a["logprob"], b["logprob"]) for a, b in zip(spread, plain, strict=True))


@pytest.mark.parametrize("options", [{}, {"truncation": True}])
def test_perplexity_takes_single_texts_and_says_so(
    tiny_gpt2: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    row = {"text": "the river", "more": "and the dam"}
    given: dict[str, Any] = {"model": tiny_gpt2, "task": "perplexity", "device": "cpu", **options}
    path, out = write_jsonl(tmp_path / "in.jsonl", [row]), tmp_path / "out"
    message = r"pair_column='more': task 'perplexity' takes single texts; leave pair_column out"
    with pytest.raises(ConfigError, match=message):
        penstock.score(path, pair_column="more", output=out, **given)
    assert not out.exists()
    with pytest.raises(ConfigError, match=message):
        penstock.stream([row], pair_column="more", **given)
    with pytest.raises(ConfigError, match=r"takes single texts: pass one text per row"):
        list(penstock.stream([("the river", "and the dam")], **given))
    # The remedy that the message names.
    assert penstock.score(path, output=out, **given).num_errors == 0


def test_pairs_are_classified_as_pairs(tiny_bert: Path) -> None:
    rows = [("the river", "the dam"), ("the river", "")]
    single, _ = penstock.stream(["the river", "the dam"], model=tiny_bert, task="classify", device="cpu")
    pair, other = penstock.stream(rows, model=tiny_bert, task="classify", device="cpu")
    assert not math.isclose(pair["score"], single["score"], rel_tol=1e-6)
    assert not math.isclose(pair["score"], other["score"], rel_tol=1e-6)
