"""Paths: files, folders, globs and URLs, and what tells a file from a changed one."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from penstock.errors import ConfigError, SourceError
from penstock.sources import UnitSource, as_source, files, plan_units
from penstock.sources.paths import detect, expand, identify
from test_sources import read, rows_of, texts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def write(folder: Path, *names: str) -> None:
    """One-line text files that hold their own name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({"text": name}) + "\n")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jsonl", ("jsonl", None)),
        ("a.b.JSON.GZ", ("jsonl", "gzip")),
        ("dir.parquet/a.ndjson.zst", ("jsonl", "zstd")),
        ("a.pq", ("parquet", None)),
        ("a.feather", ("arrow", None)),
        ("a.tsv.gz", ("tsv", "gzip")),
        ("a.txt", ("text", None)),
        ("https://host/a.csv.gz?token=x.parquet", ("csv", "gzip")),
    ],
)
def test_a_format_is_known_by_its_ending(name: str, expected: tuple[str, str | None]) -> None:
    assert detect(name) == expected


def test_an_ending_that_says_nothing_asks_for_a_format(tmp_path: Path) -> None:
    path = tmp_path / "corpus.data"
    path.write_text('{"text": "a"}\n')
    with pytest.raises(
        ConfigError, match=r"corpus\.data: the ending says nothing about the format; .*format="
    ):
        as_source(path)
    assert texts(path, format="jsonl") == ["a"]
    with pytest.raises(ConfigError, match="there is no format 'xml'; the formats are: jsonl, parquet"):
        as_source(path, format="xml")
    with pytest.raises(ConfigError, match="parquet files compress inside"):
        detect("a.parquet.gz")


def test_a_folder_is_read_through_in_the_order_of_names(tmp_path: Path) -> None:
    names = ["b/2.jsonl", "b/10.jsonl", "a.jsonl", "b.jsonl", "b/a/1.jsonl", "c.json"]
    write(tmp_path, *names)
    write(tmp_path, "_SUCCESS.jsonl", ".hidden.jsonl", ".git/x.jsonl", "_tmp/x.jsonl", "notes.md", "b/x.bin")
    expected = ["a.jsonl", "b/10.jsonl", "b/2.jsonl", "b/a/1.jsonl", "b.jsonl", "c.json"]
    assert texts(tmp_path) == expected
    assert texts(str(tmp_path) + "/") == expected


def test_a_glob_matches_known_endings_and_hidden_names_only_when_asked(tmp_path: Path) -> None:
    write(tmp_path, "b.jsonl", "a.jsonl", "_c.jsonl", "d.md", "sub/e.jsonl", "sub/deep/f.jsonl")
    assert texts(f"{tmp_path}/*") == ["a.jsonl", "b.jsonl", "sub/deep/f.jsonl", "sub/e.jsonl"]
    assert texts(f"{tmp_path}/*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert texts(f"{tmp_path}/_*.jsonl") == ["_c.jsonl"]
    assert texts(f"{tmp_path}/**/*.jsonl") == ["a.jsonl", "b.jsonl", "sub/deep/f.jsonl", "sub/e.jsonl"]


def test_a_name_with_the_signs_of_a_glob_is_a_name_if_it_exists(tmp_path: Path) -> None:
    write(tmp_path, "part[0].jsonl", "part0.jsonl")
    assert texts(f"{tmp_path}/part[0].jsonl") == ["part[0].jsonl"]
    (tmp_path / "part[0].jsonl").unlink()
    assert texts(f"{tmp_path}/part[0].jsonl") == ["part0.jsonl"]


def test_many_paths_are_read_in_the_order_given(tmp_path: Path) -> None:
    write(tmp_path, "b.jsonl", "a.jsonl")
    assert texts(files([tmp_path / "b.jsonl", str(tmp_path / "a.jsonl")])) == ["b.jsonl", "a.jsonl"]


def test_a_file_named_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl")
    with pytest.raises(ConfigError, match=r"a\.jsonl: named twice"):
        files([tmp_path, tmp_path / "a.jsonl"])


@pytest.mark.parametrize(
    ("paths", "error", "message"),
    [
        ([], SourceError, "list of paths is empty"),
        ([1], ConfigError, "a path must be a string or a Path, not int"),
        ("{}/none.jsonl", SourceError, r"none\.jsonl: there is no such file or folder"),
        ("{}/*.jsonl", SourceError, r"no input file there; known endings are \.jsonl"),
        ("{}", SourceError, "no input file there"),
        ("nosuch://x/a.jsonl", ConfigError, "nosuch://x/a.jsonl: Protocol not known"),
        ("memory://a/**x.jsonl", ConfigError, "can only be an entire path component"),
        ("memory://nowhere/a.jsonl", SourceError, "there is no such file or folder"),
        ("memory://nowhere/*.jsonl", SourceError, "no input file there"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(
    tmp_path: Path, paths: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        expand(paths.format(tmp_path) if isinstance(paths, str) else paths)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl")
    source = as_source(tmp_path)
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(SourceError, match=r"a\.jsonl: cannot be opened"):
        rows_of(source.chunks())


def test_a_home_folder_and_a_file_url_are_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.jsonl")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert texts("~/a.jsonl") == ["a.jsonl"]
    assert texts(f"file://{tmp_path}/a.jsonl") == ["a.jsonl"]


def test_a_local_file_is_known_by_size_and_time(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl")
    path = tmp_path / "a.jsonl"
    before = identify(str(path))
    assert (before.size, before.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    before.check_unchanged()
    os.utime(path, ns=(0, 0))
    with pytest.raises(
        SourceError, match=r"a\.jsonl: changed since the plan \(mtime_ns was \d+, now it is 0\)"
    ):
        before.check_unchanged()


CONTENT = {"text": ["a", "b", "c", "d"], "id": ["1", "2", "3", "4"]}


def contents() -> dict[str, bytes]:
    """The same rows in every format: name -> bytes."""
    table = pa.table(CONTENT)
    jsonl = "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
    csv = b"text,id\r\n" + b"".join(
        b'"%s",%s\r\n' % (t.encode(), i.encode()) for t, i in zip(*CONTENT.values())
    )
    parquet, ipc, stream = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet, row_group_size=3)
    with pa.ipc.new_file(ipc, table.schema) as file_writer:
        file_writer.write_table(table, max_chunksize=3)
    with pa.ipc.new_stream(stream, table.schema) as stream_writer:
        stream_writer.write_table(table, max_chunksize=3)
    return {
        "a.jsonl": jsonl,
        "a.jsonl.gz": gzip.compress(jsonl),
        "a.jsonl.zst": zstandard.compress(jsonl),
        "a.csv": csv,
        "a.tsv.gz": gzip.compress(csv.replace(b",", b"\t")),
        "a.parquet": parquet.getvalue(),
        "a.arrow": ipc.getvalue(),
        "b.arrow": stream.getvalue(),
    }


@pytest.fixture
def memory() -> Iterator[Any]:
    """An fsspec store in memory, empty before and after."""
    import fsspec

    store = fsspec.filesystem("memory")
    store.rm("/", recursive=True) if store.ls("/") else None
    yield store
    store.rm("/", recursive=True) if store.ls("/") else None


@pytest.mark.parametrize("name", sorted(contents()))
def test_every_format_is_read_from_a_url_and_from_a_file_alike(
    memory: Any, tmp_path: Path, name: str
) -> None:
    content = contents()[name]
    memory.pipe(f"/bucket/{name}", content)
    (tmp_path / name).write_bytes(content)
    expected = list(zip(*CONTENT.values()))
    for path in (f"memory://bucket/{name}", tmp_path / name):
        rows = read(path, keep=["id"])
        assert [row.values for row in rows] == expected
        plan = plan_units(path, keep=["id"], unit_rows=2)
        assert [unit.num_rows for unit in plan] == [2, 2]
        for unit in plan:
            alone = rows_of(UnitSource(plan, [unit.id]).chunks())
            assert alone == rows[unit.first_index : unit.first_index + 2]


def test_folders_and_globs_of_a_url_are_read_in_order(memory: Any) -> None:
    for name in ("b/2.txt", "a.txt", "_x.txt", ".y/z.txt", "b/1.txt", "c.bin"):
        memory.pipe(f"/bucket/{name}", name.encode())
    assert texts("memory://bucket") == ["a.txt", "b/1.txt", "b/2.txt"]
    assert texts("memory://bucket/*") == texts("memory://bucket/**/*.txt") == ["a.txt", "b/1.txt", "b/2.txt"]
    assert texts("memory://bucket/b/*.txt") == ["b/1.txt", "b/2.txt"]
    rows = read("memory://bucket/b/1.txt")
    assert rows[0].place == "memory://bucket/b/1.txt"


def test_a_changed_object_behind_a_url_is_noticed(memory: Any) -> None:
    memory.pipe("/bucket/a.txt", b"a\n")
    plan = plan_units("memory://bucket")
    plan.check_unchanged()
    memory.pipe("/bucket/a.txt", b"b\n")
    with pytest.raises(SourceError, match=r"memory:///bucket/a\.txt: changed since the plan \(version was"):
        plan.check_unchanged()
    memory.rm("/bucket/a.txt")
    with pytest.raises(SourceError, match=r"memory:///bucket/a\.txt: cannot be read"):
        plan.check_unchanged()


def test_a_network_that_fails_stops_the_run_and_blames_no_row(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in contents().items():
        memory.pipe(f"/bucket/{name}", content)
    opened = type(memory)._open

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise TimeoutError(110, "the network is down")

        readinto = read  # type: ignore[assignment]

    def fail(self: Any, path: str, *args: Any, **kwargs: Any) -> Any:
        file = opened(self, path, *args, **kwargs)
        return Broken(file.getvalue())

    monkeypatch.setattr(type(memory), "_open", fail)
    for name in contents():
        with pytest.raises((SourceError, TimeoutError), match="the network is down"):
            rows_of(as_source(f"memory://bucket/{name}", keep=["id"]).chunks())


def test_a_folder_of_one_format_can_be_read_as_another(tmp_path: Path) -> None:
    write(tmp_path, "a.log", "b.log")
    assert texts(tmp_path, format="text") == ['{"text": "a.log"}', '{"text": "b.log"}']
    shutil.rmtree(tmp_path)
