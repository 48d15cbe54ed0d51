"""The feeder: one thread that starts work, plans batches and claims their slots in the ring.

It is the only thread that feels backpressure, so the pool is never clogged by a worker that waits for a slot.
Workers never wait for anything but their own work. Everything that the feeder reacts to reaches it as a call
in its inbox: what was read, what was loaded, what was tokenized.

A row that was loaded and is the next in order needs no such detour: the worker that has it takes the
feeder's turn, if nobody has it, plans the row, and makes the batch that it completes. The turn is a lock that
the feeder holds whenever it does not sleep over an empty inbox; with it goes all that planning changes.

What bounds the flow: rows that were started (given to ``load`` or to the tokenizer) and are in no batch are
at most ``rows_ahead + window_rows``; claimed batches are at most ``batches_ahead + 1`` (once the loop has
one, the last is the one in its hands), and one more is planned, or being packed, and waits for its claim.
Rows that failed are in no batch and do not count.

What bounds the bytes: text that was read or loaded and is in no batch is counted by the gate until it is in
the open window, and there by the planner. Nothing is started while the gate is over its share, so it goes
over by what is under way: a row for each load in flight, or one chunk of a source that holds rows.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from concurrent.futures import Future, wait
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from time import perf_counter, sleep
from traceback import clear_frames
from typing import TYPE_CHECKING, Any

from penstock.errors import AbandonedWorkersError
from penstock.loads import Load, Loader
from penstock.reader import Gate, Reader
from penstock.windows import FailedRow, Failure, PlannedBatch, Rows, WindowPlanner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from penstock._core import Ring
    from penstock.batch import Batch
    from penstock.collation import Collator, Staged
    from penstock.encoder import Encoder
    from penstock.pool import WorkerPool
    from penstock.sources import Chunk, RowReader
    from penstock.stats import Clock
    from penstock.windows import Array

NEVER_SWALLOWED = (SystemExit, KeyboardInterrupt, GeneratorExit)
"""Whatever ``on_error`` says, these reach the loop: they ask the process to stop, they judge no row."""


_PATIENCE_S = 0.005  # of a feeder that waits for a slot, and has something else to look after


@dataclass(frozen=True)
class Limits:
    """The bounds of a pass, resolved."""

    rows_ahead: int
    window_rows: int
    num_workers: int
    max_buffered_bytes: int
    max_wait: float | None
    ordered: bool
    on_error: str

    @property
    def max_window_bytes(self) -> int:
        """The open window is cut at half of the bound."""
        return max(1, self.max_buffered_bytes // 2)

    @property
    def max_gate_bytes(self) -> int:
        """What the open window, which stays below its half, leaves of the bound; all, if there is none."""
        return self.max_buffered_bytes - (0 if self.window_rows == 1 else self.max_window_bytes - 1)


@dataclass(eq=False)
class Entry:
    """A job in the order of the input: tokenized rows, once they are there."""

    rows: Rows | None = None
    error: BaseException | None = None
    load: Load | None = None
    text_bytes: int = 0
    is_end: bool = False  # the source ended with this error: it comes after every row, in any order

    @property
    def is_ready(self) -> bool:
        """Whether the feeder can take it."""
        return self.rows is not None or self.error is not None


class Feeder:
    """One pass: from the source's items to published batches.

    Args:
        items: A pass over the source: chunks of text, or keys where there is a loader.
        ring, pool, encoder, collator, planner, clock, limits: What it drives.
        make_loader: Builds the loader around the callback that it calls with each finished load.
        row_reader: Turns loaded rows into chunks.
    """

    def __init__(
        self,
        items: Iterator[Any],
        *,
        ring: Ring,
        pool: WorkerPool,
        encoder: Encoder,
        collator: Collator,
        planner: WindowPlanner,
        clock: Clock,
        limits: Limits,
        make_loader: Callable[[Callable[[Load], None]], Loader] | None,
        row_reader: RowReader,
        name: str,
    ) -> None:
        self._ring, self._pool, self._clock, self._limits = ring, pool, clock, limits
        self._encoder, self._collator, self._planner = encoder, collator, planner
        self._row_reader = row_reader
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._gate = Gate(limits.rows_ahead, limits.max_gate_bytes)
        self._loader = make_loader(self._load_finished) if make_loader is not None else None
        self._backlog: deque[Any] = deque()  # read and not started: keys with their index, or jobs
        self._entries: deque[Entry] = deque()  # started and not planned, in input order
        self._loads: dict[Load, Entry] = {}  # loads in flight
        self._waiting: list[PlannedBatch] = []  # planned by a worker that found no room in the ring
        self._waiting_bytes = 0  # of their text
        self._num_started = 0  # rows, those that failed not counted
        self._ticket = 0
        self._is_read = False
        self._has_failed = False
        self._staging: deque[Future[None]] = deque(maxlen=ring.capacity)
        self._oldest: float | None = None  # when the oldest row that waits for its window came
        self._num_failed = 0
        self._num_failed_in_workers: list[int] = []  # appending is atomic; adding is not
        self._num_keys = 0
        self.num_text_bytes = 0
        """Text that was tokenized."""
        self._reader = Reader(
            items,
            jobs=self._key_jobs if self._loader is not None else self._text_jobs,
            put=lambda job: self._inbox.put(partial(self._backlog.append, job)),
            ended=lambda error: self._inbox.put(partial(self._source_ended, error)),
            gate=self._gate,
            clock=clock,
            name=name,
        )
        self._turn = threading.Lock()
        # Rows that wait for a window, a moment, or just any slot are the feeder's.
        self._workers_plan = limits.ordered and limits.window_rows == 1 and limits.max_wait is None
        self._thread = threading.Thread(target=self._feed, name=f"{name}-feeder", daemon=True)

    def start(self) -> None:
        """Start both threads."""
        self._reader.thread.start()
        self._thread.start()

    def stop(self) -> None:
        """Tell both threads and the loads to end. Does not wait; the ring must be cancelled already."""
        self._has_failed = True
        self._gate.close()
        self._inbox.put(_nothing)
        if self._loader is not None:
            self._loader.stop()

    def join_loads(self) -> None:
        """After ``stop``: wait for coroutines that were cancelled, as long as they get on with it."""
        if self._loader is not None:
            self._loader.join()

    @property
    def threads(self) -> list[threading.Thread]:
        """The reader and the feeder, for joining."""
        return [self._reader.thread, self._thread]

    @property
    def in_caller_code(self) -> set[threading.Thread]:
        """The reader, while it is inside the caller's source."""
        return self._reader.in_caller_code

    @property
    def num_failed(self) -> int:
        """Rows that failed so far."""
        return self._num_failed + sum(self._num_failed_in_workers)

    @property
    def num_retries(self) -> int:
        """Loads that were tried again."""
        return self._loader.num_retries if self._loader is not None else 0

    # --- in the reader's thread --------------------------------------------------------------------------

    def _key_jobs(self, key: Any) -> Iterator[tuple[Any, int, int]]:
        number, self._num_keys = self._num_keys, self._num_keys + 1
        yield (key, number), 1, 0

    def _text_jobs(self, chunk: Chunk) -> Iterator[tuple[Any, int, int]]:
        for job in self._encoder.jobs(chunk):
            yield job, len(job[1]), int(job[1].sum())

    # --- the feeder's thread -----------------------------------------------------------------------------

    def _feed(self) -> None:
        with self._turn:
            try:
                while not self._has_failed and not self._is_done():
                    self._sleep(self._patience())
                    self._react(0.0)
                    # Planning first: its batches are wanted before the rows that would be started now.
                    self._plan_ready()
                    self._start_work()
            except BaseException as error:  # noqa: BLE001 - whatever it is, the consumer must hear of it
                self._deliver(Failure(error))
            finally:
                # Frames of a finished pass must not keep rows alive.
                self._backlog.clear()
                self._entries.clear()
                self._waiting.clear()
                self._staging.clear()
            self._ring.close()
        if not self._has_failed:
            # Every row is on its way: the workers end while the loop has its last batches in hand.
            self._pool.shutdown(wait=False, cancel_futures=False)

    def _is_done(self) -> bool:
        is_planned = not self._entries and not self._waiting and self._planner.is_empty
        return self._is_read and not self._backlog and is_planned

    def _sleep(self, patience: float | None) -> None:
        """Wait for something to happen. Meanwhile the turn is anybody's."""
        if patience == 0.0:
            return
        self._turn.release()
        try:
            call = self._inbox.get(timeout=patience)
        except queue.Empty:
            call = _nothing
        finally:
            self._turn.acquire()
        call()

    def _react(self, patience: float) -> None:
        """Wait for something to happen, the turn kept, then take in all that has happened."""
        if patience > 0:
            with suppress(queue.Empty):
                self._inbox.get(timeout=patience)()
        while not self._inbox.empty():  # nobody else takes from it
            self._inbox.get_nowait()()
        self._give_up_overdue()

    def _patience(self) -> float | None:
        """Seconds until something is due by the clock; None: nothing is."""
        if self._has_work():
            return 0.0
        due: list[float] = []
        now = perf_counter()
        timeout = self._loader.timeout if self._loader is not None else None
        if self._loads and timeout is not None:
            started = [load.started for load in list(self._loads) if load.started is not None]
            due.append(min(started, default=now) + timeout)
        if self._limits.max_wait is not None and self._oldest is not None:
            due.append(self._oldest + self._limits.max_wait)
        return min(max(0.001, min(due) - now), threading.TIMEOUT_MAX) if due else None

    def _has_work(self) -> bool:
        """Whether there is something that the feeder need not wait for."""
        return bool(self._waiting) or self._has_ready_entry() or (self._is_read and not self._entries)

    def _source_ended(self, error: BaseException | None) -> None:
        self._is_read = True
        if error is not None:
            self._backlog.append(Failure(error))

    def _start_work(self) -> None:
        limits = self._limits
        while self._backlog and not self._has_failed:
            job = self._backlog[0]
            if isinstance(job, Failure):
                self._entries.append(Entry(error=job.error, is_end=True))
            elif self._loader is not None:
                if len(self._loads) >= limits.rows_ahead or not self._has_room(1):
                    return
                self._start_load(*job)
            else:
                if not self._has_room(job[0].batch.num_rows):
                    return
                self._start_encoding(*job)
            self._backlog.popleft()

    def _has_room(self, num_rows: int) -> bool:
        num_open = self._num_started - self._planner.num_planned
        if num_open == 0:
            return True
        if self._loader is not None and self._gate.is_over():
            return False
        return num_open + num_rows <= self._limits.rows_ahead + self._limits.window_rows

    def _start_load(self, key: Any, index: int) -> None:
        assert self._loader is not None
        load = Load(key, index)
        entry = Entry(load=load)
        self._entries.append(entry)
        self._loads[load] = entry
        self._num_started += 1
        self._gate.leave(1, 0)
        self._loader.start(load)

    def _start_encoding(self, chunk: Chunk, text_bytes: Array) -> None:
        entry = Entry(text_bytes=int(text_bytes.sum()))
        self._entries.append(entry)
        self._num_started += chunk.batch.num_rows
        self._gate.leave(chunk.batch.num_rows, 0)
        self._pool.submit(self._encode, entry, chunk, text_bytes)

    def _give_up_overdue(self) -> None:
        if self._loader is None or self._loader.timeout is None:
            return
        now = perf_counter()
        for load in [load for load in self._loads if self._loader.overdue(load, now)]:
            self._pool.submit_first(self._encode_loaded, load)
        if self._pool.num_abandoned > self._limits.num_workers:
            raise AbandonedWorkersError(
                f"{self._pool.num_abandoned} load calls hang past the timeout, more than num_workers="
                f"{self._limits.num_workers}; load has to give up by itself (a timeout on its connection)."
            )

    # --- in the workers ----------------------------------------------------------------------------------

    def _load_finished(self, load: Load) -> None:
        """Called by the loader: in the worker that ran the call, or in the event loop's thread."""
        if self._pool.is_own_thread():
            self._encode_loaded(load)
        else:
            self._pool.submit_first(self._encode_loaded, load)

    def _encode_loaded(self, load: Load) -> None:
        """A load is over: tokenize its row; its error stands for the row."""
        entry = self._loads[load]
        rows, error = None, load.error
        try:
            if isinstance(error, NEVER_SWALLOWED):
                raise error  # noqa: TRY301 - it goes the way of all others
            rows = self._loaded_row(load) if error is None else self._failed_load(load, error)
            error = None
            entry.text_bytes = int(rows.text_bytes.sum())
            self._gate.add(entry.text_bytes)
        except BaseException as caught:  # noqa: BLE001 - it travels to the consumer
            error = caught
        is_plain = rows is not None and not rows.failures and self._workers_plan
        if not is_plain or not self._turn.acquire(blocking=False):
            self._inbox.put(partial(self._entry_ready, entry, rows, error))
            return
        mine = None
        try:
            assert rows is not None
            mine = self._plan_here(entry, rows)
        except BaseException as caught:  # noqa: BLE001 - it is the feeder's work, and its error
            self._inbox.put(partial(_fail, caught))
        finally:
            self._turn.release()
        if mine is not None:
            self._stage(*mine)

    def _plan_here(self, entry: Entry, rows: Rows) -> tuple[PlannedBatch, int] | None:
        """In a worker that has the turn: what the feeder does with a row. Gives a batch to make, if any.

        Never blocks. What would have to wait is left to the feeder.
        """
        self._entry_ready(entry, rows, None)
        is_next = not self._waiting and not self._has_failed and self._entries[0] is entry
        if is_next:
            self._entries.popleft()
            self._waiting += self._planner.add_sound(rows)
            self._waiting_bytes = entry.text_bytes
        self._start_work()
        mine = None
        # The claim comes last: whoever has a ticket must publish it, whatever happens.
        if is_next and self._waiting and self._ring.try_claim(self._ticket):
            mine = self._waiting.pop(0), self._ticket
            self._ticket_claimed()
        if is_next and not self._waiting:
            self._gate.leave(0, self._waiting_bytes)
        if self._has_work():
            self._inbox.put(_nothing)
        return mine

    def _loaded_row(self, load: Load) -> Rows:
        plain = self._row_reader.plain(load.row)
        with self._clock.stage("tokenize", load.index):
            if plain is not None:
                return self._encoder.row(plain, load.index)
            chunk = self._row_reader.chunk([load.row], load.index, "rows", load.index)
            ((_, text_bytes),) = self._encoder.jobs(chunk)
            return self._encoder.rows(chunk, text_bytes)

    def _failed_load(self, load: Load, error: BaseException) -> Rows:
        load.error = None
        if self._limits.on_error != "raise" and error.__traceback__ is not None:
            # It may be kept for long, and must not keep what the caller's frames hold. The first is ours.
            error.__traceback__ = error.__traceback__.tb_next
            clear_frames(error.__traceback__)
        tried = f", tried {load.attempt + 1} times" if load.attempt else ""
        note = f"penstock: in load(), row {load.index + 1:,} of the source{tried}"
        return self._encoder.failed_row(load.index, with_note(error, note))

    def _encode(self, entry: Entry, chunk: Chunk, text_bytes: Array) -> None:
        rows, error = None, None
        try:
            with self._clock.stage("tokenize", chunk.first_index):
                rows = self._encoder.rows(chunk, text_bytes)
        except BaseException as caught:  # noqa: BLE001 - it travels to the consumer
            error = caught
        self._inbox.put(partial(self._entry_ready, entry, rows, error))

    def _stage(self, planned: PlannedBatch, ticket: int) -> None:
        made: Staged | Batch | Failure
        try:
            with self._pool.caller_code() if self._collator.runs_caller_code else nullcontext():
                made = self._collator.stage(planned, ticket)
        except BaseException as error:  # noqa: BLE001 - it travels to the consumer
            made = self._failed_batch(planned, ticket, error)
        self._publish(made, ticket)

    def _failed_batch(self, planned: PlannedBatch, ticket: int, error: BaseException) -> Batch | Failure:
        """With on_error other than "raise", the caller's collate fails its own rows and no others."""
        is_judgement = self._collator.runs_caller_code and not isinstance(error, NEVER_SWALLOWED)
        if self._limits.on_error == "raise" or not is_judgement:
            return Failure(error)
        failed = [
            FailedRow(int(rows.index[at]), error, None if rows.kept is None else rows.kept.slice(at, 1))
            for rows, positions in planned.parts
            for at in sorted({int(at) for at in rows.row[positions]})
        ]
        self._num_failed_in_workers.append(len(failed))
        listed = planned.failed + (failed if self._limits.on_error == "null" else [])
        return self._collator.empty_batch(listed, ticket, planned.unit)

    def _publish(self, made: Staged | Batch | Failure, ticket: int) -> None:
        start = perf_counter()
        if self._limits.ordered:
            self._ring.publish(ticket, made)
        else:
            ticket = self._ring.publish_next(made)
        if (trace := self._clock.trace) is not None and ticket >= 0:
            trace.mark(ticket, "published", start)  # not later than the loop takes it
            trace.span("publish", start, perf_counter(), ticket)

    # --- planning, in the feeder thread ------------------------------------------------------------------

    def _entry_ready(self, entry: Entry, rows: Rows | None, error: BaseException | None) -> None:
        entry.rows, entry.error = rows, error
        self.num_text_bytes += entry.text_bytes
        if entry.load is not None:
            del self._loads[entry.load]

    def _plan_ready(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._deliver_all(waiting, self._waiting_bytes)
            if self._has_failed:
                return
        for entry in self._ready_entries():
            if entry.error is not None:
                self._deliver_all(self._planner.flush())
                self._deliver(Failure(entry.error))
                return
            assert entry.rows is not None
            rows = entry.rows
            self._num_started -= len(rows.failures)
            self._num_failed += len(rows.failures)
            self._oldest = self._oldest or perf_counter()
            self._deliver_all(self._planner.add(rows), entry.text_bytes)
            if self._has_failed:
                return
        is_overdue = (
            self._limits.max_wait is not None
            and self._oldest is not None
            and perf_counter() - self._oldest >= self._limits.max_wait
        )
        if is_overdue or (self._is_read and not self._backlog and not self._entries):
            self._deliver_all(self._planner.flush())
        if self._planner.is_empty:
            self._oldest = None

    def _has_ready_entry(self) -> bool:
        if self._limits.ordered:
            return bool(self._entries) and self._entries[0].is_ready
        return any(map(self._is_due, self._entries))

    def _is_due(self, entry: Entry) -> bool:
        """Without order: whether an entry may be taken. The end of the source waits for all others."""
        return entry.is_ready and (not entry.is_end or len(self._entries) == 1)

    def _ready_entries(self) -> Iterator[Entry]:
        if self._limits.ordered:
            while self._entries and self._entries[0].is_ready and not self._has_failed:
                yield self._entries.popleft()
        else:
            ready = list(filter(self._is_due, self._entries))
            self._entries = deque(entry for entry in self._entries if entry not in ready)
            yield from ready

    def _deliver_all(self, batches: Iterable[PlannedBatch | Failure], text_bytes: int = 0) -> None:
        for planned in batches:
            self._deliver(planned)
            self._oldest = perf_counter()  # what is left over came last
            if self._has_failed:
                return
            # While the loop was busy rows have arrived and room has been made: keep the workers going.
            self._react(0.0)
            self._start_work()
        self._gate.leave(0, text_bytes)

    def _deliver(self, planned: PlannedBatch | Failure) -> None:
        """Claim the next slot (blocks: this is the backpressure) and have a worker fill it."""
        if isinstance(planned, Failure):
            self._fail(planned)
            return
        ticket = self._ticket
        if self._has_failed or not self._claim(ticket):
            self._has_failed = True
            return
        self._ticket_claimed()
        self._staging.append(self._pool.submit_first(self._stage, planned, ticket))

    def _ticket_claimed(self) -> None:
        if self._clock.trace is not None:
            self._clock.trace.mark(self._ticket, "claimed", perf_counter())
        self._ticket += 1

    def _fail(self, failure: Failure) -> None:
        """The last thing that the ring is given (blocks until there is a slot)."""
        if self._has_failed:
            return
        self._has_failed = True
        while self._is_held_up():
            sleep(_PATIENCE_S)
            with suppress(Exception):  # the error that is on its way came first
                self._give_up_overdue()
        if not self._limits.ordered:
            wait(self._staging)  # without tickets to keep order, it would overtake earlier batches
        self._ring.put(failure)

    def forget_source(self) -> None:
        """Let go of the source once the reader has: a generator's ``finally`` need not wait for the pass."""
        self._reader.forget_source()

    def _claim(self, ticket: int) -> bool:
        while not self._ring.try_claim(ticket):
            # The loop is busy. Have the workers go on before waiting for it, as far ahead as they may; while
            # the reader is the one behind, what it reads is the sooner thing to wait for.
            self._react(0.0)
            self._start_work()
            is_reader_behind = not self._is_read and not self._backlog and self._has_room(1)
            if self._has_failed or not (is_reader_behind or self._is_held_up()):
                return not self._has_failed and self._ring.claim(ticket)
            self._react(_PATIENCE_S)
        return True

    def _is_held_up(self) -> bool:
        """Whether a batch still waits for a worker, while every worker may hang in ``load``.

        The loop will make no room then, and only the feeder can end the wait: it keeps the time.
        """
        is_timed = self._loader is not None and self._loader.timeout is not None
        return is_timed and not all(job.running() or job.done() for job in self._staging)


def with_note(error: BaseException, note: str) -> BaseException:
    """The same error with a line that names the place; shown in tracebacks from Python 3.11 on."""
    if hasattr(error, "add_note") and not getattr(error, "__notes__", ()):
        error.add_note(note)  # one is enough: a caller may raise the same object for every row
    return error


def _fail(error: BaseException) -> None:
    """Ends the feeder, and with it the pass."""
    raise error


def _nothing() -> None:
    """Wakes the feeder."""
