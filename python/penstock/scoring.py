"""The scoring loop: a loaded model, its task, and batches from a prefetcher, back as rows in input order.

::

    for batch in prefetcher:
        outputs = task.forward(batch)       # queued on the device; nothing waits for it here
        drain.put(batch, outputs)           # copied to the host behind the next batch
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from penstock.answers import Answered, Answers, Drain
from penstock.arguments import optional, whole
from penstock.errors import ConfigError, PenstockError
from penstock.models import LoadedModel, load_model, tokenizer_source
from penstock.prefetcher import Prefetcher
from penstock.tasks import Task, check_options, make_task, task_options
from penstock.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from penstock.batch import Batch
    from penstock.sources import Plan, Unit


class Scoring:
    """A loaded model, its task, and what is left of the options for the prefetcher."""

    def __init__(
        self, loaded: LoadedModel, tokenizer: Tokenizer, task: Task, prefetch: dict[str, Any]
    ) -> None:
        self.loaded, self.tokenizer, self.task = loaded, tokenizer, task
        self.prefetch = prefetch

    @classmethod
    def set_up(cls, model: Any, task: str, tokenizer: Any, options: dict[str, Any]) -> Scoring:
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
            "pairs": self.task.takes_pairs,
            "device": self.loaded.device,
            **changes,
        }
        return Prefetcher(source, self.task.tokenizer, **arguments)

    def answer(self, batch: Batch, splits: list[Any]) -> dict[str, torch.Tensor]:
        """Ask the model. If memory runs out, in halves; a single row that does not fit is an error."""
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
        return {
            "plan": plan.content_hash(),
            "model": self.loaded.source if self.loaded.folder is None else self.loaded.folder.resolve().name,
            "model_hash": self.loaded.fingerprint(),
            "tokenizer_hash": self.tokenizer.fingerprint(),
            "dtype": self.loaded.dtype,
            **self.task.settings(),
            "prompt": self.task.prompt,
            "keep": list(plan.columns.keep),
            "text_column": plan.columns.text,
            "pair_column": plan.columns.pair,
            "on_error": on_error,
            "max_batch_tokens": self._whole("max_batch_tokens", 32_768),
            "max_batch_rows": self._whole("max_batch_rows", None),
            "window_rows": self._whole("window_rows", 16_384),
            "max_buffered_bytes": self._whole("max_buffered_bytes", 1 << 30),
            "max_row_bytes": plan.columns.max_row_bytes,
            "device_kind": self.loaded.device.type,
            "torch": torch.__version__,
            "num_threads": torch.get_num_threads(),
        }

    def _whole(self, name: str, default: int | None) -> int | None:
        value = optional(whole, name, self.prefetch.get(name))
        return default if value is None else value


def _answered(scoring: Scoring, batches: Prefetcher, splits: dict[int, list[Any]]) -> Iterator[Answered]:
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


def scored_units(
    scoring: Scoring, batches: Prefetcher, todo: dict[int, Unit], done: Callable[[int], None]
) -> Iterator[tuple[Unit, pa.Table, list[Any]]]:
    """Each unit's finished table, in order. A unit's batches all come before those of the next.

    Args:
        scoring: What to ask.
        batches: The rows of these units.
        todo: The units by id, in order.
        done: Told how many more rows are done.
    """
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
        done(answers.add(answered))
    if unit is not None and answers is not None:
        yield unit, answers.take(unit.num_rows), splits.pop(unit.id, [])
    for empty in waiting:
        yield empty, Answers(scoring.task, empty.first_index).take(empty.num_rows), []


def scored_rows(scoring: Scoring, batches: Prefetcher, *, skip: bool) -> Iterator[dict[str, Any]]:
    """Each row as soon as it and all before it are scored; with ``skip`` without those that failed."""
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


def _prefetch_options() -> set[str]:
    """Options that go through to the prefetcher; how rows become tokens is the task's to say."""
    settled = {"self", "source", "tokenizer", "load", "ordered", "collate", "device", "keep", "on_error"}
    settled |= {"max_length", "stride", "truncation", "pair_truncation", "prompt", "padding_side", "pairs"}
    return set(inspect.signature(Prefetcher.__init__).parameters) - settled
