"""``penstock bench``: the benchmarks, which need rivals and texts that no wheel brings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.exits import ending
from penstock.errors import ConfigError


def bench(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="busy, feed, handoff, pipeline, tokenize or tutorial; each has a --help."
        ),
    ],
) -> None:
    """Run a benchmark; arguments after its name are its own. Needs a clone of the repository."""
    if name in ("-h", "--help"):
        typer.echo(context.get_help())
        return
    with ending(debug=False):
        script = script_of(name, [Path.cwd(), Path(__file__).resolve().parent])
        raise typer.Exit(subprocess.call([sys.executable, str(script), *context.args]))


def script_of(name: str, places: list[Path]) -> Path:
    """The file of a benchmark, in the clone that one of some folders lies in.

    Raises:
        ConfigError: There is no clone, or no such benchmark in it.
    """
    for place in places:
        for folder in (place, *place.parents):
            if _is_clone(folder):
                scripts = {path.stem: path for path in (folder / "benchmarks").glob("*.py")}
                scripts |= {path.parent.name: path for path in (folder / "benchmarks").glob("*/__main__.py")}
                if name in scripts:
                    return scripts[name]
                known = sorted(scripts)
                raise ConfigError(f"bench {name!r}: the benchmarks of this clone are {', '.join(known)}.")
    raise ConfigError(
        "bench needs a clone of the Penstock repository: the installed package does not hold the benchmarks. "
        "Clone it, and run this again inside the clone."
    )


def _is_clone(folder: Path) -> bool:
    project = folder / "pyproject.toml"
    if not (folder / "benchmarks").is_dir() or not project.is_file():
        return False
    return '\nname = "penstock"\n' in project.read_text(encoding="utf-8", errors="replace")
