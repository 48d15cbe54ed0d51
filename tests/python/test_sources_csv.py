"""CSV and TSV: records with quoted newlines, stray quotes, and rows that do not fit."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock.errors import MissingColumnError, SourceError
from penstock.sources import lines, plan_units
from penstock.sources.csv import _Decoder
from penstock.sources.units import UnitSource
from test_sources import failures, read, rows_of, texts

if TYPE_CHECKING:
    from pathlib import Path

BROKEN = "a quoted field is opened in this row and not properly closed"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.csv"


def test_quoted_fields_hold_delimiters_quotes_and_newlines(path: Path) -> None:
    path.write_bytes(b'id,text\r\n1,"a, ""b""\r\nand c"\r\n2,\r\n3,plain\r\n')
    rows = read(path, keep=["id"])
    assert [row.values for row in rows] == [('a, "b"\r\nand c', "1"), ("", "2"), ("plain", "3")]


def test_rows_are_numbered_as_a_spreadsheet_shows_them(path: Path) -> None:
    path.write_bytes(b'text,id\n"a\nb\nc",1\n\nd,2\ne,2,3\n')
    rows = read(path)
    assert [(row.number + 1, row.values[0]) for row in rows] == [(2, "a\nb\nc"), (4, "d"), (5, None)]
    assert rows[2].failure == f"RowError: {path}, row 5: 3 fields, but the header has 2"


def test_tsv_is_split_at_tabs(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_bytes(b'id\ttext\n1\ta, b\n2\t"c\td"\n')
    assert texts(path) == ["a, b", "c\td"]


def test_kept_columns_are_the_strings_of_the_file(path: Path) -> None:
    path.write_bytes(b"text,id,flag\na,007,\nb,NA,true\n")
    assert [row.values for row in read(path, keep=["id", "flag"])] == [("a", "007", ""), ("b", "NA", "true")]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"text,id\n", b"\xef\xbb\xbftext,id", b'"text"\r\n\r\n'])
def test_a_file_with_no_more_than_a_header_has_no_rows(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert read(path) == []
    assert len(plan_units(path)) == 0


def test_a_missing_column_is_named_with_those_of_the_header(path: Path) -> None:
    path.write_bytes(b"content,id\na,1\n")
    with pytest.raises(MissingColumnError, match=r"rows\.csv: there is no column 'text'; .*'content', 'id'"):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text,text\na,b\n", "several columns named 'text'"),
        (b'"text\na\n', "the header cannot be read: .*" + BROKEN),
        (b"te\xffxt\na\n", "the header is not UTF-8"),
    ],
)
def test_a_header_that_cannot_be_used_is_refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"x", "1 field, but the header has 2"),
        (b"x,1,2", "3 fields, but the header has 2"),
        (b"x\xff,1", "column 'text' holds invalid UTF-8: byte 0xff at position 1"),
        (b'"x"y,1', BROKEN),
        (b'"x" ,1', BROKEN),
        (b'"x,1', BROKEN),
        (b'x,"1', BROKEN),
    ],
)
@pytest.mark.parametrize(
    "after", [b'plain,2\n"quoted",3\n', b'"quo\nted",2\nplain,3\n', b'a"b,2\nc,3\n', b"p,2\nq,3"]
)
def test_a_bad_row_is_one_failed_row_and_its_neighbours_are_untouched(
    path: Path, bad: bytes, reason: str, after: bytes
) -> None:
    path.write_bytes(b"text,id\nbefore,0\n" + after)
    expected = [row.values for row in read(path, keep=["id"])]
    path.write_bytes(b"text,id\nbefore,0\n" + bad + b"\n" + after)
    rows = read(path, keep=["id"])
    assert [row.values for row in rows[:1] + rows[2:]] == expected
    assert rows[1].failure is not None
    assert rows[1].failure.startswith(f"RowError: {path}, row 3: ")
    assert reason in rows[1].failure


def test_a_quote_inside_an_unquoted_field_is_an_ordinary_character(path: Path) -> None:
    path.write_bytes(b'text,id\n5" pipe,1\nsay "hi",2\n""x,3\na,4\n')
    rows = read(path, keep=["id"])
    assert [row.values for row in rows] == [('5" pipe', "1"), ('say "hi"', "2"), (None, None), ("a", "4")]


def test_a_lone_carriage_return_does_not_end_a_row(path: Path) -> None:
    path.write_bytes(b'text\na\rb\n"c\rd"\n\r\r\n')
    assert texts(path) == ["a\rb", "c\rd", "\r"]


def test_a_row_over_the_limit_fails_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 16)
    path.write_bytes(b'text,id\na,1\n"' + b"x,\n" * 50 + b'",2\n' + b"y" * 99 + b",3\nb,4\n")
    rows = read(path, max_row_bytes=20)
    assert [row.values[0] for row in rows] == ["a", None, None, "b"]
    assert (rows[1].failure or "").startswith(f"RowTooLargeError: {path}, row 3: 154 bytes, more than")
    assert (rows[2].failure or "").startswith(f"RowTooLargeError: {path}, row 4: 101 bytes, more than")


def test_an_unclosed_quote_costs_one_row_unless_it_is_over_the_limit(path: Path) -> None:
    path.write_bytes(b'text,id\na,1\n"b,2\n' + b"c,3\n" * 50)
    assert [row.values[0] for row in read(path)] == ["a", None, *["c"] * 50]
    assert failures(path) == {1: f"RowError: {path}, row 3: {BROKEN}"}
    rows = read(path, max_row_bytes=100)
    assert [row.values[0] for row in rows] == ["a", None]
    assert "RowTooLargeError" in (rows[1].failure or "")


def test_good_blocks_are_parsed_by_arrow_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b'text,id\n"a\nb",1\n\n"c""d",2\r\ne,3\n' * 1)
    monkeypatch.setattr(_Decoder, "_take_apart", None)
    assert texts(path) == ["a\nb", 'c"d', "e"]


fields = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8
) | st.sampled_from(['"', '""', ",", "\n", "\r\n", 'a"b', "\t", " "])
tables = st.lists(st.tuples(fields, fields), max_size=8)


@given(
    table=tables,
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    block_bytes=st.sampled_from([1, 7, 1 << 20]),
    delimiter=st.sampled_from([",", "\t"]),
)
@example(table=[("", "")], quoting=csv.QUOTE_ALL, end="\n", block_bytes=1, delimiter=",")
def test_what_the_csv_module_writes_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    table: list[tuple[str, str]],
    quoting: Any,
    end: str,
    block_bytes: int,
    delimiter: str,
) -> None:
    path = tmp_path_factory.getbasetemp() / ("twin.csv" if delimiter == "," else "twin.tsv")
    with io.StringIO(newline="") as written:
        writer = csv.writer(written, quoting=quoting, lineterminator=end, delimiter=delimiter)
        writer.writerow(["text", "more"])
        writer.writerows(table)
        path.write_bytes(written.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", block_bytes)
        rows = read(path, keep=["more"])
    assert [row.values for row in rows] == table
    assert [row.number for row in rows] == list(range(1, len(table) + 1))


sloppy = st.lists(
    st.sampled_from([b'"', b",", b"\n", b"a", b"\r", b"\xff", b"bcd", b'""', b'"x"', b"\r\n"]), max_size=40
)


@given(content=sloppy.map(b"".join), unit_rows=st.integers(1, 4), limit=st.sampled_from([3, 8, 1 << 20]))
def test_however_sloppy_a_file_is_its_rows_do_not_depend_on_how_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, unit_rows: int, limit: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "sloppy.csv"
    path.write_bytes(b"text,b\n" + content)
    whole = read(path, max_row_bytes=limit)
    with pytest.MonkeyPatch.context() as patch:
        for block_bytes in (1, 5):
            patch.setattr(lines, "BLOCK_BYTES", block_bytes)
            assert read(path, max_row_bytes=limit) == whole
        plan = plan_units(path, unit_rows=unit_rows, max_row_bytes=limit)
        assert plan.num_rows == len(whole)
        alone = [chunk for unit in plan for chunk in UnitSource(plan, [unit]).chunks()]
        assert rows_of(alone) == whole


def test_a_file_without_bad_quotes_never_loses_a_line(path: Path) -> None:
    """Every physical line that is a good record on its own survives a broken one above it."""
    path.write_bytes(b'text,b\n"open,1\n' + b"".join(b"row %d,x\n" % number for number in range(1000)))
    assert texts(path) == [None, *(f"row {number}" for number in range(1000))]
