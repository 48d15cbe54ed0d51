"""Rows that are Python objects: what they may be, and what becomes of those that are not."""

from __future__ import annotations

import datetime
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError, MissingColumnError, RowError, SourceExhaustedError
from penstock.sources import PAIR_COLUMN, RowReader, as_source, concat
from test_sources import failures, read, rows_of, texts

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_strings_pairs_and_dicts_are_rows() -> None:
    assert texts(["a", "", "é"]) == ["a", "", "é"]
    assert [row.values for row in read([("a", "b"), ["c", "d"]])] == [("a", "b"), ("c", "d")]
    dicts = [{"q": "a", "d": "b", "id": 1}, {"q": "c", "d": "d"}]
    rows = read(dicts, text_column="q", pair_column="d", keep=["id"])
    assert [row.values for row in rows] == [("a", "b", 1), ("c", "d", None)]


def test_pairs_name_their_second_column_from_the_first_row_on() -> None:
    assert as_source([("a", "b")]).pair_column == PAIR_COLUMN
    assert as_source(["a"]).pair_column is None
    live = as_source(iter([("a", "b"), ("c", "d")]))
    before = live.pair_column
    chunk = next(iter(live.chunks()))
    assert (before, live.pair_column) == (None, PAIR_COLUMN)
    assert chunk.batch.schema.names == ["text", PAIR_COLUMN]
    assert as_source([("a", "b")], pair_column="answer").pair_column == "answer"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (7, "expected a str, a (str, str) or a dict, got int"),
        (None, "expected a str, a (str, str) or a dict, got NoneType"),
        (b"x", "expected a str, a (str, str) or a dict, got bytes"),
        (("a", "b", "c"), "expected a str, a (str, str) or a dict, got tuple"),
        (("a", 1), "expected a str, a (str, str) or a dict, got tuple"),
        (Path("a.jsonl"), "for files use penstock.sources.files([...])"),
        (("a", "b"), "a pair, but the rows before are single texts; pass pair_column="),
        ("x\ud800", "column 'text' holds a lone surrogate at position 1"),
        ({"text": None}, "column 'text' is null"),
        ({"text": 1}, "column 'text' has the wrong type: expected a string, got int"),
        ({"body": "x"}, "column 'text' is missing from this row"),
        ("x" * 99, "99 bytes, more than max_row_bytes (50)"),
        ("é" * 26, "52 bytes, more than max_row_bytes (50)"),
    ],
)
def test_a_row_that_cannot_be_used_fails_alone_and_says_where_and_why(row: Any, reason: str) -> None:
    rows = read(["before", row, "after"], max_row_bytes=50)
    assert [each.values[0] for each in rows] == ["before", None, "after"]
    assert (rows[1].failure or "").split(": ", 1)[1].startswith("rows, row 2: ")
    assert reason in (rows[1].failure or "")


def test_a_single_text_among_pairs_fails_alone() -> None:
    assert failures([("a", "b"), "c"]) == {
        1: "RowError: rows, row 2: a single text, but the rows before are pairs"
    }
    rows = read([("a", "b"), {"text": "c", PAIR_COLUMN: None}, ("x" * 9, "y" * 9)], max_row_bytes=10)
    assert [row.values for row in rows] == [("a", "b"), (None, None), (None, None)]
    assert "column 'text_pair' is null" in (rows[1].failure or "")
    assert "18 bytes" in (rows[2].failure or "")


def test_a_column_missing_from_the_first_dict_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        MissingColumnError, match=r"rows: there is no column 'text'; the columns are: 'body', 'id'"
    ):
        read([{"body": "a", "id": 1}])
    with pytest.raises(MissingColumnError, match=r"rows: there is no column 'label'"):
        read([{"text": "a"}], keep=["label"])
    with pytest.raises(MissingColumnError, match=r"rows \(not dicts\): there is no column 'label'"):
        read(["a"], keep=["label"])


def test_any_mapping_is_a_dict_row() -> None:
    from types import MappingProxyType

    assert texts([MappingProxyType({"text": "a"})]) == ["a"]


def test_kept_values_of_any_type_are_carried_along() -> None:
    values = {
        "i": 1, "f": 0.5, "s": "x", "b": b"\xff", "n": None, "l": [1, 2], "d": {"x": 1},
        "t": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc), "c": Decimal("1.5"),
        "u": 2**64 - 1, "np": np.float32(0.5),
    }  # fmt: skip
    (row,) = read([{"text": "a", **values}], keep=list(values))
    assert row.values == ("a", *values.values())


def test_kept_types_widen_and_batches_can_still_be_joined() -> None:
    kept = [None, 1, 2.5, None, 3]
    source = as_source([{"text": "a", "k": value} for value in kept], keep=["k"])
    joined = concat([chunk.batch for chunk in source.chunks()])
    assert joined.column("k").to_pylist() == kept
    assert joined.column("k").type == pa.float64()


@pytest.mark.parametrize(
    ("first", "later", "reason"),
    [
        (1, "x", "'x' is of type string, but the column is int64"),
        ("x", 1, "1 is of type int64, but the column is string"),
        ("x", b"x", "b'x' is of type binary, but the column is string"),
        (["x"], "x", "but the column is list"),
        (1, 2**64 - 1, "18446744073709551615 is of type uint64, but the column is int64"),
        (1, object(), "is of type object, but the column is int64"),
        (1, True, "True is of type bool, but the column is int64"),
    ],
)
def test_a_kept_value_that_does_not_fit_fails_by_name(first: Any, later: Any, reason: str) -> None:
    rows = read([{"text": "a", "k": value} for value in (first, first, later, first)], keep=["k"])
    assert [row.values[0] for row in rows] == ["a", "a", None, "a"]
    assert (rows[2].failure or "").startswith("RowError: rows, row 3: kept column 'k': ")
    assert reason in (rows[2].failure or "")


def test_token_ids_are_rows_of_integers() -> None:
    rows = [[1, 2], (3,), np.array([4, 5], np.uint16), [], {"text": [6]}, np.array([], np.int64)]
    assert texts(rows, ids=True) == [[1, 2], [3], [4, 5], [], [6], []]
    (chunk, *_) = as_source(rows, ids=True).chunks()
    assert chunk.batch.schema.types == [pa.list_(pa.int32())]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("text", "expected a sequence of token ids (integers), got str"),
        ([1.5], "expected a sequence of token ids (integers), got list"),
        ([[1], [2]], "expected a sequence of token ids (integers), got list"),
        ([[1], [2, 3]], "expected token ids, got list"),
        ([True], "got a bool among them"),
        ([-1], "holds the token id -1"),
        ([2**31], "holds the token id 2147483648"),
        ([2**70], "has the wrong type"),
        ({"text": None}, "is null"),
        (None, "is null"),
        (7, "expected a sequence of token ids (integers), got int"),
        ([1] * 26, "104 bytes, more than max_row_bytes (100)"),
    ],
)
def test_a_row_that_is_not_token_ids_fails_alone(row: Any, reason: str) -> None:
    rows = read([[1], row, [2]], ids=True, max_row_bytes=100)
    assert [each.values[0] for each in rows] == [[1], None, [2]]
    assert reason in (rows[1].failure or "")


class TestPasses:
    """Epochs, and what a live source may expect."""

    def test_an_iterator_is_used_up_after_one_pass(self) -> None:
        for source in (iter(["a"]), (text for text in ["a"])):
            rows = as_source(source)
            assert len(rows_of(rows.chunks())) == 1
            with pytest.raises(SourceExhaustedError, match="already used up: pass a list"):
                rows.chunks()

    def test_what_can_be_iterated_again_is(self) -> None:
        class Corpus:
            def __iter__(self) -> Iterator[str]:
                yield from "ab"

        for source in (["a", "b"], Corpus(), {"a": 1, "b": 2}.keys()):
            rows = as_source(source)
            assert rows_of(rows.chunks()) == rows_of(rows.chunks())

    def test_chunks_grow_so_that_the_first_row_is_not_held_back(self) -> None:
        taken = 0

        def live() -> Iterator[str]:
            nonlocal taken
            for number in range(5000):
                taken += 1
                yield str(number)

        chunks = as_source(live()).chunks()
        assert (len(next(chunks)), taken) == (1, 1)
        assert (len(next(chunks)), taken) == (2, 3)
        assert [len(chunk) for chunk in chunks][:11] == [4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024]

    def test_a_row_that_was_long_in_coming_is_passed_on_at_once(self) -> None:
        def live() -> Iterator[str]:
            for _ in range(20):
                yield "quick"
            time.sleep(0.02)
            yield "slow"
            yield "next"

        sizes = [len(chunk) for chunk in as_source(live()).chunks()]
        assert sizes == [1, 2, 4, 8, 6, 1]

    def test_a_live_source_may_ask_for_every_row_alone(self) -> None:
        assert [len(chunk) for chunk in as_source(list("abcdef"), most_rows=1).chunks()] == [1] * 6

    def test_large_rows_make_small_chunks(self) -> None:
        sizes = [len(chunk) for chunk in as_source(["x" * (3 << 20)] * 7).chunks()]
        assert sizes == [1, 2, 2, 2]

    def test_an_exception_of_the_iterator_comes_unchanged_after_the_rows_before_it(self) -> None:
        failure = KeyError("mine")

        def broken() -> Iterator[str]:
            yield from "abcde"
            raise failure

        got: list[str] = []
        with pytest.raises(KeyError) as error:
            for chunk in as_source(broken()).chunks():
                got += chunk.batch.column(0).to_pylist()
        assert got == list("abcde")
        assert error.value is failure
        if hasattr(failure, "__notes__"):
            assert failure.__notes__ == ["raised by the source after row 5"]

    def test_rows_and_arrow_batches_may_be_mixed(self) -> None:
        batch = pa.record_batch({"text": ["b", "c"]})
        assert texts(["a", batch, "d", pa.Table.from_batches([batch])]) == ["a", "b", "c", "d", "b", "c"]


class TestRowReader:
    """Used for what ``load`` returns, too."""

    def test_it_places_rows_where_it_is_told(self) -> None:
        chunk = RowReader().chunk(["a", 5], first_index=10, place="keys", first_row=20)
        assert (chunk.first_index, chunk.place, chunk.first_row) == (10, "keys", 20)
        assert str(chunk.failures[1]) == "keys, row 22: expected a str, a (str, str) or a dict, got int"
        assert isinstance(chunk.failures[1], RowError)

    def test_a_bare_name_is_not_a_list_of_names(self) -> None:
        with pytest.raises(ConfigError, match="keep='id': must be a list of column names"):
            RowReader(keep="id")

    def test_rows_before_the_first_usable_one_decide_nothing(self) -> None:
        reader = RowReader()
        assert reader.chunk([None]).failures
        assert reader.chunk([("a", "b")]).batch.schema.names == ["text", PAIR_COLUMN]

    def test_many_threads_may_use_one(self) -> None:
        reader = RowReader(keep=["k"])
        done: list[int] = []

        def work(number: int) -> None:
            for _ in range(50):
                chunk = reader.chunk([{"text": "a", "k": number if number % 2 else number / 2}])
                assert not chunk.failures
            done.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(done) == list(range(8))


anything = st.one_of(
    st.text(max_size=5),
    st.none(),
    st.integers(),
    st.binary(max_size=3),
    st.tuples(st.text(max_size=3), st.text(max_size=3)),
    st.dictionaries(
        st.sampled_from(["text", "k"]), st.none() | st.text(max_size=3) | st.integers(), max_size=2
    ),
    st.lists(st.none() | st.text(max_size=2), max_size=3),
)


@given(rows=st.lists(anything, max_size=20))
def test_whatever_the_rows_are_each_is_text_or_a_failure_in_its_place(rows: list[Any]) -> None:
    found = read([{"text": "first", "k": 0}, *rows], keep=["k"])[1:]
    assert len(found) == len(rows)
    for row, given_row in zip(found, rows):
        if isinstance(given_row, str) and given_row.isprintable():
            assert row.values == (given_row, None)
        if not isinstance(given_row, (str, dict)):
            assert row.failure is not None
