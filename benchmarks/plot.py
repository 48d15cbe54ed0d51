"""Raw figures of a benchmark to pictures: ``NAME-light.svg`` and ``NAME-dark.svg`` beside ``NAME.json``.

A bar is a median, its thin line the range of the runs::

    python benchmarks/plot.py benchmarks/results/*.json
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from penstock.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LABELS, BARS, VALUES = 250, 380, 70  # widths of the columns, in pixels; labels may need more
LETTER = 8
ROW, HEAD, MARGIN = 22, 34, 16


@dataclass(frozen=True)
class Theme:
    """Colors."""

    paper: str
    ink: str
    faint: str
    ours: str
    others: str


THEMES = {
    "light": Theme(paper="#ffffff", ink="#1f2328", faint="#656d76", ours="#0969da", others="#afb8c1"),
    "dark": Theme(paper="#0d1117", ink="#e6edf3", faint="#8d96a0", ours="#58a6ff", others="#484f58"),
}


@dataclass(frozen=True)
class Bar:
    """What one contender took or did."""

    label: str
    runs: list[float]
    is_ours: bool


@dataclass(frozen=True)
class Panel:
    """Bars on one scale."""

    title: str
    bars: list[Bar]


@dataclass(frozen=True)
class Picture:
    """Panels, and what they show."""

    title: str
    unit: str
    panels: list[Panel]
    is_logarithmic: bool = False

    @property
    def labels(self) -> int:
        """Width of the column of labels."""
        return max(LABELS, *(LETTER * len(bar.label) for panel in self.panels for bar in panel.bars))


def picture_of(raw: dict[str, Any]) -> Picture:
    """What the figures of a benchmark look like."""
    conditions = raw["conditions"]
    machine = f"{counted(conditions['cores'], 'core')}, Python {conditions['python']}"
    if "handoffs" in raw:
        title = f"Handing an object over: median microseconds, log scale, less is better ({machine})"
        return Picture(title, "us", list(handoff_panels(raw["handoffs"])), is_logarithmic=True)
    if "floors_s" in raw:
        bars = [Bar(name, runs, "penstock" in name) for name, runs in raw["seconds"].items()]
        bars += [Bar(f"floor: {promise}", [seconds], False) for promise, seconds in raw["floors_s"].items()]
        bars.sort(key=lambda bar: median(bar.runs))
        title = f"Feeding a loop: seconds, less is better ({machine})"
        return Picture(title, "s", [Panel(raw["what"], bars)])
    if "mb_s" in raw:
        bars = [Bar(name, runs, "penstock" in name) for name, runs in raw["mb_s"].items()]
        return Picture(f"From a file to batches: MB/s, more is better ({machine})", "MB/s", [Panel("", bars)])
    if raw["job"] == "stop":
        stops: dict[str, list[Bar]] = {}
        for each in raw["results"]:
            stops.setdefault(each["kind"], []).append(Bar(each["model"], each["new_ms"], is_ours=True))
        title = f"1 MB of text cut to 512 tokens: milliseconds, less is better ({machine})"
        return Picture(title, "ms", [Panel(kind, bars) for kind, bars in stops.items()])
    panels = []
    for (model, kind), results in groupby(raw["results"], key=lambda each: (each["model"], each["kind"])):
        measured = [each for each in results if "fresh" in each]
        bars = [Bar(each["peer"], each["fresh"], each["peer"] == "penstock") for each in measured]
        panels.append(Panel(f"{model}, {kind}", bars))
    made = {"flat": "flat ids", "padded": "padded matrices"}[raw["job"]]
    return Picture(f"Text to {made}: MB/s on new text, more is better ({machine})", "MB/s", panels)


def handoff_panels(results: list[dict[str, Any]]) -> Iterator[Panel]:
    """A panel for each number of producers: how long an object of 1 ms of work is on its way."""
    timed = [each for each in results if each["work"] != "none"]
    for number in sorted({each["producers"] for each in timed}):
        bars = [
            Bar(label_of(each), [run["p50_us"] for run in each["runs"]], "penstock" in each["name"])
            for each in timed
            if each["producers"] == number
        ]
        bars.sort(key=lambda bar: median(bar.runs))
        yield Panel(f"{counted(number, 'producer')}, {timed[0]['work']} of work an object", bars)


def label_of(handoff: dict[str, Any]) -> str:
    """Its name, and what it lacks."""
    promises = {"order": handoff["in_order"], "bound": handoff["is_bounded"]}
    lacks = ", ".join(f"no {promise}" for promise, is_kept in promises.items() if not is_kept)
    return f"{handoff['name']} ({lacks})" if lacks else f"{handoff['name']}"


def svg(picture: Picture, theme: Theme) -> Iterator[str]:
    """The lines of an SVG file."""
    width = 2 * MARGIN + picture.labels + BARS + VALUES
    height = 2 * MARGIN + HEAD + sum(HEAD + ROW * len(panel.bars) for panel in picture.panels)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="13">'
    )
    yield f"<title>{escape(picture.title)}</title>"
    yield f'<rect width="{width}" height="{height}" fill="{theme.paper}"/>'
    yield text(MARGIN, MARGIN + 14, picture.title, theme.ink, weight="600")
    top = MARGIN + HEAD
    for panel in picture.panels:
        yield text(MARGIN, top + 18, panel.title, theme.faint)
        top += HEAD
        pixels = scale(max(max(bar.runs) for bar in panel.bars), is_logarithmic=picture.is_logarithmic)
        for bar in panel.bars:
            yield from row(bar, (MARGIN + picture.labels, top), pixels, picture.unit, theme)
            top += ROW
    yield "</svg>"


def scale(most: float, *, is_logarithmic: bool) -> Callable[[float], float]:
    """How long a bar is: the longest has the whole column; on a logarithmic scale 1 has no length."""
    if is_logarithmic:
        return lambda value: BARS * math.log(max(1.0, value)) / math.log(max(2.0, most))
    return lambda value: value * (BARS / most)


def row(
    bar: Bar, place: tuple[int, int], pixels: Callable[[float], float], unit: str, theme: Theme
) -> Iterator[str]:
    """A contender's line; its bar begins at this place."""
    left, top = place
    middle = top + ROW / 2
    color = theme.ours if bar.is_ours else theme.others
    yield text(
        left - 8, middle + 4, bar.label, theme.ink, anchor="end", weight="600" if bar.is_ours else "400"
    )
    length = pixels(median(bar.runs))
    yield f'<rect x="{left}" y="{top + 3}" width="{length:.1f}" height="{ROW - 6}" rx="2" fill="{color}"/>'
    low, high = left + pixels(min(bar.runs)), left + pixels(max(bar.runs))
    yield (
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="{theme.ink}" '
        'stroke-width="1.5"/>'
    )
    value = median(bar.runs)
    number = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    yield text(left + BARS + 8, middle + 4, f"{number} {unit}", theme.ink)


def text(x: float, y: float, words: str, color: str, *, anchor: str = "start", weight: str = "400") -> str:
    """Words at a place."""
    return (
        f'<text x="{x:g}" y="{y:g}" fill="{color}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(words)}</text>"
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "results", type=Path, nargs="+", help="raw figures, as a benchmark's --json writes them"
    )
    for path in parser.parse_args().results:
        picture = picture_of(json.loads(path.read_text(encoding="utf-8")))
        for name, theme in THEMES.items():
            target = path.with_name(f"{path.stem}-{name}.svg")
            target.write_text("\n".join(svg(picture, theme)) + "\n", encoding="utf-8")
            print(target)


if __name__ == "__main__":
    main()
