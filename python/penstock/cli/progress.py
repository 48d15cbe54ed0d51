"""How far a run is: a bar on a terminal, now and then a line elsewhere, always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import typer

from penstock.wording import counted

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from penstock.scorer import Progress

FIRST_MINUTE_S, LINE_EVERY_S, LATER_EVERY_S = 60.0, 5.0, 30.0
FIRST_ETA_S = 1.0  # before that it is a wild guess


@dataclass(frozen=True)
class Tokenized:
    """How far tokenizing is. ``total_rows`` is 0 where nobody has counted them."""

    num_rows: int
    total_rows: int
    num_tokens: int
    elapsed_s: float
    num_skipped_rows: int = 0
    wait_share: float = 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds still to go at the pace so far, if that can be said."""
        if not self.num_rows or not self.total_rows:
            return None
        return self.elapsed_s * (self.total_rows - self.num_rows) / self.num_rows


Seen: TypeAlias = "Progress | Tokenized"
Show: TypeAlias = Callable[[Seen], None]


@contextmanager
def display(*, quiet: bool, has_model: bool = True) -> Iterator[Show]:
    """Give a function to call with how far it is.

    Args:
        quiet: Show nothing.
        has_model: There is a loop with a model that may wait for data; say how much it does.
    """
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        with closing(_Bar(has_model)) as bar:
            yield bar.show
    else:
        yield _Lines(has_model).show


def sentence(seen: Seen, *, has_model: bool = True) -> str:
    """How far it is, in words.

    Example:
        >>> seen = Tokenized(num_rows=500, total_rows=2000, num_tokens=90_000, elapsed_s=2.0)
        >>> sentence(seen, has_model=False)
        '500 of 2,000 rows, 45,000 tokens/s, 0:06 to go'
    """
    total, done = seen.total_rows + seen.num_skipped_rows, seen.num_rows + seen.num_skipped_rows
    parts = [f"{done:,} of {counted(total, 'row')}" if seen.total_rows else counted(done, "row")]
    if seen.elapsed_s > 0 and seen.num_tokens:
        parts.append(f"{seen.num_tokens / seen.elapsed_s:,.0f} tokens/s")
    if has_model:
        parts.append(f"waited {seen.wait_share:.0%}")
    if seen.eta_s is not None and seen.elapsed_s >= FIRST_ETA_S:
        parts.append(f"{clock(seen.eta_s)} to go")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, with hours where there are any.

    Example:
        >>> clock(7.4), clock(3_725)
        ('0:07', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Lines:
    """A line at the start, then one every few seconds: what a log file can hold."""

    def __init__(self, has_model: bool) -> None:
        self._has_model = has_model
        self._start = self._next = time.monotonic()

    def show(self, seen: Seen) -> None:
        now = time.monotonic()
        if now < self._next or not seen.num_rows:
            return
        self._next = now + (LINE_EVERY_S if now - self._start < FIRST_MINUTE_S else LATER_EVERY_S)
        typer.echo(sentence(seen, has_model=self._has_model), err=True)


class _Bar:
    """A bar that fills what the words leave of the line. It begins with the first rows."""

    def __init__(self, has_model: bool) -> None:
        self._has_model = has_model
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, seen: Seen) -> None:
        if not seen.num_rows:
            return
        words = sentence(seen, has_model=self._has_model)
        total = seen.total_rows + seen.num_skipped_rows
        if self._bar is None or self._task is None:
            self._start(total if seen.total_rows else None)
        assert self._bar is not None
        assert self._task is not None
        self._bar.update(self._task, completed=seen.num_rows + seen.num_skipped_rows, words=words)

    def _start(self, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (
            BarColumn(bar_width=None, complete_style="cyan", finished_style="cyan"),
            TextColumn("{task.fields[words]}", markup=False),
        )
        self._bar = Progress(
            *columns, console=Console(stderr=True), expand=True, transient=True, refresh_per_second=4
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=total, words="")
