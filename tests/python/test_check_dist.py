"""What a wheel may hold: the tracked files of the package, its compiled part, and nothing more."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "check_dist.py"
TRACKED = ["penstock/__init__.py", "penstock/py.typed", "penstock/demo/corpus.jsonl"]
GOOD = [*TRACKED, "penstock/_core.cpython-311-x86_64-linux-gnu.so", "penstock-0.1.0.dist-info/METADATA"]


@pytest.fixture
def check_dist(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_dist", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "package_files", lambda: TRACKED)
    return module


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (GOOD, []),
        ([*GOOD, "penstock/planted.py"], ["penstock/planted.py is in the wheel and not tracked"]),
        ([*GOOD, "planted/__init__.py"], ["planted/__init__.py is in the wheel and not tracked"]),
        (GOOD[1:], ["penstock/__init__.py is tracked and not in the wheel"]),
        ([*TRACKED, GOOD[-1]], ["one file must match penstock/_core.*.so, not 0: "]),
        (
            [*GOOD, "penstock/_core.abi3.so"],
            [f"one file must match penstock/_core.*.so, not 2: {GOOD[-2]}, penstock/_core.abi3.so"],
        ),
    ],
)
def test_a_wheel_holds_what_is_tracked(
    names: list[str], found: list[str], check_dist: ModuleType, tmp_path: Path
) -> None:
    wheel = tmp_path / "penstock.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    assert check_dist.wheel_problems(wheel) == found
