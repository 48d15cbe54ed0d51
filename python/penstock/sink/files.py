"""The few file operations that durability rests on, behind one seam.

Everything that must survive a crash goes through a `Files` object, so that a test can stand in for
the disk, fail any single operation and forget what was never synced.
"""

# ruff: noqa: D102 - the methods of LocalFiles are described at Files

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from penstock.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK_TIMEOUT_S = 60.0


class Files(Protocol):
    """What the sink asks of a file system. Paths are strings; handles are opaque integers."""

    def make_folder(self, path: str) -> None:
        """Create a folder and its parents, durably; nothing happens if it is there."""

    def sizes(self, folder: str) -> dict[str, int] | None:
        """Size in bytes of every entry of a folder, by name; None if there is no such folder."""

    def read(self, path: str, start: int = 0) -> bytes:
        """The bytes of a file from `start` on."""

    def open(self, path: str, *, empty: bool = False) -> int:
        """Open for appending, create if absent; `empty`: drop what it holds."""

    def write(self, handle: int, content: memoryview | bytes) -> None:
        """Append all of `content`."""

    def truncate(self, handle: int, size: int) -> None:
        """Cut a file to `size` bytes."""

    def fsync(self, handle: int) -> None:
        """Return once the bytes of the file are durable."""

    def close(self, handle: int) -> None:
        """Close a handle; a lock it holds is given up."""

    def rename(self, old: str, new: str) -> None:
        """Give a file another name in its folder, replacing what bore it, at once."""

    def remove(self, path: str) -> None:
        """Remove a file."""

    def fsync_folder(self, path: str) -> None:
        """Return once the names in a folder are durable."""

    def lock(self, handle: int) -> bool:
        """Take the exclusive lock of an open file if it is free; never waits."""

    def unlock(self, handle: int) -> None:
        """Give the lock up."""


class LocalFiles:
    """A local or network file system with working `rename`, `fsync` and `flock`."""

    def make_folder(self, path: str) -> None:
        if os.path.isdir(path):
            return
        parent = os.path.dirname(os.path.abspath(path))
        self.make_folder(parent)
        with suppress(FileExistsError):  # another process was faster; a file there fails at the next step
            os.mkdir(path)
        self.fsync_folder(parent)

    def sizes(self, folder: str) -> dict[str, int] | None:
        found = {}
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # swept or renamed while we look
                        found[entry.name] = entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            return None
        return found

    def read(self, path: str, start: int = 0) -> bytes:
        with open(path, "rb") as file:
            file.seek(start)
            return file.read()

    def open(self, path: str, *, empty: bool = False) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.open(path, flags | (os.O_TRUNC if empty else 0), 0o666)

    def write(self, handle: int, content: memoryview | bytes) -> None:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(handle, rest) :]

    def truncate(self, handle: int, size: int) -> None:
        os.ftruncate(handle, size)

    def fsync(self, handle: int) -> None:
        os.fsync(handle)

    def close(self, handle: int) -> None:
        os.close(handle)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def remove(self, path: str) -> None:
        os.unlink(path)

    def fsync_folder(self, path: str) -> None:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system that keeps no folder to sync
                raise
        finally:
            os.close(handle)

    def lock(self, handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self, handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)


LOCAL = LocalFiles()


def stage(files: Files, path: str, content: memoryview | bytes) -> None:
    """Write a new file and make its bytes durable, under a name that nobody trusts yet.

    Never retried: after a failed fsync the kernel may call lost pages clean, and a second fsync
    would answer that all is well.
    """
    try:
        handle = files.open(path, empty=True)
        try:
            files.write(handle, content)
            files.fsync(handle)
        finally:
            files.close(handle)
    except OSError:
        with suppress(OSError):
            files.remove(path)  # a full disk gets its room back
        raise


def publish(files: Files, folder: str, staged: str, name: str) -> None:
    """Give a staged file its final name, durably. Call only after `stage` returned."""
    files.rename(os.path.join(folder, staged), os.path.join(folder, name))
    files.fsync_folder(folder)


@contextmanager
def holding(files: Files, handle: int, path: str) -> Iterator[None]:
    """Hold the lock of an open file, waiting for it up to a minute.

    Raises:
        OutputError: Another process held it all that time.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    pause = 0.001
    while not files.lock(handle):
        if time.monotonic() > deadline:
            raise OutputError(
                f"{path}: another process has held this lock for {LOCK_TIMEOUT_S:.0f} s. "
                "End it or let it go on, then run the same command again."
            )
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    try:
        yield
    finally:
        files.unlock(handle)


_REMEDIES = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some of the quota",
    errno.EFBIG: "Raise the file size limit (ulimit -f)",
    errno.EEXIST: "Name a folder: this is a file",
    errno.ENOTDIR: "Name a folder: this is, or lies below, a file",
    errno.EACCES: "Make the folder writable",
    errno.EPERM: "Make the folder writable",
    errno.EROFS: "Choose a folder on a file system that can be written",
    errno.ENOLCK: "Choose a folder on a file system with working flock",
    errno.EOPNOTSUPP: "Choose a folder on a file system with working flock",
}


@contextmanager
def explained(action: str, path: str) -> Iterator[None]:
    """Turn an `OSError` into an `OutputError` that names the path, the reason and the remedy."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = _REMEDIES.get(error.errno or 0, "Look at the disk (the kernel log often says more)")
        raise OutputError(
            f"{error.filename or path}: {action} failed: {reason}. "
            f"Finished parts are kept. {remedy}, then run the same command again to go on."
        ) from error
