"""The tokenizer class: what goes in, what comes out, and what happens to bad rows."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import tokenizers

from penstock.errors import ConfigError, RowError, RowTokenizerError, TokenizerError
from penstock.tokenizer import Ragged, Tokenizer
from penstock.tokenizer_engine import TokenizersEngine

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ["the water falls", "", "naïve 水 \U0001f30a", "a b c d e f g h i j k l m n o p"]


@pytest.fixture(scope="module")
def bpe(tiny_bpe: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(tiny_bpe)


@pytest.fixture(scope="module")
def wordpiece(tiny_wordpiece: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(tiny_wordpiece)


def same(one: Ragged, other: Ragged) -> bool:
    for name in ("ids", "offsets", "type_ids", "row_of", "first_scored", "num_bytes"):
        mine, theirs = getattr(one, name), getattr(other, name)
        if (mine is None) != (theirs is None) or (mine is not None and not np.array_equal(mine, theirs)):
            return False
    return True


def test_rows_hold_the_tokens_of_their_texts(bpe: Tokenizer, tiny_bpe: Path) -> None:
    rows = bpe.encode_batch(TEXTS)
    backend = tokenizers.Tokenizer.from_file(str(tiny_bpe / "tokenizer.json"))
    assert [rows.row(i).tolist() for i in range(4)] == [e.ids for e in backend.encode_batch(TEXTS)]
    assert [rows.ids.dtype, rows.offsets.dtype] == ["int32", "int64"]
    assert (len(rows), rows.num_inputs) == (4, 4)
    assert all(getattr(rows, name) is None for name in ("type_ids", "row_of", "first_scored", "num_bytes"))


def test_type_ids_are_there_where_the_model_takes_them(wordpiece: Tokenizer) -> None:
    rows = wordpiece.encode_batch(["the water", "the"], ["falls", ""])
    assert rows.type_ids is not None
    assert rows.type_ids.dtype == np.uint8
    assert rows.type_ids[: rows.lengths[0]].tolist() == [0] * (2 + 2) + [1] * (rows.lengths[0] - 4)
    single = wordpiece.encode_batch(["the water"])
    assert single.type_ids is not None
    assert not single.type_ids.any()


@pytest.mark.parametrize(
    "texts",
    [
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, object),
        pa.array(TEXTS),
        pa.array(["x", *TEXTS, "y"]).slice(1, 4),
        pa.array(TEXTS, pa.large_string()),
        pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
    ],
    ids=["tuple", "numpy", "objects", "arrow", "slice", "large", "chunked"],
)
def test_texts_may_come_in_any_of_these_forms(bpe: Tokenizer, texts: Any) -> None:
    view = bpe.with_bos(0)
    assert same(view.encode_batch(texts), view.encode_batch(TEXTS))


@pytest.mark.parametrize("empty", [[], pa.array([], pa.string()), pa.chunked_array([], pa.string())])
def test_no_texts_give_no_rows(bpe: Tokenizer, wordpiece: Tokenizer, empty: Any) -> None:
    for rows in (
        bpe.encode_batch(empty),
        bpe.with_bos(None).encode_batch(empty, max_length=4, stride=2),
        wordpiece.encode_batch(empty, empty, max_length=8),
        wordpiece.encode_batch(empty, max_length=8, stride=2),
    ):
        assert (len(rows), rows.num_inputs, rows.ids.tolist(), rows.offsets.tolist()) == (0, 0, [], [0])


def test_one_text_without_a_list_is_refused_by_name(bpe: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="texts: is one text; put it in a list"):
        bpe.encode_batch("the water")


def test_an_arrow_array_of_numbers_is_refused_by_name(bpe: Tokenizer) -> None:
    with pytest.raises(ConfigError, match=r"Arrow array of int64; cast it to pyarrow.string"):
        bpe.encode_batch(pa.array([1, 2]))


def test_pairs_must_be_as_many_as_texts(bpe: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="pairs: 1 for 2 texts"):
        bpe.encode_batch(["a", "b"], ["c"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 0}, "max_length=0"),
        ({"max_length": 1}, "max_length=1: a row needs at least 2 for its 2 special tokens"),
        ({"max_length": 8, "truncation": "middle"}, 'truncation=\'middle\': must be "right" or "left"'),
        ({"stride": 4}, "stride: needs max_length"),
        ({"max_length": 8, "stride": 8}, "stride=8: must be from 1 to max_length - 1"),
        ({"max_length": 8, "stride": 0}, "stride=0"),
        ({"max_length": 2, "stride": 1}, "max_length=2: leaves no room beside 2 special tokens"),
        ({"max_length": 8, "stride": 2, "pairs": ["a"]}, "stride: pairs cannot be cut into windows"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused_by_name(
    wordpiece: Tokenizer, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        wordpiece.encode_batch(["the"], **options)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (None, "row 2: the text is null"),
        (7, "row 2: the text is of type int, not str"),
        (b"bytes", "row 2: the text is of type bytes, not str"),
        ("ab\ud800c", r"row 2: the text holds a lone surrogate \(U\+D800 at character 3\)"),
    ],
)
def test_a_bad_row_fails_by_name_and_loses_no_neighbour(bpe: Tokenizer, bad: Any, reason: str) -> None:
    texts = ["the water", bad, "falls"]
    with pytest.raises(RowTokenizerError, match=reason):
        bpe.encode_batch(texts)
    rows, failures = bpe.encode_rows(texts)
    assert list(failures) == [1]
    good = bpe.encode_batch(["the water", "falls"])
    assert rows.lengths.tolist() == [good.lengths[0], 0, good.lengths[1]]
    assert rows.ids.tolist() == good.ids.tolist()
    error = failures[1]
    assert isinstance(error, (RowError, TokenizerError, ValueError))
    assert isinstance(copied := pickle.loads(pickle.dumps(error)), RowTokenizerError)
    assert (copied.row, str(copied)) == (2, str(error))


def test_a_null_in_an_arrow_array_fails_alone(bpe: Tokenizer) -> None:
    rows, failures = bpe.encode_rows(pa.array(["the", None, "water"]))
    assert (list(failures), rows.lengths[1]) == ([1], 0)


def test_a_bad_second_text_fails_its_pair(wordpiece: Tokenizer) -> None:
    rows, failures = wordpiece.encode_rows(["a", "b", None], ["c", None, None])
    assert rows.lengths.tolist()[1:] == [0, 0]
    assert "of the pair's second text: the text is null" in str(failures[1])
    assert "row 3: the text is null" in str(failures[2])
    assert rows.type_ids is not None
    assert len(rows.type_ids) == len(rows.ids)


def test_a_bad_row_keeps_one_empty_window(bpe: Tokenizer) -> None:
    texts = ["the water falls and falls", "\udfff", "the water falls and falls"]
    rows, failures = bpe.with_bos(0).encode_rows(texts, max_length=6, stride=2)
    assert (list(failures), rows.num_inputs) == ([1], 3)
    assert rows.row_of is not None
    assert rows.num_bytes is not None
    at = rows.row_of.tolist().index(1)
    assert rows.row_of.tolist().count(1) == 1
    assert (rows.lengths[at], rows.num_bytes[at]) == (0, 0)
    first, last = rows.row(0), rows.row(at + 1)
    assert first.tolist() == last.tolist()


class PanicError(BaseException):
    """Stands in for what a panic in Rust code looks like from here: no Exception."""


class Panicking:
    """A backend whose Rust code panics at certain texts."""

    def __init__(self, backend: Any, error: type[BaseException]) -> None:
        self._backend, self._error, self.calls = backend, error, 0
        self.panics_at = "boom"  # only when offsets are asked for

    def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> Any:
        self.calls += 1
        if any("boom" in text for text in texts):
            raise self._error("index out of bounds")
        return self._backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)

    def encode_batch(self, texts: list[str], add_special_tokens: bool) -> Any:
        if any(self.panics_at in text for text in texts):
            raise self._error("no such character")
        return self._backend.encode_batch(texts, add_special_tokens=add_special_tokens)


def panicking(folder: Path, error: type[BaseException]) -> tuple[Tokenizer, Panicking]:
    tokenizer = Tokenizer.from_pretrained(folder)
    engine: Any = TokenizersEngine((folder / "tokenizer.json").read_text(), str(folder), "a test")
    backend = engine._loaded = Panicking(engine._loaded, error)
    tokenizer._engine = engine
    return tokenizer, backend


def test_a_panic_fails_only_its_own_rows(tiny_bpe: Path, bpe: Tokenizer) -> None:
    tokenizer, backend = panicking(tiny_bpe, PanicError)
    texts = [f"row {i}" for i in range(500)]
    texts[17] = texts[499] = "boom"
    rows, failures = tokenizer.encode_rows(texts)
    assert sorted(failures) == [17, 499]
    assert "row 18: the tokenizers package failed on this text" in str(failures[17])
    texts[17] = texts[499] = ""
    assert same(rows, bpe.encode_batch(texts))
    assert backend.calls < 50, "found by halving"
    with pytest.raises(TokenizerError, match="row 18"):
        tokenizer.encode_batch(["x"] * 17 + ["boom"])


def test_a_panic_while_bytes_are_counted_fails_only_its_own_row(tiny_bpe: Path, bpe: Tokenizer) -> None:
    tokenizer, backend = panicking(tiny_bpe, PanicError)
    backend.panics_at = "water"
    texts = ["the dam", "the water falls", "a turbine"]
    rows, failures = tokenizer.with_bos(0).encode_rows(texts, max_length=3)
    assert list(failures) == [1]
    texts[1] = ""
    expected = bpe.with_bos(0).encode_batch(texts, max_length=3)
    assert rows.lengths.tolist() == [3, 0, 3]
    assert rows.num_bytes is not None
    assert expected.num_bytes is not None
    assert rows.num_bytes.tolist() == expected.num_bytes.tolist()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_what_is_no_fault_of_a_row_passes_through(tiny_bpe: Path, error: type[BaseException]) -> None:
    tokenizer, _ = panicking(tiny_bpe, error)
    with pytest.raises(error):
        tokenizer.encode_rows(["boom"])


def test_copies_and_pickles_are_equal(bpe: Tokenizer) -> None:
    for tokenizer in (bpe, bpe.with_bos(0), bpe.with_bos(None)):
        rows = tokenizer.encode_batch(TEXTS, max_length=5)
        for twin in (copy.copy(tokenizer), copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
            assert same(twin.encode_batch(TEXTS, max_length=5), rows)
            assert twin.fingerprint() == tokenizer.fingerprint()
            assert (twin.pad_id, twin.bos_id, twin.model_max_length) == (0, 0, 64)


def test_threads_that_share_a_tokenizer_do_not_disturb_each_other(
    bpe: Tokenizer, wordpiece: Tokenizer, sentences: tuple[str, ...]
) -> None:
    texts = list(sentences) * 20
    views = (bpe, wordpiece, bpe.with_bos(0))
    calls: list[tuple[Tokenizer, dict[str, Any]]] = [
        (tokenizer, {"max_length": length, "truncation": side, "stride": stride})
        for tokenizer in views
        for length in (5, 9, 30, None)
        for side in ("right", "left")
        for stride in (None, 3)
        if not (stride and length is None)
    ]
    alone = [tokenizer.encode_batch(texts, **options) for tokenizer, options in calls]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            together = pool.map(lambda call: call[0].encode_batch(texts, **call[1]), calls)
            assert all(same(one, other) for one, other in zip(together, alone, strict=True))


def test_fingerprints_tell_tokenizers_apart(bpe: Tokenizer, wordpiece: Tokenizer, tiny_bpe: Path) -> None:
    prints = [t.fingerprint() for t in (bpe, wordpiece, bpe.with_bos(0), bpe.with_bos(1), bpe.with_bos(None))]
    assert len(set(prints)) == len(prints)
    assert bpe.fingerprint() == Tokenizer.from_pretrained(tiny_bpe / "tokenizer.json").fingerprint()
    assert all(len(text) == 64 and int(text, 16) for text in prints)


def test_a_tokenizer_says_what_it_is(bpe: Tokenizer, wordpiece: Tokenizer, tiny_bpe: Path) -> None:
    assert repr(bpe) == f"<Tokenizer {tiny_bpe / 'tokenizer.json'}: 384 tokens, engine native>"
    assert repr(bpe.with_bos(None)).endswith(">.with_bos(None)")
    assert (bpe.engine, bpe.engine_reason) == ("native", "every part of the tokenizer.json is known")
    assert [bpe.num_special_tokens(), bpe.num_special_tokens(pair=True)] == [0, 0]
    assert [wordpiece.num_special_tokens(), wordpiece.num_special_tokens(pair=True)] == [2, 3]


def test_ragged_rows_are_checked_and_joined() -> None:
    ids, offsets = np.array([1, 2, 3], np.int32), np.array([0, 2, 3], np.int64)
    rows = Ragged(ids, offsets, row_of=np.array([0, 0]))
    joined = Ragged.concatenate([rows, Ragged(ids, offsets), rows])
    assert joined.row_of is not None
    assert joined.row_of.tolist() == [0, 0, 1, 2, 3, 3]
    assert (joined.num_inputs, joined.ids.tolist()) == (4, [1, 2, 3] * 3)
    assert joined.offsets.tolist() == [0, 2, 3, 5, 6, 8, 9]
    assert len(Ragged.concatenate([])) == 0
    with pytest.raises(IndexError, match="row 2 of 2"):
        rows.row(2)
    with pytest.raises(ConfigError, match="type_ids: 1 of 2 parts lack it"):
        Ragged.concatenate([rows, Ragged(ids, offsets, np.zeros(3, np.uint8))])
    with pytest.raises(ConfigError, match="ids: must be a one-dimensional int32 array, not int64"):
        Ragged(ids.astype(np.int64), offsets)
    with pytest.raises(ConfigError, match="offsets: must begin with 0"):
        Ragged(ids, np.array([0, 2], np.int64))
    with pytest.raises(ConfigError, match="num_bytes: has 1 entries where 2 are needed"):
        Ragged(ids, offsets, num_bytes=np.array([1]))


def test_neither_torch_nor_transformers_is_imported() -> None:
    code = (
        "import sys, penstock.tokenizer, penstock.planner; "
        "print([name for name in ('torch', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
