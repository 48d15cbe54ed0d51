"""Arguments of the wrong kind: each is refused by name, with its value, before anything is written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock
from penstock import ConfigError, Prefetcher
from penstock.arguments import is_whole, refused, whole

NOT_WHOLE: tuple[Any, ...] = ("5", 1.5, True, 0, -1, float("nan"), [])
NEEDED = ("max_batch_tokens", "batches_ahead", "max_row_bytes", "max_buffered_bytes")
OPTIONAL = ("max_length", "max_batch_rows", "window_rows", "rows_ahead", "num_workers")
SHARED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(NEEDED, (*NOT_WHOLE, None)),
    **dict.fromkeys(OPTIONAL, NOT_WHOLE),
    "on_error": ("ignore", None, 5, []),
    "text_column": (5, None, ["a"], ""),
    "pair_column": (5, ["a"], ""),
    "keep": ("id", 5, [5], [["a"]], None),
    "device": (5, "abacus", []),
    "trace": (5, []),
}
PREFETCHER: dict[str, tuple[Any, ...]] = {
    "stride": NOT_WHOLE,
    "timeout": ("3", True, 0, -1, float("nan"), []),
    "max_wait": ("x", True, 0),
    "retries": (-1, "1", 1.5, True, None),
    "ordered": ("yes", None, 1),
    "load": ("fetch", 5),
    "collate": ("pad", 5),
    "truncation": ("middle", None, 5),
    "pair_truncation": ("middle", None, 5, []),
    "prompt": (5, None),
    "padding_side": ("middle", 5),
    "pairs": (None, 1),
}
SCORING: dict[str, tuple[Any, ...]] = {
    "stride": NOT_WHOLE,
    "bos": ("x", 1.5, -1, 10**9),
    "truncation": ("middle", 5, []),
    "id_column": (5, ["a"], ""),
    "task": (5, None, []),
    "revision": (5,),
    "dtype": (5, "int8"),
    "device_map": (5,),
    "trust_remote_code": ("yes", None),
}
SCORE: dict[str, tuple[Any, ...]] = {
    "unit_rows": (*NOT_WHOLE, None),
    "unit_bytes": (*NOT_WHOLE, None),
    "format": (5, None, "xml", []),
    "progress": ("x", 5),
    "output": (5, None),
}
EMBED: dict[str, tuple[Any, ...]] = {
    "pooling": (5, "max"),
    "normalize_embeddings": ("yes", 1),
    "truncate_dim": (*NOT_WHOLE, 10**6),
    "prompt_name": (5,),
    "prompt": (5,),
}


def cases(*tables: dict[str, tuple[Any, ...]]) -> list[tuple[str, Any]]:
    return [(name, value) for table in tables for name, values in table.items() for value in values]


def names(name: str, value: Any) -> str:
    """The pattern of a message that begins with the argument; a list of columns names the bad one."""
    shown = value[0] if name == "keep" and isinstance(value, list) else value
    return rf"^{name}=({re.escape(repr(shown))}|'{re.escape(str(shown))}'):"


@pytest.fixture(scope="module")
def tokenizer(tiny_gpt2: Path) -> penstock.Tokenizer:
    return penstock.Tokenizer.from_pretrained(tiny_gpt2)


@pytest.mark.parametrize(("name", "value"), cases(SHARED, PREFETCHER))
def test_the_prefetcher_refuses_it(name: str, value: Any, tokenizer: penstock.Tokenizer) -> None:
    given: dict[str, Any] = {"device": "cpu", "load": str} if name in ("timeout", "retries") else {}
    with pytest.raises(ConfigError, match=names(name, value)):
        Prefetcher(["a"], tokenizer, **({"device": "cpu"} | given | {name: value}))


@pytest.mark.parametrize(("name", "value"), cases(SHARED, SCORING, SCORE))
def test_score_refuses_it(
    name: str, value: Any, tokenizer: penstock.Tokenizer, tiny_gpt2: Path, tmp_path: Path
) -> None:
    rows, out = tmp_path / "in.jsonl", tmp_path / "out"
    rows.write_text('{"text": "river", "id": 1}\n', encoding="utf-8")
    given: dict[str, Any] = {"model": tiny_gpt2, "task": "perplexity", "tokenizer": tokenizer, "output": out}
    with pytest.raises(ConfigError, match=names(name, value)):
        penstock.score(rows, **(given | ({} if name == "device_map" else {"device": "cpu"}) | {name: value}))
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "value"), cases({name: values[:2] for name, values in (SHARED | SCORING).items()})
)
def test_stream_refuses_it(name: str, value: Any, tokenizer: penstock.Tokenizer, tiny_gpt2: Path) -> None:
    given: dict[str, Any] = {"model": tiny_gpt2, "task": "perplexity", "tokenizer": tokenizer}
    given |= {} if name == "device_map" else {"device": "cpu"}
    with pytest.raises(ConfigError, match=names(name, value)):
        penstock.stream([{"text": "river", "id": 1}], **(given | {name: value}))


@pytest.mark.parametrize(("name", "value"), cases(EMBED))
def test_embed_refuses_it(name: str, value: Any, tiny_bert: Path) -> None:
    with pytest.raises(ConfigError, match=names(name, value)):
        penstock.stream(["river"], model=tiny_bert, task="embed", device="cpu", **{name: value})


def test_whole_numbers_of_numpy_are_whole_numbers(tiny_gpt2: Path, tmp_path: Path) -> None:
    rows, out = tmp_path / "in.jsonl", tmp_path / "out"
    rows.write_text("".join(json.dumps({"text": f"river {n}"}) + "\n" for n in range(9)), encoding="utf-8")
    numbers: dict[str, Any] = {
        "max_length": 32,
        "stride": 8,
        "bos": 1,
        "max_batch_tokens": 64,
        "max_batch_rows": 4,
        "window_rows": 8,
        "batches_ahead": 2,
        "rows_ahead": 8,
        "num_workers": 1,
        "max_row_bytes": 1_000,
        "max_buffered_bytes": 100_000,
        "unit_rows": 5,
        "unit_bytes": 10_000,
    }
    given: dict[str, Any] = {"model": tiny_gpt2, "task": "perplexity", "output": out, "device": "cpu"}
    of_numpy: dict[str, Any] = {name: np.int32(value) for name, value in numbers.items()}
    first = penstock.score(rows, **given, **of_numpy)
    assert (first.num_scored_rows, first.num_errors, first.num_units) == (9, 0, 2)
    again = penstock.score(rows, **given, **numbers)
    assert again.num_skipped_units == 2


def test_a_default_that_is_written_out_is_the_same_run(tiny_gpt2: Path, tmp_path: Path) -> None:
    rows, out = tmp_path / "in.jsonl", tmp_path / "out"
    rows.write_text('{"text": "river"}\n', encoding="utf-8")
    given: dict[str, Any] = {"model": tiny_gpt2, "task": "perplexity", "output": out, "device": "cpu"}
    penstock.score(rows, **given)
    assert penstock.score(rows, window_rows=None, **given).num_skipped_units == 1


def test_whole_numbers_have_bounds() -> None:
    assert whole("n", np.uint8(3), least=3, most=3) == 3
    assert type(whole("n", np.uint8(3))) is int
    assert not is_whole(np.bool_(True))
    for value, least, most in ((2, 3, None), (4, 1, 3)):
        with pytest.raises(ConfigError, match=rf"^n={value}: must be a whole number"):
            whole("n", value, least=least, most=most)


def test_a_long_value_is_shown_in_part() -> None:
    assert str(refused("keep", "x" * 1_000, "short")) == f"keep='{'x' * 76}...: must be short."
