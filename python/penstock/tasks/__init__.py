"""Tasks: what a model is asked about a row of text, and what columns come out.

One file per task. A task is made once per run, for one loaded model and its tokenizer; everything it
takes from defaults (lengths, pooling, labels, BOS) is settled then and can be read with ``settings()``.

A task in use::

    loaded = load_model("folder", "perplexity")
    task = make_task("perplexity", loaded, tokenizer)      # asks the model a few test rows
    Prefetcher(source, task.tokenizer, **task.tokenization())
    for batch in batches:
        outputs = task.forward(batch)                      # on the device, no waiting
        outputs = {**copied_to_the_host, **task.counts(batch)}
    values = task.combine(input_index, outputs, num_rows)  # windows of a row become one row
    columns = task.columns(values, failures)               # Arrow, in input order, with an error column

This module imports no torch: the registry can be listed without it.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from penstock.errors import ConfigError
from penstock.wording import counted

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from penstock.batch import Batch
    from penstock.models import LoadedModel
    from penstock.tokenizer import Tokenizer

Array = np.ndarray[Any, np.dtype[Any]]
Setting = str | int | float | bool | list[str] | list[int] | None
Failures = Mapping[int, BaseException | str]
"""Row, counted from 0 within a unit → why it failed before the model saw it."""

TASKS = {"classify": "Classify", "embed": "Embed", "perplexity": "Perplexity"}
"""Name of a task → its class, in the module of the same name."""


@runtime_checkable
class Task(Protocol):
    """What the scorer knows of a task. Rows must be padded on the right.

    Attributes:
        name: As in ``TASKS``.
        needs: A clause for error messages: which checkpoint this task wants.
        unused_weights: Beginnings of the names of weights that the task does not use.
        takes_pairs: Rows may be pairs of texts.
        tokenizer: The tokenizer to read rows with; it may put a BOS in front.
        prompt: Text to put in front of each row before it is tokenized; ``""`` for none.
        body: The module that does most of the work, for ``task.body.compile()``.
    """

    name: ClassVar[str]
    needs: ClassVar[str]
    unused_weights: ClassVar[tuple[str, ...]]
    takes_pairs: ClassVar[bool]
    tokenizer: Tokenizer
    prompt: str
    body: torch.nn.Module

    def __init__(self, loaded: LoadedModel, tokenizer: Tokenizer, **options: Any) -> None: ...

    @staticmethod
    def auto_class(config: Any) -> str:
        """Name of the transformers class that builds the model with the head this task needs."""
        ...

    def tokenization(self) -> dict[str, Any]:
        """For the prefetcher: ``max_length``, ``stride``, and ``truncation`` where it is not "right"."""
        ...

    def settings(self) -> dict[str, Setting]:
        """Everything that changes a score, resolved, as plain values: for the fingerprint of a run."""
        ...

    def schema(self) -> dict[str, pa.DataType]:
        """The columns that come out, in order, ``error`` last."""
        ...

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Ask the model. One line per row of the batch (a window, where rows are cut), on the device.

        Returns at once on CUDA: nothing in it waits for the device. The batch must have rows.
        """
        ...

    def counts(self, batch: Batch) -> dict[str, Array]:
        """What the host knows of each row of the batch without the model: to be kept beside the outputs."""
        ...

    def combine(self, input_index: Array, outputs: Mapping[str, Array], num_rows: int) -> dict[str, Array]:
        """Make one line per input row out of one line per window.

        Args:
            input_index: int64[windows]: the row of each window, counted from 0 within these ``num_rows``.
            outputs: What ``forward`` and ``counts`` gave, joined in the order of delivery, [windows, ...].
            num_rows: How many rows there are, failed ones included.
        """
        ...

    def columns(self, values: Mapping[str, Array], failures: Failures) -> dict[str, pa.Array]:
        """Arrow columns, one line per row, as ``schema()`` says.

        A row in ``failures`` is null in every column and has the reason in ``error``; so is a row the model
        answered with NaN, and one for which no answer came.
        """
        ...


def task_class(name: Any) -> type[Task]:
    """The class of a task.

    Raises:
        ConfigError: There is no task of that name.

    Example:
        >>> task_class("perplexity").__name__
        'Perplexity'
    """
    if not isinstance(name, str) or name not in TASKS:
        near = difflib.get_close_matches(str(name), TASKS, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"task={name!r}: the tasks are {', '.join(map(repr, TASKS))}.{meant}")
    kind: type[Task] = getattr(import_module(f"penstock.tasks.{name}"), TASKS[name])
    return kind


def make_task(name: str, loaded: LoadedModel, tokenizer: Tokenizer, **options: Any) -> Task:
    """Make a task for a model, and ask the model a few test rows to find the fastest way that is exact.

    Args:
        name: One of ``TASKS``.
        loaded: From ``load_model(source, name)``.
        tokenizer: The model's tokenizer, unprepared.
        **options: The task's own options; ``None`` means its default.

    Raises:
        ConfigError: The task has no such option, or a value cannot be right.
        ModelError: The model does not give the answers that this task needs.
    """
    kind = task_class(name)
    check_options(name, options)
    check_vocabulary(loaded, tokenizer)
    return kind(loaded, tokenizer, **{key: value for key, value in options.items() if value is not None})


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that the task does not have; needs no model, so it can be done first.

    Raises:
        ConfigError: Names the option, and the task it belongs to if there is one.
    """
    known = task_options(name)
    for option in options:
        if option in known or options[option] is None:
            continue
        owners = [other for other in TASKS if option in task_options(other)]
        near = difflib.get_close_matches(option, known, n=1)
        hint = f" It belongs to task {' and '.join(map(repr, owners))}." if owners else ""
        hint = hint or (f" Did you mean {near[0]!r}?" if near else "")
        raise ConfigError(f"task {name!r} has no option {option!r}; it has {', '.join(known)}.{hint}")


def task_options(name: str) -> tuple[str, ...]:
    """Names of the options of a task.

    Example:
        >>> "stride" in task_options("perplexity")
        True
    """
    parameters = inspect.signature(task_class(name).__init__).parameters.values()
    return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


def check_pairs(name: str, pair_column: str | None) -> None:
    """Refuse a column of second texts where the task takes single texts; needs no model.

    Raises:
        ConfigError: Names the task, and those that take pairs.

    Example:
        >>> check_pairs("classify", "answer")
    """
    if pair_column is None or task_class(name).takes_pairs:
        return
    others = " and ".join(repr(other) for other in TASKS if task_class(other).takes_pairs)
    raise ConfigError(
        f"pair_column={pair_column!r}: task {name!r} takes single texts; leave pair_column out, and it "
        f"scores text_column. Pairs are for {others}."
    )


def check_vocabulary(loaded: LoadedModel, tokenizer: Tokenizer) -> None:
    """A token id past the model's table would stop the accelerator in the middle of a run.

    Raises:
        ConfigError: The tokenizer has more tokens than the model has embeddings.
    """
    model: Any = loaded.model
    table = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    rows = getattr(table, "num_embeddings", None)
    if rows is not None and tokenizer.vocab_size > rows:
        raise ConfigError(
            f"The tokenizer has {counted(tokenizer.vocab_size, 'token')} and {loaded.source} knows {rows:,}: "
            "they do not belong together. Give the model's own tokenizer."
        )
