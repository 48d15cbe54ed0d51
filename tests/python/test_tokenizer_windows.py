"""What is scored: views that begin with a BOS, windows, and the bytes that scored tokens stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.tokenizer import Ragged, Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = st.lists(st.text("the waterfls .\n水ï\U0001f30a\x00", max_size=60), max_size=5)
LOADED: dict[str, tuple[Tokenizer, tokenizers.Tokenizer]] = {}


@pytest.fixture(scope="module", autouse=True)
def _load(tiny_bpe: Path, tiny_wordpiece: Path, tiny_unigram: Path) -> None:
    for name, folder in (("bpe", tiny_bpe), ("wordpiece", tiny_wordpiece), ("unigram", tiny_unigram)):
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        LOADED[name] = Tokenizer.from_pretrained(folder), backend


def lists(rows: Ragged) -> list[list[int]]:
    return [rows.row(at).tolist() for at in range(len(rows))]


def scores(rows: Ragged) -> tuple[list[int], list[int]]:
    assert rows.first_scored is not None
    assert rows.num_bytes is not None
    assert [rows.first_scored.dtype, rows.num_bytes.dtype] == ["int32", "int64"]
    return rows.first_scored.tolist(), rows.num_bytes.tolist()


def slow_windows(row: list[int], size: int, stride: int, context: int) -> list[tuple[list[int], int]]:
    """The rule, word for word: (window, first scored position)."""
    end = min(size, len(row))
    made = [(row[:end], min(context, end))]
    while end < len(row):
        new_end = min(end + stride, len(row))
        start = new_end - size
        made.append((row[start:new_end], end - start))
        end = new_end
    return made


def slow_bytes(text: str, encoding: tokenizers.Encoding, start: int, stop: int) -> int:
    """UTF-8 bytes from the end of the token before ``start`` to the end of the one before ``stop``."""
    if stop <= start:
        return 0
    begin = encoding.offsets[start - 1][1] if start else 0
    end = encoding.offsets[stop - 1][1] if stop < len(encoding) else len(text)
    return len(text[begin:end].encode())


def untrimmed(backend: tokenizers.Tokenizer, text: str) -> tokenizers.Encoding:
    return backend.encode_batch([text], add_special_tokens=False)[0]


@pytest.mark.parametrize("bos", [0, None], ids=["bos", "no bos"])
@given(texts=TEXTS, size=st.integers(2, 20), stride=st.integers(1, 19))
def test_windows_of_a_view_are_slices_of_its_rows(
    bos: int | None, texts: list[str], size: int, stride: int
) -> None:
    stride = min(stride, size - 1)
    tokenizer, backend = LOADED["bpe"]
    rows = tokenizer.with_bos(bos).encode_batch(texts, max_length=size, stride=stride)
    made, firsts, sizes, owners = [], [], [], []
    for owner, text in enumerate(texts):
        encoding = untrimmed(backend, text)
        begin = [] if bos is None else [bos]
        for window, first in slow_windows(begin + encoding.ids, size, stride, 1):
            made.append(window)
            firsts.append(first)
            sizes.append(0)
            owners.append(owner)
        sizes[owners.index(owner)] = slow_bytes(text, encoding, 1 - len(begin), len(encoding))
    assert rows.row_of is not None
    assert (lists(rows), rows.row_of.tolist()) == (made, owners)
    assert scores(rows) == (firsts, sizes)
    # Every token but those without context is scored once.
    assert rows.first_scored is not None
    scored = np.bincount(rows.row_of, rows.lengths - rows.first_scored, len(texts))
    whole = [max(0, len(untrimmed(backend, text)) - (bos is None)) for text in texts]
    assert scored.tolist() == whole


@given(texts=TEXTS, room=st.integers(1, 20), stride=st.integers(1, 25))
def test_windows_between_special_tokens_carry_their_own(texts: list[str], room: int, stride: int) -> None:
    tokenizer, backend = LOADED["wordpiece"]
    size = room + 2
    stride = min(stride, size - 1)
    rows = tokenizer.encode_batch(texts, max_length=size, stride=stride)
    made, firsts = [], []
    for text in texts:
        for window, first in slow_windows(untrimmed(backend, text).ids, room, min(stride, room), 0):
            made.append([2, *window, 3])
            firsts.append(1 + first)
    assert lists(rows) == made
    assert scores(rows)[0] == firsts
    assert rows.type_ids is not None
    assert len(rows.type_ids) == len(rows.ids)


def test_all_windows_but_the_last_are_those_of_tokenizers() -> None:
    tokenizer, _ = LOADED["wordpiece"]
    text = "the water falls down from the dam to the turbine and nobody remembered " * 3
    backend = tokenizers.Tokenizer.from_str(LOADED["wordpiece"][1].to_str())
    backend.enable_truncation(16, stride=5)
    first = backend.encode(text)
    theirs = [first.ids, *(part.ids for part in first.overflowing)]
    ours = lists(tokenizer.encode_batch([text], max_length=16, stride=14 - 5))
    assert len(ours) == len(theirs) > 3
    assert ours[:-1] == theirs[:-1]
    assert ours[-1][-len(theirs[-1]) + 1 :] == theirs[-1][1:], "the last one is filled up on its left"


@pytest.mark.parametrize("name", ["bpe", "wordpiece", "unigram"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("bos", [2, None], ids=["bos", "no bos"])
@given(texts=TEXTS, size=st.integers(3, 40) | st.none())
def test_a_view_counts_the_bytes_that_it_scores(
    name: str, side: Any, bos: int | None, texts: list[str], size: int | None
) -> None:
    tokenizer, backend = LOADED[name]
    view = tokenizer.with_bos(bos)
    rows = view.encode_batch(texts, max_length=size, truncation=side)
    before = max(1 if bos is not None else 0, [0, 1][tokenizer.num_special_tokens() > 0])
    special = tokenizer.num_special_tokens() or before
    firsts, sizes = [], []
    for text, length in zip(texts, rows.lengths, strict=True):
        encoding = untrimmed(backend, text)
        kept = int(length) - special
        start = 0 if side == "right" else len(encoding) - kept
        firsts.append(min(1, int(length)))
        sizes.append(slow_bytes(text, encoding, start + 1 - before, start + kept))
    assert scores(rows) == (firsts, sizes)


def test_long_texts_are_counted_by_their_heads_alone() -> None:
    tokenizer, backend = LOADED["unigram"]
    text = "the water falls down from the dam, naïve 水 " * 2000
    view = tokenizer.with_bos(None)
    calls: list[int] = []
    engine: Any = view._engine
    whole = engine._backend

    class Counting:
        def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> Any:
            return whole.encode_batch_fast(texts, add_special_tokens=add_special_tokens)

        def encode_batch(self, texts: list[str], add_special_tokens: bool) -> Any:
            calls.append(sum(map(len, texts)))
            return whole.encode_batch(texts, add_special_tokens=add_special_tokens)

    engine._loaded = Counting()
    try:
        rows = view.encode_batch([text], max_length=102)
    finally:
        engine._loaded = whole
    assert scores(rows)[1] == [slow_bytes(text, untrimmed(backend, text), 0, 100)]
    assert sum(calls) < 1000


def test_a_view_leaves_rows_alone_that_begin_with_a_special_token() -> None:
    tokenizer, _ = LOADED["unigram"]
    plain = tokenizer.encode_batch(["the water", ""])
    for bos in (0, 5, None):
        rows = tokenizer.with_bos(bos).encode_batch(["the water", ""])
        assert lists(rows) == lists(plain)
        assert scores(rows) == ([1, 1], [9, 0])
    bare = tokenizer.with_bos(5).encode_batch(["the water"], add_special_tokens=False)
    assert bare.row(0).tolist() == [5, *plain.row(0)[1:-1].tolist()]


def test_a_view_without_a_bos_does_not_score_the_first_token() -> None:
    tokenizer, _ = LOADED["bpe"]
    rows = tokenizer.with_bos(None).encode_batch(["the water", "x", ""])
    assert lists(rows) == lists(tokenizer.encode_batch(["the water", "x", ""]))
    assert scores(rows) == ([1, 1, 0], [len("the water") - len(tokenizer_first("the water")), 0, 0])


def tokenizer_first(text: str) -> str:
    encoding = untrimmed(LOADED["bpe"][1], text)
    return text[: encoding.offsets[0][1]]


def test_of_a_pair_a_view_scores_the_second_text() -> None:
    tokenizer, _ = LOADED["bpe"]
    view = tokenizer.with_bos(0)
    context = tokenizer.encode_batch(["the water falls"]).ids.tolist()
    second = tokenizer.encode_batch([" naïve"]).ids.tolist()
    rows = view.encode_batch(["the water falls", ""], [" naïve", " naïve"])
    assert lists(rows) == [[0, *context, *second], [0, *second]]
    assert scores(rows) == ([1 + len(context), 1], [7, 7])
    cut = view.encode_batch(["the water falls"], [" naïve"], max_length=len(second) + 3)
    assert lists(cut) == [[0, *context[-2:], *second]]
    assert scores(cut) == ([3], [7])
    alone = tokenizer.with_bos(None).encode_batch([""], ["the water"])
    assert scores(alone) == ([1], [len("the water") - len(tokenizer_first("the water"))])


def test_of_a_pair_a_view_keeps_the_end_of_the_second_text_at_least() -> None:
    tokenizer, _ = LOADED["bpe"]
    second = tokenizer.encode_batch(["the water"]).ids.tolist()
    rows = tokenizer.with_bos(0).encode_batch(["dam"], ["the water"], max_length=3)
    assert lists(rows) == [[0, *second[-2:]]]
    assert scores(rows)[0] == [1]


def test_a_view_keeps_the_special_tokens_of_a_single_row_around_a_pair() -> None:
    tokenizer, _ = LOADED["wordpiece"]
    rows = tokenizer.with_bos(None).encode_batch(["the"], ["water"])
    one = tokenizer.encode_batch(["the water"])
    assert lists(rows) == lists(one)


@pytest.mark.parametrize("bos", [-1, 384])
def test_a_bos_outside_the_vocabulary_is_refused_by_name(bos: int) -> None:
    with pytest.raises(ConfigError, match=f"bos_id={bos}: the vocabulary has ids 0 to 383"):
        LOADED["bpe"][0].with_bos(bos)


def test_windows_without_a_view_say_what_is_new_in_them() -> None:
    tokenizer, _ = LOADED["bpe"]
    rows = tokenizer.encode_batch(["a b c d", "e"], max_length=4, stride=2)
    ids = tokenizer.encode_batch(["a b c d"]).ids.tolist()
    assert lists(rows)[0] == ids[:4]
    assert rows.row_of is not None
    assert scores(rows)[0][0] == 0
    assert sum(scores(rows)[1]) == len("a b c d") + len("e")
    assert rows.num_inputs == 2


def test_windows_are_of_full_size_and_the_rest_is_context() -> None:
    tokenizer, _ = LOADED["bpe"]
    rows = tokenizer.with_bos(0).encode_batch(["abcdefghijk" * 9], max_length=10, stride=3)
    assert set(rows.lengths.tolist()) == {10}
    assert rows.first_scored is not None
    assert set(rows.first_scored[1:-1].tolist()) == {7}
