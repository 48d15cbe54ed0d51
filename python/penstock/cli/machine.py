"""What ``penstock doctor`` looks at: one function per question, each gives findings and never raises.

A finding is ``ok``, ``slow`` (it works, but costs speed; the remedy says what to do) or ``missing``.
"""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
import tempfile
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from penstock.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Verdict = Literal["ok", "slow", "missing"]

PACKAGES = ("torch", "transformers", "tokenizers", "pyarrow", "numpy", "safetensors", "huggingface_hub")
OPTIONAL = {"accelerate": "only --device-map needs it: pip install accelerate"}
TESTED = {("Linux", "x86_64"), ("Linux", "aarch64")}
GIB = 1 << 30
LITTLE_MEMORY, LITTLE_DISK = 2 * GIB, 5 * GIB
SLOW_SYNC_S = 0.05


class Finding(NamedTuple):
    """What was found, and in one sentence what to do about it (empty where nothing is to be done)."""

    verdict: Verdict
    what: str
    found: str
    remedy: str = ""


def findings(folder: Path) -> Iterator[tuple[str, list[Finding]]]:
    """Titles with their findings; ``folder`` is where output would go."""
    yield "software", _safely(_python) + _safely(_versions) + _safely(_environment)
    yield "machine", _safely(_platform) + _safely(_cores) + _safely(_memory)
    yield "accelerator", _safely(_cuda)
    yield "output", _safely(lambda: _disk(folder)) + _safely(_terminal)


def _safely(look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What a question found; if asking it failed, that is the finding."""
    found: list[Finding] = []
    try:
        found.extend(look())
    except Exception as error:  # noqa: BLE001 - a doctor reports what is broken, it does not break
        what = getattr(look, "__name__", "").strip("_").replace("<lambda>", "output") or "a check"
        found.append(Finding("missing", what, f"could not be found out: {type(error).__name__}: {error}"))
    return found


# ---- software ----


def _python() -> Iterator[Finding]:
    is_built_free = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    kind = "with the GIL" if not is_built_free else "free-threaded" + (", GIL on again" if has_gil else "")
    remedy = "Untested: if something is odd, try the usual build." if is_built_free else ""
    yield Finding("ok", "python", f"{platform.python_version()} {kind}", remedy)
    from penstock import _core

    version = _version("penstock") or "of an uninstalled source tree"
    yield Finding("ok", "penstock", f"{version}, with its compiled part {Path(_core.__file__).name}")


def _versions() -> Iterator[Finding]:
    for name in PACKAGES:
        version = _version(name)
        remedy = "" if version else f"Install it: pip install {name}."
        yield Finding("ok" if version else "missing", name, version or "not installed", remedy)
    for name, remedy in OPTIONAL.items():
        version = _version(name)
        yield Finding("ok", name, version or f"not installed; {remedy}")


def _environment() -> Iterator[Finding]:
    parallel = os.environ.get("TOKENIZERS_PARALLELISM", "")
    if parallel.lower() in ("", "false", "0", "off", "no", "f", "n"):
        yield Finding("ok", "TOKENIZERS_PARALLELISM", parallel or "not set")
    else:
        remedy = "Its threads and Penstock's get in each other's way: unset it, use --num-workers."
        yield Finding("slow", "TOKENIZERS_PARALLELISM", parallel, remedy)
    offline = os.environ.get("HF_HUB_OFFLINE", "")
    is_offline = offline.lower() in ("1", "on", "yes", "true")
    found = "hub ids are looked up in the cache only" if is_offline else "hub ids are downloaded when needed"
    yield Finding("ok", "HF_HUB_OFFLINE", f"{offline or 'not set'}: {found}")
    threads, cores = os.environ.get("OMP_NUM_THREADS", ""), usable_cores()
    if threads.isdigit() and int(threads) > cores:
        remedy = f"More threads than cores wait for each other: set it to {max(1, int(cores))}, or unset it."
        yield Finding("slow", "OMP_NUM_THREADS", threads, remedy)


# ---- machine ----


def _platform() -> Iterator[Finding]:
    here = (platform.system(), platform.machine())
    found = f"{platform.system()} {platform.release()}, {platform.machine()}"
    remedy = "Untested: threads park on a condition variable here, which costs some time."
    yield Finding("ok", "platform", found) if here in TESTED else Finding("slow", "platform", found, remedy)


def _cores() -> Iterator[Finding]:
    total, usable = os.cpu_count() or 1, usable_cores()
    found = f"{usable:g} usable of {total}" if usable != total else f"{total}"
    threads = affinity()
    if usable < threads:
        remedy = (
            f"A cgroup allows {usable:g} of {counted(threads, 'core')}: set "
            f"--num-workers {max(1, int(usable) - 1)}, "
            f"and OMP_NUM_THREADS={max(1, int(usable))} for a model on the CPU."
        )
        yield Finding("slow", "cores", found, remedy)
    elif usable < 2:
        remedy = "Tokenizing and the loop share one core: ask for two or more."
        yield Finding("slow", "cores", found, remedy)
    else:
        yield Finding("ok", "cores", found)


def affinity() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores() -> float:
    """Cores this process may run on, and that its cgroup pays for."""
    return min([float(affinity()), *_cgroup_quotas()])


def _cgroup_quotas(root: Path = Path("/sys/fs/cgroup")) -> Iterator[float]:
    with suppress(OSError, ValueError):
        quota, period = (root / "cpu.max").read_text().split()
        if quota != "max":
            yield int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota_us = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        if quota_us > 0:
            yield quota_us / int((root / "cpu" / "cpu.cfs_period_us").read_text())


def _memory() -> Iterator[Finding]:
    with suppress(OSError, ValueError, KeyError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        total, free = kilobytes["MemTotal"] * 1024, kilobytes["MemAvailable"] * 1024
        for limit in _cgroup_memory():
            total, free = min(total, limit), min(free, limit)
        found = f"{total / GIB:.1f} GiB, {free / GIB:.1f} GiB free"
        remedy = "Text waits in memory: set --max-buffered-bytes to a quarter of what is free."
        is_little = free < LITTLE_MEMORY
        yield Finding("slow", "memory", found, remedy) if is_little else Finding("ok", "memory", found)


def _cgroup_memory(root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            yield int((root / name).read_text())


# ---- accelerator ----


def _cuda() -> Iterator[Finding]:
    import torch

    has_card = Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()
    if torch.version.cuda is None:
        if has_card:
            remedy = "There is a driver, but torch was built without CUDA: install a CUDA build of torch."
            yield Finding("missing", "CUDA", "not in this torch", remedy)
        else:
            yield _on_cpu("no device, and torch was built without CUDA")
        return
    if not torch.cuda.is_available():
        remedy = "The driver does not work with this torch: update it, or install a torch for an older CUDA."
        found = f"torch was built for CUDA {torch.version.cuda}, and sees no device"
        yield Finding("missing", "CUDA", found, remedy) if has_card else _on_cpu(found)
        return
    yield Finding("ok", "CUDA", f"{torch.version.cuda}, driver {_driver() or 'of unknown version'}")
    for index in range(torch.cuda.device_count()):
        yield _device(torch, index)
    yield _pinned(torch)


def _on_cpu(found: str) -> Finding:
    return Finding("slow", "CUDA", found, "Models run on the CPU: fine for the demo and small models.")


def _driver() -> str:
    with suppress(OSError):
        words = Path("/proc/driver/nvidia/version").read_text().split()
        return next((word for word in words if word[0].isdigit() and "." in word), "")
    return ""


def _device(torch: Any, index: int) -> Finding:
    facts = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    compute = f"compute {facts.major}.{facts.minor}"
    found = f"{facts.name}, {total / GIB:.0f} GiB, {free / GIB:.0f} GiB free, {compute}"
    if free < total / 2:
        return Finding(
            "slow", f"cuda:{index}", found, "Another process uses it: wait, or choose with --device."
        )
    if facts.major < 8:
        return Finding("slow", f"cuda:{index}", found, "It has no bfloat16: give --dtype float16.")
    return Finding("ok", f"cuda:{index}", found)


def _pinned(torch: Any) -> Finding:
    try:
        torch.empty(64 << 20, dtype=torch.uint8, pin_memory=True)
    except RuntimeError as error:
        remedy = "Copies to the device will block: raise the limit of locked memory, or of the container."
        return Finding("slow", "pinned memory", f"refused: {str(error).splitlines()[0]}", remedy)
    return Finding("ok", "pinned memory", "64 MiB allocated")


# ---- output ----


def _disk(folder: Path) -> Iterator[Finding]:
    import shutil

    if not folder.is_dir() or not os.access(folder, os.W_OK):
        yield Finding(
            "missing", "output", f"{folder}: no folder that can be written", "Name one with --output."
        )
        return
    free = shutil.disk_usage(folder).free
    seconds = _sync_s(folder)
    found = f"{folder.resolve()}: {free / GIB:.0f} GiB free, {seconds * 1000:.1f} ms to sync a file"
    if seconds > SLOW_SYNC_S:
        yield Finding("slow", "output", found, "Each unit syncs a few times: raise --unit-rows.")
    elif free < LITTLE_DISK:
        yield Finding("slow", "output", found, "There is little room: write elsewhere.")
    else:
        yield Finding("ok", "output", found)


def _sync_s(folder: Path) -> float:
    """Median seconds that it takes to sync a small file."""
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(5):
            file.write(os.urandom(64 << 10))
            file.flush()
            start = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - start)
    return median(times)


def _terminal() -> Iterator[Finding]:
    found = "a bar is shown" if sys.stderr.isatty() else "no; progress is written as lines"
    yield Finding("ok", "terminal", found)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
