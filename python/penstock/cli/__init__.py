"""The command line. Each command imports what it needs when it runs, so that ``--help`` is quick.

Exit codes:

====  ======================================================================
0     done
1     it failed on the way (``demo``: the kinds are not in order)
2     it could not start: command line, input, model or output folder
3     done; ``--strict`` was given and some rows have an error
130   Ctrl-C; what is finished is kept
143   SIGTERM; what is finished is kept
====  ======================================================================

Results go to stdout; progress, warnings and errors to stderr.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from penstock.cli import bench, demo, doctor, inspect, score, tokenize
from penstock.cli.exits import MEANINGS, ending
from penstock.cli.pages import Grouped

__all__ = ["app", "main"]

_EXIT_CODES = "\b\nExit codes:\n" + "\n".join(f"{code:>5}  {meaning}" for code, meaning in MEANINGS.items())
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer(
    name="penstock",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXIT_CODES,
)


def _version(is_asked: bool) -> None:
    if is_asked:
        with ending(debug=False):
            import penstock

            typer.echo(f"penstock {penstock.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Score text with transformer models as fast as the accelerator allows."""


app.command(cls=Grouped, short_help="Score files: the same rows, with score columns.")(score.score)
app.command(cls=Grouped, short_help="Write the token ids of files, or count them.")(tokenize.tokenize)
app.command(cls=Grouped, short_help="Show what the run in a folder holds.")(inspect.inspect)
app.command(cls=Grouped, short_help="Score a bundled corpus with a bundled model.")(demo.demo)
app.command(cls=Grouped, short_help="Show what this machine has and what will be slow.")(doctor.doctor)
app.command(cls=Grouped, short_help="Run a benchmark; needs a clone.", context_settings=_PASS_ON)(bench.bench)


def main() -> None:
    """Run the command line; the entry point of ``penstock``."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # for a terminal that lacks a character
    app()
