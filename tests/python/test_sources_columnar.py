"""Parquet and Arrow IPC: row ranges, damage, and files that claim too much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import MissingColumnError, SourceError
from penstock.sources import UnitSource, as_source, parquet, plan_units
from test_sources import read, rows_of, texts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def write_ipc_file(table: pa.Table, path: Path, **options: Any) -> None:
    with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=3)


def write_ipc_stream(table: pa.Table, path: Path, **options: Any) -> None:
    with pa.ipc.new_stream(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=3)


def write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, row_group_size=3)


WRITERS = [
    pytest.param(write_parquet, ".parquet", id="parquet"),
    pytest.param(write_ipc_file, ".arrow", id="ipc file"),
    pytest.param(write_ipc_stream, ".arrow", id="ipc stream"),
]
TABLE = pa.table({"id": range(8), "text": [*"abc", None, *"efgh"], "tags": [["x"]] * 8})


@pytest.mark.parametrize(("write", "ending"), WRITERS)
class TestEveryColumnarFormat:
    """What holds for Parquet and both kinds of Arrow IPC."""

    def test_rows_come_in_order_with_null_text_failed(
        self, tmp_path: Path, write: Callable[..., None], ending: str
    ) -> None:
        path = tmp_path / f"a{ending}"
        write(TABLE, path)
        rows = read(path, keep=["tags", "id"])
        assert [row.values for row in rows] == [
            (text, ["x"], i) for i, text in enumerate([*"abc", None, *"efgh"])
        ]
        assert rows[3].failure == f"RowError: {path}, row 4: column 'text' is null"
        assert [row.number for row in rows] == list(range(8))

    def test_units_are_row_ranges(self, tmp_path: Path, write: Callable[..., None], ending: str) -> None:
        write(TABLE, tmp_path / f"a{ending}")
        write(TABLE.slice(0, 1), tmp_path / f"b{ending}")
        plan = plan_units(tmp_path, unit_rows=4, keep=["id"])
        assert [unit.num_rows for unit in plan] == [4, 4, 1]
        assert (plan[1].segments[0].start, plan[1].segments[0].stop, plan[1].segments[0].first_row) == (
            4,
            8,
            4,
        )
        whole = read(tmp_path, keep=["id"])
        assert rows_of(UnitSource(plan).chunks()) == whole
        for unit in plan:
            alone = rows_of(UnitSource(plan, [unit]).chunks())
            assert alone == whole[unit.first_index : unit.first_index + unit.num_rows]

    def test_no_rows_are_no_rows(self, tmp_path: Path, write: Callable[..., None], ending: str) -> None:
        path = tmp_path / f"a{ending}"
        write(TABLE.slice(0, 0), path)
        assert read(path) == []
        assert len(plan_units(path)) == 0

    def test_a_file_of_no_bytes_is_no_file_of_no_rows(
        self, tmp_path: Path, write: Callable[..., None], ending: str
    ) -> None:
        """Both formats hold a schema at least: nothing at all is a write that failed."""
        path = tmp_path / f"a{ending}"
        path.write_bytes(b"")
        with pytest.raises(SourceError, match=r"the file is empty, not even a schema"):
            read(path)

    def test_a_file_that_is_something_else_is_refused_by_name(
        self, tmp_path: Path, write: Callable[..., None], ending: str
    ) -> None:
        path = tmp_path / f"a{ending}"
        path.write_bytes(b"neither of these, and long enough to hold a footer" * 10)
        with pytest.raises(SourceError, match=rf"a{ending}: not a whole"):
            read(path)

    def test_a_missing_column_and_a_wrong_type_name_the_file(
        self, tmp_path: Path, write: Callable[..., None], ending: str
    ) -> None:
        path = tmp_path / f"a{ending}"
        write(TABLE, path)
        with pytest.raises(
            MissingColumnError, match=rf"a{ending}: there is no column 'body'; .*'id', 'text', 'tags'"
        ):
            read(path, text_column="body")
        with pytest.raises(
            SourceError, match=rf"a{ending}: wrong dtype: column 'id' is int64, but it must be string"
        ):
            read(path, text_column="id")

    @pytest.mark.parametrize(
        "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
    )
    def test_every_kind_of_string_is_text(
        self, tmp_path: Path, write: Callable[..., None], ending: str, kind: pa.DataType
    ) -> None:
        path = tmp_path / f"a{ending}"
        values = ["a string that is longer than a view", "b", None, "b"]
        write(pa.table({"text": pa.array(values).cast(kind)}), path)
        assert texts(path) == values

    def test_invalid_utf8_fails_the_row_alone(
        self, tmp_path: Path, write: Callable[..., None], ending: str
    ) -> None:
        path = tmp_path / f"a{ending}"
        write(pa.table({"text": pa.array([b"a", b"\xff", b"c"], pa.binary()).view(pa.string())}), path)
        rows = read(path)
        assert [row.values[0] for row in rows] == ["a", None, "c"]
        assert f"{path}, row 2: column 'text' holds invalid UTF-8: byte 0xff at position 0" in (
            rows[1].failure or ""
        )

    def test_token_ids_are_read(self, tmp_path: Path, write: Callable[..., None], ending: str) -> None:
        path = tmp_path / f"a{ending}"
        write(pa.table({"ids": pa.array([[1, 2], None, []], pa.list_(pa.int64()))}), path)
        assert texts(path, text_column="ids", ids=True) == [[1, 2], None, []]

    def test_a_kept_column_of_another_type_in_a_second_file(
        self, tmp_path: Path, write: Callable[..., None], ending: str
    ) -> None:
        write(pa.table({"text": ["a"], "k": [1.5]}), tmp_path / f"a{ending}")
        write(pa.table({"text": ["b"], "k": [2]}), tmp_path / f"b{ending}")
        assert [row.values for row in read(tmp_path, keep=["k"])] == [("a", 1.5), ("b", 2.0)]
        write(pa.table({"text": ["b"], "k": ["x"]}), tmp_path / f"b{ending}")
        with pytest.raises(
            SourceError, match=rf"b{ending}: the kept column 'k' is string, but it was double before"
        ):
            read(tmp_path, keep=["k"])


def random_table(rows: int) -> pa.Table:
    """Text that does not compress, the same each time."""
    noise = np.random.default_rng(7).integers(97, 123, (rows, 100), np.uint8)
    return pa.table({"text": [row.tobytes().decode() for row in noise], "id": range(rows)})


def test_a_damaged_page_fails_the_rest_of_its_row_group_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = random_table(6000)
    pq.write_table(
        table, path, row_group_size=3000, use_dictionary=False, compression="none",
        write_page_checksum=True, data_page_size=10_000,
    )  # fmt: skip
    whole = read(path, keep=["id"])
    content = bytearray(path.read_bytes())
    place = content.index(table["text"][2500].as_py().encode())
    content[place] ^= 1
    path.write_bytes(content)
    rows = read(path, keep=["id"])
    bad = [row.index for row in rows if row.failure is not None]
    assert bad == list(range(2048, 3000))
    assert [row for row in rows if row.failure is None] == [row for row in whole if row.index not in bad]
    assert f"RowError: {path}, row 2,049: row group 0 is damaged: " in (rows[2048].failure or "")
    plan = plan_units(path, keep=["id"], unit_rows=700)
    alone = [chunk for unit in plan for chunk in UnitSource(plan, [unit]).chunks()]
    assert rows_of(alone) == rows


def test_a_parquet_footer_that_is_cut_off_is_a_source_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(TABLE, path)
    path.write_bytes(path.read_bytes()[:-10])
    for attempt in (read, plan_units):
        with pytest.raises(SourceError, match=r"a\.parquet: not a whole Parquet file"):
            attempt(path)


def test_a_footer_that_cannot_be_believed_is_a_source_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(TABLE, path)
    content = path.read_bytes()
    for name in (b"text", b"id"):
        path.write_bytes(content.replace(name, b"\xff" * len(name)))
        with pytest.raises(SourceError, match=r"a\.parquet: "):
            read(path)


def test_a_few_bytes_that_stand_for_gigabytes_are_read_in_bounded_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 rows that all point at one value of 1 MB: 400 MB of text in a file of some hundred bytes."""
    path = tmp_path / "bomb.parquet"
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(400, np.int32)), pa.array(["x" * (1 << 20)]))
    pq.write_table(pa.table({"text": column.cast(pa.string())}), path, compression="zstd")
    assert path.stat().st_size < 5000
    monkeypatch.setattr(parquet, "_LARGEST_CELL_BYTES", 8 << 20)
    largest = 0
    rows = 0
    for chunk in as_source(path).chunks():
        largest = max(largest, chunk.batch.nbytes)
        rows += len(chunk)
        del chunk
    assert rows == 400
    assert largest <= 5 << 20


def test_a_damaged_batch_of_an_arrow_file_fails_its_rows_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    table = random_table(9)
    write_ipc_file(table, path, compression="zstd")
    whole = read(path, keep=["id"])
    content = bytearray(path.read_bytes())
    magic = b"\x28\xb5\x2f\xfd"  # of a zstd frame: the fourth is the text of the second batch
    frames = [place for place in range(len(content)) if content[place : place + 4] == magic]
    for place in frames:
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        rows = read(path, keep=["id"])
        bad = [row.index for row in rows if row.failure is not None]
        assert [row.values for row in rows if row.failure is None] == [
            row.values for row in whole if row.index // 3 != (frames.index(place) * 3 // len(frames))
        ]
        assert bad
        assert "is damaged" in (rows[bad[0]].failure or "")
        plan = plan_units(path, keep=["id"], unit_rows=2)
        assert rows_of(UnitSource(plan).chunks()) == rows


def test_an_arrow_stream_cut_short_gives_its_whole_batches_then_one_failure_then_the_next_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.arrow"
    write_ipc_stream(random_table(9), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    (tmp_path / "b.txt").write_bytes(b"next\n")
    rows = read(tmp_path)
    assert [row.failure is None for row in rows] == [True] * 3 + [False, True]
    assert f"{path}, row 4: the Arrow stream is damaged or ends early" in (rows[3].failure or "")
    plan = plan_units(tmp_path)
    assert rows_of(UnitSource(plan).chunks()) == rows


def test_offsets_outside_their_buffer_never_reach_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    table = pa.table({"text": ["some text", "and some more", "and more"]})
    write_ipc_stream(table, path)
    content = path.read_bytes()
    offsets = np.array([0, 9, 22, 30], np.int32).tobytes()
    place = content.index(offsets)
    path.write_bytes(
        content[:place] + np.array([0, 9, 1 << 30, 30], np.int32).tobytes() + content[place + 16 :]
    )
    rows = read(path)
    assert [row.values[0] for row in rows] == [None]
    assert "the Arrow stream is damaged" in (rows[0].failure or "")


def test_invalid_utf8_in_a_kept_string_view_fails_the_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    values = [b"fine", b"a long value that is not UTF-8: \xff", b"fine too"]
    kept = pa.array(values, pa.binary_view()).view(pa.string_view())
    write_ipc_file(pa.table({"text": ["a", "b", "c"], "k": kept}), path)
    assert [row.values for row in read(path, keep=["k"])] == [("a", "fine"), (None, None), ("c", "fine too")]


@given(
    texts_=st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=30),
    unit_rows=st.integers(1, 9),
    group=st.integers(1, 7),
)
def test_parquet_rows_are_read_as_they_were_however_they_are_cut(
    tmp_path_factory: pytest.TempPathFactory, texts_: list[str | None], unit_rows: int, group: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "twin.parquet"
    pq.write_table(pa.table({"text": pa.array(texts_, pa.string())}), path, row_group_size=group)
    rows = read(path)
    assert [row.values[0] for row in rows] == texts_
    plan = plan_units(path, unit_rows=unit_rows)
    assert rows_of(UnitSource(plan).chunks()) == rows
