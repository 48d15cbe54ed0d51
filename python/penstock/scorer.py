"""``score`` and ``stream``: files to a durable run, rows to rows. The loop itself is in ``scoring``."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.arguments import column_name, column_names, function, optional, path_name
from penstock.errors import ConfigError
from penstock.scoring import Scoring, scored_rows, scored_units
from penstock.sink import Sink
from penstock.sources import UnitSource, plan_units
from penstock.sources.chunk import MAX_ROW_BYTES
from penstock.tasks import check_pairs
from penstock.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import torch

    from penstock.prefetcher import Prefetcher
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
            f" (skipped as finished before: {self.num_skipped_units:,} of {counted(self.num_units, 'unit')})"
            if self.num_skipped_units
            else ""
        )
        errors = f", {self.num_errors:,} with an error" if self.num_errors else ""
        state = "complete" if self.is_complete else "not complete"
        rows = counted(self.num_scored_rows, "row")
        return f"{rows} scored{errors}{skipped}\n{self.output}: {state}\n{self.stats}"


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
        text_column, pair_column: Where the text is; the second text, for tasks that take pairs.
        progress: Called a few times a second, in this thread.
        **options: Options of the model (revision, dtype, device, device_map, trust_remote_code), of the task
            (see its class), and of ``Prefetcher`` but for source, load, ordered, collate, and timeout and
            retries, which are about load. ``on_error`` is "null" unless given: a row that fails has its
            reason in ``error``.

    Raises:
        PenstockError: See ``penstock.errors``; the message names the thing, the rule and the remedy.

    Example:
        >>> import json, pathlib, tempfile
        >>> import penstock
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
    output = path_name("output", output)
    progress = optional(function, "progress", progress)
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
    check_pairs(task, pair_column)
    _check_apart(paths, output)
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
    scoring = Scoring.set_up(model, task, tokenizer, options)
    scoring.check_columns(kept)
    loaded = time.perf_counter()
    columns = {"text_column": text_column, "pair_column": pair_column, "keep": kept, "on_error": on_error}
    scoring.prefetcher(UnitSource(plan), **columns)  # its arguments are checked before a folder is made
    with Sink.open(output, plan.to_json(), scoring.fingerprint(plan, on_error), format=format) as sink:
        skipped = [unit for unit in plan.units if unit.id in sink.finished]
        todo = {unit.id: unit for unit in plan.units if unit.id not in sink.finished}
        reporter = _Reporter(
            progress, sum(u.num_rows for u in todo.values()), sum(u.num_rows for u in skipped)
        )
        num_errors = 0
        source = UnitSource(plan, finished=sink.finished)
        with scoring.prefetcher(source, **columns) as batches:
            for unit, table, splits in scored_units(scoring, batches, todo, partial(reporter.count, batches)):
                num_errors += table.num_rows - table.column("error").null_count
                sink.write(unit, table, splits=splits)
            stats = batches.stats()
    reporter.report(batches, is_last=True)
    return Run(
        output=output,
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
        >>> import penstock
        >>> from penstock.demo import MODEL
        >>> [row["num_tokens"] for row in penstock.stream(["", "The sea"], model=MODEL, task="perplexity")]
        [0, 2]
    """
    _refuse(options, ("source", "load", "ordered", "collate"))
    kept = _kept(id_column, keep)
    check_pairs(task, options.get("pair_column"))
    scoring = Scoring.set_up(model, task, tokenizer, options)
    scoring.check_columns(kept)
    # A row that is skipped must still be known to be over, or the rows behind it would wait for it.
    batches = scoring.prefetcher(rows, keep=kept, on_error="null" if on_error == "skip" else on_error)
    return scored_rows(scoring, batches, skip=on_error == "skip")


class _Reporter:
    """Calls ``progress`` now and then."""

    def __init__(
        self, progress: Callable[[Progress], None] | None, total_rows: int, num_skipped_rows: int
    ) -> None:
        self._progress = progress
        self._total_rows, self._num_skipped_rows = total_rows, num_skipped_rows
        self._num_rows = 0
        self._next = 0.0

    def count(self, batches: Prefetcher, num_rows: int) -> None:
        """More rows are done."""
        self._num_rows += num_rows
        self.report(batches)

    def report(self, batches: Prefetcher, *, is_last: bool = False) -> None:
        """Say how far it is, if it is time to."""
        now = time.perf_counter()
        if self._progress is None or (now < self._next and not is_last):
            return
        self._next = now + PROGRESS_EVERY_S
        stats = batches.stats()
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


def _check_apart(paths: list[str], output: str) -> None:
    """A folder that is read must not hold the output: the second run would read the parts of the first."""
    for path in paths:
        folder = Path(path).resolve()
        if folder.is_dir() and Path(output).resolve().is_relative_to(folder):
            raise ConfigError(
                f"output={output!r} lies inside the input folder {path!r}: the next run would read its parts "
                "as input. Choose a folder beside it."
            )


def _kept(id_column: str | None, keep: Sequence[str]) -> tuple[str, ...]:
    first = optional(column_name, "id_column", id_column)
    return tuple(dict.fromkeys([*(() if first is None else (first,)), *column_names("keep", keep)]))


def _refuse(options: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        if name in options:
            raise ConfigError(f"{name}: scoring does not take it; Prefetcher does.")
