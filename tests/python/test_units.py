"""Units: they tile the input, and each alone gives the rows that it gives among the others."""

from __future__ import annotations

import gzip
import json
import os
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, MissingColumnError, SourceError, SourceExhaustedError
from penstock.sources import Plan, Segment, Unit, UnitSource, lines, plan_units, streams
from test_sources import read, rows_of

if TYPE_CHECKING:
    from pathlib import Path


def jsonl(*texts: str) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def test_a_unit_is_so_many_rows_or_so_many_bytes_whichever_is_less(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"123456789\n" * 10)
    assert [unit.num_rows for unit in plan_units(path, unit_rows=4)] == [4, 4, 2]
    assert [unit.num_rows for unit in plan_units(path, unit_bytes=35)] == [3, 3, 3, 1]
    assert [unit.num_rows for unit in plan_units(path, unit_rows=2, unit_bytes=35)] == [2] * 5
    assert [unit.num_rows for unit in plan_units(path, unit_bytes=1)] == [1] * 10


def test_byte_ranges_begin_and_end_at_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    content = (
        b"\xef\xbb\xbf" + jsonl("a", "b") + b"\n \n" + jsonl("c", "d", "e").replace(b"\n", b"\r\n") + b"\n"
    )
    path.write_bytes(content)
    plan = plan_units(path, unit_rows=2)
    (first,), (second,), (third,) = (unit.segments for unit in plan)
    assert (first.start, second.start, third.start) == (0, first.stop, second.stop)
    assert content[: first.stop] == b"\xef\xbb\xbf" + jsonl("a", "b")
    assert [segment.first_row for segment in (first, second, third)] == [0, 2, 6]
    assert [(row.number, row.values[0]) for row in rows_of(UnitSource(plan, [1]).chunks())] == [
        (4, "c"),
        (5, "d"),
    ]


def test_small_files_share_a_unit(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.jsonl").write_bytes(jsonl(f"{number}a", f"{number}b", f"{number}c"))
    plan = plan_units(tmp_path, unit_rows=7)
    assert [unit.num_rows for unit in plan] == [7, 7, 1]
    assert [[part.num_rows for part in unit.segments] for unit in plan] == [[3, 3, 1], [2, 3, 2], [1]]
    assert [unit.first_index for unit in plan] == [0, 7, 14]


def test_chunks_carry_their_unit_and_their_index(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_bytes(b"a\nb\nc\n")
    plan = plan_units(tmp_path, unit_rows=4)
    chunks = list(UnitSource(plan).chunks())
    assert [(chunk.unit, chunk.first_index, len(chunk)) for chunk in chunks] == [
        (0, 0, 3), (0, 3, 1), (1, 4, 2), (1, 6, 2), (2, 8, 1),
    ]  # fmt: skip


def test_finished_units_are_left_out_and_chosen_ones_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"".join(b"%d\n" % number for number in range(10))))
    plan = plan_units(tmp_path, unit_rows=2)

    def numbers(**options: Any) -> list[int]:
        return [int(row.values[0]) for row in rows_of(UnitSource(plan, **options).chunks())]

    assert numbers(finished={0, 2}) == [2, 3, 6, 7, 8, 9]
    assert numbers(units=[1, plan[4]]) == [2, 3, 8, 9]
    assert numbers(units=[1, 3], finished={3}) == [2, 3]
    assert numbers(units=[]) == []
    assert numbers(units=[3, 1]) == [6, 7, 2, 3]


def test_units_may_be_handed_out_as_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"".join(b"%d\n" % number for number in range(10)))
    plan = plan_units(tmp_path, unit_rows=2)
    asked: list[int] = []

    def hand_out() -> Any:
        for unit in plan.units[::2]:
            asked.append(unit.id)
            yield unit

    source = UnitSource(plan, hand_out())
    chunks = source.chunks()
    assert next(chunks).unit == 0
    assert asked == [0]
    assert [chunk.unit for chunk in chunks] == [2, 4]
    with pytest.raises(SourceExhaustedError, match="handed out by an iterator"):
        source.chunks()
    again = UnitSource(plan, [0, 1])
    assert rows_of(again.chunks()) == rows_of(again.chunks())


def test_a_compressed_file_is_read_through_once_for_all_its_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"x\n" * 1000))
    plan = plan_units(tmp_path, unit_rows=10)
    opened = 0
    enter = streams.ByteStream.__enter__

    def count(stream: Any) -> Any:
        nonlocal opened
        opened += 1
        return enter(stream)

    monkeypatch.setattr(streams.ByteStream, "__enter__", count)
    assert len(rows_of(UnitSource(plan, range(0, 100, 3)).chunks())) == 340
    assert opened == 1


def test_a_plan_comes_back_from_json_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a", "id": 1, "m": {"x": [1.5]}}\n' * 3)
    (tmp_path / "b.txt").write_bytes(b"")
    plan = plan_units(tmp_path / "a.jsonl", unit_rows=2, keep=["id", "m"], max_row_bytes=1000)
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert again.schema.equals(plan.schema)
    assert again.content_hash() == plan.content_hash()
    assert rows_of(UnitSource(again).chunks()) == rows_of(UnitSource(plan).chunks())
    assert [Unit.from_json(json.loads(json.dumps(unit.to_json()))) for unit in plan] == list(plan)
    segment = plan[1].segments[0]
    assert Segment.from_json(json.loads(json.dumps(segment.to_json()))) == segment
    assert (len(plan), plan.num_rows, plan[-1], plan[:1]) == (2, 3, plan.units[1], plan.units[:1])


def test_the_same_input_gives_the_same_plan_and_any_change_another_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl("a", "b", "c"))
    plan = plan_units(path)
    assert plan_units(path) == plan
    assert plan_units(path).content_hash() == plan.content_hash()
    others = [
        plan_units(path, unit_rows=2).content_hash(),
        plan_units(path, max_row_bytes=100).content_hash(),
        plan_units(path, keep=["text"]).content_hash(),
        plan_units(path, format="text").content_hash(),
    ]
    os.utime(path, ns=(1, 1))
    others.append(plan_units(path).content_hash())
    path.write_bytes(jsonl("a", "b", "d!"))
    others.append(plan_units(path).content_hash())
    assert len({plan.content_hash(), *others}) == 7


def test_a_plan_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\n")
    content = plan_units(tmp_path).to_json()
    with pytest.raises(ConfigError, match="version 99"):
        Plan.from_json(content | {"version": 99})


@pytest.mark.parametrize("format", ["jsonl", "txt.gz", "parquet", "csv"])
@pytest.mark.parametrize("more", [True, False])
def test_a_file_that_changed_since_the_plan_is_named(tmp_path: Path, format: str, more: bool) -> None:
    path = tmp_path / f"a.{format}"

    def write(rows: int) -> None:
        texts = [str(number) for number in range(rows)]
        content = {
            "jsonl": jsonl(*texts),
            "txt.gz": gzip.compress("".join(text + "\n" for text in texts).encode()),
            "csv": "".join(text + "\n" for text in ["text", *texts]).encode(),
        }.get(format)
        if content is None:
            pq.write_table(pa.table({"text": texts}), path)
        else:
            path.write_bytes(content)

    write(10)
    plan = plan_units(path, unit_rows=4)
    write(11 if more else 9)
    with pytest.raises(SourceError, match=rf"a\.{format}: changed since the plan"):
        rows_of(UnitSource(plan).chunks())


@pytest.mark.parametrize(
    ("content", "found"), [(b"a\nb\nc\nd\ne\nf\n", "it gave more"), (b"abcde\nfghij\n", "it gave 1 row;")]
)
def test_another_number_of_rows_is_noticed_even_if_size_and_time_are_the_same(
    tmp_path: Path, content: bytes, found: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"ab\ncd\nef\ngh\n")
    plan = plan_units(path, unit_rows=2)
    path.write_bytes(content)
    os.utime(path, ns=(plan.files[0].mtime_ns or 0, plan.files[0].mtime_ns or 0))
    with pytest.raises(SourceError, match=rf"a\.txt: changed since the plan, which has 2 rows .*{found}"):
        rows_of(UnitSource(plan).chunks())


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\n")
    plan = plan_units(tmp_path)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(SourceError, match=r"a\.txt: cannot be read"):
        rows_of(UnitSource(plan).chunks())


def test_kept_types_are_those_of_the_plan_whichever_unit_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a", "k": 1}\n{"text": "b", "k": 2.5}\n')
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "c", "k": 3}\n')
    plan = plan_units(tmp_path, unit_rows=1, keep=["k"])
    assert plan.schema.field("k").type == pa.float64()
    for unit in plan:
        assert all(chunk.batch.schema == plan.schema for chunk in UnitSource(plan, [unit]).chunks())


def test_a_missing_column_is_found_while_planning_in_whichever_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl("a"))
    (tmp_path / "b.jsonl").write_bytes(b'{"body": "a"}\n')
    with pytest.raises(MissingColumnError, match=r"b\.jsonl: there is no column 'text'"):
        plan_units(tmp_path)


@pytest.mark.parametrize("options", [{"unit_rows": 0}, {"unit_bytes": 0}, {"unit_rows": -1}])
def test_units_of_nothing_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be a whole number, at least 1"):
        plan_units(tmp_path, **options)


def test_a_list_of_units_is_not_a_plan(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\n")
    with pytest.raises(ConfigError, match="needs the Plan of plan_units, not list"):
        UnitSource(list(plan_units(tmp_path)))  # type: ignore[arg-type]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
bad_lines = st.sampled_from(
    [b"", b" ", b"broken", b'{"text": null}', b'{"text": 1}', b"\xff", b'"', b'"x"y', b"x" * 40]
)


@st.composite
def file_of_rows(draw: st.DrawFn) -> tuple[str, bytes]:
    """An ending and content in any format of lines, with rows that fail here and there."""
    format = draw(st.sampled_from(["jsonl", "txt", "csv"]))
    rows: list[bytes] = []
    for text in draw(st.lists(st.one_of(texts, texts, bad_lines), max_size=12)):
        if isinstance(text, bytes):
            rows.append(text)
        elif format == "jsonl":
            rows.append(json.dumps({"text": text}, ensure_ascii=draw(st.booleans())).encode())
        elif format == "csv":
            rows.append(b'"' + text.replace('"', '""').encode() + b'"')
        else:
            rows.append(text.replace("\n", " ").encode())
    front = [b"text"] if format == "csv" else [b'{"text": "first"}'] if format == "jsonl" else []
    content = draw(st.sampled_from([b"\n", b"\r\n"])).join(front + rows)
    content += draw(st.sampled_from([b"", b"\n"])) if rows else b""
    squeeze = draw(st.sampled_from(["", ".gz", ".zst", "cut"]))
    if squeeze == ".zst":
        return f"{format}.zst", zstandard.compress(content)
    if squeeze:
        whole = gzip.compress(content)
        keep = len(whole) if squeeze == ".gz" or format == "csv" else draw(st.integers(1, len(whole)))
        return f"{format}.gz", whole[:keep]
    return format, content


@settings(max_examples=100)
@given(
    contents=st.lists(file_of_rows(), min_size=1, max_size=4),
    unit_rows=st.integers(1, 9),
    unit_bytes=st.sampled_from([1, 40, 1 << 20]),
    block_bytes=st.sampled_from([7, 1 << 20]),
    shards=st.integers(1, 3),
)
def test_units_tile_the_input_and_each_alone_gives_its_rows(
    tmp_path_factory: pytest.TempPathFactory,
    contents: list[tuple[str, bytes]],
    unit_rows: int,
    unit_bytes: int,
    block_bytes: int,
    shards: int,
) -> None:
    folder = tmp_path_factory.mktemp("units", numbered=True)
    for number, (ending, content) in enumerate(contents):
        (folder / f"{number}.{ending}").write_bytes(content)
    options: dict[str, Any] = {"max_row_bytes": 30}
    whole = read(folder, **options)
    plan = plan_units(folder, unit_rows=unit_rows, unit_bytes=unit_bytes, **options)

    assert [unit.id for unit in plan] == list(range(len(plan)))
    assert plan.num_rows == len(whole)
    assert all(1 <= unit.num_rows <= unit_rows for unit in plan)
    index = 0
    reached: dict[str, int] = {}
    for unit in plan:
        assert unit.first_index == index
        index += unit.num_rows
        assert unit.num_rows == sum(segment.num_rows for segment in unit.segments)
        for segment in unit.segments:
            assert segment.start == reached.get(segment.path, 0)
            reached[segment.path] = segment.stop
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", block_bytes)
        assert rows_of(UnitSource(plan).chunks()) == whole
        alone = [rows_of(UnitSource(plan, [unit]).chunks()) for unit in plan]
        assert [row for rows in alone for row in rows] == whole
        assert [len(rows) for rows in alone] == [unit.num_rows for unit in plan]
        parts = [rows_of(UnitSource(plan, plan.units[shard::shards]).chunks()) for shard in range(shards)]
        assert sorted(row for part in parts for row in part) == whole
