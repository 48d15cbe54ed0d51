"""What the demo shows: each kind of text with its median perplexity, and a picture of how they spread."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa

EXPECTED_ORDER = ("prose", "web", "shuffled", "base64")
"""From what the model knows to what nobody can guess: the medians must rise."""

WHAT = {
    "prose": "novels the model has not read",
    "web": "how people write on the web",
    "languages": "prose that is not English",
    "code": "source code",
    "shuffled": "the prose, words shuffled",
    "base64": "random bytes, encoded",
    "edge": "an empty row, and one letter",
}
FEWEST_TO_PLOT = 5
_LEVELS = " ▁▂▃▄▅▆▇█"
_BANDWIDTH = 1.2  # columns


@dataclass(frozen=True)
class Kind:
    """The scores of one kind of text.

    Attributes:
        name: The ``kind`` of its rows.
        num_rows, num_tokens: Rows, and tokens scored.
        perplexities: Of the rows that have one.
        bits_per_byte: Over all its rows together; None without a byte.
    """

    name: str
    num_rows: int
    num_tokens: int
    perplexities: tuple[float, ...]
    bits_per_byte: float | None

    @property
    def median(self) -> float:
        """The median perplexity; infinite where no row has one."""
        return median(self.perplexities) if self.perplexities else math.inf


def summarize(tables: Iterable[pa.Table]) -> list[Kind]:
    """The kinds in the parts of a run, by rising median; those of a few rows last."""
    rows: dict[str, list[dict[str, float | None]]] = {}
    columns = ["perplexity", "logprob", "num_tokens", "num_bytes"]
    for table in tables:
        for kind, row in zip(table["kind"].to_pylist(), table.select(columns).to_pylist(), strict=True):
            rows.setdefault(kind, []).append(row)
    kinds = [_kind(name, scores) for name, scores in rows.items()]
    return sorted(kinds, key=lambda kind: (kind.num_rows < FEWEST_TO_PLOT, kind.median))


def ordered(kinds: Sequence[Kind]) -> tuple[bool, str]:
    """Whether the medians are in the expected order, and the medians in a line."""
    medians = {kind.name: kind.median for kind in kinds}
    values = [medians.get(name, math.nan) for name in EXPECTED_ORDER]
    holds = all(low < high for low, high in pairwise(values))
    sign = " < " if holds else ", "
    return holds, sign.join(
        f"{name} {number(value)}" for name, value in zip(EXPECTED_ORDER, values, strict=True)
    )


def number(value: float) -> str:
    """A perplexity with three digits that matter.

    Example:
        >>> number(9.128), number(86.42), number(3_456.7)
        ('9.13', '86.4', '3,457')
    """
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis.

    Attributes:
        low, high: Its ends.
        width: Its columns.
    """

    low: float
    high: float
    width: int

    @classmethod
    def over(cls, kinds: Sequence[Kind], width: int) -> Axis:
        """The axis that holds every finite perplexity of some kinds."""
        values = [value for kind in kinds for value in kind.perplexities if math.isfinite(value)]
        return cls(min(values) / 1.15, max(values) * 1.15, width)

    def column(self, value: float) -> float:
        """Where a value is, in columns from the left."""
        return math.log(value / self.low) / math.log(self.high / self.low) * (self.width - 1)

    def hill(self, values: Sequence[float]) -> str:
        """How values spread over the axis: the higher, the more of them; blank where there are none.

        Example:
            >>> Axis(1, 100, 9).hill([10, 10, 10])
            '  ▂▆█▆▂  '
        """
        columns = [self.column(value) for value in values if math.isfinite(value)]
        heights = [
            sum(math.exp(-0.5 * ((column - at) / _BANDWIDTH) ** 2) for at in columns)
            for column in range(self.width)
        ]
        top = max(heights, default=0.0) or 1.0
        return "".join(_LEVELS[min(8, math.ceil(8 * height / top - 0.5))] for height in heights)

    def ruler(self) -> tuple[str, str]:
        """The axis line and the labels under it."""
        line, labels = ["─"] * self.width, [" "] * self.width
        free = 0
        for tick in self._ticks():
            at, label = round(self.column(tick)), f"{tick:,g}"
            start = max(0, at - len(label) // 2)
            if start >= free and start + len(label) <= self.width:
                line[at] = "┼"
                labels[start : start + len(label)] = label
                free = start + len(label) + 2
        return "".join(line), "".join(labels).rstrip()

    def _ticks(self) -> list[int]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        is_wide = self.width / math.log10(self.high / self.low) > 24
        steps = (1, 2, 5) if is_wide else (1,)
        ticks = [step * 10**decade for decade in decades if decade >= 0 for step in steps]
        return [tick for tick in ticks if self.low <= tick <= self.high]


def _kind(name: str, rows: Sequence[dict[str, float | None]]) -> Kind:
    bits = -sum(row["logprob"] or 0.0 for row in rows) / math.log(2)
    num_bytes = sum(row["num_bytes"] or 0 for row in rows)
    return Kind(
        name=name,
        num_rows=len(rows),
        num_tokens=int(sum(row["num_tokens"] or 0 for row in rows)),
        perplexities=tuple(row["perplexity"] for row in rows if row["perplexity"] is not None),
        bits_per_byte=bits / num_bytes if num_bytes else None,
    )
