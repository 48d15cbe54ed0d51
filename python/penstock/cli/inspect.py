"""``penstock inspect``: what a run holds."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.exits import ending, visible
from penstock.cli.options import Debug  # noqa: TC001 - typer reads the annotations
from penstock.wording import counted

if TYPE_CHECKING:
    from rich.table import Table

    from penstock.sink import Part

FEW_PARTS = 10


def inspect(
    output: Annotated[Path, typer.Argument(metavar="DIR", help="The folder given as --output.")],
    all_parts: Annotated[
        bool, typer.Option("--all", help=f"List every part, not the first {FEW_PARTS}.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Show what the run in a folder holds. Safe at any time, also while it is being written."""
    with ending(debug=debug):
        from penstock.cli.screen import screen
        from penstock.sink import inspect as inspected

        report = inspected(output)
        console = screen()
        console.print(visible(str(report)), soft_wrap=True)
        shown = report.parts if all_parts else report.parts[:FEW_PARTS]
        if shown:
            console.print()
            console.print(_parts(shown))
        if len(report.parts) > len(shown):
            console.print(
                f"  and {counted(len(report.parts) - len(shown), 'more part')}; --all lists every one"
            )


def _parts(parts: tuple[Part, ...]) -> Table:
    from penstock.cli.screen import table

    rows = table("part", "rows", "errors", "tokens", "MB", "from", left=(0, 5), fold=5)
    for part in parts:
        first = part.segments[0] if part.segments else None
        origin = f"{first.path}, row {first.first_row + 1:,} on" if first else ""
        more = f" and {len(part.segments) - 1:,} more" if len(part.segments) > 1 else ""
        numbers = (part.num_rows, part.num_errors, part.num_tokens)
        rows.add_row(
            part.name, *map("{:,}".format, numbers), f"{part.file_bytes / 1e6:.1f}", visible(origin + more)
        )
    return rows
