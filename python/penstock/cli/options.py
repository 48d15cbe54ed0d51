"""Options that several commands share, and the groups that help lists them in."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

ADVICE = "what is finished is kept, run the same command again to go on"

input_option = partial(typer.Option, rich_help_panel="Input")
model_option = partial(typer.Option, rich_help_panel="Model")
task_option = partial(typer.Option, rich_help_panel="Task")
speed_option = partial(typer.Option, rich_help_panel="Speed")
output_option = partial(typer.Option, rich_help_panel="Output")

Inputs = Annotated[
    list[str],
    typer.Argument(metavar="INPUT", help="Files, folders, globs or URLs: JSONL, Parquet, Arrow, CSV, text."),
]
Output = Annotated[Path, typer.Option(metavar="DIR", help="The folder to write; the same again resumes.")]
TextColumn = Annotated[str, input_option(metavar="NAME", help="Where the text is.")]
Keep = Annotated[
    list[str] | None, input_option(metavar="NAME", help="An input column to keep; repeat it for more.")
]
MaxRowBytes = Annotated[
    int | None, input_option(metavar="BYTES", help="A row with more text fails. Default: 64 MiB.")
]
NumWorkers = Annotated[
    int | None, speed_option(metavar="N", help="Threads. Default: one less than cores, 16 at most.")
]
UnitRows = Annotated[int, output_option(metavar="N", help="Rows of a unit: what is redone after a stop.")]
UnitBytes = Annotated[int, output_option(metavar="BYTES", help="Bytes of text of a unit, if that is less.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show warnings of libraries, and the traceback of an error.")
]
