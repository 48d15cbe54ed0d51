"""Scoring: rows through a prefetcher, a model and a task, back in input order.

``score`` reads files and writes a durable run; ``stream`` takes rows and gives rows. Both run the same loop::

    for batch in prefetcher:
        outputs = task.forward(batch)       # queued on the device; nothing waits for it here
        drain.put(batch, outputs)           # copied to the host behind the next batch
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from penstock.answers import Answered, Answers, Drain
from penstock.errors import ConfigError, PenstockError
from penstock.models import LoadedModel, load_model, tokenizer_source
from penstock.prefetcher import Prefetcher
from penstock.sink import Sink
from penstock.sources import Plan, UnitSource, plan_units
from penstock.sources.chunk import MAX_ROW_BYTES
from penstock.tasks import Task, check_options, make_task, task_options
from penstock.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import pyarrow as pa
    import torch

    from penstock.batch import Batch
    from penstock.stats import Stats

PROGRESS_EVERY_S = 0.25


@dataclass(frozen=True)
class Progress:
    """How far a run is; given to ``progress`` a few times a second.

    Attributes:
        num_rows: Rows scored by this process so far, of ``total_rows`` that it has to score.
        num_tokens: Tokens the model has seen, padding not counted.
        elapsed_s: Seconds since the first batch was asked for.
        wait_share: Share of that time that the loop waited for data, 0 to 1.
        num_skipped_rows: Rows that an earlier run had finished.
    """

    num_rows: int
    total_rows: int
    num_tokens: int
    elapsed_s: float
    wait_share: float
    num_skipped_rows: int = 0

    @property
    def eta_s(self) -> float | None:
        """Seconds still to go at the pace so far; None before the first row."""
        return self.elapsed_s * (self.total_rows - self.num_rows) / self.num_rows if self.num_rows else None


@dataclass(frozen=True)
class Run:
    """What ``score`` did.

    Attributes:
        output: The folder.
        num_rows: Rows in the output, of this and earlier runs.
        num_scored_rows: Rows of this run.
        num_errors: Rows of this run whose ``error`` is not null.
        num_units, num_skipped_units: Units of the plan, and those that an earlier run had finished.
        is_complete: Whether every unit is done.
        stats: Who waited for whom.
        seconds: Time by part: model (loading it), plan (reading sizes, cutting units), score.
    """

    output: str
    num_rows: int
    num_scored_rows: int
    num_errors: int
    num_units: int
    num_skipped_units: int
    is_complete: bool
    stats: Stats
    seconds: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """A closing summary of a few lines."""
        skipped = (
            f" ({self.num_skipped_units:,} of {self.num_units:,} units were finished before and are skipped)"
            if self.num_skipped_units
            else ""
        )
        errors = f", {self.num_errors:,} with an error" if self.num_errors else ""
        state = "complete" if self.is_complete else "not complete"
        return f"{self.num_scored_rows:,} rows scored{errors}{skipped}\n{self.output}: {state}\n{self.stats}"


def score(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    model: str | os.PathLike[str] | torch.nn.Module,
    task: str,
    output: str | os.PathLike[str],
    tokenizer: Any = None,
    format: str = "parquet",
    unit_rows: int = 16_384,
    unit_bytes: int = 16 << 20,
    id_column: str | None = None,
    keep: Sequence[str] = (),
    text_column: str = "text",
    pair_column: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Run:
    """Score files into a folder: the same rows in the same order, with score columns. Durable and resumable.

    Run again with the same arguments it skips what is finished. The folder holds one part per unit of the
    input, a manifest, and ``_SUCCESS.json`` once all is done.

    Args:
        inputs: A path, glob, folder or URL, or a list of them.
        model: A folder, a hub id, or a transformers model.
        task: "perplexity", "classify" or "embed".
        output: The folder to write.
        tokenizer: The model's own, unless given.
        format: "parquet" or "jsonl".
        unit_rows, unit_bytes: Rows and bytes of text of a unit, whichever is less. A unit is what is redone
            after an interruption.
        id_column, keep: Input columns that the output holds too.
        text_column, pair_column: Where the text is.
        progress: Called a few times a second, in this thread.
        **options: Options of the model (revision, dtype, device, device_map, trust_remote_code), of the task
            (see its class), and of ``Prefetcher`` other than source, load and ordered. ``on_error`` is
            "null" unless given: a row that fails has its reason in ``error``.

    Raises:
        PenstockError: See ``penstock.errors``; the message names the thing, the rule and the remedy.

    Example:
        >>> import json, pathlib, tempfile
        >>> from penstock.demo import MODEL
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "rows.jsonl").write_text(json.dumps({"text": "The sea was calm."}))
        >>> rows, scored = folder / "rows.jsonl", folder / "scored"
        >>> run = penstock.score(rows, model=MODEL, task="perplexity", output=scored)
        >>> run.num_rows, run.is_complete
        (1, True)
    """
    paths = _paths(inputs)
    kept = _kept(id_column, keep)
    on_error = options.pop("on_error", "null")
    if on_error == "skip":
        raise ConfigError(
            "on_error='skip': a durable run holds every row; use 'null' (the default) or 'raise'."
        )
    if options.get("max_wait") is not None:
        raise ConfigError(
            "max_wait: a durable run gives the same batches each time, so time must not cut them."
        )
    _refuse(options, ("source", "load", "ordered", "timeout", "retries", "collate"))
    start = time.perf_counter()
    plan = plan_units(
        paths,
        unit_rows=unit_rows,
        unit_bytes=unit_bytes,
        text_column=text_column,
        pair_column=pair_column,
        keep=kept,
        max_row_bytes=options.get("max_row_bytes", MAX_ROW_BYTES),
    )
    planned = time.perf_counter()
    scoring = _Scoring.set_up(model, task, tokenizer, options)
    scoring.check_columns(kept)
    loaded = time.perf_counter()
    with Sink.open(output, plan.to_json(), scoring.fingerprint(plan, on_error), format=format) as sink:
        skipped = [unit for unit in plan.units if unit.id in sink.finished]
        todo = {unit.id: unit for unit in plan.units if unit.id not in sink.finished}
        reporter = _Reporter(
            progress, sum(u.num_rows for u in todo.values()), sum(u.num_rows for u in skipped)
        )
        num_errors = 0
        source = UnitSource(plan, finished=sink.finished)
        with scoring.prefetcher(
            source, text_column=text_column, pair_column=pair_column, keep=kept, on_error=on_error
        ) as batches:
            for unit, table, splits in _units(scoring, batches, todo, reporter):
                num_errors += table.num_rows - table.column("error").null_count
                sink.write(unit, table, splits=splits)
            stats = batches.stats()
    reporter.report(stats, is_last=True)
    return Run(
        output=os.fspath(output),
        num_rows=plan.num_rows,
        num_scored_rows=sum(unit.num_rows for unit in todo.values()),
        num_errors=num_errors,
        num_units=len(plan.units),
        num_skipped_units=len(skipped),
        is_complete=len(sink.finished) == len(plan.units),
        stats=stats,
        seconds={"plan": planned - start, "model": loaded - planned, "score": time.perf_counter() - loaded},
    )


def stream(
    rows: Any,
    *,
    model: str | os.PathLike[str] | torch.nn.Module,
    task: str,
    tokenizer: Any = None,
    id_column: str | None = None,
    keep: Sequence[str] = (),
    on_error: str = "null",
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """Score rows in memory: gives one dict per row, in input order, with kept fields and score columns.

    Args:
        rows: What ``Prefetcher`` takes: an iterable of str, pairs, dicts, or Arrow batches; a table; files.
        model, task, tokenizer, id_column, keep: As in ``score``.
        on_error: "null": a failed row has its reason in ``error``. "skip": it is left out. "raise": its
            error is raised after the rows before it.
        **options: As in ``score``.

    Returns:
        An iterator. Closing or dropping it ends its threads.

    Example:
        >>> from penstock.demo import MODEL
        >>> [row["num_tokens"] for row in penstock.stream(["", "The sea"], model=MODEL, task="perplexity")]
        [0, 2]
    """
    _refuse(options, ("source", "load", "ordered", "collate"))
    kept = _kept(id_column, keep)
    scoring = _Scoring.set_up(model, task, tokenizer, options)
    scoring.check_columns(kept)
    # A row that is skipped must still be known to be over, or the rows behind it would wait for it.
    batches = scoring.prefetcher(rows, keep=kept, on_error="null" if on_error == "skip" else on_error)
    return _rows(scoring, batches, skip=on_error == "skip")


class _Scoring:
    """A loaded model, its task, and what is left of the options for the prefetcher."""

    def __init__(
        self, loaded: LoadedModel, tokenizer: Tokenizer, task: Task, prefetch: dict[str, Any]
    ) -> None:
        self.loaded, self.tokenizer, self.task = loaded, tokenizer, task
        self.prefetch = prefetch

    @classmethod
    def set_up(cls, model: Any, task: str, tokenizer: Any, options: dict[str, Any]) -> _Scoring:
        """Check the options, load the model, and have the task ask it a few rows: that warms it up."""
        own = {name: options[name] for name in options if name in task_options(task)}
        names = ("revision", "dtype", "device", "device_map", "trust_remote_code")
        how = {name: options[name] for name in names if name in options}
        rest = {name: value for name, value in options.items() if name not in own and name not in how}
        known = _prefetch_options()
        check_options(task, {name: value for name, value in rest.items() if name not in known})
        if tokenizer is None:
            tokenizer = tokenizer_source(model)
        if not isinstance(tokenizer, Tokenizer):
            tokenizer = Tokenizer.from_pretrained(tokenizer, revision=how.get("revision"))
        loaded = load_model(model, task, **how)
        return cls(loaded, tokenizer, make_task(task, loaded, tokenizer, **own), rest)

    def check_columns(self, kept: Sequence[str]) -> None:
        """A kept column must not hide a score."""
        for name in kept:
            if name in self.task.schema():
                raise ConfigError(
                    f"keep={name!r}: task {self.task.name!r} writes a column of that name; rename yours."
                )

    def prefetcher(self, source: Any, **changes: Any) -> Prefetcher:
        """The prefetcher that this task's rows want."""
        arguments: dict[str, Any] = {
            **self.prefetch,
            **self.task.tokenization(),
            "prompt": self.task.prompt,
            "padding_side": "right",
            "device": self.loaded.device,
            **changes,
        }
        return Prefetcher(source, self.task.tokenizer, **arguments)

    def answer(self, batch: Batch, splits: list[Any]) -> dict[str, torch.Tensor]:
        """Ask the model. If memory runs out, in halves; a single row that does not fit is an error."""
        import torch

        try:
            return self.task.forward(batch)
        except torch.OutOfMemoryError:
            if len(batch) < 2:
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        middle = len(batch) // 2
        splits.append({"ticket": batch.ticket, "rows": len(batch), "into": [middle, len(batch) - middle]})
        parts = [self.answer(_part(batch, at), splits) for at in (slice(0, middle), slice(middle, None))]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def fingerprint(self, plan: Plan, on_error: str) -> dict[str, Any]:
        """All that decides the output: a resumed run must have the same."""
        import torch

        return {
            "plan": plan.content_hash(),
            "model": self.loaded.source,
            "model_hash": self.loaded.fingerprint(),
            "tokenizer_hash": self.tokenizer.fingerprint(),
            "dtype": self.loaded.dtype,
            **self.task.settings(),
            "prompt": self.task.prompt,
            "keep": list(plan.columns.keep),
            "text_column": plan.columns.text,
            "pair_column": plan.columns.pair,
            "on_error": on_error,
            "max_batch_tokens": self.prefetch.get("max_batch_tokens", 32_768),
            "max_batch_rows": self.prefetch.get("max_batch_rows"),
            "window_rows": self.prefetch.get("window_rows", 16_384),
            "max_row_bytes": plan.columns.max_row_bytes,
            "device_kind": self.loaded.device.type,
            "torch": torch.__version__,
            "num_threads": torch.get_num_threads(),
        }


class _Reporter:
    """Calls ``progress`` now and then."""

    def __init__(
        self, progress: Callable[[Progress], None] | None, total_rows: int, num_skipped_rows: int
    ) -> None:
        self._progress = progress
        self._total_rows, self._num_skipped_rows = total_rows, num_skipped_rows
        self._num_rows = 0
        self._next = 0.0

    def count(self, num_rows: int) -> None:
        """More rows are done."""
        self._num_rows += num_rows

    def report(self, stats: Stats, *, is_last: bool = False) -> None:
        """Say how far it is, if it is time to."""
        now = time.perf_counter()
        if self._progress is None or (now < self._next and not is_last):
            return
        self._next = now + PROGRESS_EVERY_S
        self._progress(
            Progress(
                num_rows=self._num_rows,
                total_rows=self._total_rows,
                num_tokens=stats.num_tokens,
                elapsed_s=stats.elapsed_s,
                wait_share=stats.wait_share,
                num_skipped_rows=self._num_skipped_rows,
            )
        )


def _answered(scoring: _Scoring, batches: Prefetcher, splits: dict[int, list[Any]]) -> Iterator[Answered]:
    """Every batch with its answers on the host, in ticket order: the loop."""
    drain = Drain()
    for batch in batches:
        outputs: dict[str, torch.Tensor] = {}
        counts: dict[str, Any] = {}
        if len(batch):
            counts = scoring.task.counts(batch)
            outputs = scoring.answer(batch, splits.setdefault(batch.unit, []))
        yield from drain.put(batch, outputs, counts)
        del batch, outputs
    yield from drain.rest()


def _units(
    scoring: _Scoring, batches: Prefetcher, todo: dict[int, Any], reporter: _Reporter
) -> Iterator[tuple[Any, pa.Table, list[Any]]]:
    """Each unit's finished table, in order. A unit's batches all come before those of the next."""
    splits: dict[int, list[Any]] = {}
    waiting = iter(todo.values())
    unit, answers = None, None
    for answered in _answered(scoring, batches, splits):
        while unit is None or unit.id != answered.batch.unit:
            if unit is not None and answers is not None:
                yield unit, answers.take(unit.num_rows), splits.pop(unit.id, [])
            unit = next(waiting, None)
            if unit is None:
                raise PenstockError("A batch came for a unit that was not asked for. This is a bug.")
            answers = Answers(scoring.task, unit.first_index)
        assert answers is not None
        reporter.count(answers.add(answered))
        reporter.report(batches.stats())
    if unit is not None and answers is not None:
        yield unit, answers.take(unit.num_rows), splits.pop(unit.id, [])
    for empty in waiting:
        yield empty, Answers(scoring.task, empty.first_index).take(empty.num_rows), []


def _rows(scoring: _Scoring, batches: Prefetcher, *, skip: bool) -> Iterator[dict[str, Any]]:
    answers = Answers(scoring.task, 0)
    with batches:
        for answered in _answered(scoring, batches, {}):
            answers.add(answered)
            if count := answers.num_ready:
                for row in answers.take(count).to_pylist():
                    if not (skip and row["error"] is not None):
                        yield row


def _part(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch, over the same memory."""
    from dataclasses import replace

    def cut(values: Any) -> Any:
        return None if values is None else values[rows]

    return replace(
        batch,
        inputs={name: tensor[rows] for name, tensor in batch.inputs.items()},
        input_index=batch.input_index[rows],
        num_tokens=batch.num_tokens[rows],
        first_scored=cut(batch.first_scored),
        num_bytes=cut(batch.num_bytes),
        num_windows=cut(batch.num_windows),
        columns={},
        errors=[],
        error_columns={},
    )


def _paths(inputs: Any) -> list[str]:
    if isinstance(inputs, (str, os.PathLike)):
        return [os.fspath(inputs)]
    if not isinstance(inputs, (list, tuple)) or not all(
        isinstance(path, (str, os.PathLike)) for path in inputs
    ):
        raise ConfigError(
            f"score takes paths of files, not {type(inputs).__name__}: rows in memory could not be found "
            "again after an interruption. Use penstock.stream for them."
        )
    return [os.fspath(path) for path in inputs]


def _kept(id_column: str | None, keep: Sequence[str]) -> tuple[str, ...]:
    if isinstance(keep, str):
        raise ConfigError(f"keep={keep!r}: must be a list of column names, not one string.")
    names = ([id_column] if id_column else []) + list(keep)
    return tuple(dict.fromkeys(names))


def _refuse(options: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        if name in options:
            raise ConfigError(f"{name}: scoring does not take it; Prefetcher does.")


def _prefetch_options() -> set[str]:
    import inspect

    return set(inspect.signature(Prefetcher.__init__).parameters) - {
        "self",
        "source",
        "tokenizer",
        "load",
        "ordered",
    }
