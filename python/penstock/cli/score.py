"""``penstock score``: files in, parts out."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.exits import ROW_ERRORS, Ending, complain, ending, visible
from penstock.cli.options import (
    ADVICE,
    Debug,
    Inputs,
    Keep,
    MaxRowBytes,
    NumWorkers,
    Output,
    Quiet,
    TextColumn,
    UnitBytes,
    UnitRows,
    input_option,
    model_option,
    output_option,
    speed_option,
    task_option,
)
from penstock.cli.progress import Show, display
from penstock.cli.silence import silence_libraries
from penstock.wording import counted

if TYPE_CHECKING:
    from penstock.scorer import Progress, Run
TASK_OPTIONS = (
    "max_length",
    "stride",
    "truncation",
    "bos",
    "pooling",
    "normalize_embeddings",
    "truncate_dim",
    "prompt_name",
    "prompt",
    "score_range",
)


def score(
    inputs: Inputs,
    model: Annotated[str, typer.Option(metavar="MODEL", help="A folder, or an id on the Hugging Face hub.")],
    task: Annotated[str, typer.Option(metavar="TASK", help="perplexity, classify or embed.")],
    output: Output,
    text_column: TextColumn = "text",
    pair_column: Annotated[
        str | None,
        input_option(metavar="NAME", help="Where the second text of a pair is; not for perplexity."),
    ] = None,
    id_column: Annotated[
        str | None, input_option(metavar="NAME", help="Like --keep, and first in the output.")
    ] = None,
    keep: Keep = None,
    max_row_bytes: MaxRowBytes = None,
    on_error: Annotated[
        str | None,
        input_option(metavar="WHAT", help="null: the reason goes to the column error; raise: stop there."),
    ] = None,
    tokenizer: Annotated[
        str | None, model_option(metavar="PATH", help="A folder, file or hub id. Default: the model's own.")
    ] = None,
    revision: Annotated[
        str | None, model_option(metavar="NAME", help="Branch, tag or commit of a hub id.")
    ] = None,
    dtype: Annotated[
        str | None, model_option(metavar="NAME", help="float32, bfloat16, float16. Default: as stored.")
    ] = None,
    device: Annotated[
        str | None, model_option(metavar="NAME", help="cpu, cuda, cuda:1. Default: cuda if there is one.")
    ] = None,
    device_map: Annotated[
        str | None, model_option(metavar="NAME", help="Spread a large model, as transformers does: auto.")
    ] = None,
    trust_remote_code: Annotated[
        bool, model_option("--trust-remote-code", help="Run Python code that comes with the model.")
    ] = False,
    max_length: Annotated[
        int | None, task_option(metavar="N", help="Tokens of a row or window. Default: what the model takes.")
    ] = None,
    stride: Annotated[
        int | None, task_option(metavar="N", help="perplexity: new tokens of each further window.")
    ] = None,
    truncation: Annotated[
        str | None,
        task_option(metavar="SIDE", help="Where long rows are cut off: right or left. perplexity: right."),
    ] = None,
    bos: Annotated[bool | None, task_option(help="perplexity: put a BOS in front. Default: yes.")] = None,
    pooling: Annotated[str | None, task_option(metavar="NAME", help="embed: mean, cls or last.")] = None,
    normalize_embeddings: Annotated[
        bool | None, task_option(help="embed: vectors of length 1. Default: what the folder says.")
    ] = None,
    truncate_dim: Annotated[
        int | None, task_option(metavar="N", help="embed: keep the first N numbers.")
    ] = None,
    prompt_name: Annotated[
        str | None, task_option(metavar="NAME", help="embed: a prompt that the model's files name.")
    ] = None,
    prompt: Annotated[str | None, task_option(metavar="TEXT", help="embed: the prompt itself.")] = None,
    score_range: Annotated[
        tuple[int, int] | None, task_option(metavar="N N", help="classify: smallest and largest int_score.")
    ] = None,
    max_batch_tokens: Annotated[
        int | None, speed_option(metavar="N", help="Rows times padded length of a batch. Default: 32,768.")
    ] = None,
    max_batch_rows: Annotated[int | None, speed_option(metavar="N", help="Rows of a batch at most.")] = None,
    window_rows: Annotated[
        int | None,
        speed_option(metavar="N", help="Rows that are sorted by length together. Default: 16,384."),
    ] = None,
    batches_ahead: Annotated[
        int | None, speed_option(metavar="N", help="Batches ready or in the making. Default: 3.")
    ] = None,
    num_workers: NumWorkers = None,
    max_buffered_bytes: Annotated[
        int | None,
        speed_option(metavar="BYTES", help="Text that is read and not in a batch. Default: 1 GiB."),
    ] = None,
    trace: Annotated[
        Path | None, speed_option(metavar="FILE", help="Write a timeline that Perfetto opens.")
    ] = None,
    format: Annotated[str, output_option(metavar="NAME", help="parquet or jsonl.")] = "parquet",
    unit_rows: UnitRows = 16_384,
    unit_bytes: UnitBytes = 16 << 20,
    strict: Annotated[
        bool, output_option("--strict", help="Exit with 3 if a row of the output has an error.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Score files into a folder: the same rows in the same order, with score columns.

    Interrupt it at any time: the same command again goes on where it stopped.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    for name in ("inputs", "strict", "quiet", "debug"):
        del given[name]
    with ending(debug=debug, advice=ADVICE) as end:
        from penstock.tasks import TASKS, check_options, task_class

        if task not in TASKS:
            task_class(task)  # says so, before anything slow is imported
        if not quiet:
            typer.echo(visible(f"scoring {named(inputs)}: {task} with {model}"), err=True)
        silence_libraries(quiet=quiet, debug=debug)
        check_options(task, {name: given[name] for name in TASK_OPTIONS if name in given})
        run = scored(end, inputs, given, quiet=quiet)
        if not quiet:
            # Where nothing was left to do, who waited for whom is no news.
            typer.echo(visible(str(run) if run.num_scored_rows else str(run).rsplit("\n", 2)[0]))
        _report_row_errors(run, strict=strict, quiet=quiet)


def named(inputs: list[str]) -> str:
    """The inputs, in a few words."""
    return inputs[0] if len(inputs) == 1 else f"{len(inputs):,} inputs"


def scored(end: Ending, inputs: list[str], options: dict[str, Any], *, quiet: bool) -> Run:
    """Call ``penstock.score``, with progress on stderr, and heed signals that got lost."""
    import penstock

    with display(quiet=quiet) as show:
        return penstock.score(inputs, progress=_watched(end, show), **options)


def _watched(end: Ending, show: Show) -> Any:
    def progress(seen: Progress) -> None:
        end.has_begun = True
        end.check_signal()
        show(seen)

    return progress


def _report_row_errors(run: Run, *, strict: bool, quiet: bool) -> None:
    from penstock.sink import inspect

    if not strict and (quiet or not run.num_errors):
        return
    count = inspect(run.output).errors
    if count:
        complain(
            f"{counted(count, 'row has', 'rows have')} an error; the column error says why.",
            kind="Error" if strict else "Warning",
        )
        if strict:
            raise typer.Exit(ROW_ERRORS)
