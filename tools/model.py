"""Let spin look at every state of the ring's protocol, csrc/ring/ring.pml, for small rings.

python tools/model.py            every sound size, then every control: a step left out, or two swapped
python tools/model.py --full     larger sizes too (minutes, gigabytes)
python tools/model.py NAME       one of them, by its name
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

MODEL = Path(__file__).resolve().parent.parent / "csrc" / "ring" / "ring.pml"
ASLEEP = "invalid end state"


@dataclass(frozen=True)
class Run:
    """One search: the model with these names defined, and what it must find."""

    name: str
    defines: str
    finds: str = ""  # nothing: there is no error


SOUND = [
    Run("one slot at a time", "CAPACITY=1 SLOTS=2 ITEMS=4 PUBLISHERS=1"),
    Run("two publishers", "CAPACITY=2 SLOTS=2 ITEMS=3 PUBLISHERS=2"),
    Run("more slots than capacity", "CAPACITY=3 SLOTS=4 ITEMS=4 PUBLISHERS=1"),
    Run("drawn tickets", "CAPACITY=2 SLOTS=2 ITEMS=2 PUBLISHERS=2 DRAW"),
    Run("somebody else recycles", "CAPACITY=2 SLOTS=2 ITEMS=3 PUBLISHERS=1 RECYCLER"),
    Run("close", "CAPACITY=2 SLOTS=2 ITEMS=3 PUBLISHERS=1 CLOSER"),
    Run("cancel", "CAPACITY=2 SLOTS=2 ITEMS=3 PUBLISHERS=1 CANCELLER"),
    Run("cancel, drawn tickets", "CAPACITY=1 SLOTS=2 ITEMS=2 PUBLISHERS=1 CANCELLER DRAW"),
    Run("close and cancel", "CAPACITY=1 SLOTS=2 ITEMS=1 PUBLISHERS=1 CLOSER CANCELLER"),
]
FULL = [
    Run("two publishers, one more item", "CAPACITY=2 SLOTS=2 ITEMS=4 PUBLISHERS=2"),
    Run("three publishers", "CAPACITY=3 SLOTS=4 ITEMS=3 PUBLISHERS=3"),
    Run("close, two publishers", "CAPACITY=2 SLOTS=2 ITEMS=3 PUBLISHERS=2 CLOSER"),
    Run("cancel, two publishers", "CAPACITY=2 SLOTS=2 ITEMS=2 PUBLISHERS=2 CANCELLER"),
    Run("cancel, two publishers, drawn tickets", "CAPACITY=1 SLOTS=2 ITEMS=2 PUBLISHERS=2 CANCELLER DRAW"),
    Run("close and cancel, one more item", "CAPACITY=1 SLOTS=2 ITEMS=2 PUBLISHERS=1 CLOSER CANCELLER"),
]
DELIVER = "CAPACITY=2 SLOTS=2 ITEMS=3 PUBLISHERS=1"
CLOSE = f"{DELIVER} CLOSER"
CANCEL = f"{DELIVER} CANCELLER"
CONTROLS = [
    Run("a publisher that does not ring", f"{DELIVER} NO_PUBLISHER_WAKES", ASLEEP),
    Run("a publisher that looks at head first", f"{DELIVER} HEAD_FIRST", ASLEEP),
    Run("a consumer that moves head last", f"{DELIVER} LATE_HEAD", ASLEEP),
    Run("a consumer that does not look again", f"{DELIVER} NO_SECOND_LOOK", ASLEEP),
    Run("a consumer that looks, then announces itself", f"{DELIVER} ANNOUNCE_LATE", ASLEEP),
    Run("a recycler that does not ring", f"{DELIVER} NO_RECYCLER_WAKES", ASLEEP),
    Run("a bell that does not turn its epoch", f"{DELIVER} NO_EPOCH", ASLEEP),
    Run("a bell that wakes nobody", f"{DELIVER} NO_WAKE", ASLEEP),
    Run("a feeder that does not wait for room", f"{DELIVER} NO_ROOM", "assertion violated"),
    Run("a close that does not wake the consumer", f"{CLOSE} NO_SHUT_WAKES_CONSUMER", ASLEEP),
    Run("a cancel that does not wake the feeder", f"{CANCEL} NO_SHUT_WAKES_FEEDER", ASLEEP),
    Run("a gate of two words", f"{CLOSE} SPLIT_GATE", "assertion violated"),
    Run("a publisher that does not look back", f"{CANCEL} NO_LOOK_BACK", "assertion violated"),
    Run("a sweep before the gate is shut", f"{CANCEL} SWEEP_FIRST", "assertion violated"),
    Run("an item that nobody owns", f"{CANCEL} NO_EVICT", "assertion violated"),
]


def search(run: Run, folder: Path) -> str:
    """What spin's verifier says after it has seen every state, or the first error."""
    defines = [f"-D{name}" for name in run.defines.split()]
    subprocess.run(["spin", *defines, "-a", MODEL], cwd=folder, check=True, capture_output=True)
    compile_it = ["cc", "-O2", "-DSAFETY", "-DVECTORSZ=2048", "-o", "pan", "pan.c"]
    subprocess.run(compile_it, cwd=folder, check=True)
    # -n: code that a control leaves out is not worth a list. The depth is far beyond any run's.
    found = subprocess.run(
        ["./pan", "-m100000", "-w24", "-n"], cwd=folder, check=True, capture_output=True, text=True
    )
    return found.stdout


def verdict(run: Run) -> str:
    """Empty if the search ended as it must; else what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        found = search(run, Path(folder))
    errors = re.search(r"errors: (\d+)", found)
    states = re.search(r"(\d+) states, stored", found)
    complete = "Search not completed" not in found and "max search depth too small" not in found
    if errors is None or states is None or (not run.finds and not complete):
        return f"the search was not complete\n{found}"
    print(f"{run.name}: {int(states[1]):,} states, {run.finds or 'no error'}", flush=True)
    if not run.finds:
        return "" if errors[1] == "0" else found
    return (
        "" if errors[1] != "0" and run.finds in found else f"nothing noticed, or not {run.finds!r}\n{found}"
    )


def main(arguments: list[str]) -> int:
    """Run what was asked for; 0 if all is as it must be."""
    if shutil.which("spin") is None:
        print("spin is not installed (Debian and Ubuntu: apt-get install spin); the model was not checked")
        return 1
    runs = SOUND + CONTROLS + (FULL if arguments == ["--full"] else [])
    if arguments and arguments != ["--full"]:
        runs = [run for run in runs + FULL if run.name in arguments]
    for run in runs:
        if wrong := verdict(run):
            print(f"failed: {run.name} ({run.defines}): {wrong}")
            return 1
    print(f"{len(runs)} searches ended as they must")
    return 0 if runs else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
