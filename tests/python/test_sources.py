"""What may be passed as input, and what every source promises."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.errors import ConfigError, MissingColumnError, SourceError, SourceExhaustedError
from penstock.sources import Chunk, Columns, FileSource, Source, as_source, concat, files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True, order=True, slots=True)
class Row:
    """One row of a source, as a test compares it."""

    index: int
    place: str
    number: int
    values: tuple[Any, ...]
    failure: str | None


def rows_of(chunks: Iterable[Chunk]) -> list[Row]:
    """Every row of some chunks, after a look at what holds for all chunks."""
    rows = []
    for chunk in chunks:
        chunk.batch.validate(full=True)
        assert len(chunk) > 0
        assert all(0 <= offset < len(chunk) for offset in chunk.failures)
        texts = chunk.batch.column(0).to_pylist()
        for offset, values in enumerate(zip(*(column.to_pylist() for column in chunk.batch.columns))):
            failure = chunk.failures.get(offset)
            assert (texts[offset] is None) == (failure is not None)
            number = chunk.first_row + offset
            if failure is not None:
                assert str(failure).startswith(f"{chunk.place}, row {number + 1:,}: ")
            said = None if failure is None else f"{type(failure).__name__}: {failure}"
            rows.append(Row(chunk.first_index + offset, chunk.place, number, values, said))
    return rows


def read(source: Any, **options: Any) -> list[Row]:
    """Every row of whatever ``as_source`` takes; input indices must count up from 0."""
    rows = rows_of(as_source(source, **options).chunks())
    assert [row.index for row in rows] == list(range(len(rows)))
    return rows


def texts(source: Any, **options: Any) -> list[Any]:
    """The first column."""
    return [row.values[0] for row in read(source, **options)]


def failures(source: Any, **options: Any) -> dict[int, str]:
    """Input index -> message, of the rows that cannot be used."""
    return {row.index: row.failure for row in read(source, **options) if row.failure is not None}


def test_importing_the_room_imports_nothing_heavy() -> None:
    code = (
        "import sys, penstock.sources; "
        "print(sorted({'torch', 'transformers', 'datasets', 'pandas', 'fsspec'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_str_is_a_path_and_a_list_of_str_is_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("from the file\n")
    assert texts(str(path)) == texts(path) == ["from the file"]
    assert texts([str(path)]) == [str(path)]


def test_a_str_that_is_no_path_says_how_to_pass_one_row() -> None:
    with pytest.raises(SourceError, match=r"no such file or folder .*one row of text is written \[text\]"):
        as_source("just some text")


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ({"text": ["a"]}, "a dict is one row"),
        (b"bytes", "bytes are not text"),
        (lambda: iter(["a"]), "call it"),
        (7, "pass a path"),
    ],
)
def test_what_is_not_a_source_is_refused_with_a_remedy(source: Any, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        as_source(source)


def test_a_source_passes_through_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x\n")
    source = files(tmp_path / "a.txt")
    assert as_source(source) is source
    assert isinstance(source, Source)
    assert isinstance(as_source(["a"]), Source)


def test_a_format_is_only_for_files() -> None:
    with pytest.raises(ConfigError, match="not a path"):
        as_source(["a"], format="jsonl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": "id"}, "keep='id': must be a list"),
        ({"text": ""}, "not empty"),
        ({"pair": "text"}, "both 'text'"),
        ({"ids": True, "pair": "b"}, "no pair_column"),
        ({"max_row_bytes": 0}, "between 1 and"),
        ({"max_row_bytes": 1 << 31}, "between 1 and"),
    ],
)
def test_columns_that_cannot_be_right_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Columns(**options)


def test_a_kept_column_is_in_the_batch_once() -> None:
    rows = read([{"text": "a", "id": 1}], keep=["id", "text", "id"])
    assert rows[0].values == ("a", 1)


def test_arrow_tables_batches_and_arrays_are_read_as_they_are() -> None:
    table = pa.table({"text": ["a", "b", "c"], "id": [1, 2, 3]})
    expected = [("a", 1), ("b", 2), ("c", 3)]
    for source in (table, table.to_batches()[0], table.to_batches(), [table.slice(0, 1), table.slice(1)]):
        assert [row.values for row in read(source, keep=["id"])] == expected
    assert texts(pa.array(["a", None])) == ["a", None]
    assert texts(pa.chunked_array([["a"], ["b"]])) == ["a", "b"]


def test_a_record_batch_reader_is_read_once() -> None:
    table = pa.table({"text": ["a", "b"]})
    source = as_source(table.to_reader())
    assert [row.values for row in rows_of(source.chunks())] == [("a",), ("b",)]
    with pytest.raises(SourceExhaustedError, match="already read"):
        source.chunks()


def test_an_arrow_dataset_is_read_again_and_again(tmp_path: Path) -> None:
    import pyarrow.dataset

    pq.write_table(pa.table({"text": ["a", "b"], "n": [1, 2]}), tmp_path / "a.parquet")
    source = as_source(pyarrow.dataset.dataset(tmp_path), keep=["n"])
    assert [row.values for row in rows_of(source.chunks())] == [("a", 1), ("b", 2)]
    assert len(rows_of(source.chunks())) == 2


class OverTheBridge:
    """Hands over a table as the data frames of other libraries do."""

    def __init__(self, held: pa.Table | pa.ChunkedArray) -> None:
        self._held = held

    def __iter__(self) -> Any:
        raise AssertionError("a data frame iterates over the names of its columns: never do that")

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._held.__arrow_c_stream__(requested_schema)


def test_a_data_frame_is_read_through_arrow_not_iterated() -> None:
    assert texts(OverTheBridge(pa.table({"text": ["a", "b"]}))) == ["a", "b"]
    assert texts(OverTheBridge(pa.chunked_array([["a", "b"]]))) == ["a", "b"]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())],
    ids=str,
)
def test_every_kind_of_arrow_string_is_text(kind: pa.DataType) -> None:
    values = ["short", "a string that is too long to be inlined in a view", None, "", "short"]
    table = pa.table({"text": pa.array(values).cast(kind)})
    rows = read(table.slice(1))
    assert [row.values[0] for row in rows] == values[1:]
    assert [row.failure for row in rows][1] == "RowError: rows, row 2: column 'text' is null"


@pytest.mark.parametrize("kind", [pa.int64(), pa.binary(), pa.list_(pa.string())], ids=str)
def test_a_text_column_that_is_not_text_is_refused_by_name_and_type(kind: pa.DataType) -> None:
    table = pa.table({"text": pa.array([], kind)})
    with pytest.raises(
        SourceError, match=r"wrong dtype: column 'text' is .*, but it must be string"
    ) as error:
        read(table)
    assert str(kind) in str(error.value)


def test_a_column_that_is_not_there_is_named_with_those_that_are() -> None:
    table = pa.table({"content": ["a"], "id": [1]})
    with pytest.raises(MissingColumnError, match=r"no column 'text'; .*'content', 'id'.*--text-column"):
        read(table)
    with pytest.raises(MissingColumnError, match=r"no column 'label'.*--keep"):
        read(table, text_column="content", keep=["label"])
    with pytest.raises(MissingColumnError, match=r"no column 'b'.*--pair-column"):
        read(table, text_column="content", pair_column="b")


def test_two_columns_of_one_name_are_refused() -> None:
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pytest.raises(SourceError, match="several columns named 'text'"):
        read(table)


def test_an_arrow_row_over_the_limit_fails_alone_even_if_a_dictionary_repeats_it() -> None:
    values = pa.array(["x" * 50, "ok"]).dictionary_encode()
    table = pa.table({"text": values.take(pa.array([0, 1, 0, 0]))})
    rows = read(table, max_row_bytes=20)
    assert [row.values[0] for row in rows] == [None, "ok", None, None]
    assert rows[3].failure == (
        "RowTooLargeError: rows, row 4: 50 bytes, more than max_row_bytes (20); "
        "raise max_row_bytes or cut the row"
    )


def test_invalid_utf8_in_arrow_text_fails_the_row_alone() -> None:
    array = pa.array([b"fine", b"bad \xff", b"also fine"], pa.binary()).view(pa.string())
    rows = read(pa.table({"text": array, "id": [1, 2, 3]}), keep=["id"])
    assert [row.values for row in rows] == [("fine", 1), (None, 2), ("also fine", 3)]
    assert rows[1].failure == (
        "RowError: rows, row 2: column 'text' holds invalid UTF-8: "
        "byte 0xff at position 4 (invalid start byte)"
    )


@pytest.mark.parametrize("nested", [False, True])
def test_invalid_utf8_in_a_kept_column_fails_the_row_alone(nested: bool) -> None:
    array = pa.array([b"fine", b"\xc3\x28"], pa.binary()).view(pa.string())
    kept = pa.StructArray.from_arrays([array], ["name"]) if nested else array
    rows = read(pa.table({"text": ["a", "b"], "k": kept}), keep=["k"])
    assert rows[0].failure is None
    assert rows[1].values == (None, None)
    assert "row 2: column 'k' holds invalid UTF-8" in (rows[1].failure or "")


def test_a_large_table_comes_in_chunks_of_bounded_bytes() -> None:
    table = pa.table({"text": pa.array(["x" * (1 << 20)] * 10, pa.large_string())})
    chunks = list(as_source(table).chunks())
    assert [len(chunk) for chunk in chunks] == [4, 4, 2]
    assert [chunk.first_index for chunk in chunks] == [0, 4, 8]


def test_kept_columns_of_any_type_are_carried_along() -> None:
    columns = {
        "text": pa.array(["a", "b"]),
        "struct": pa.array([{"x": 1}, None]),
        "list": pa.array([[1.5], []]),
        "time": pa.array([0, 1], pa.timestamp("us", "UTC")),
        "dictionary": pa.array(["p", "q"]).dictionary_encode(),
        "binary": pa.array([b"\xff", None]),
        "decimal": pa.array([None, 3]).cast(pa.decimal128(30, 2)),
    }
    kept = list(columns)[1:]
    (chunk,) = as_source(pa.table(columns), keep=kept).chunks()
    assert chunk.batch.schema.types[1:] == [columns[name].type for name in kept]
    assert all(chunk.batch.column(name).equals(columns[name]) for name in kept)


def test_a_kept_column_that_changes_its_type_between_batches_is_refused_by_name() -> None:
    batches = [pa.record_batch({"text": ["a"], "k": values}) for values in ([1], ["x"])]
    with pytest.raises(SourceError, match=r"kept column 'k' is string, but it was int64 before"):
        read(batches, keep=["k"])
    batches = [pa.record_batch({"text": ["a"], "k": values}) for values in ([1.5], [2])]
    assert [row.values for row in read(batches, keep=["k"])] == [("a", 1.5), ("a", 2.0)]


def test_token_ids_of_any_integer_list_become_int32_lists() -> None:
    for kind in (pa.list_(pa.int64()), pa.large_list(pa.uint16()), pa.list_(pa.int32())):
        (chunk,) = as_source(
            pa.table({"ids": pa.array([[1, 2], []], kind)}), text_column="ids", ids=True
        ).chunks()
        assert chunk.batch.column(0).type == pa.list_(pa.int32())
        assert chunk.batch.column(0).to_pylist() == [[1, 2], []]


def test_token_ids_that_are_none_or_too_large_fail_alone() -> None:
    ids = pa.array([[1], None, [2, None], [-1], [1 << 40], [3]], pa.list_(pa.int64()))
    rows = read(pa.table({"ids": ids}), text_column="ids", ids=True)
    assert [row.values[0] for row in rows] == [[1], None, None, None, None, [3]]
    assert "is null" in (rows[1].failure or "")
    assert "token id null" in (rows[2].failure or "")
    assert "token id -1" in (rows[3].failure or "")
    assert "token id 1099511627776" in (rows[4].failure or "")


def test_batches_are_joined_with_the_type_that_holds_both() -> None:
    early = pa.record_batch({"text": ["a"], "n": pa.nulls(1)})
    late = pa.record_batch({"text": ["b"], "n": [0.5], "more": ["x"]})
    joined = concat([early, pa.record_batch({"text": ["c"], "n": [2]}), late])
    assert joined.to_pylist() == [
        {"text": "a", "n": None, "more": None},
        {"text": "c", "n": 2.0, "more": None},
        {"text": "b", "n": 0.5, "more": "x"},
    ]
    assert concat([early]) is early


class TestHuggingFaceDatasets:
    """Datasets are read through their Arrow table."""

    @pytest.fixture
    def dataset(self) -> Any:
        datasets = pytest.importorskip("datasets")
        return datasets.Dataset.from_dict(
            {"text": list("abcdefgh"), "label": list(range(8)), "other": [0] * 8}
        )

    def test_rows_come_in_order_with_their_kept_columns(self, dataset: Any) -> None:
        rows = read(dataset, keep=["label"])
        assert [row.values for row in rows] == list(zip("abcdefgh", range(8)))

    def test_the_indices_of_a_shuffled_or_selected_dataset_are_followed(self, dataset: Any) -> None:
        for view in (
            dataset.shuffle(seed=1),
            dataset.select([5, 1, 1]),
            dataset.filter(lambda row: row["label"] % 2),
        ):
            expected = list(zip(view["text"], view["label"]))
            assert [row.values for row in read(view, keep=["label"])] == expected

    def test_the_format_that_the_caller_set_does_not_matter(self, dataset: Any) -> None:
        dataset.set_format("numpy", columns=["label"])
        assert texts(dataset) == list("abcdefgh")

    def test_a_dataset_is_read_again_and_again(self, dataset: Any) -> None:
        source = as_source(dataset)
        assert rows_of(source.chunks()) == rows_of(source.chunks())

    def test_an_iterable_dataset_is_read_over_arrow_or_row_by_row(self, dataset: Any) -> None:
        import datasets

        assert texts(dataset.to_iterable_dataset(num_shards=2)) == list("abcdefgh")
        made = datasets.IterableDataset.from_generator(lambda: ({"text": text} for text in "xyz"))
        assert texts(made) == list("xyz")
        source = as_source(made)
        assert rows_of(source.chunks()) == rows_of(source.chunks())

    def test_a_missing_column_is_named(self, dataset: Any) -> None:
        with pytest.raises(MissingColumnError, match=r"no column 'content'; .*'text', 'label', 'other'"):
            as_source(dataset, text_column="content")

    def test_a_dict_of_splits_asks_for_one(self, dataset: Any) -> None:
        import datasets

        with pytest.raises(ConfigError, match=r"several splits \('train'\).*dataset\['train'\]"):
            as_source(datasets.DatasetDict(train=dataset))


def test_files_source_reads_its_files_again_and_again(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\nb\n")
    source = as_source(tmp_path)
    assert isinstance(source, FileSource)
    assert rows_of(source.chunks()) == rows_of(source.chunks())
