"""What the sink does about an output folder that was harmed after it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.errors import OutputError
from penstock.sink import Part, Sink, inspect
from penstock.sink.manifest import best, merge, parse
from test_sink import FINGERPRINT, ids, plan_of, table_of, unit_of, write_units


def test_a_part_that_vanished_is_reported_and_done_again(tmp_path: Path) -> None:
    write_units(tmp_path, range(3))
    (victim,) = tmp_path.glob("part-00001-*")
    victim.write_bytes(victim.read_bytes()[:-1])
    assert inspect(tmp_path).missing == (victim.name,)
    with Sink.open(tmp_path, plan_of(3), FINGERPRINT) as sink:
        assert sink.finished == {0, 2}
        assert not inspect(tmp_path).success, "a folder with a hole must not be called complete"
        sink.write(unit_of(1), table_of(1))
    assert inspect(tmp_path).success
    assert ids(tmp_path) == list(range(6))


def test_a_flipped_bit_never_gets_past_the_reader(tmp_path: Path) -> None:
    write_units(tmp_path, range(1), 1)
    (victim,) = tmp_path.glob("part-*")
    content = bytearray(victim.read_bytes())
    content[len(content) // 3] ^= 1
    victim.write_bytes(content)
    with pytest.raises(OutputError, match="not what was written"):
        ids(tmp_path)


def manifest_of(output: Path) -> Path:
    return output / "_manifests" / "manifest-0.jsonl"


@pytest.mark.parametrize(
    "harm",
    [lambda line: line[:-1], lambda line: line[:20], lambda line: b"0" + line[1:]],
    ids=["no newline", "torn", "wrong checksum"],
)
def test_a_last_line_that_does_not_count_is_ignored_and_cut_off_by_its_owner(
    tmp_path: Path, harm: Any
) -> None:
    write_units(tmp_path, range(2))
    first, last = manifest_of(tmp_path).read_bytes().splitlines(keepends=True)
    if last.startswith(b"0"):
        last = b"1" + last[1:]
    manifest_of(tmp_path).write_bytes(first + harm(last))
    assert ids(tmp_path) == [0, 1]
    assert manifest_of(tmp_path).read_bytes() == first + harm(last), "a reader changes nothing"
    assert write_units(tmp_path, range(1, 3)) == {0}
    assert manifest_of(tmp_path).read_bytes().count(b"\n") == 3
    assert ids(tmp_path) == list(range(6))


def test_a_bad_line_with_others_after_it_is_an_error_that_says_where(tmp_path: Path) -> None:
    write_units(tmp_path, range(3))
    lines = manifest_of(tmp_path).read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"in.jsonl", b"IN.jsonl")
    manifest_of(tmp_path).write_bytes(b"".join(lines))
    for use in (inspect, lambda output: write_units(output, range(0))):
        with pytest.raises(OutputError, match=r"manifest-0\.jsonl, line 2: the checksum is wrong"):
            use(tmp_path)


def test_every_reader_picks_the_same_of_two_parts_of_a_unit() -> None:
    def part(name: str, *splits: object) -> Part:
        return Part(0, name, "", 7, 1, 0, 0, 0, (), splits)

    split, early, late = (
        part("part-00000-0.parquet", [0, 1]),
        part("part-00000-a.parquet"),
        part("part-00000-b.parquet"),
    )
    assert best([split, late, early]) == best([early, late, split]) == early
    sizes = {split.name: 7, early.name: 7, late.name: 7}
    assert merge([late, split, early, early], sizes) == ({0: early}, [])
    assert merge([late, split, early], sizes | {early.name: 6}) == ({0: late}, [])
    assert merge([split], {}) == ({}, [split])
    assert parse(late.to_line() + split.to_line(), "m") == (
        [late, split],
        len(late.to_line() + split.to_line()),
    )
