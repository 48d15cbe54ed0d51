"""The encoder: a row that comes alone is the row that a chunk of one would make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from penstock import Tokenizer
from penstock.encoder import Encoder
from penstock.sources import RowReader

if TYPE_CHECKING:
    from pathlib import Path

FIELDS = ("ids", "offsets", "row", "index", "text_bytes", "type_ids", "first_scored", "num_bytes")
TEXTS = ["", "a", "The wheel turns.", "L'été \U0001f30a", "x" * 300, {"text": "in a dict", "more": 1}]
IDS = [[], [1], (5, 6, 7), list(range(100)), np.arange(40), range(3), {"text": [1, 2]}]


def both(
    folder: Path | None, row: object, *, max_row_bytes: int = 1_000, **options: Any
) -> tuple[Any, RowReader, Encoder]:
    """What a chunk of that one row makes; without a folder the row is token ids."""
    tokenizer = None if folder is None else Tokenizer.from_pretrained(folder).with_bos(0)
    reader = RowReader("text", max_row_bytes=max_row_bytes, ids=tokenizer is None)
    settings: dict[str, Any] = {"keep": (), "max_length": 32, "stride": None} | options
    encoder = Encoder(tokenizer, columns=reader, text_column="text", **settings)
    chunk = reader.chunk([row], 7, "rows", 7)
    ((part, sizes),) = encoder.jobs(chunk)
    return encoder.rows(part, sizes), reader, encoder


def assert_alone_is_as_in_a_chunk(row: object, want: Any, reader: RowReader, encoder: Encoder) -> None:
    plain = reader.plain(row)
    assert plain is not None
    got = encoder.row(plain, 7)
    for name in FIELDS:
        a, b = getattr(got, name), getattr(want, name)
        assert (a is None) == (b is None), name
        assert a is None or (a.dtype == b.dtype and a.tolist() == b.tolist()), name
    assert not got.failures
    assert not want.failures


@pytest.mark.parametrize("row", TEXTS)
@pytest.mark.parametrize("options", [{}, {"stride": 8}, {"prompt": "query: "}, {"truncation": "left"}])
def test_a_text_alone_is_the_row_of_a_chunk(tiny_bpe: Path, row: Any, options: dict[str, Any]) -> None:
    assert_alone_is_as_in_a_chunk(row, *both(tiny_bpe, row, **options))


@pytest.mark.parametrize("row", IDS)
@pytest.mark.parametrize("options", [{}, {"truncation": "left"}, {"max_length": None}])
def test_ids_alone_are_the_row_of_a_chunk(row: Any, options: dict[str, Any]) -> None:
    assert_alone_is_as_in_a_chunk(row, *both(None, row, **options))


@pytest.mark.parametrize(
    "row",
    [None, 3, ["a", "b"], {"body": "x"}, {"text": None}, "lone \ud800", "x" * 2_000, "é" * 501, ("a", "b")],
)
def test_a_text_that_needs_a_look_goes_the_long_way(row: Any) -> None:
    assert RowReader(max_row_bytes=1_000).plain(row) is None


@pytest.mark.parametrize("row", [None, 3, "a", ["a"], [True], [-1], [1 << 31], [[1]], [1.5], range(251), {}])
def test_ids_that_need_a_look_go_the_long_way(row: Any) -> None:
    assert RowReader(max_row_bytes=1_000, ids=True).plain(row) is None


def test_ids_alone_are_a_copy() -> None:
    ids = np.arange(5, dtype=np.int32)
    plain = RowReader(ids=True).plain(ids)
    ids[:] = 9
    assert isinstance(plain, np.ndarray)
    assert plain.tolist() == [0, 1, 2, 3, 4]


def test_kept_columns_and_pairs_go_the_long_way() -> None:
    assert RowReader(keep=["id"]).plain({"text": "a", "id": 1}) is None
    assert RowReader(pair_column="other").plain({"text": "a", "other": "b"}) is None
