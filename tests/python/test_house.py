"""House rules as tests: the public list, what imports what, and what the package costs to import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import penstock

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "python" / "penstock"
CSRC = ROOT / "csrc"

# The rooms that may import torch when they are imported; others only name it for type checkers or inside a
# function that is called with a model or a tensor in hand.
TORCH_ROOMS = {"staging.py", "collation.py", "scoring.py", "scorer.py", "reference.py"}
BANNED_NAMES = {"utils", "common", "helpers", "util", "helper", "misc"}


def imported_at_the_top(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_the_public_list_is_sorted_and_every_name_is_there() -> None:
    assert penstock.__all__ == sorted(penstock.__all__)
    for name in penstock.__all__:
        assert getattr(penstock, name) is not None
    assert dir(penstock) == penstock.__all__
    with pytest.raises(AttributeError, match="no attribute 'scoer'"):
        _ = penstock.scoer


def test_every_error_is_public() -> None:
    errors = ast.parse((PACKAGE / "errors.py").read_text(encoding="utf-8"))
    classes = {node.name for node in errors.body if isinstance(node, ast.ClassDef)}
    assert classes <= set(penstock.__all__)


def test_torch_is_imported_by_its_rooms_only() -> None:
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if imported_at_the_top(path) & {"torch", "transformers"}
    }
    assert {name for name in found if not name.startswith("tasks/")} <= TORCH_ROOMS


def test_no_room_is_a_drawer_for_odds_and_ends() -> None:
    names = {path.stem for folder in (PACKAGE, CSRC) for path in folder.rglob("*")}
    assert not names & BANNED_NAMES


def test_only_bindings_know_pybind11() -> None:
    for path in CSRC.rglob("*.*"):
        if path.suffix in {".h", ".cc", ".cpp"} and path.parent.name != "bindings":
            assert "pybind11" not in path.read_text(encoding="utf-8"), path


def test_arrows_between_the_rooms_of_the_core_point_down() -> None:
    rooms = ("ring", "text", "batch", "rows")
    allowed = {room: {room} for room in rooms} | {"rows": {"rows", "text"}, "bindings": {*rooms, "bindings"}}
    for path in CSRC.rglob("*.*"):
        if path.suffix in {".h", ".cc", ".cpp"}:
            used = set(re.findall(r'#include "(\w+)/', path.read_text(encoding="utf-8")))
            assert used <= allowed[path.parent.name], path


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False
    )


def test_import_brings_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'pyarrow', 'numpy'}"
    assert run(f"import sys, penstock; print(sorted({heavy} & set(sys.modules)))").stdout == "[]\n"


def test_import_takes_under_150_ms() -> None:
    code = "import time; start = time.perf_counter(); import penstock; print(time.perf_counter() - start)"
    assert min(float(run(code).stdout) for _ in range(5)) < 0.15


def test_a_missing_compiled_part_says_how_to_build_it(tmp_path: Path) -> None:
    bare = tmp_path / "penstock"
    bare.mkdir()
    for path in PACKAGE.glob("*.py"):
        (bare / path.name).write_bytes(path.read_bytes())
    done = run(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import penstock")
    assert done.returncode == 1
    assert "pip install" in done.stderr.splitlines()[-1]


def test_the_code_of_the_readme_is_valid_and_names_what_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            is_ours = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            if is_ours and node.value.id == "penstock":  # type: ignore[attr-defined]
                assert node.attr in penstock.__all__  # type: ignore[attr-defined]
    for room in re.findall(r"`((?:python|csrc)/[\w/.]+?)/?`", text):
        assert (ROOT / room).exists(), room
