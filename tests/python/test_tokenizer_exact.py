"""Rows are what the `tokenizers` package makes of the same texts, token for token."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from penstock.tokenizer import Ragged, Tokenizer
from penstock.tokenizer_layout import longest_first
from strange_texts import REAL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TINY = ("tiny_bpe", "tiny_wordpiece", "tiny_unigram")
CORPORA = ("books_en", "short_tech_en", "multilingual", "web_html", "code", "adversarial")
SENTENCE = "the water falls down from a dam to the turbine, naïve 水 \U0001f30a engineers turn it off\n"
TEXTS = [SENTENCE[:n] for n in range(0, len(SENTENCE), 6)]
TEXTS += [" ", "\x00", "[CLS] x", "<s>y</s>", "a" * 110]


def rows_of(rows: Ragged) -> list[list[int]]:
    return [rows.row(at).tolist() for at in range(len(rows))]


def type_ids_of(rows: Ragged) -> list[list[int]]:
    assert rows.type_ids is not None
    return [part.tolist() for part in np.split(rows.type_ids, rows.offsets[1:-1])]


def expected(
    backend: tokenizers.Tokenizer,
    texts: Sequence[Any],
    max_length: int | None,
    side: str,
    special: bool,
) -> tuple[list[list[int]], list[list[int]]]:
    backend.no_padding()
    backend.no_truncation()
    if max_length is not None:
        backend.enable_truncation(max_length, strategy="longest_first", direction=side)
    encodings = backend.encode_batch(texts, add_special_tokens=special)
    return [e.ids for e in encodings], [e.type_ids for e in encodings]


def check(
    tokenizer: Tokenizer,
    backend: tokenizers.Tokenizer,
    firsts: list[str],
    seconds: list[str],
    extra: Sequence[int] = (0, 1, 2, 7, 30, 120),
) -> None:
    """Compare texts and pairs, cut at both ends to several lengths, with and without special tokens."""
    with_types = "token_type_ids" in tokenizer.model_input_names
    for pairs in (None, seconds):
        texts: list[Any] = firsts if pairs is None else list(zip(firsts, pairs, strict=True))
        for special in (True, False):
            least = max(1, tokenizer.num_special_tokens(pairs is not None) if special else 1)
            for max_length in (None, *(least + more for more in extra)):
                for side in ("right", "left"):
                    ids, type_ids = expected(backend, texts, max_length, side, special)
                    rows = tokenizer.encode_batch(
                        firsts, pairs, max_length=max_length, truncation=side, add_special_tokens=special
                    )
                    assert rows_of(rows) == ids
                    if with_types:
                        assert type_ids_of(rows) == type_ids


@pytest.fixture(params=TINY)
def tiny(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


def test_small_tokenizers_of_three_families_agree(tiny: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(tiny / "tokenizer.json"))
    check(Tokenizer.from_pretrained(tiny), backend, TEXTS, TEXTS[::-1])


@pytest.mark.parametrize(
    "processor",
    [
        processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
        processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2), trim_offsets=True, add_prefix_space=False),
        processors.TemplateProcessing(
            single="[CLS] $A:1 [SEP]:1 [MASK]:2",
            pair="$B:3 [CLS]:1 $A:0",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3), ("[MASK]", 4)],
        ),
        processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=True),
                processors.TemplateProcessing(
                    single="[CLS] $A", pair="[CLS] $A [CLS]:1 $B:1", special_tokens=[("[CLS]", 2)]
                ),
            ]
        ),
        processors.ByteLevel(trim_offsets=False),
    ],
    ids=["bert", "roberta", "template", "sequence", "bytelevel"],
)
def test_every_kind_of_post_processor_agrees(tiny_wordpiece: Path, processor: Any) -> None:
    backend = tokenizers.Tokenizer.from_file(str(tiny_wordpiece / "tokenizer.json"))
    backend.post_processor = processor
    ours = Tokenizer.from_pretrained(backend)
    assert ours.num_special_tokens(True) == backend.num_special_tokens_to_add(True)
    check(ours, backend, TEXTS, TEXTS[::-1])


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 60))
def test_pairs_are_cut_as_tokenizers_cuts_them(first: int, second: int, room: int) -> None:
    backend = words_only()
    backend.enable_truncation(room, strategy="longest_first")
    encoding = backend.encode_batch([(" ".join("a" * first), " ".join("b" * second))])[0]
    kept = longest_first(np.array([first]), np.array([second]), room)
    assert [int(part[0]) for part in kept] == [encoding.ids.count(0), encoding.ids.count(1)]


@cache
def words_only() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return backend


@given(st.lists(st.text(max_size=40), max_size=8), st.integers(2, 30), st.sampled_from(["right", "left"]))
def test_any_text_agrees(texts: list[str], max_length: int, side: Any) -> None:
    for tokenizer, backend in LOADED:
        ids, _ = expected(backend, texts, max_length, side, True)
        rows, failures = tokenizer.encode_rows(texts, max_length=max_length, truncation=side)
        assert (rows_of(rows), failures) == (ids, {})


LOADED: list[tuple[Tokenizer, tokenizers.Tokenizer]] = []


@pytest.fixture(scope="module", autouse=True)
def _load(tiny_bpe: Path, tiny_wordpiece: Path, tiny_unigram: Path) -> None:
    for folder in (tiny_bpe, tiny_wordpiece, tiny_unigram):
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        LOADED.append((Tokenizer.from_pretrained(folder), backend))


def test_truncation_and_padding_sections_are_ignored(tiny_wordpiece: Path, tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(tiny_wordpiece / "tokenizer.json"))
    plain = Tokenizer.from_pretrained(backend)
    backend.enable_truncation(4, stride=1)
    backend.enable_padding(direction="left", pad_id=4, length=50)
    backend.save(str(tmp_path / "tokenizer.json"))
    for tokenizer in (Tokenizer.from_pretrained(tmp_path), Tokenizer.from_pretrained(backend)):
        assert rows_of(tokenizer.encode_batch(TEXTS)) == rows_of(plain.encode_batch(TEXTS))
    assert backend.truncation is not None, "the caller's object is left as it was"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers_agree_on_real_texts(test_data: Path, name: str) -> None:
    file = test_data / "tokenizers" / name / "tokenizer.json"
    tokenizer = Tokenizer.from_pretrained(file)
    backend = tokenizers.Tokenizer.from_file(str(file))
    firsts, seconds = [], []
    for corpus in CORPORA:
        texts = some_texts(test_data / "corpora" / f"{corpus}.jsonl")
        firsts += texts[::2]
        seconds += texts[1::2]
    check(tokenizer, backend, firsts, seconds, extra=(60, 250))
    # Few tokens only of short texts: `tokenizers` keeps every combination of the parts that it cuts off.
    check(
        tokenizer, backend, [text[:50] for text in firsts], [text[:50] for text in seconds], extra=(0, 1, 9)
    )


@cache
def some_texts(file: Path) -> list[str]:
    """Eight texts from all over the file, none too long."""
    lines = file.read_text(encoding="utf-8").rstrip("\n").split("\n")
    return [json.loads(line)["text"][:400] for line in lines[:: len(lines) // 8][:8]]
