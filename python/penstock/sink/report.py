"""What an output folder holds: read without locks, at any time, also while writers are at work."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock.errors import OutputError
from penstock.sink import run
from penstock.sink.files import LOCAL, Files, explained
from penstock.sink.manifest import Manifests, Part, merge
from penstock.sink.parts import decode
from penstock.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from penstock.sink.run import Json


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run holds; `str` says it in words.

    Attributes:
        output: The folder.
        format: ``"parquet"`` or ``"jsonl"``.
        model: From the fingerprint; None if it has none.
        task: Likewise.
        files: Input files, in order.
        units_done: Finished units.
        units_total: Planned units.
        rows: Rows in finished parts.
        rows_total: Planned rows.
        errors: Rows whose ``error`` is not null.
        tokens: Tokens scored.
        bytes: Bytes of text scored.
        success: Whether ``_SUCCESS.json`` is there.
        parts: Finished parts, in input order.
        missing: Names of parts that are in a manifest and gone or cut; resuming does their units again.
        fingerprint: Everything a resumed run must share with the first.
    """

    output: str
    format: str
    model: str | None
    task: str | None
    files: tuple[str, ...]
    units_done: int
    units_total: int
    rows: int
    rows_total: int
    errors: int
    tokens: int
    bytes: int
    success: bool
    parts: tuple[Part, ...] = field(repr=False)
    missing: tuple[str, ...] = ()
    fingerprint: dict[str, Json] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        state = "complete" if self.success else "not complete"
        what = " with ".join(name for name in (self.task, self.model) if name) or "a run"
        lines = [
            f"{self.output}: {what}, {state}",
            f"  units   {self.units_done:,} of {self.units_total:,}",
            f"  rows    {self.rows:,} of {self.rows_total:,}, {self.errors:,} with an error",
            f"  scored  {counted(self.tokens, 'token')}, {counted(self.bytes, 'byte')} of text",
            f"  files   {len(self.files):,} in, {counted(len(self.parts), 'part')} out ({self.format})",
        ]
        if self.missing:
            gone = counted(len(self.missing), "part")
            lines.append(f"  missing {gone}, first {self.missing[0]}: done again on resume")
        return "\n".join(lines)


def inspect(output: str | os.PathLike[str], *, files: Files = LOCAL) -> RunReport:
    """Report what the run in a folder holds.

    Args:
        output: The folder given as ``--output``.
        files: The file operations; a test's way in.

    Raises:
        OutputError: There is no run, or its record is damaged.
    """
    folder = os.fspath(output)
    stored, finished, lost, names = _load(files, folder)
    plan = stored.read_plan()
    return RunReport(
        output=folder,
        format=stored.format,
        model=_word(stored.fingerprint.get("model")),
        task=_word(stored.fingerprint.get("task")),
        files=tuple(file.path for file in plan.files),
        units_done=len(finished),
        units_total=len(plan.units),
        rows=sum(part.num_rows for part in finished.values()),
        rows_total=plan.num_rows,
        errors=sum(part.num_errors for part in finished.values()),
        tokens=sum(part.num_tokens for part in finished.values()),
        bytes=sum(part.num_bytes for part in finished.values()),
        success=run.SUCCESS in names,
        parts=tuple(finished.values()),
        missing=tuple(part.name for part in lost),
        fingerprint=stored.fingerprint,
    )


def read_parts(output: str | os.PathLike[str], *, files: Files = LOCAL) -> Iterator[pa.Table]:
    """Yield the table of every finished part, in input order, each after its SHA-256 was checked.

    Args:
        output: The folder given as ``--output``; its run need not be complete.
        files: The file operations; a test's way in.

    Raises:
        OutputError: There is no run, or a part is not what was written.
    """
    folder = os.fspath(output)
    _, finished, _, _ = _load(files, folder)
    for part in finished.values():
        path = os.path.join(folder, part.name)
        with explained("reading a part", path):
            content = files.read(path)
        yield decode(part, content, path)


def _load(files: Files, folder: str) -> tuple[run.Run, dict[int, Part], list[Part], dict[str, int]]:
    with explained("reading the output folder", folder):
        stored = run.load(files, folder)
        lines = Manifests(files, folder).refresh()
        names = files.sizes(folder)  # after the manifests: a part is there before its line
    if names is None:
        raise OutputError(f"{folder}: the folder vanished while it was read.")
    return (stored, *merge(lines, names), names)


def _word(value: Json) -> str | None:
    return None if value is None else str(value)
