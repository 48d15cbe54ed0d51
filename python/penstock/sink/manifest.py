r"""Manifests: the only witness of what is finished.

Each writer appends to a manifest of its own, ``manifest-<writer>.jsonl``, whose lock it holds for as
long as it lives; readers merge all of them. A line is ``crc32hex json\\n`` and counts only if the
checksum is right and the newline is there: a last line that does not count is what a crash leaves, and
is ignored; one with lines after it is damage, and an error.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from penstock.sink.files import Files

FOLDER = "_manifests"
_NAME = re.compile(r"manifest-([A-Za-z0-9_]{1,64})\.jsonl")


class Rows(NamedTuple):
    """A run of rows of one input file: `first_row` counts from 0."""

    path: str
    first_row: int
    num_rows: int


@dataclass(frozen=True, slots=True)
class Part:
    """One finished unit: the file that holds it and the rows it stands for.

    Attributes:
        unit: Id of the unit in the plan.
        name: File name inside the output folder; its last piece is the start of `sha256`.
        sha256: Of the whole file, in hex.
        file_bytes: Size of the file.
        num_rows: Rows in the file, failed ones included.
        num_errors: Rows whose ``error`` column is not null.
        num_tokens: Sum of the ``num_tokens`` column; 0 without one.
        num_bytes: Sum of the ``num_bytes`` column (bytes of text scored); 0 without one.
        segments: Which files and rows, in order.
        splits: Where batches had to be run in pieces, as the caller described them; a part with
            splits equals another of the same unit within tolerance, not bit for bit.
        quarantined: Reason by input index (a decimal string, as in JSON); at most the first 100.
        num_quarantined: How many rows were quarantined.
    """

    unit: int
    name: str
    sha256: str
    file_bytes: int
    num_rows: int
    num_errors: int
    num_tokens: int
    num_bytes: int
    segments: tuple[Rows, ...]
    splits: tuple[object, ...] = ()
    quarantined: Mapping[str, str] | None = None
    num_quarantined: int = 0

    def to_line(self) -> bytes:
        """The manifest line of this part, newline included."""
        body = json.dumps(asdict(self), separators=(",", ":"), allow_nan=False).encode()
        return b"%08x %s\n" % (zlib.crc32(body), body)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Part:
        """The part that `fields`, the JSON of a manifest line, describe."""
        segments = tuple(Rows(*segment) for segment in fields.pop("segments"))
        return cls(segments=segments, splits=tuple(fields.pop("splits")), **fields)


def _is_whole(line: bytes) -> bool:
    """Without its newline a line may still grow, or be cut off by its owner: it does not count."""
    return line.endswith(b"\n")


def _has_right_checksum(line: bytes) -> bool:
    return line[8:9] == b" " and line[:8] == b"%08x" % zlib.crc32(line[9:].rstrip(b"\n"))


def parse(content: bytes, path: str, lines_before: int = 0) -> tuple[list[Part], int]:
    """Read manifest lines.

    Args:
        content: Bytes of a manifest, from the start of a line.
        path: For error messages.
        lines_before: Lines of the file before `content`, for error messages.

    Returns:
        The parts, and how many bytes of `content` their lines take: the rest is a last line that does
        not count.

    Raises:
        OutputError: A line that does not count has others after it.
    """
    parts: list[Part] = []
    good = 0
    while good < len(content):
        end = content.find(b"\n", good) + 1 or len(content)
        line = content[good:end]
        place = f"{path}, line {lines_before + len(parts) + 1:,}"
        if not (_is_whole(line) and _has_right_checksum(line)):
            if end == len(content):
                break
            raise OutputError(
                f"{place}: the checksum is wrong, and lines follow: it was damaged after it was written. "
                "Restore it from a copy, or score again with another --output."
            )
        try:
            parts.append(Part.from_json(json.loads(line[9:])))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise OutputError(
                f"{place}: not a line this version can read ({error}). "
                "Use the version that wrote it, or another --output."
            ) from error
        good = end
    return parts, good


def best(candidates: Iterable[Part]) -> Part:
    """Which of several finished parts of one unit stands for it.

    Parts of the same name have the same bytes. Of different ones, both right within tolerance, one
    without splits wins, then the first by name: any reader at any time picks the same.
    """
    return min(candidates, key=lambda part: (bool(part.splits), part.name))


def merge(parts: Iterable[Part], sizes: Mapping[str, int]) -> tuple[dict[int, Part], list[Part]]:
    """One part per unit, out of all manifests.

    Args:
        parts: What the manifests name, in any order, repeats included.
        sizes: Size of each file that is really there, by name.

    Returns:
        The winning part of each finished unit, by unit in ascending order; and the parts whose unit has no
        file of the right size any more: such a unit has to be done again.
    """
    found: dict[int, list[Part]] = {}
    for part in parts:
        found.setdefault(part.unit, []).append(part)
    finished: dict[int, Part] = {}
    lost: list[Part] = []
    for unit in sorted(found):
        present = [part for part in found[unit] if sizes.get(part.name) == part.file_bytes]
        if present:
            finished[unit] = best(present)
        else:
            lost.append(best(found[unit]))
    return finished, lost


class Manifests:
    """All manifests of an output folder, read as they grow, and the one this writer owns."""

    def __init__(self, files: Files, output: str) -> None:
        self.writer = ""
        self._files = files
        self._folder = os.path.join(output, FOLDER)
        self._read: dict[str, tuple[int, int]] = {}  # name → bytes and lines that counted
        self._handle: int | None = None

    def claim(self, writer: str | None) -> None:
        """Become the owner of a manifest; call while holding the lock of the folder.

        Args:
            writer: Its name (letters, digits, underscores); None: the first free number.
        """
        self._files.make_folder(self._folder)
        if writer is not None:
            if not _NAME.fullmatch(f"manifest-{writer}.jsonl"):
                raise ConfigError(f"writer={writer!r}: a name is 1 to 64 letters, digits or underscores.")
            if not self._try_claim(writer):
                raise OutputError(
                    f"{self._folder}: writer {writer!r} is at work in another process. "
                    "Give this one another name, or none to get a free one."
                )
            return
        number = 0
        while not self._try_claim(str(number)):
            number += 1

    def _try_claim(self, writer: str) -> bool:
        handle = self._files.open(self._path(f"manifest-{writer}.jsonl"))
        if not self._files.lock(handle):
            self._files.close(handle)
            return False
        self.writer, self._handle = writer, handle
        return True

    def refresh(self) -> list[Part]:
        """The parts whose lines came to count since the last call, own ones included the first time."""
        fresh: list[Part] = []
        for name in sorted(self._files.sizes(self._folder) or {}):
            if not _NAME.fullmatch(name) or (name == self._own and name in self._read):
                continue
            start, lines = self._read.get(name, (0, 0))
            path = self._path(name)
            parts, good = parse(self._files.read(path, start), path, lines)
            self._read[name] = (start + good, lines + len(parts))
            fresh += parts
        return fresh

    def repair(self) -> None:
        """Cut the own manifest's last line off if it does not count; call after `refresh`."""
        assert self._handle is not None
        good, _ = self._read[self._own]
        if (self._files.sizes(self._folder) or {})[self._own] != good:
            self._files.truncate(self._handle, good)

    def sync(self) -> None:
        """Make every line that was read durable: its writer may have died before its own fsync."""
        for name in self._read:
            if name == self._own and self._handle is not None:
                self._files.fsync(self._handle)
                continue
            handle = self._files.open(self._path(name))
            try:
                self._files.fsync(handle)
            finally:
                self._files.close(handle)
        self._files.fsync_folder(self._folder)

    def append(self, line: bytes) -> None:
        """Make the part of a manifest line finished: durable when this returns."""
        assert self._handle is not None
        good, lines = self._read[self._own]
        try:
            self._files.write(self._handle, line)
            self._files.fsync(self._handle)
        except OSError:
            with suppress(OSError):
                self._files.truncate(self._handle, good)  # nobody shall believe what may not be durable
            raise
        self._read[self._own] = (good + len(line), lines + 1)

    def release(self) -> None:
        """Give the manifest up."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            try:
                self._files.unlock(handle)  # closing is not enough where a forked child shares the handle
            finally:
                self._files.close(handle)

    @property
    def _own(self) -> str:
        return f"manifest-{self.writer}.jsonl" if self.writer else ""

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)
