"""A simulated disk that forgets what was never synced, and the proof that it does."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest


class Crash(BaseException):
    """The machine stops here; nothing that runs afterwards reaches the disk."""


@dataclass(eq=False)
class Inode:
    seen: bytes = b""
    durable: bytes = b""


@dataclass
class SimulatedDisk:
    """A `Files` whose names and bytes are durable only after the right fsync.

    Folders are durable at once, as `make_folder` promises. `fail_at` counts the operations that change
    anything; there the disk fails once (`fault`), or the machine stops: before the operation
    (`done` 0), half-way through a write (0.5) or right after it (1).
    """

    fail_at: int | None = None
    fault: bool = False
    done: float = 1.0
    steps: list[str] = field(default_factory=list)
    names: dict[str, Inode] = field(default_factory=dict)
    durable_names: dict[str, Inode] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    handles: dict[int, Inode] = field(default_factory=dict)
    locks: dict[int, int] = field(default_factory=dict)  # id of the inode → handle
    crashed: bool = False
    ignores_fsync: bool = False
    watch: Callable[[], None] | None = None  # called after every change

    def change(self, what: str, act: Callable[[float], None]) -> None:
        if self.crashed:
            raise Crash
        self.steps.append(what)
        if len(self.steps) - 1 != self.fail_at:
            act(1.0)
            return self.watch() if self.watch else None
        if self.fault:
            act(0.5 if what.startswith("write") else 0.0)
            raise OSError(errno.EIO, "Input/output error")
        act(self.done)
        self.crashed = True
        raise Crash

    # The operations of `Files`.

    def make_folder(self, path: str) -> None:
        self.folders.add(path)

    def sizes(self, folder: str) -> dict[str, int] | None:
        if folder not in self.folders:
            return None
        inside = {path: len(inode.seen) for path, inode in self.names.items()} | dict.fromkeys(
            self.folders, 0
        )
        return {path.rpartition("/")[2]: n for path, n in inside.items() if path.rpartition("/")[0] == folder}

    def read(self, path: str, start: int = 0) -> bytes:
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, "No such file", path)
        return self.names[path].seen[start:]

    def open(self, path: str, *, empty: bool = False) -> int:
        def act(done: float) -> None:
            if done and (empty or path not in self.names):
                inode = self.names.setdefault(path, Inode())
                inode.seen = b""

        if empty or path not in self.names:
            self.change(f"create {path}", act)
        handle = max(self.handles, default=2) + 1
        self.handles[handle] = self.names[path]
        return handle

    def write(self, handle: int, content: memoryview | bytes) -> None:
        inode, new = self.handles[handle], bytes(content)

        def act(done: float) -> None:
            inode.seen += new[: int(len(new) * done)]

        self.change("write", act)

    def truncate(self, handle: int, size: int) -> None:
        inode = self.handles[handle]

        def act(done: float) -> None:
            inode.seen = inode.seen[:size] if done else inode.seen

        self.change("truncate", act)

    def fsync(self, handle: int) -> None:
        inode = self.handles[handle]

        def act(done: float) -> None:
            inode.durable = inode.seen if done and not self.ignores_fsync else inode.durable

        self.change("fsync", act)

    def close(self, handle: int) -> None:
        inode = self.handles.pop(handle)
        if self.locks.get(id(inode)) == handle:
            del self.locks[id(inode)]

    def rename(self, old: str, new: str) -> None:
        def act(done: float) -> None:
            if done:
                self.names[new] = self.names.pop(old)

        self.change(f"rename {new}", act)

    def remove(self, path: str) -> None:
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, "No such file", path)

        def act(done: float) -> None:
            if done:
                del self.names[path]

        self.change(f"remove {path}", act)

    def fsync_folder(self, path: str) -> None:
        def act(done: float) -> None:
            if done:
                self.durable_names = self._with_names_of(path, self.durable_names, self.names)

        self.change(f"fsync_folder {path}", act)

    def lock(self, handle: int) -> bool:
        return self.locks.setdefault(id(self.handles[handle]), handle) == handle

    def unlock(self, handle: int) -> None:
        if not self.crashed:
            self.locks.pop(id(self.handles[handle]), None)

    @staticmethod
    def _with_names_of(folder: str, old: dict[str, Inode], new: dict[str, Inode]) -> dict[str, Inode]:
        kept = {path: inode for path, inode in old.items() if path.rpartition("/")[0] != folder}
        return kept | {path: inode for path, inode in new.items() if path.rpartition("/")[0] == folder}

    # What happens to the machine.

    def restart(self, loses: str | None, rng: random.Random, **faults: object) -> SimulatedDisk:
        """The disk after the process died (`loses` None) or the power went, in one of the ways it may."""
        disk = SimulatedDisk(folders=set(self.folders), **faults)  # type: ignore[arg-type]
        if loses is None:
            disk.names, disk.durable_names = dict(self.names), dict(self.durable_names)
            return disk
        names = dict(self.durable_names if loses in ("all", "names") else self.names)
        if loses == "some":
            names = dict(self.durable_names)
            for path in {*self.names, *self.durable_names}:
                if rng.random() < 0.5:
                    names.pop(path, None)
                    if path in self.names:
                        names[path] = self.names[path]
        bytes_of = {id(inode): self._survives(inode, loses, rng) for inode in names.values()}
        for path, inode in names.items():
            disk.names[path] = Inode(bytes_of[id(inode)], bytes_of[id(inode)])
        disk.durable_names = dict(disk.names)
        return disk

    @staticmethod
    def _survives(inode: Inode, loses: str, rng: random.Random) -> bytes:
        seen, durable = inode.seen, inode.durable
        if not seen.startswith(durable):  # was cut or emptied
            return seen if loses == "names" or (loses == "some" and rng.random() < 0.5) else durable
        if loses == "some":
            return seen[: rng.randint(len(durable), len(seen))]
        if loses == "hole":  # a later block reached the disk, an earlier one did not
            third = (len(seen) - len(durable)) // 3
            return seen[: len(durable) + third] + bytes(third) + seen[len(durable) + 2 * third :]
        kept = {
            "all": durable,
            "bytes": durable,
            "names": seen,
            "last byte": max(durable, seen[:-1], key=len),
        }
        return kept[loses] if loses in kept else durable + bytes(len(seen) - len(durable))


LOSSES = [None, "all", "names", "bytes", "last byte", "zeros", "hole", "some"]


def write(disk: SimulatedDisk, path: str, content: bytes, *, synced: bool) -> None:
    handle = disk.open(path)
    disk.write(handle, content)
    if synced:
        disk.fsync(handle)
    disk.close(handle)


@pytest.mark.parametrize(("synced", "left"), [(True, b"whole"), (False, b"")])
def test_bytes_outlive_a_power_loss_only_after_fsync(synced: bool, left: bytes) -> None:
    disk = SimulatedDisk(folders={"out"})
    write(disk, "out/a", b"whole", synced=synced)
    disk.fsync_folder("out")
    assert disk.restart("all", random.Random(0)).read("out/a") == left


def test_a_new_name_outlives_a_power_loss_only_after_fsync_of_the_folder() -> None:
    disk = SimulatedDisk(folders={"out"})
    write(disk, "out/a", b"whole", synced=True)
    disk.fsync_folder("out")
    disk.rename("out/a", "out/b")
    assert disk.restart("all", random.Random(0)).sizes("out") == {"a": 5}
    assert disk.restart("bytes", random.Random(0)).sizes("out") == {"b": 5}
    disk.fsync_folder("out")
    assert disk.restart("all", random.Random(0)).sizes("out") == {"b": 5}


def test_a_death_of_the_process_alone_forgets_nothing_but_keeps_the_debt() -> None:
    disk = SimulatedDisk(folders={"out"})
    write(disk, "out/a", b"whole", synced=False)
    disk.fsync_folder("out")
    survivor = disk.restart(None, random.Random(0))
    assert survivor.read("out/a") == b"whole"
    assert survivor.restart("all", random.Random(0)).read("out/a") == b""


def test_a_write_may_reach_the_disk_in_part_and_out_of_order() -> None:
    disk = SimulatedDisk(folders={"out"})
    write(disk, "out/a", b"old", synced=True)
    disk.fsync_folder("out")
    write(disk, "out/a", b"123456789", synced=False)
    found = {loses: disk.restart(loses, random.Random(0)).read("out/a") for loses in LOSSES}
    assert found["last byte"] == b"old12345678"
    assert found["zeros"] == b"old" + bytes(9)
    assert found["hole"] == b"old123\0\0\x00789"
    assert all(content.startswith(b"old") for content in found.values())
