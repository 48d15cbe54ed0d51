"""Where tokens begin and end in their texts: what the `tokenizers` package says, in characters and bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from both_engines import TINY, Twins, twins
from penstock.errors import ConfigError, PenstockError, RowTokenizerError
from penstock.tokenizer import Tokenizer
from strange_texts import REAL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TEXTS = st.lists(st.text("the waterfls .\n水ïÀ\U0001f30a\u0301", max_size=30), min_size=1, max_size=4)
SOME = ["  the water falls ", "", "naïve 水 \U0001f30a  É e\u0301 ﬁ\n", "a  b   c", "[CLS] x <s>y</s>", " "]
LOADED: dict[str, Twins] = {}


@pytest.fixture(scope="module", autouse=True)
def _load(tiny_bpe: Path, tiny_wordpiece: Path, tiny_unigram: Path) -> None:
    LOADED.update(zip(TINY, map(twins, (tiny_bpe, tiny_wordpiece, tiny_unigram)), strict=True))


def in_bytes(texts: tuple[str, ...], encoding: tokenizers.Encoding) -> list[list[int]]:
    """The package's offsets, each counted anew in the text that it is of."""
    spans = []
    for (begin, end), number in zip(encoding.offsets, encoding.sequence_ids, strict=True):
        text = texts[number or 0]
        spans.append([len(text[:begin].encode()), len(text[:end].encode())])
    return spans


def check(
    engines: Sequence[Tokenizer],
    package: tokenizers.Tokenizer,
    rows: Sequence[tuple[str, ...]],
    max_length: int | None,
    side: Any,
    rule: Any,
    special: bool,
) -> None:
    """Ids and offsets are those of the package, whichever engine; the rule must be one that fails no row."""
    package.no_truncation()
    if max_length is not None:
        package.enable_truncation(max_length, direction=side, strategy=rule)
    inputs: Any = [row[0] if len(row) == 1 else row for row in rows]
    want = package.encode_batch(inputs, add_special_tokens=special)
    columns: Any = [list(column) for column in zip(*rows, strict=True)]
    options: Any = {
        "max_length": max_length,
        "truncation": side,
        "pair_truncation": rule,
        "add_special_tokens": special,
    }
    for tokenizer in engines:
        found, offsets = tokenizer.encode_offsets(*columns, **options)
        assert found.ids.tolist() == [number for encoding in want for number in encoding.ids]
        assert found.offsets.tolist() == [0, *np.cumsum([len(each) for each in want]).tolist()]
        assert offsets.dtype == np.int64
        assert offsets.shape == (len(found.ids), 2)
        assert offsets.tolist() == [list(span) for encoding in want for span in encoding.offsets]
        _, offsets = tokenizer.encode_offsets(*columns, **options, unit="byte")
        assert offsets.dtype == np.int64
        assert offsets.tolist() == [
            span for row, encoding in zip(rows, want, strict=True) for span in in_bytes(row, encoding)
        ]


@pytest.mark.parametrize("name", TINY)
@given(
    texts=TEXTS,
    paired=st.booleans(),
    room=st.integers(0, 12) | st.none(),
    side=st.sampled_from(["right", "left"]),
    special=st.booleans(),
)
def test_offsets_are_those_of_the_package(
    name: str, texts: list[str], paired: bool, room: int | None, side: str, special: bool
) -> None:
    of = LOADED[name]
    rows: list[Any] = list(zip(texts, texts[::-1], strict=True)) if paired else [(text,) for text in texts]
    more = of.native.num_special_tokens(pair=paired) if special else 0
    max_length = None if room is None else max(1, room + more)
    check(of[:2], of.package, rows, max_length, side, "longest_first", special)


def test_offsets_of_pairs_cut_in_one_text_only() -> None:
    of = LOADED["tiny_bpe"]
    rows = [("a", text * 3) for text in SOME]
    for side in ("right", "left"):
        check(of[:2], of.package, rows, 4, side, "only_second", True)
        check(of[:2], of.package, [row[::-1] for row in rows], 4, side, "only_first", True)


@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("kind", ["bytelevel", "roberta", "sequence"])
def test_a_post_processor_may_trim_them(tiny_bpe: Path, kind: str, prefix: bool, trim: bool) -> None:
    package = tokenizers.Tokenizer.from_file(str(tiny_bpe / "tokenizer.json"))
    settings: Any = {"trim_offsets": trim, "add_prefix_space": prefix}
    bytelevel = processors.ByteLevel(trim_offsets=trim, add_prefix_space=prefix)
    template = processors.TemplateProcessing(single="a $A", pair="a $A a $B:1", special_tokens=[("a", 1)])
    package.post_processor = {
        "bytelevel": bytelevel,
        "roberta": processors.RobertaProcessing(("a", 1), ("b", 2), **settings),
        "sequence": processors.Sequence([bytelevel, template]),
    }[kind]
    tokenizer = Tokenizer.from_pretrained(package)
    for max_length in (None, 5, 6, 8):
        for side in ("right", "left"):
            check([tokenizer], package, [(text,) for text in SOME], max_length, side, "longest_first", True)
            rows: Any = list(zip(SOME, SOME[::-1], strict=True))
            check([tokenizer], package, rows, max_length, side, "longest_first", True)
            check([tokenizer], package, rows, max_length, side, "longest_first", False)


def test_texts_may_come_as_arrow_arrays_or_not_at_all() -> None:
    tokenizer = LOADED["tiny_wordpiece"].native
    rows, offsets = tokenizer.encode_offsets(pa.array(SOME), pa.chunked_array([SOME]))
    twin_rows, twin = tokenizer.encode_offsets(SOME, SOME)
    assert (rows.ids.tolist(), offsets.tolist()) == (twin_rows.ids.tolist(), twin.tolist())
    rows, offsets = tokenizer.encode_offsets([])
    assert (len(rows), offsets.shape) == (0, (0, 2))


def test_many_and_long_texts_are_done_in_blocks() -> None:
    of = LOADED["tiny_bpe"]
    texts = [f"row {number} ï" for number in range(3_000)] + ["water " * 200_000, "x"]
    rows, offsets = of.native.encode_offsets(texts, max_length=9)
    assert rows.ids.tolist() == of.native.encode_batch(texts, max_length=9).ids.tolist()
    assert offsets[rows.offsets[:-1], 0].tolist() == [0] * len(texts)
    last = of.package
    last.no_truncation()
    assert offsets[rows.offsets[2_999] : rows.offsets[3_000]].tolist() == [
        list(span) for span in last.encode(texts[2_999]).offsets[:9]
    ]


def test_the_offsets_of_a_view_are_those_of_its_texts() -> None:
    tokenizer = LOADED["tiny_bpe"].native
    plain, whole = tokenizer.encode_offsets(["the water", "falls"])
    first, second = (part.tolist() for part in np.split(whole, plain.offsets[1:-1]))
    size = len(second) + 3
    rows, offsets = tokenizer.with_bos(0).encode_offsets(["the water"], ["falls"], max_length=size)
    assert rows.ids[0] == 0
    assert offsets.tolist() == [[0, 0], *first[-2:], *second]
    assert len(first) > 2


def test_what_cannot_be_done_is_refused_by_name() -> None:
    texts: Any = ["a", None]
    unit: Any = "token"
    for tokenizer in LOADED["tiny_wordpiece"][:2]:
        with pytest.raises(RowTokenizerError, match="row 2: the text is null"):
            tokenizer.encode_offsets(texts)
        with pytest.raises(RowTokenizerError, match="row 1: the first text alone fills the row"):
            tokenizer.encode_offsets(["the water"], ["a"], max_length=4, pair_truncation="only_second")
        with pytest.raises(ConfigError, match='unit=\'token\': must be "char" or "byte"'):
            tokenizer.encode_offsets(["a"], unit=unit)
        far = "the water " * 5_000 + "\ud800"
        with pytest.raises(RowTokenizerError, match="row 2: the text holds a lone surrogate"):
            tokenizer.encode_offsets(["a", far], max_length=8)


def test_engines_that_disagree_are_noticed(tiny_bpe: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(tiny_bpe)
    tokenizer.encode_offsets(["the"])
    engine: Any = tokenizer._engine
    engine._loaded.normalizer = tokenizers.normalizers.Replace("w", "water")
    with pytest.raises(PenstockError, match="The engines disagree"):
        tokenizer.encode_offsets(["www"])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers_agree(test_data: Path, name: str) -> None:
    of = twins(test_data / "tokenizers" / name)
    rows: Any = list(zip(SOME, SOME[::-1], strict=True))
    for special in (True, False):
        for side in ("right", "left"):
            for max_length in (None, 5, 9):
                check(
                    of[:2], of.package, [(text,) for text in SOME], max_length, side, "longest_first", special
                )
                check(of[:2], of.package, rows, max_length, side, "longest_first", special)
