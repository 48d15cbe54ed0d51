"""Plain text, a row per line or per file; and compressed files of every kind."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError, MissingColumnError
from penstock.sources import lines, plan_units
from test_sources import read, texts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_every_line_is_a_row_empty_ones_too(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\n\ntwo\r\n  three  \n\x0cfour\x0b\nfive\rsix")
    assert texts(path) == ["one", "", "two", "  three  ", "\x0cfour\x0b", "five\rsix"]


@pytest.mark.parametrize(("content", "rows"), [(b"", []), (b"\n", [""]), (b"a", ["a"]), (b"\n\n", ["", ""])])
def test_a_line_ends_with_its_newline(tmp_path: Path, content: bytes, rows: list[str]) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert texts(path) == rows


def test_invalid_utf8_fails_the_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\nb\xe9c\nd\n")
    rows = read(path)
    assert [row.values[0] for row in rows] == ["a", None, "d"]
    assert rows[1].failure == (
        f"RowError: {path}, row 2: column 'text' holds invalid UTF-8: byte 0xe9 at position 1 "
        "(invalid continuation byte)"
    )


def test_a_line_over_the_limit_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\n" + b"x" * 5000 + b"\nb\n" + b"y" * 11 + b"\n0123456789\r\n" + b"z" * 40)
    for block_bytes in (1 << 20, 8, 1):
        monkeypatch.setattr(lines, "BLOCK_BYTES", block_bytes)
        rows = read(path, max_row_bytes=11)
        assert [row.values[0] for row in rows] == ["a", None, "b", "y" * 11, "0123456789", None]
        assert "row 2: 5,000 bytes" in (rows[1].failure or "")
        assert "row 6: 40 bytes" in (rows[5].failure or "")


def test_a_text_file_has_one_column(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\n")
    assert texts(path, text_column="body") == ["a"]
    with pytest.raises(
        MissingColumnError, match=r"a\.txt: there is no column 'id': a text file holds one column"
    ):
        read(path, keep=["id"])
    with pytest.raises(ConfigError, match="token ids are read from Parquet, Arrow or JSONL, not from text"):
        read(path, ids=True)


@given(
    rows=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=9)),
    block_bytes=st.integers(1, 30),
)
def test_lines_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str], block_bytes: int
) -> None:
    rows = [row.replace("\n", "").rstrip("\r").removeprefix("\ufeff") for row in rows]
    path = tmp_path_factory.getbasetemp() / "twin.txt"
    path.write_bytes("".join(row + "\n" for row in rows).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", block_bytes)
        assert texts(path) == rows


class TestAFilePerRow:
    """``format="text-file"``."""

    def test_each_file_is_one_row(self, tmp_path: Path) -> None:
        (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbftwo\nlines\n")
        (tmp_path / "a.md").write_bytes(b"one")
        (tmp_path / "c.txt").write_bytes(b"")
        rows = read(tmp_path, format="text-file")
        assert [row.values[0] for row in rows] == ["one", "two\nlines\n", ""]
        assert [(row.place, row.number) for row in rows][1] == (str(tmp_path / "b.txt"), 0)

    def test_a_file_that_cannot_be_used_fails_alone(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_bytes(b"ok")
        (tmp_path / "b.txt").write_bytes(b"\xff")
        (tmp_path / "c.txt").write_bytes(b"x" * 100)
        (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"cut short")[:-9])
        rows = read(tmp_path, format="text-file", max_row_bytes=50)
        assert [row.values[0] for row in rows] == ["ok", None, None, None]
        assert "b.txt, row 1: column 'text' holds invalid UTF-8" in (rows[1].failure or "")
        assert "c.txt, row 1: 100 bytes, more than max_row_bytes (50)" in (rows[2].failure or "")
        assert "d.txt.gz, row 1: the compressed stream ends early" in (rows[3].failure or "")

    def test_many_small_files_share_a_unit(self, tmp_path: Path) -> None:
        for number in range(10):
            (tmp_path / f"{number}.txt").write_bytes(b"x" * 10)
        plan = plan_units(tmp_path, format="text-file", unit_rows=4)
        assert [unit.num_rows for unit in plan] == [4, 4, 2]
        assert [len(unit.segments) for unit in plan] == [4, 4, 2]


def zst(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


@pytest.mark.parametrize(("ending", "compress"), [(".gz", gzip.compress), (".zst", zst)])
class TestCompressedFiles:
    """gzip and zstd around any format of lines."""

    def test_lines_come_out(self, tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]) -> None:
        path = tmp_path / f"a.txt{ending}"
        path.write_bytes(compress(b"a\nb\n"))
        assert texts(path) == ["a", "b"]
        (tmp_path / f"b.jsonl{ending}").write_bytes(compress(b'{"text": "c"}'))
        (tmp_path / f"c.csv{ending}").write_bytes(compress(b'text\n"d\ne"\n'))
        (tmp_path / f"d.TSV{ending.upper()}").write_bytes(compress(b"id\ttext\n1\tf\n"))
        assert texts(tmp_path) == ["a", "b", "c", "d\ne", "f"]

    def test_many_members_or_frames_are_read_as_one(
        self, tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]
    ) -> None:
        path = tmp_path / f"a.txt{ending}"
        path.write_bytes(b"".join(compress(part) for part in (b"a\nhalf ", b"", b"line\n", b"b\n")))
        assert texts(path) == ["a", "half line", "b"]

    @pytest.mark.parametrize("content", [b"", b"\n"])
    def test_no_rows_are_no_failure(
        self, tmp_path: Path, ending: str, compress: Callable[[bytes], bytes], content: bytes
    ) -> None:
        path = tmp_path / f"a.jsonl{ending}"
        path.write_bytes(compress(content))
        assert read(path) == []
        path.write_bytes(b"")
        assert read(path) == []

    @pytest.mark.parametrize("block_bytes", [100, 1 << 20])
    def test_a_truncated_stream_gives_every_whole_row_then_one_failure_then_the_next_file(
        self,
        tmp_path: Path,
        ending: str,
        compress: Callable[[bytes], bytes],
        block_bytes: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(lines, "BLOCK_BYTES", block_bytes)
        path = tmp_path / f"a.txt{ending}"
        content = b"".join(
            b"%d: %x\n" % (number, number * 2654435761 % (1 << 32)) for number in range(16_000)
        )
        whole = compress(content)
        path.write_bytes(whole[: len(whole) * 2 // 3])
        (tmp_path / "b.txt").write_bytes(b"next\n")
        rows = read(tmp_path)
        good = content.decode().splitlines()[: len(rows) - 2]
        assert [row.values[0] for row in rows] == [*good, None, "next"]
        assert len(good) > (8_000 if ending == ".gz" else 0)
        assert rows[-2].failure == (
            f"RowError: {path}, row {len(good) + 1:,}: the compressed stream ends early "
            "(Truncated compressed stream); download the file again or re-compress it"
        )
        assert rows[-1].place == str(tmp_path / "b.txt")

    def test_every_truncation_keeps_its_whole_rows_and_plans_as_it_reads(
        self, tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]
    ) -> None:
        path = tmp_path / f"a.txt{ending}"
        parts = [compress(b"%d\n" % number) for number in range(4)]
        whole = b"".join(parts)
        ends = [sum(map(len, parts[:number])) for number in range(5)]
        for length in range(1, len(whole)):
            path.write_bytes(whole[:length])
            rows = read(path)
            complete = sum(end <= length for end in ends[1:])
            readable = [str(number) for number in range(4)][: len(rows) - (length not in ends)]
            assert [row.values[0] for row in rows] == readable + [None] * (length not in ends)
            assert complete <= len(readable) <= complete + 1
            assert plan_units(path).num_rows == len(rows)

    def test_a_damaged_stream_says_that_rows_before_may_be_wrong_too(
        self, tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]
    ) -> None:
        path = tmp_path / f"a.txt{ending}"
        good, bad = compress(b"a\nb\n"), bytearray(compress(b"c\nd\n"))
        bad[-5 if ending == ".gz" else -1] ^= 1
        path.write_bytes(good + bytes(bad) + good)
        rows = read(path)
        assert [row.values[0] for row in rows[:2]] == ["a", "b"]
        assert rows[-1].values[0] is None
        assert "the compressed stream is damaged here" in (rows[-1].failure or "")
        assert sum(row.failure is not None for row in rows) == 1

    def test_what_is_not_compressed_at_all_is_one_failed_row(
        self, tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]
    ) -> None:
        path = tmp_path / f"a.txt{ending}"
        path.write_bytes(b"just text, wrongly named, long enough to be looked at\n" * 3)
        rows = read(path)
        assert [row.values[0] for row in rows] == [None]
        assert "row 1: the compressed stream is damaged here" in (rows[0].failure or "")
