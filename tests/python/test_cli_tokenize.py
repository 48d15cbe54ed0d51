"""``penstock tokenize``: token ids as the tokenizer itself gives them, in the order of the input."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
import tokenizers

from penstock.sink import read_parts
from penstock.tokenizer import Tokenizer
from test_cli import invoke, write_rows


def table_of(output: Path) -> pa.Table:
    return pa.concat_tables(read_parts(output))


@pytest.fixture
def corpus(tmp_path: Path, sentences: tuple[str, ...]) -> Path:
    rows = [{"id": i, "text": sentences[i % len(sentences)] * (1 + i % 3)} for i in range(500)]
    return write_rows(tmp_path / "rows.jsonl", rows)


def test_ids_are_those_of_the_tokenizer_in_order(corpus: Path, tiny_wordpiece: Path, tmp_path: Path) -> None:
    output = tmp_path / "tokens"
    options = ("--tokenizer", tiny_wordpiece, "--output", output, "--keep", "id", "--num-workers", 3)
    result = invoke("tokenize", corpus, *options, "--unit-rows", 64)
    assert result.exit_code == 0, result.output
    table = table_of(output)
    assert table.column_names == ["id", "input_ids", "num_tokens", "error"]
    assert table.schema.field("input_ids").type == pa.list_(pa.int32())
    assert table["id"].to_pylist() == list(range(500))
    backend = tokenizers.Tokenizer.from_file(str(tiny_wordpiece / "tokenizer.json"))
    texts = [json.loads(line)["text"] for line in corpus.read_text(encoding="utf-8").splitlines()]
    expected = [encoding.ids for encoding in backend.encode_batch(texts)]
    assert table["input_ids"].to_pylist() == expected
    assert table["num_tokens"].to_pylist() == [len(ids) for ids in expected]
    assert table["error"].null_count == 500
    assert "500" in result.stdout.splitlines()[0]


def test_it_says_which_engine_and_why(corpus: Path, tiny_bpe: Path, tmp_path: Path) -> None:
    arguments = ("tokenize", corpus, "--count", "--num-workers", 2, "--tokenizer")
    assert ", 2 threads, engine native\n" in invoke(*arguments, tiny_bpe).stderr
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    words.save(str(tmp_path / "tokenizer.json"))
    assert (
        ", 2 threads, engine tokenizers (not native: model type 'WordLevel'"
        in invoke(*arguments, tmp_path).stderr
    )


def test_max_length_cuts_rows_and_keeps_special_tokens(
    corpus: Path, tiny_wordpiece: Path, tmp_path: Path
) -> None:
    output = tmp_path / "tokens"
    options = ("--tokenizer", tiny_wordpiece, "--output", output, "--max-length", 8)
    assert invoke("tokenize", corpus, *options).exit_code == 0
    rows = table_of(output)["input_ids"].to_pylist()
    assert {len(ids) for ids in rows} == {8}
    assert {(ids[0], ids[-1]) for ids in rows} == {(2, 3)}


def test_a_second_run_has_nothing_to_do(corpus: Path, tiny_bpe: Path, tmp_path: Path) -> None:
    arguments = ("tokenize", corpus, "--tokenizer", tiny_bpe, "--output", tmp_path / "tokens")
    assert invoke(*arguments).exit_code == 0
    result = invoke(*arguments)
    assert result.exit_code == 0
    assert "500 more were finished before" in result.stdout


def test_a_broken_row_says_why_and_its_neighbours_do_not_care(tiny_bpe: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"text": "water"}, {"text": 5}, {"text": None}, {"text": ""}])
    output = tmp_path / "tokens"
    result = invoke("tokenize", path, "--tokenizer", tiny_bpe, "--output", output)
    assert result.exit_code == 0
    assert "2 with an error" in result.stdout
    rows = table_of(output).to_pylist()
    assert [row["error"] is None for row in rows] == [True, False, False, True]
    assert "rows.jsonl, row 2:" in rows[1]["error"]
    assert rows[1]["input_ids"] is rows[1]["num_tokens"] is None
    assert rows[3]["input_ids"] == []


def test_texts_left_to_the_package_are_counted(
    corpus: Path, tiny_bpe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("tokenize", corpus, "--tokenizer", tiny_bpe, "--count", "--quiet")
    assert "left to" not in invoke(*command).stdout
    monkeypatch.setattr(Tokenizer, "num_fallbacks", 1_234)
    assert "1,234 left to the tokenizers package" in invoke(*command).stdout


def test_count_prints_numbers_and_writes_nothing(corpus: Path, tiny_bpe: Path, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    result = invoke("tokenize", corpus, "--tokenizer", tiny_bpe, "--count", "--quiet")
    assert result.exit_code == 0
    assert result.stderr == ""
    numbers = {line.split()[0]: line.split()[1] for line in result.stdout.splitlines()}
    texts = [json.loads(line)["text"] for line in corpus.read_text(encoding="utf-8").splitlines()]
    backend = tokenizers.Tokenizer.from_file(str(tiny_bpe / "tokenizer.json"))
    num_tokens = sum(len(encoding.ids) for encoding in backend.encode_batch(texts))
    num_bytes = sum(len(text.encode()) for text in texts)
    assert numbers == {"rows": "500", "tokens": f"{num_tokens:,}", "bytes": f"{num_bytes:,}"}
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("options", [(), ("--count", "--output", "x")])
def test_it_wants_one_of_output_and_count(corpus: Path, tiny_bpe: Path, options: tuple[str, ...]) -> None:
    result = invoke("tokenize", corpus, "--tokenizer", tiny_bpe, *options)
    assert result.exit_code == 2
    assert "--count" in result.stderr


def test_a_missing_tokenizer_is_a_message(corpus: Path, tmp_path: Path) -> None:
    result = invoke("tokenize", corpus, "--tokenizer", tmp_path, "--count", "--quiet")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert str(tmp_path) in result.stderr
