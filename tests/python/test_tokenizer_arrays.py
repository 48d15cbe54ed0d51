"""Padded and packed batches, in new memory and in the caller's, against those of the `tokenizers` package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock
from both_engines import TINY, Twins, twins
from penstock.errors import ConfigError, RowTokenizerError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TEXTS = st.lists(st.text("the waterfls .\n水ï\U0001f30a", max_size=30), max_size=5)
UNWRITTEN = -77
LOADED: dict[str, Twins] = {}


@pytest.fixture(scope="module", autouse=True)
def _load(tiny_bpe: Path, tiny_wordpiece: Path, tiny_unigram: Path) -> None:
    LOADED.update(zip(TINY, map(twins, (tiny_bpe, tiny_wordpiece, tiny_unigram)), strict=True))


def encodings(of: Twins, texts: Sequence[Any], max_length: int | None, side: str) -> list[Any]:
    of.package.no_truncation()
    if max_length is not None:
        of.package.enable_truncation(max_length, direction=side)
    rows: list[Any] = of.package.encode_batch(texts)
    return rows


@pytest.mark.parametrize("name", TINY)
@given(
    texts=TEXTS,
    paired=st.booleans(),
    max_length=st.integers(4, 20) | st.none(),
    side=st.sampled_from(["right", "left"]),
    padding_side=st.sampled_from(["right", "left"]),
    multiple_of=st.sampled_from([1, 8]),
    dtype=st.sampled_from([None, "int32", np.int64]),
    in_out=st.booleans(),
)
def test_padded_rows_are_those_of_the_package(
    name: str,
    texts: list[str],
    paired: bool,
    max_length: int | None,
    side: Any,
    padding_side: Any,
    multiple_of: int,
    dtype: Any,
    in_out: bool,
) -> None:
    of = LOADED[name]
    of.package.enable_padding(
        direction=padding_side, pad_to_multiple_of=multiple_of, pad_id=of.native.pad_id, pad_type_id=0
    )
    pairs = texts[::-1] if paired else None
    inputs = texts if pairs is None else list(zip(texts, pairs, strict=True))
    want = encodings(of, inputs, max_length, side)
    of.package.no_padding()
    names = of.native.model_input_names
    fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    width = len(want[0]) if want else multiple_of
    if not any(sum(each.attention_mask) for each in want):
        width = multiple_of  # a matrix without a column is no input of a model
    out = None
    if in_out:
        out = {each: np.full(len(texts) * width + 3, UNWRITTEN, dtype or np.int64) for each in names}
        out["lengths"] = np.full(len(texts) + 1, UNWRITTEN, np.int32)
    for tokenizer in of[:2]:
        batch = tokenizer.encode_padded(
            texts,
            pairs,
            max_length=max_length,
            truncation=side,
            padding_side=padding_side,
            multiple_of=multiple_of,
            dtype=None if in_out else dtype,
            out=out,
        )
        assert list(batch) == names + ["lengths"] * in_out
        for each in names:
            matrix = batch[each]
            assert (matrix.shape, matrix.dtype) == ((len(texts), width), np.dtype(dtype or np.int64))
            rows = [getattr(encoding, fields[each]) for encoding in want]
            assert matrix.tolist() == [row or [0] * width for row in rows]
            if out is not None:
                assert np.shares_memory(matrix, out[each]) == (matrix.size > 0)
                assert out[each][matrix.size :].tolist() == [UNWRITTEN] * 3
        if out is not None:
            assert batch["lengths"].tolist() == [sum(each.attention_mask) for each in want]
            assert out["lengths"].tolist() == [*batch["lengths"].tolist(), UNWRITTEN]


@pytest.mark.parametrize("name", TINY)
@given(
    texts=TEXTS,
    paired=st.booleans(),
    max_length=st.integers(4, 20) | st.none(),
    first_position=st.sampled_from([0, 2]),
    dtype=st.sampled_from([None, "int32", np.int64]),
    in_out=st.booleans(),
)
def test_packed_rows_are_those_of_the_package(
    name: str,
    texts: list[str],
    paired: bool,
    max_length: int | None,
    first_position: int,
    dtype: Any,
    in_out: bool,
) -> None:
    of = LOADED[name]
    pairs = texts[::-1] if paired else None
    inputs = texts if pairs is None else list(zip(texts, pairs, strict=True))
    want = encodings(of, inputs, max_length, "right")
    ids = [number for encoding in want for number in encoding.ids]
    names = ["input_ids", "position_ids"]
    names += ["token_type_ids"] * ("token_type_ids" in of.native.model_input_names)
    out: dict[str, Any] | None = None
    if in_out:
        out = {each: np.full(len(ids) + 3, UNWRITTEN, dtype or np.int64) for each in names}
        out["cu_seqlens"] = np.full(len(texts) + 4, UNWRITTEN, np.int32)
    for tokenizer in of[:2]:
        batch = tokenizer.encode_packed(
            texts,
            pairs,
            max_length=max_length,
            first_position=first_position,
            dtype=None if in_out else dtype,
            out=out,
        )
        assert batch.input_ids.tolist() == [ids]
        assert batch.position_ids.tolist() == [
            [first_position + at for encoding in want for at in range(len(encoding))]
        ]
        assert batch.cu_seqlens.tolist() == [0, *np.cumsum([len(each) for each in want], dtype=int).tolist()]
        assert batch.cu_seqlens.dtype == np.int32
        assert batch.max_seqlen == max(map(len, want), default=0)
        assert type(batch.max_seqlen) is int
        assert (batch.token_type_ids is not None) == ("token_type_ids" in names)
        if batch.token_type_ids is not None:
            assert batch.token_type_ids.tolist() == [[number for each in want for number in each.type_ids]]
        for each in names:
            assert getattr(batch, each).dtype == np.dtype(dtype or np.int64)
            if out is not None:
                assert np.shares_memory(getattr(batch, each), out[each]) == (len(ids) > 0)
                assert out[each][len(ids) :].tolist() == [UNWRITTEN] * 3


def test_a_tokenizer_may_pad_on_the_left_by_itself(tiny_bpe: Path) -> None:
    tokenizer = LOADED["tiny_bpe"].native
    assert tokenizer.padding_side in ("right", "left")
    batch = tokenizer.encode_padded(["the water", "a"])
    other = tokenizer.encode_padded(["the water", "a"], padding_side=tokenizer.padding_side)  # type: ignore[arg-type]
    assert all(np.array_equal(batch[name], other[name]) for name in batch)


ONE = {"input_ids": np.zeros(99, np.int64), "attention_mask": np.zeros(99, np.int64)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multiple_of": 0}, "multiple_of=0: must be a whole number between 1 and"),
        ({"padding_side": "top"}, 'padding_side=\'top\': must be "right" or "left"'),
        ({"dtype": "int16"}, "dtype=int16: must be int64 or int32"),
        ({"dtype": "long island"}, "dtype=long island: must be int64 or int32"),
        ({"out": {"input_ids": np.zeros(99)}}, "dtype=float64: must be int64 or int32"),
        ({"out": {}}, "out: holds no 'input_ids'"),
        ({"out": {"input_ids": ONE["input_ids"]}}, "out: holds no 'attention_mask'"),
        (
            {"out": ONE | {"input_ids": np.zeros(1, np.int64)}},
            r"out\['input_ids'\]: must be .* int64 with room for 1 rows of \d, not int64 of 1",
        ),
        (
            {"out": ONE | {"input_ids": np.zeros(99, np.int64)[::2]}},
            r"out\['input_ids'\]: must be contiguous",
        ),
        (
            {"out": ONE | {"attention_mask": np.zeros(99, np.int32)}},
            r"out\['attention_mask'\]: must be contiguous, aligned, writable int64 .*, not int32 of 99",
        ),
        (
            {"out": ONE, "dtype": "int32"},
            r"out\['input_ids'\]: must be .* int32 .*, not int64 of 99",
        ),
        ({"out": ONE | {"lengths": np.zeros(9)}}, "dtype=float64"),
        ({"out": ONE | {"lengths": np.zeros(0, np.int64)}}, r"out\['lengths'\]: .* with room for 1, not"),
    ],
)
def test_what_cannot_be_padded_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LOADED["tiny_bpe"].native.encode_padded(["the water"], **options)


TWO = {"input_ids": np.zeros(99, np.int64), "position_ids": np.zeros(99, np.int64)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_position": -1}, "first_position=-1: must be a whole number between 0 and "),
        ({"first_position": 2**31 - 2}, "first_position=2147483646: must be a whole number between 0 and "),
        ({"dtype": bool}, "dtype=<class 'bool'>: must be int64 or int32"),
        ({"out": TWO}, "out: holds no 'cu_seqlens'"),
        (
            {"out": TWO | {"cu_seqlens": np.zeros(1, np.int32)}},
            r"out\['cu_seqlens'\]: .* room for 2, not int32 of 1",
        ),
        (
            {"out": TWO | {"cu_seqlens": np.zeros(2, np.int64)}},
            r"out\['cu_seqlens'\]: must be contiguous, aligned, writable int32",
        ),
        ({"out": {"input_ids": TWO["input_ids"]}}, "out: holds no 'position_ids'"),
    ],
)
def test_what_cannot_be_packed_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LOADED["tiny_bpe"].native.encode_packed(["the water"], **options)


def test_a_read_only_place_is_refused_by_name() -> None:
    place = np.zeros(99, np.int64)
    place.flags.writeable = False
    with pytest.raises(ConfigError, match=r"out\['input_ids'\]: must be contiguous, aligned, writable int64"):
        LOADED["tiny_bpe"].native.encode_padded(["the"], out=ONE | {"input_ids": place})


def test_a_row_that_cannot_be_made_fails_the_batch() -> None:
    tokenizer = LOADED["tiny_bpe"].native
    texts: Any = ["the", None]
    for call in (tokenizer.encode_padded, tokenizer.encode_packed):
        with pytest.raises(RowTokenizerError, match="row 2: the text is null"):
            call(texts)


def test_packed_batches_are_public() -> None:
    assert isinstance(LOADED["tiny_bpe"].native.encode_packed(["a"]), penstock.Packed)
