"""``penstock doctor``: what this machine has, what will be slow, and why."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.exits import ending, visible
from penstock.cli.options import Debug  # noqa: TC001 - typer reads the annotations

_STYLES = {"ok": "green", "slow": "yellow", "missing": "red"}


def doctor(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where the output of runs would go.")] = Path(),
    debug: Debug = False,
) -> None:
    """Show what this machine has, what will be slow, and what to do about it."""
    with ending(debug=debug):
        from rich.text import Text

        from penstock.cli.machine import findings
        from penstock.cli.screen import screen, table

        console = screen()
        counts: Counter[str] = Counter()
        for title, found in findings(output):
            console.print(title, style="bold")
            rows = table("", "", "", left=(0, 1, 2), fold=2, has_head=False)
            for finding in found:
                counts[finding.verdict] += 1
                words = Text(visible(finding.found))
                if finding.remedy:
                    words.append(f"\n{visible(finding.remedy)}", style=_STYLES[finding.verdict])
                rows.add_row(
                    Text(f"  {finding.verdict:<7}", style=_STYLES[finding.verdict]), finding.what, words
                )
            console.print(rows)
            console.print()
        console.print(", ".join(f"{counts[verdict]} {verdict}" for verdict in _STYLES if counts[verdict]))
