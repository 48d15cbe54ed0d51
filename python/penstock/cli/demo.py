"""``penstock demo``: the bundled corpus, scored by the bundled model, and what came out."""

from __future__ import annotations

import time
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.exits import FAILED, Ending, complain, ending, visible
from penstock.cli.options import ADVICE, Debug, Quiet
from penstock.cli.score import scored
from penstock.cli.silence import silence_libraries
from penstock.errors import FingerprintError

if TYPE_CHECKING:
    from rich.console import Console

    from penstock.demo.report import Kind
    from penstock.scorer import Run

DEFAULT_OUTPUT = "penstock-demo"
WIDEST = 100
_LABEL = 11


def demo(
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help=f"The folder to write. Default: ./{DEFAULT_OUTPUT}.")
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Score the bundled corpus with the bundled model, on the CPU, in seconds; show what came out.

    The model has read novels. Text that is like them gets a low perplexity, noise a high one; if it is not
    so, the demo fails.
    """
    with ending(debug=debug, advice=ADVICE) as end:
        if not quiet:
            typer.echo("scoring the bundled corpus with the bundled model, on the CPU", err=True)
        start = time.perf_counter()
        silence_libraries(quiet=quiet, debug=debug)
        import penstock.scorer  # noqa: F401 - it takes most of the time, so it is measured

        imported_s = time.perf_counter() - start
        run = _run(end, output, quiet=quiet)
        _check_and_show(run, imported_s, quiet=quiet)


def _run(end: Ending, output: Path | None, *, quiet: bool) -> Run:
    """Score; where nobody names a folder and the default one is of another version, take the next."""
    from penstock.demo import CORPUS, MODEL

    options = {"model": MODEL, "task": "perplexity", "keep": ["id", "kind"], "device": "cpu"}
    options |= {"max_batch_tokens": 4_096}
    if output is not None:
        return scored(end, [str(CORPUS)], options | {"output": output}, quiet=quiet)
    number = 1
    while True:
        folder = DEFAULT_OUTPUT if number == 1 else f"{DEFAULT_OUTPUT}-{number}"
        try:
            return scored(end, [str(CORPUS)], options | {"output": folder}, quiet=quiet)
        except FingerprintError:
            number += 1


def _check_and_show(run: Run, imported_s: float, *, quiet: bool) -> None:
    from penstock.cli.screen import screen
    from penstock.demo.report import EXPECTED_ORDER, ordered, summarize
    from penstock.sink import inspect, read_parts

    kinds = summarize(read_parts(run.output))
    is_ordered, medians = ordered(kinds)
    if not quiet:
        console = screen()
        if not run.num_scored_rows:
            console.print(f"{visible(run.output)} holds a finished run: shown again, not scored again.")
        console.print()
        _show_kinds(console, kinds)
        _show_spread(console, kinds)
        _show_time(console, run, imported_s)
        console.print("written", style="bold")
        for part in inspect(run.output).parts:
            console.print(visible(f"  {run.output}/{part.name}"), soft_wrap=True)
        console.print()
    if not is_ordered:
        wanted = " < ".join(EXPECTED_ORDER)
        complain(f"the median perplexities are not in order: {medians}; they should be {wanted}.")
        raise typer.Exit(FAILED)
    if not quiet:
        console.print(f"in order, as it should be: {medians}", soft_wrap=True)


def _show_kinds(console: Console, kinds: list[Kind]) -> None:
    from penstock.cli.screen import table
    from penstock.demo.report import WHAT, number

    rows = table(
        "kind", "what it is", "rows", "tokens", "median\nperplexity", "bits/\nbyte", left=(0, 1), fold=1
    )
    for kind in kinds:
        bits = "" if kind.bits_per_byte is None else f"{kind.bits_per_byte:.2f}"
        counts = (f"{kind.num_rows:,}", f"{kind.num_tokens:,}")
        rows.add_row(kind.name, WHAT.get(kind.name, ""), *counts, number(kind.median), bits)
    console.print(rows)
    console.print()


def _show_spread(console: Console, kinds: list[Kind]) -> None:
    from rich.text import Text

    from penstock.demo.report import FEWEST_TO_PLOT, Axis

    shown = [kind for kind in kinds if len(kind.perplexities) >= FEWEST_TO_PLOT]
    axis = Axis.over(shown, max(20, min(console.width, WIDEST) - _LABEL - 1))
    console.print("how the rows of each kind spread over perplexity", style="bold")
    for kind in shown:
        hill = Text(axis.hill(kind.perplexities).rstrip(), style="cyan")
        at = round(axis.column(kind.median))
        hill.stylize("bold magenta", at, at + 1)
        console.print(Text.assemble(f"{kind.name:<{_LABEL}}", hill))
    line, labels = axis.ruler()
    console.print(" " * _LABEL + line, style="dim")
    console.print(" " * _LABEL + labels)
    console.print()


def _show_time(console: Console, run: Run, imported_s: float) -> None:
    from rich.text import Text

    from penstock.cli.screen import table

    waited = run.stats.blocked_takes.total_s
    loop = max(0.0, run.stats.elapsed_s - waited)
    parts = [
        ("import torch and transformers", imported_s),
        ("cut the input into units", run.seconds["plan"]),
        ("load the model and its tokenizer", run.seconds["model"]),
        ("score: the model at work", loop),
        ("score: the model waits for data", waited),
        ("score: start threads, write, sync", max(0.0, run.seconds["score"] - loop - waited)),
    ]
    longest = max(seconds for _, seconds in parts)
    rows = table("", "", "", left=(0, 2), has_head=False)
    for what, seconds in parts:
        bar = "█" * round(24 * seconds / longest) or "▏"
        rows.add_row(what, f"{seconds:.2f} s", Text(bar, style="cyan"))
    total = sum(seconds for _, seconds in parts)
    speed = ""
    if run.num_scored_rows:
        speed = f", {run.stats.num_tokens / run.stats.elapsed_s:,.0f} tokens/s while scoring"
    console.print(f"where the time went: {total:.1f} s{speed}", style="bold")
    console.print(rows)
    if run.num_scored_rows:
        console.print(str(run.stats).split("\n", maxsplit=1)[0])
    console.print()
