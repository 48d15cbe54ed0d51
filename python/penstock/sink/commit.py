"""Make one part after the other durable, in the order that survives a crash at any point."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from penstock.errors import OutputError
from penstock.sink import files as _files
from penstock.sink import parts, run
from penstock.sink.files import Files, explained, holding
from penstock.sink.manifest import Manifests, Part, best, merge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from penstock.sink.run import Run
    from penstock.sources import Unit


class Job(NamedTuple):
    """One unit on its way to the disk."""

    unit: Unit
    table: pa.Table
    splits: Sequence[object]
    quarantined: Mapping[int, str]


class Committer:
    """Commits parts, one at a time; lives on the writer thread once it is open.

    Names are given and manifest lines written while holding the lock of the folder: whoever holds it sees
    every finished unit, and a part that no manifest names belongs to nobody alive.
    """

    def __init__(self, files: Files, output: str, given: Run, writer: str | None) -> None:
        self.failure: BaseException | None = None
        self.finished: dict[int, Part] = {}
        self.num_rows = {unit.id: unit.num_rows for unit in given.read_plan().units}
        self.manifests = Manifests(files, output)
        self._files = files
        self._output = output
        self._run = given
        self._digits = max(5, len(str(max(self.num_rows, default=0))))
        self._lock_path = os.path.join(output, run.LOCK)
        with explained("opening the output folder", output):
            files.make_folder(output)
            run.refuse_foreign(output, files.sizes(output) or {})
            self._lock = files.open(self._lock_path)
            try:
                with self._locked():
                    self._open(writer)
            except BaseException:
                self.release()
                raise

    def _open(self, writer: str | None) -> None:
        run.create_or_compare(self._files, self._output, self._run)
        self.manifests.claim(writer)
        lines = self.manifests.refresh()
        self.manifests.repair()
        self.manifests.sync()
        sizes = self._files.sizes(self._output) or {}
        self.finished, _ = merge(lines, sizes)
        if run.SUCCESS in sizes and len(self.finished) < len(self.num_rows):
            self._files.remove(os.path.join(self._output, run.SUCCESS))  # a part has vanished since
        run.sweep(self._files, self._output, self.manifests.writer, self.finished.values())
        self._files.fsync_folder(self._output)

    def commit(self, job: Job) -> None:
        """Make one unit durable; in this order, or a crash loses or doubles rows."""
        content, part, line = self._prepare(job)
        staged = f"{run.STAGED}{self.manifests.writer}-{part.name}"
        path = os.path.join(self._output, staged)
        with explained("writing a part", os.path.join(self._output, part.name)):
            _files.stage(self._files, path, content)
            with self._locked():
                self._see_others()
                if part.unit in self.finished:
                    self._files.remove(path)
                    return
                _files.publish(self._files, self._output, staged, part.name)
                self.manifests.append(line)
                self.finished[part.unit] = part

    def _prepare(self, job: Job) -> tuple[memoryview, Part, bytes]:
        """All that can fail for the sake of the rows, before anything is written."""
        format = self._run.format
        try:
            content = parts.encode(job.unit, job.table, format)
            part = parts.describe(
                job.unit,
                job.table,
                content,
                format,
                digits=self._digits,
                splits=job.splits,
                quarantined=job.quarantined,
            )
            return content, part, part.to_line()
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise OutputError(f"unit {job.unit.id}: cannot be written as {format}: {error}") from error

    def finish(self) -> None:
        """If the plan is done, say so."""
        with explained("closing the output folder", self._output), self._locked():
            self._see_others()
            if len(self.finished) < len(self.num_rows):
                return
            sizes = self._files.sizes(self._output) or {}
            for part in self.finished.values():
                if sizes.get(part.name) != part.file_bytes:
                    raise OutputError(
                        f"{os.path.join(self._output, part.name)}: finished, but gone or cut since. "
                        "Run the same command again: its unit is done again."
                    )
            self.manifests.sync()
            run.sweep(self._files, self._output, self.manifests.writer, self.finished.values())
            if run.SUCCESS not in sizes:
                run.write_success(self._files, self._output, self.finished.values())

    def release(self) -> None:
        """Give the locks up."""
        try:
            self.manifests.release()
        finally:
            self._files.close(self._lock)

    def _see_others(self) -> None:
        for part in self.manifests.refresh():
            known = self.finished.get(part.unit)
            self.finished[part.unit] = best([known, part]) if known else part

    def _locked(self) -> AbstractContextManager[None]:
        return holding(self._files, self._lock, self._lock_path)
