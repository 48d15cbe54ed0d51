"""Processes that tests may interrupt, fork and kill: forks of one that has imported torch and penstock.

A process of its own for each case would spend two seconds on imports. The code of a case is the body of a
module: when it ends, the interpreter is finalized as at the end of any script.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

NURSERY = """
import asyncio, gc, os, signal, sys, threading, time, warnings
import torch, penstock, penstock.encoder, penstock.flow
from penstock import Prefetcher

class Slow:
    # The last thing to go: any thread of ours that is still there wakes while the interpreter is finalized.
    def __del__(self, sleep=time.sleep):
        sleep(0.05)

warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
# What the first pass imports. Its threads are gone again; the hook must be too, as each child sets its own.
list(Prefetcher([[1]], None, device="cpu", max_batch_rows=1))
threading._threading_atexits.clear()
penstock.flow._hook_exit.cache_clear()
gc.freeze()  # or each child would copy and collect all this
for line in iter(sys.stdin.readline, ""):
    folder = line.strip()
    pid = os.fork()
    if pid == 0:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdin = open(os.devnull)
        sys.slow = Slow()
        with open(os.path.join(folder, "body.py")) as file:
            body = file.read()
        break
    print(pid, flush=True)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
else:
    body = ""
exec(compile(body, "body.py", "exec"), globals())
"""


class Child:
    """A case that runs. ``wait`` must be called; one runs at a time."""

    def __init__(self, nursery: Nursery, pid: int, folder: Path) -> None:
        self._nursery, self.pid, self._folder = nursery, pid, folder

    @property
    def output(self) -> str:
        """What it printed so far."""
        path = self._folder / "out"
        return path.read_text() if path.exists() else ""

    @property
    def complaints(self) -> str:
        """What it wrote to stderr so far."""
        path = self._folder / "err"
        return path.read_text() if path.exists() else ""

    def wait_for(self, line: str, seconds: float = 30.0) -> None:
        """Wait until it has printed a line."""
        deadline = time.monotonic() + seconds
        while line not in self.output.splitlines():
            assert time.monotonic() < deadline, f"never printed {line!r}: {self.complaints}"
            time.sleep(0.005)

    def signal(self, number: signal.Signals) -> float:
        """Send a signal; the time it was sent."""
        now = time.monotonic()
        os.kill(self.pid, number)
        return now

    def wait(self, seconds: float = 30.0) -> int | None:
        """Its exit code, or minus the signal that ended it; None: it hung and was killed."""
        code = self._nursery.read_line(seconds)
        if code is None:
            os.kill(self.pid, signal.SIGKILL)
            self._nursery.read_line(30.0)
        return None if code is None else int(code)


class Nursery:
    """The process whose forks the cases are."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._folder = tempfile.TemporaryDirectory()
        self._count = 0

    def run(self, body: str) -> Child:
        """Start a case: the body of a module, indented as it may be."""
        self._count += 1
        folder = Path(self._folder.name) / str(self._count)
        folder.mkdir()
        (folder / "body.py").write_text(textwrap.dedent(body), encoding="utf-8")
        assert self._process.stdin is not None
        self._process.stdin.write(f"{folder}\n")
        pid = self.read_line(60.0)  # the first waits for the imports
        assert pid is not None
        return Child(self, int(pid), folder)

    def read_line(self, seconds: float) -> str | None:
        """The next line of the process; None: it did not come."""
        assert self._process.stdout is not None
        # A line is written whole, and the next only after this one was acted on: nothing stays in the buffer.
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return self._process.stdout.readline().strip() if ready else None

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
        self._folder.cleanup()
