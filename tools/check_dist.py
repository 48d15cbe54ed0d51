"""Check that the built wheel and sdist hold what they should, and nothing else.

python tools/check_dist.py dist/
"""

from __future__ import annotations

import fnmatch
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Patterns of fnmatch, where * also crosses folders.
COMPILED = "penstock/_core.*.so"
METADATA = "penstock-*.dist-info/*"

SDIST_MUST_HOLD = [
    "CMakeLists.txt",
    "LICENSE",
    "README.md",
    "csrc/CMakeLists.txt",
    "csrc/ring/ring.h",
    "tests/cpp/*",
]
SDIST_MUST_NOT_HOLD = [
    ".ci/*",
    ".venv/*",
    "build/*",
    "dist/*",
    "benchmarks/results/*",
    "*.so",
    "*/__pycache__/*",
]


def problems(names: list[str], must: list[str], must_not: list[str]) -> list[str]:
    """What is wrong with this list of files, in words."""
    missing = [f"nothing matches {pattern}" for pattern in must if not fnmatch.filter(names, pattern)]
    unwanted = [
        f"{name} matches {pattern}" for pattern in must_not for name in fnmatch.filter(names, pattern)
    ]
    return missing + unwanted


def package_files() -> list[str]:
    """The files of the package that git tracks, as a wheel names them."""
    command = ["git", "ls-files", "-z", "python/penstock"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name.removeprefix("python/") for name in listed.split("\0") if name]


def wheel_problems(wheel: Path) -> list[str]:
    """A wheel holds the tracked files of the package, its one compiled part, and what pip needs; no more."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    tracked, compiled = package_files(), fnmatch.filter(names, COMPILED)
    expected = {*tracked, *compiled, *fnmatch.filter(names, METADATA)}
    absent = [f"{name} is tracked and not in the wheel" for name in tracked if name not in names]
    extra = [f"{name} is in the wheel and not tracked" for name in names if name not in expected]
    if len(compiled) != 1:
        extra.append(f"one file must match {COMPILED}, not {len(compiled)}: {', '.join(compiled)}")
    return absent + extra


def sdist_problems(sdist: Path) -> list[str]:
    """An sdist holds what building and testing need."""
    with tarfile.open(sdist) as archive:
        names = [member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()]
    return problems(names, SDIST_MUST_HOLD, SDIST_MUST_NOT_HOLD)


def only(folder: Path, pattern: str) -> Path:
    """The one file of that pattern; a second one is a left-over that would be tested by mistake."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{folder} must hold one {pattern}, and holds {[path.name for path in found]}")
    return found[0]


def main() -> int:
    """Run from the command line."""
    folder = Path(sys.argv[1])
    checks = {only(folder, "*.whl"): wheel_problems, only(folder, "*.tar.gz"): sdist_problems}
    found = [f"{path.name}: {problem}" for path, check in checks.items() for problem in check(path)]
    print("\n".join(found) or f"{', '.join(path.name for path in checks)}: as they should be")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
