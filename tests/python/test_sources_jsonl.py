"""JSON Lines: every row in its place, whatever is on the line."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import _core
from penstock.errors import MissingColumnError, SourceError
from penstock.sources import files, jsonl, lines, plan_units
from test_sources import failures, read, texts

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


GOOD = b'{"text": "before"}\n'
AFTER = b'{"text": "after"}\n'

BAD_LINES = [
    (b'{"text": "x"', "broken JSON at column 13: Expecting ',' delimiter"),
    (b'{"text": "x",}', "broken JSON at column"),
    (b"{'text': 'x'}", "broken JSON at column 2"),
    (b"hello", "broken JSON at column 1: Expecting value"),
    (b'{"text": "a"}{"text": "b"}', "broken JSON at column 14: Extra data"),
    (b'{"text": "a"} {"text": "b"}', "broken JSON at column 15: Extra data"),
    (b'{"text": "a"}\r{"text": "b"}', "Extra data"),
    (b'{"text": "a"} null', "Extra data"),
    (b"null", "expected a JSON object, got null"),
    (b"[1]", "expected a JSON object, got an array"),
    (b'"x"', "expected a JSON object, got a string"),
    (b"true", "expected a JSON object, got a boolean"),
    (b"1.5", "expected a JSON object, got a number"),
    (b"\x00", "broken JSON at column 1"),
    (b'{"text": "a\tb"}', "broken JSON at column 12: Invalid control character"),
    (b'{"text": "\xff"}', "invalid UTF-8: byte 0xff at position 10 (invalid start byte)"),
    (b'{"text": "\xed\xa0\x80"}', "invalid UTF-8: byte 0xed at position 10"),
    (b'{"text": "\xc0\xaf"}', "invalid UTF-8: byte 0xc0 at position 10"),
    (b'{"text": "a\\ud800b"}', "column 'text' holds a lone surrogate at position 1"),
    (b'{"text": "\\udc00"}', "column 'text' holds a lone surrogate at position 0"),
    (b'{"text": "\\x41"}', "broken JSON at column"),
    (b'{"text": null}', "column 'text' is null"),
    (b'{"body": "x"}', "column 'text' is missing from this row"),
    (b"{}", "column 'text' is missing from this row"),
    (b'{"text": 5}', "column 'text' has the wrong type: expected a string, got int"),
    (b'{"text": 1e999}', "column 'text' has the wrong type: expected a string"),
    (b'{"text": true}', "expected a string, got bool"),
    (b'{"text": ["x"]}', "expected a string, got list"),
    (b'{"text": {"a": 1}}', "expected a string, got dict"),
    (b'{"text": "a", "text": "b"}', "column 'text': a key is there twice"),
    (b'{"text": "a", "te\\u0078t": "b"}', "column 'text': a key is there twice"),
    (b'{"x": ' + b"[" * 200_000 + b"]" * 200_000, "broken JSON: nested too deeply"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES, ids=[str(line[:30]) for line, _ in BAD_LINES])
def test_a_bad_line_is_one_failed_row_and_its_neighbours_are_untouched(
    path: Path, line: bytes, reason: str
) -> None:
    path.write_bytes(GOOD + line + b"\n" + AFTER)
    rows = read(path)
    assert [row.values[0] for row in rows] == ["before", None, "after"]
    assert (rows[1].failure or "").startswith(f"RowError: {path}, row 2: ")
    assert reason in (rows[1].failure or "")


LENIENT_LINES = [
    b'{"text": "x", "other": Inf}',
    b'{"text": "x", "other": NaN}',
    b'{"text": "x", "other": -Infinity}',
    b'{"text": "x", "other": 1e999}',
    b'{"text": "x", "other": ' + b"9" * 5000 + b"}",
    b'{"text": "x", "other": "\xff"}',
    b'{"text": "x", "\xff": 1}',
    b'{"text": "x", "other": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    b'{"text": "x", "other": 1, "other": 2}',
    b'{"text": "x", "other": "\\ud800"}',
    b'  {"text": "x"}  ',
    b'{"text": "x"}\r',
    b'\t{"te\\u0078t": "\\u0078"}',
]


@pytest.mark.parametrize("line", LENIENT_LINES, ids=[str(line[:40]) for line in LENIENT_LINES])
@pytest.mark.parametrize("neighbour", [AFTER, b"broken\n"])
def test_a_field_that_nobody_wants_does_not_cost_the_row(path: Path, line: bytes, neighbour: bytes) -> None:
    """The same with good and with bad neighbours: what becomes of a row depends on the row alone."""
    path.write_bytes(GOOD + line + b"\n" + neighbour)
    assert texts(path)[:2] == ["before", "x"]


def test_blank_lines_are_not_rows_and_numbers_stay_those_of_an_editor(path: Path) -> None:
    path.write_bytes(b'\n{"text": "a"}\n\n \t\r\n{"text": "b"}\n{"text": 1}\n\nbroken\n\n')
    rows = read(path)
    assert [(row.number + 1, row.values[0]) for row in rows] == [(2, "a"), (5, "b"), (6, None), (8, None)]
    assert (rows[3].failure or "").startswith(f"RowError: {path}, row 8: broken JSON")


def test_a_byte_order_mark_and_a_last_line_without_newline_are_accepted(path: Path) -> None:
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}')
    assert texts(path) == ["a", "b"]
    path.write_bytes(b"\xef\xbb\xbf")
    assert texts(path) == []


@pytest.mark.parametrize("content", [b"", b"\n", b" \n\r\n\t"])
def test_a_file_without_rows_has_none(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert read(path, keep=["id"]) == []


def test_a_text_column_absent_from_every_row_is_refused_with_those_that_exist(path: Path) -> None:
    path.write_bytes(b'{"content": "a", "id": 1}\n{"content": "b", "lang": "en"}\n')
    with pytest.raises(MissingColumnError) as error:
        read(path)
    assert str(error.value) == (
        f"{path}: there is no column 'text'; the columns are: 'content', 'id', 'lang'. "
        "Name one of them with --text-column (text_column=)"
    )
    with pytest.raises(MissingColumnError, match="no column 'date'"):
        read(path, text_column="content", keep=["date"])


def test_a_second_file_without_the_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_bytes(GOOD)
    (tmp_path / "2.jsonl").write_bytes(b'{"content": "a"}\n')
    with pytest.raises(MissingColumnError, match=r"2\.jsonl: there is no column 'text'"):
        read(tmp_path)


def test_a_column_absent_from_the_first_row_only_costs_that_row(path: Path) -> None:
    path.write_bytes(b'{"id": 1}\n' + AFTER)
    assert texts(path) == [None, "after"]


def test_a_json_array_is_refused_with_a_remedy(path: Path) -> None:
    path.write_bytes(b'[\n{"text": "a"},\n{"text": "b"}\n]\n')
    with pytest.raises(SourceError, match=r"JSON array.*jq -c '\.\[\]'"):
        read(path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_is_refused_with_a_remedy(path: Path, encoding: str) -> None:
    path.write_bytes(("\ufeff" + GOOD.decode()).encode(encoding))
    with pytest.raises(SourceError, match="UTF-16; convert it: iconv"):
        read(path)


def test_kept_columns_keep_their_types(path: Path) -> None:
    row = {"text": "a", "id": 7, "score": 0.5, "ok": True, "name": "n", "tags": ["x"], "meta": {"u": 1}}
    path.write_text(json.dumps(row) + "\n" + json.dumps({"text": "b"}) + "\n")
    keep = ["id", "score", "ok", "name", "tags", "meta"]
    rows = read(path, keep=keep)
    assert rows[0].values == tuple(row.values())
    assert rows[1].values == ("b", *[None] * 6)
    assert rows[1].failure is None


def test_a_kept_column_of_whole_numbers_and_fractions_is_float(path: Path) -> None:
    path.write_bytes(b'{"text": "a", "n": 1}\n{"text": "b", "n": 2.5}\n{"text": "c", "n": null}\n')
    assert [row.values for row in read(path, keep=["n"])] == [("a", 1.0), ("b", 2.5), ("c", None)]


def test_a_kept_column_that_is_null_at_first_is_string(path: Path) -> None:
    path.write_bytes(b'{"text": "a", "n": null}\n')
    plan = plan_units(path, keep=["n"])
    assert plan.schema.field("n").type == pa.string()


@pytest.mark.parametrize(
    ("first", "later", "reason"),
    [
        (b"1", b'"x"', "'x' is of type string, but the column is int64"),
        (b"1", b"1.5", "1.5 is of type double, but the column is int64"),
        (b"1", b"1.0", "1.0 is of type double, but the column is int64"),
        (b"1", b"true", "True is of type bool, but the column is int64"),
        (b"1", b"99999999999999999999", "but the column is int64"),
        (b"1.5", b"1e999", "1e999 is of type"),
        (b'"x"', b"1", "1 is of type int64, but the column is string"),
        (b'"x"', b'"\\ud800"', "holds a lone surrogate"),
        (b'["x"]', b'"x"', "but the column is list"),
        (b'["x"]', b"[1]", "but the column is list"),
        (b'{"a": 1}', b'{"a": 1, "b": 2}', "but the column is struct"),
        (b'{"a": 1}', b'{"a": "x"}', "but the column is struct"),
        (b'{"a": 1}', b'{"a": 1, "a": 2}', "a key is there twice"),
        (b"1", b'1, "k": 2', "column 'k': a key is there twice"),
    ],
)
def test_a_kept_value_that_does_not_fit_its_column_fails_by_name(
    path: Path, monkeypatch: pytest.MonkeyPatch, first: bytes, later: bytes, reason: str
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 40)  # so that the type is found without the later row
    front = b'{"text": "a", "k": ' + first + b"}\n"
    path.write_bytes(front * 3 + b'{"text": "b", "k": ' + later + b"}\n" + front)
    rows = read(path, keep=["k"])
    assert [row.values[0] for row in rows] == ["a", "a", "a", None, "a"]
    assert "k" in (rows[3].failure or "")
    assert reason in (rows[3].failure or "")
    assert f"{path}, row 4: " in (rows[3].failure or "")


def test_a_row_that_fails_for_its_text_keeps_its_other_columns(path: Path) -> None:
    path.write_bytes(b'{"text": null, "id": 1}\n{"text": 5, "id": 2}\n{"text": "a", "id": 3}\n')
    assert [row.values for row in read(path, keep=["id"])] == [(None, 1), (None, 2), ("a", 3)]


def test_whole_numbers_over_int64_are_uint64_or_the_nearest_float(path: Path) -> None:
    path.write_bytes(b'{"text": "a", "h": 18446744073709551615, "f": 0.5}\nbroken\n')
    with path.open("ab") as file:
        file.write(b'{"text": "b", "h": 1, "f": 100000000000000000000000}\n')
    rows = read(path, keep=["h", "f"])
    assert rows[0].values == ("a", 18446744073709551615, 0.5)
    assert rows[2].values == ("b", 1, 1e23)


def test_pairs_need_both_texts(path: Path) -> None:
    path.write_bytes(b'{"a": "x", "b": "y"}\n{"a": "x", "b": null}\n{"b": "y"}\n{"a": "1", "b": "2"}\n')
    rows = read(path, text_column="a", pair_column="b")
    assert [row.values for row in rows] == [("x", "y"), (None, None), (None, None), ("1", "2")]
    assert "column 'b' is null" in (rows[1].failure or "")
    assert "column 'a' is missing from this row" in (rows[2].failure or "")


def test_token_ids_are_read_from_lists_of_numbers(path: Path) -> None:
    path.write_bytes(
        b'{"ids": [1, 2]}\n{"ids": []}\n{"ids": [1.5]}\n{"ids": [-1]}\n{"ids": "x"}\n{"ids": [3]}\n'
    )
    rows = read(path, text_column="ids", ids=True)
    assert [row.values[0] for row in rows] == [[1, 2], [], None, None, None, [3]]


def test_a_line_over_the_limit_fails_without_being_held_in_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 64)
    size = 100_000
    path.write_bytes(GOOD + b'{"text": "' + b"x" * (size - 12) + b'"}\n' + AFTER * 3)
    held = []
    block = lines.LineReader.block

    def watched(reader: lines.LineReader, data: bytes, offset: int, number: int) -> lines.Block:
        held.append(len(data))
        return block(reader, data, offset, number)

    monkeypatch.setattr(lines.LineReader, "block", watched)
    assert texts(path, max_row_bytes=100) == ["before", None, "after", "after", "after"]
    assert max(held) < 300
    assert failures(path, max_row_bytes=100) == {
        1: f"RowTooLargeError: {path}, row 2: {size:,} bytes, more than max_row_bytes (100); "
        "raise max_row_bytes or cut the row"
    }


def test_the_crash_of_arrow_at_a_top_level_null_is_never_met(path: Path) -> None:
    """pyarrow.json dies of a segmentation fault on this file; in a child process, should we too."""
    path.write_bytes(b"null\n" * 3 + GOOD)
    code = (
        "from penstock.sources import as_source; "
        f"print([len(chunk.failures) for chunk in as_source({str(path)!r}).chunks()])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout.strip()) == (0, "[3]")


def test_good_blocks_are_parsed_by_arrow_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("a good block went line by line")

    path.write_bytes((GOOD + b"\r\n" + AFTER.replace(b"\n", b"\r\n")) * 100)
    rows = read(path)
    monkeypatch.setattr(jsonl._Decoder, "_decode_lines", refuse)
    monkeypatch.setattr(jsonl, "read_strings", lambda *_: None)
    assert read(path) == rows


def test_good_blocks_of_strings_are_read_without_arrow(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("a good block of strings went to Arrow")

    line = json.dumps({"id": "\u00e9\ud83c\udf0a", "n": [1.5, None], "text": 'a "b"\n\t\u6c34'}).encode()
    plain = '{"text": "\u6c34", "id": "", "n": {"text": 5}}'.encode()
    path.write_bytes(b"\n".join([line, b"", plain, b" \r", line]))
    monkeypatch.setattr(jsonl._Decoder, "_parse", refuse)
    monkeypatch.setattr(jsonl._Decoder, "_decode_lines", refuse)
    rows = read(path, keep=["id"])
    assert [(row.number, row.values) for row in rows] == [
        (0, ('a "b"\n\t\u6c34', "\u00e9\U0001f30a")),
        (2, ("\u6c34", "")),
        (4, ('a "b"\n\t\u6c34', "\u00e9\U0001f30a")),
    ]


def test_what_is_not_wanted_of_a_block_is_not_kept_in_memory(path: Path) -> None:
    path.write_bytes(b'{"text": "short", "other": "' + b"x" * 999_000 + b'"}\n')
    (chunk,) = files(path).chunks()
    assert chunk.batch.column(0).to_pylist() == ["short"]
    before = pa.total_allocated_bytes()
    del chunk
    assert before - pa.total_allocated_bytes() < 1_000


WRONG_CALLS: list[tuple[dict[str, Any], str]] = [
    ({"starts": [0, 2], "ends": [5]}, "starts and ends differ in length"),
    ({"starts": [2], "ends": [1]}, "line 0 begins or ends before"),
    ({"starts": [0, 1], "ends": [2, 4]}, "line 1 begins or ends before"),
    ({"starts": [-1], "ends": [1]}, "line 0 begins or ends before"),
    ({"starts": [0], "ends": [99]}, "the last line ends behind the data"),
    ({"strings": []}, "one buffer of bytes and one of offsets for each name"),
    ({"strings": [bytearray(15)]}, "must have 29 elements of 1 bytes"),
    ({"offsets": [np.zeros(1, np.int32)]}, "must have 2 elements of 4 bytes"),
    ({"offsets": [np.zeros(9, np.int64)]}, "must have 2 elements of 4 bytes"),
    ({"offsets": [np.zeros(9, np.int32)[::2]]}, "must have 2 elements of 4 bytes"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG_CALLS)
def test_the_core_refuses_buffers_and_lines_that_do_not_fit(wrong: dict[str, Any], message: str) -> None:
    call: dict[str, Any] = {"data": b'{"text": "a"}', "starts": [0], "ends": [13], "names": ["text"]}
    call |= {"strings": [bytearray(29)], "offsets": [np.zeros(2, np.int32)]}
    numbers = {name: np.array((call | wrong)[name], np.int64) for name in ("starts", "ends")}
    assert _core.read_json_strings(**call)
    with pytest.raises(ValueError, match=message):
        _core.read_json_strings(**(call | wrong | numbers))


def twin(content: bytes) -> list[tuple[int, str | None]]:
    """The slow, obvious reading: (number of the line, text or None)."""
    rows: list[tuple[int, str | None]] = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n")):
        if not line.strip(b" \t\r"):
            continue
        try:
            pairs = json.loads(line.strip(b" \t\r").decode(), object_pairs_hook=list)
            (text,) = [value for key, value in pairs if key == "text"]
            text.encode()
        except (ValueError, TypeError, AttributeError):
            text = None
        rows.append((number, text))
    return rows


any_text = st.text(st.characters(), max_size=20)  # lone surrogates included
any_value = st.one_of(any_text, st.none(), st.integers(), st.booleans(), st.lists(any_text, max_size=2))
objects = st.dictionaries(
    st.sampled_from(["text", "id", "x"]), any_value, max_size=3
) | st.fixed_dictionaries({"text": any_text})
json_lines = st.builds(
    lambda value, ascii, pad: pad + json.dumps(value, ensure_ascii=ascii).encode("utf-8", "surrogatepass"),
    objects,
    st.booleans(),
    st.sampled_from([b"", b"", b" "]),
)
garbage = st.binary(max_size=12).map(
    lambda raw: raw.replace(b"\n", b"").replace(b"I", b"").replace(b"N", b"")
)
any_line = st.one_of(
    json_lines, json_lines, json_lines, garbage, st.sampled_from([line for line, _ in BAD_LINES[:-1]])
)
any_content = st.builds(
    lambda lines_, ends, tail: b"".join(
        line + ends[place % len(ends)] for place, line in enumerate(lines_)
    ).removesuffix(b"\n" if tail else b""),
    st.lists(any_line, max_size=12),
    st.lists(st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n"]), min_size=1, max_size=3),
    st.booleans(),
)


@given(content=any_content, block_bytes=st.sampled_from([16, 64, 1 << 20]), compressed=st.booleans())
def test_whatever_is_in_the_file_the_rows_are_those_of_json_loads(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, block_bytes: int, compressed: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / ("twin.jsonl.gz" if compressed else "twin.jsonl")
    path.write_bytes(gzip.compress(content) if compressed else content)
    expected = twin(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", block_bytes)
        try:
            rows = read(path)
        except (MissingColumnError, SourceError):
            assert expected == [] or all(text is None for _, text in expected[:1])
            return
    assert [(row.number, row.values[0]) for row in rows] == expected


@given(content=any_content, good=st.lists(st.builds(json.dumps, objects), max_size=3))
def test_whatever_the_core_takes_arrow_and_json_read_alike(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, good: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "core.jsonl"
    path.write_bytes(b'{"text": "a", "id": "b"}\n' + "".join(line + "\n" for line in good).encode() + content)
    for keep in ([], ["id"]):
        found = read(path, keep=keep)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jsonl, "read_strings", lambda *_: None)
            assert found == read(path, keep=keep)


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "text": st.text(max_size=10),
                "int": st.none() | st.integers(-(1 << 63), (1 << 63) - 1),
                "float": st.none() | finite,
                "str": st.none() | st.text(max_size=5),
                "bool": st.none() | st.booleans(),
                "list": st.none() | st.lists(st.none() | st.integers(-99, 99), max_size=3),
                "struct": st.fixed_dictionaries(
                    {"a": st.none() | st.integers(-9, 9), "b": st.text(max_size=3)}
                ),
            }
        ),
        min_size=1,
        max_size=8,
    ),
    slow=st.booleans(),
)
def test_kept_values_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], slow: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "kept.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + ("broken\n" if slow else ""))
    for keep in (["int", "float", "str", "bool", "list"], ["struct"]):
        found = read(path, keep=keep)
        assert all(row.failure is None for row in found[: len(rows)])
        for row, expected in zip(found, rows):
            for name, value in zip(["text", *keep], row.values):
                same = value == expected[name] or (name == "float" and math.isclose(value, expected[name]))
                assert same, name
