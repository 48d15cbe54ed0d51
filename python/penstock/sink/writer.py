"""The sink: tables in, durable parts out, on a thread of its own."""

from __future__ import annotations

import os
import threading
import weakref
from queue import SimpleQueue
from typing import TYPE_CHECKING

from penstock.errors import ClosedError, ConfigError, ForkedError, OutputError
from penstock.sink.commit import Committer, Job
from penstock.sink.files import LOCAL, Files
from penstock.sink.run import Run
from penstock.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    import pyarrow as pa
    from typing_extensions import Self

    from penstock.sources import Unit


class Sink:
    r"""Writes the finished units of a durable run, each exactly once.

    Use `Sink.open`. `write` hands a unit's table over and returns; a thread of the sink makes it durable:
    staged file, fsync, rename, fsync of the folder, one manifest line, fsync. What fails there is raised by
    the next `write` or by `close`; parts that were finished before stay finished.

    Several processes may write to one folder at once. A unit that two of them finish is kept once.

    Example:
        >>> import pathlib, tempfile, pyarrow as pa
        >>> from penstock.sources import plan_units
        >>> home = tempfile.TemporaryDirectory()
        >>> folder = pathlib.Path(home.name)
        >>> _ = (folder / "in.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
        >>> plan = plan_units(folder / "in.jsonl")
        >>> with Sink.open(folder / "out", plan.to_json(), {"model": "tiny"}) as sink:
        ...     sink.write(plan.units[0], pa.table({"score": [0.5, 0.25]}))
        >>> sorted(sink.finished)
        [0]
        >>> home.cleanup()
    """

    def __init__(self, committer: Committer, parts_ahead: int) -> None:
        self._committer = committer
        self._handed: set[int] = set(committer.finished)
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._room = threading.Semaphore(parts_ahead)
        self._pid = os.getpid()
        self._thread = threading.Thread(
            target=_write_all, args=(committer, self._jobs, self._room), name="penstock-sink", daemon=True
        )
        self._thread.start()
        # Also at interpreter exit. Neither the thread nor this holds the sink itself.
        self._end = weakref.finalize(self, _stop, self._jobs, self._thread, self._pid)

    @classmethod
    def open(
        cls,
        output: str | os.PathLike[str],
        plan_json: Mapping[str, object],
        fingerprint: Mapping[str, object],
        *,
        format: str = "parquet",
        writer: str | None = None,
        parts_ahead: int = 2,
        files: Files = LOCAL,
    ) -> Sink:
        """Create an output folder, or resume the run in it.

        Args:
            output: A folder: absent, empty, or that of the same run.
            plan_json: The plan, as ``Plan.to_json`` gives it.
            fingerprint: Everything that decides the output, as JSON values by name.
            format: ``"parquet"`` or ``"jsonl"``.
            writer: Names this writer's manifest (letters, digits, underscores); None: the first free number.
            parts_ahead: Tables held at most: the one being written and those that wait.
            files: The file operations; a test's way in.

        Raises:
            FingerprintError: The folder belongs to a run with other settings; names the first that differs.
            OutputError: The folder holds files of somebody else, is damaged, or cannot be written.
        """
        if "://" in os.fspath(output):
            raise ConfigError(f"output={os.fspath(output)!r}: the output is a local folder, not a URL.")
        if parts_ahead < 1:
            raise ConfigError(f"parts_ahead={parts_ahead}: at least one table has to be held.")
        given = Run.of(plan_json, fingerprint, format)
        return cls(Committer(files, os.fspath(output), given, writer), parts_ahead)

    @property
    def finished(self) -> frozenset[int]:
        """Ids of the units that are durable, by whichever writer."""
        return frozenset(self._committer.finished)

    @property
    def writer(self) -> str:
        """Name of this writer."""
        return self._committer.manifests.writer

    def write(
        self,
        unit: Unit,
        table: pa.Table,
        *,
        splits: Sequence[object] = (),
        quarantined: Mapping[int, str] | None = None,
    ) -> None:
        """Hand over the rows of a unit, in input order; returns before they are durable.

        Blocks while `parts_ahead` tables are held. A unit that another writer finished since is dropped.

        Args:
            unit: One of the plan that is not in `finished` and was not written before.
            table: Its rows, `unit.num_rows` of them, failed ones included.
            splits: JSON values that say which batches had to be run in pieces.
            quarantined: Reason by input index, of rows set aside.

        Raises:
            OutputError: A part could not be written, this or an earlier one; the run cannot go on.
        """
        self._check_usable()
        self._check(unit, table)
        self._room.acquire()
        if self._committer.failure is not None:
            self._room.release()
            self._raise_failure()
        self._handed.add(unit.id)
        self._jobs.put(Job(unit, table, splits, quarantined or {}))

    def close(self) -> None:
        """Finish what was handed over; if that completes the plan, create ``_SUCCESS.json``.

        A second call does nothing.

        Raises:
            OutputError: A part could not be written.
        """
        if self._pid != os.getpid():
            raise ForkedError("This sink belongs to the parent process: open one in the child.")
        if self._end.alive:
            self._end()
            if self._committer.failure is not None:
                self._raise_failure()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except OutputError as failure:
            if error is None:
                raise
            if not isinstance(error, OutputError) and hasattr(error, "add_note"):
                error.add_note(f"While closing the output: {failure}")

    def _check_usable(self) -> None:
        if self._pid != os.getpid():
            raise ForkedError("This sink belongs to the parent process: open one in the child.")
        if not self._end.alive:
            raise ClosedError("The sink was closed: open the output folder again.")
        if self._committer.failure is not None:
            self._raise_failure()

    def _check(self, unit: Unit, table: pa.Table) -> None:
        planned = self._committer.num_rows.get(unit.id)
        if planned is None:
            raise ConfigError(f"unit {unit.id}: not in the plan of this run.")
        if unit.id in self._handed:
            raise ConfigError(f"unit {unit.id}: finished or written before. Skip the units in Sink.finished.")
        if not table.num_rows == unit.num_rows == planned:
            raise ConfigError(
                f"unit {unit.id}: the table has {counted(table.num_rows, 'row')}, "
                f"the unit {unit.num_rows:,}, the plan {planned:,}. "
                "A part holds every row of its unit, failed ones included."
            )
        if len(set(table.column_names)) != table.num_columns:
            raise ConfigError(f"unit {unit.id}: a column name occurs twice in {table.column_names}.")

    def _raise_failure(self) -> None:
        failure = self._committer.failure
        raise OutputError(str(failure) or repr(failure)) from failure


def _write_all(committer: Committer, jobs: SimpleQueue[Job | None], room: threading.Semaphore) -> None:
    """The writer thread: after a failure it only empties the queue, so that nobody waits for room."""
    try:
        while (job := jobs.get()) is not None:
            try:
                if committer.failure is None:
                    committer.commit(job)
            except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
                committer.failure = error
            del job
            room.release()
        if committer.failure is None:
            committer.finish()
    except BaseException as error:  # noqa: BLE001 - likewise
        committer.failure = error
    finally:
        committer.release()


def _stop(jobs: SimpleQueue[Job | None], thread: threading.Thread, pid: int) -> None:
    if os.getpid() != pid:
        return  # a forked child: the thread, the locks and the parts are the parent's
    jobs.put(None)
    if thread is not threading.current_thread():
        thread.join()
