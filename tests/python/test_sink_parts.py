"""What is in a part: the same rows, in both formats, as bytes that depend on nothing else."""

from __future__ import annotations

import datetime
import decimal
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.sink.parts import decode, describe, encode
from penstock.sources import Segment, Unit

STRINGS = ["\x00\x01\x1f\x7f", 'quo"te \\ back', "a\nb\r\nc", "\x85\u2028\u2029", "\U0001f30a 水", "", None]
NAN, INF = float("nan"), float("inf")


def unit_of(num_rows: int) -> Unit:
    return Unit(12, (Segment("a.jsonl", "jsonl", 100, 900, 5, num_rows),), 5, num_rows)


def back(table: pa.Table, format: Any) -> pa.Table:
    unit = unit_of(table.num_rows)
    content = encode(unit, table, format)
    part = describe(unit, table, content, format, digits=5, splits=(), quarantined={})
    assert part.name.startswith("part-00012-") and part.name.endswith(f".{format}")
    return decode(part, bytes(content), part.name)


def jsonl_lines(table: pa.Table) -> list[str]:
    return bytes(encode(unit_of(table.num_rows), table, "jsonl")).decode("utf-8").splitlines()


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_any_string_comes_back_as_it_was(format: str) -> None:
    table = pa.table({"text": STRINGS, "key \u2028": STRINGS})
    assert back(table, format).to_pydict() == table.to_pydict()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.none() | st.text(), min_size=1, max_size=20))
def test_any_list_of_strings_is_one_json_object_per_line(texts: list[str | None]) -> None:
    lines = jsonl_lines(pa.table({"text": pa.array(texts, pa.string())}))
    assert [json.loads(line)["text"] for line in lines] == texts


def test_jsonl_holds_finite_numbers_or_null() -> None:
    table = pa.table(
        {
            "score": pa.array([1.5, NAN, INF], pa.float64()),
            "half": pa.array([0.5, -INF, 2.0], pa.float16()),
            "probs": [[0.25, NAN], [], None],
            "nested": [{"a": [NAN]}, {"a": [1.0]}, None],
        }
    )
    rows = [json.loads(line, parse_constant=pytest.fail) for line in jsonl_lines(table)]
    assert rows == [
        {"score": 1.5, "half": 0.5, "probs": [0.25, None], "nested": {"a": [None]}},
        {"score": None, "half": None, "probs": [], "nested": {"a": [1.0]}},
        {"score": None, "half": 2.0, "probs": None, "nested": None},
    ]


def test_parquet_keeps_every_number_as_it_is() -> None:
    table = pa.table({"score": pa.array([1.5, NAN, -INF, None], pa.float32())})
    found = back(table, "parquet")["score"].to_pylist()
    assert (found[0], found[2], found[3]) == (1.5, -INF, None)
    assert found[1] != found[1]


def test_embeddings_keep_their_fixed_size_and_their_nulls() -> None:
    embeddings = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2))
    table = pa.table({"embedding": embeddings, "error": [None, "no text", None]})
    found = back(table, "parquet")
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), 2)
    assert found.equals(table)
    assert back(table, "jsonl")["embedding"].to_pylist() == [[1.0, 2.0], None, [3.0, 4.0]]


def test_kept_columns_of_other_types_go_out_as_strings_and_numbers() -> None:
    table = pa.table(
        {
            "when": pa.array([1], pa.timestamp("ns")),
            "day": [datetime.date(2026, 1, 2)],
            "took": pa.array([5], pa.duration("ns")),
            "price": [decimal.Decimal("1.10")],
            "raw": [b"\xff\x00"],
            "inner": [{"at": datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.timezone.utc)}],
        }
    )
    assert json.loads(jsonl_lines(table)[0]) == {
        "when": "1970-01-01 00:00:00.000000001",
        "day": "2026-01-02",
        "took": 5,
        "price": "1.10",
        "raw": "/wA=",
        "inner": {"at": "2026-01-02T03:00:00+00:00"},
    }


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_the_bytes_do_not_depend_on_how_the_table_was_put_together(format: Any) -> None:
    rows = [{"id": n, "text": "word " * (n % 50), "vector": [float(n), 1.0]} for n in range(5000)]
    whole = pa.Table.from_pylist(rows)
    pieces = pa.concat_tables([whole.slice(0, 7), whole.slice(7, 3000), whole.slice(3007)])
    unit = unit_of(5000)
    assert bytes(encode(unit, whole, format)) == bytes(encode(unit, pieces, format))
    padded = pa.concat_tables([whole, whole]).combine_chunks().slice(5000)
    assert bytes(encode(unit, whole, format)) == bytes(encode(unit, padded, format))


def test_a_parquet_part_says_what_it_holds_and_its_pages_have_checksums() -> None:
    table = pa.table({"id": list(range(2000))}).replace_schema_metadata({"owner": "me"})
    content = bytearray(encode(unit_of(2000), table, "parquet"))
    metadata = pq.read_schema(pa.BufferReader(bytes(content))).metadata
    assert metadata[b"owner"] == b"me"
    assert json.loads(metadata[b"penstock"]) == {
        "unit": 12, "first_index": 5, "num_rows": 2000, "segments": [["a.jsonl", 5, 2000]],
    }  # fmt: skip
    content[200] ^= 1
    with pytest.raises(OSError, match=r"(?i)crc|checksum"):
        pq.read_table(pa.BufferReader(bytes(content)), page_checksum_verification=True)


def test_a_part_of_no_rows_is_a_part() -> None:
    table = pa.table({"id": pa.array([], pa.int64()), "embedding": pa.array([], pa.list_(pa.float32(), 2))})
    assert back(table, "parquet").equals(table)
    assert back(table, "jsonl").num_rows == 0
