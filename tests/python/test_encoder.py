"""The encoder: a row that comes alone is the row that a chunk of one would make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from penstock import Tokenizer
from penstock.encoder import Encoder
from penstock.sources import RowReader

if TYPE_CHECKING:
    from pathlib import Path

FIELDS = ("ids", "offsets", "row", "index", "text_bytes", "type_ids", "first_scored", "num_bytes")
TEXTS = ["", "a", "The wheel turns.", "L'été \U0001f30a", "x" * 300, {"text": "in a dict", "more": 1}]


def both(
    folder: Path, row: object, *, max_row_bytes: int = 1_000, **options: Any
) -> tuple[Any, RowReader, Encoder]:
    reader = RowReader(max_row_bytes=max_row_bytes)
    tokenizer = Tokenizer.from_pretrained(folder).with_bos(0)
    settings: dict[str, Any] = {"keep": (), "max_length": 32, "stride": None} | options
    encoder = Encoder(tokenizer, columns=reader, text_column="text", **settings)
    chunk = reader.chunk([row], 7, "rows", 7)
    ((part, sizes),) = encoder.jobs(chunk)
    return encoder.rows(part, sizes), reader, encoder


@pytest.mark.parametrize("row", TEXTS)
@pytest.mark.parametrize("options", [{}, {"stride": 8}, {"prompt": "query: "}, {"truncation": "left"}])
def test_a_row_alone_is_the_row_of_a_chunk(tiny_bpe: Path, row: Any, options: dict[str, Any]) -> None:
    want, reader, encoder = both(tiny_bpe, row, **options)
    text = reader.plain_text(row)
    assert text is not None
    got = encoder.row(text, 7)
    for name in FIELDS:
        a, b = getattr(got, name), getattr(want, name)
        assert (a is None) == (b is None), name
        assert a is None or (a.dtype == b.dtype and a.tolist() == b.tolist()), name
    assert not got.failures
    assert not want.failures


@pytest.mark.parametrize(
    "row",
    [None, 3, ["a", "b"], {"body": "x"}, {"text": None}, "lone \ud800", "x" * 2_000, "é" * 501, ("a", "b")],
)
def test_a_row_that_needs_a_look_goes_the_long_way(row: Any) -> None:
    assert RowReader(max_row_bytes=1_000).plain_text(row) is None


def test_kept_columns_pairs_and_ids_go_the_long_way() -> None:
    assert RowReader(keep=["id"]).plain_text({"text": "a", "id": 1}) is None
    assert RowReader(pair_column="other").plain_text({"text": "a", "other": "b"}) is None
    assert RowReader(ids=True).plain_text([1, 2]) is None
