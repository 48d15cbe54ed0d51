"""Who takes part in ``feed.py``, ``handoff.py`` and ``tutorial.py``, who is missing, and on what they ran.

A contender that needs a package which is not installed is named and left out, never silently.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Generic, TypeVar

Run = TypeVar("Run", bound=Callable[..., Any])

PACKAGES = {"torch.utils.data": "torch", "torchdata.nodes": "torchdata", "spdl.pipeline": "spdl-core"}
"""What a contender imports, and the package that brings it."""


@dataclass(frozen=True)
class Contender(Generic[Run]):
    """One line of a table.

    Attributes:
        name: As in the table.
        run: The whole job.
        needs: The module that it imports, if that may be missing.
        in_order: Whether items come out in the order of the input.
        is_bounded: Whether producers wait for a slow consumer.
    """

    name: str
    run: Run
    needs: str | None = None
    in_order: bool = True
    is_bounded: bool = True

    def absence(self) -> str | None:
        """Why it cannot take part, in words; None: it can."""
        if self.needs is None:
            return None
        try:
            import_module(self.needs)
        except ImportError as error:
            return f"{self.name}: {error}. pip install -c constraints.txt --group bench"
        return None


def present(contenders: list[Contender[Run]]) -> tuple[list[Contender[Run]], list[str]]:
    """Those that can take part, and why each of the others cannot."""
    absences = [each.absence() for each in contenders]
    able = [each for each, absence in zip(contenders, absences, strict=True) if absence is None]
    return able, [absence for absence in absences if absence is not None]


def conditions() -> dict[str, Any]:
    """What the figures were taken on."""
    versions = {name: version_of(name) for name in ("penstock", *PACKAGES.values())}
    return {
        "python": platform.python_version(),
        "machine": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
    } | {name: version for name, version in versions.items() if version}


def version_of(package: str) -> str | None:
    """The installed version, if there is one."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """What Linux calls the processor."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
