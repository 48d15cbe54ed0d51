"""The benchmarks run, and refuse to time contenders that disagree. Timings themselves are not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FEED = Path(__file__).parents[2] / "benchmarks" / "feed.py"


def test_feed_measures_every_loader_and_keeps_the_raw_seconds(tmp_path: Path) -> None:
    raw = tmp_path / "feed.json"
    small = ["--documents", "4", "--load-s", "0.001", "--step-s", "0.001", "--runs", "2", "--json", str(raw)]
    done = subprocess.run(
        [sys.executable, str(FEED), *small], capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "penstock.Prefetcher" in done.stdout
    seconds = json.loads(raw.read_text(encoding="utf-8"))["seconds"]
    assert len(seconds) == 6
    assert all(len(values) == 2 for values in seconds.values())
