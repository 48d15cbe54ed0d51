"""How results look on stdout: one console, one kind of table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table


def screen() -> Console:
    """The console for results. Colours are for terminals only; words never depend on them."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def table(*columns: str, left: Sequence[int] = (), fold: int = -1, has_head: bool = True) -> Table:
    """A table without lines: a dim head, and numbers aligned on the right.

    Args:
        columns: Heads.
        left: Numbers, from 0, of those that hold words.
        fold: Number of the one that gives way where the line is too short.
        has_head: Show the heads.
    """
    from rich.table import Table

    made = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0), show_header=has_head)
    for number, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if number in left else "right"
        made.add_column(column, justify=justify, no_wrap=number != fold, overflow="fold")
    return made
