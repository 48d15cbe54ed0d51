"""The bytes of one file, decompressed, up to the very byte where a damaged stream breaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa

from penstock.errors import SourceError

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from penstock.sources.paths import InputFile

_STEP = 1 << 20
_INPUT_STEP = 1 << 16  # Arrow asks for this many compressed bytes at a time


class BrokenStream(Exception):  # noqa: N818 - a signal between two rooms, never raised to a caller
    """A compressed stream cannot be read on; everything readable was returned before.

    Attributes:
        reason: What happened and what to do, for the message of the row that is lost.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ByteStream:
    """Reads a file front to back, decompressing if it is compressed.

    Many gzip members or zstd frames behind one another are read as one.

    Args:
        file: What to read.
    """

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self.offset = 0  # of the next byte, decompressed
        self._raw: BinaryIO = file.open()
        self._broken: BrokenStream | None = None
        self._salvaged = b""  # readable bytes before the break
        self._inflated = None if file.compression is None else self._inflate(self._raw)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._raw.close()

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; empty at the end.

        Raises:
            BrokenStream: The compressed stream cannot be read on.
            SourceError: The file cannot be read on.
        """
        if self._broken is None:
            try:
                data = self._read(size)
            except OSError as error:
                if self._inflated is None or not is_damage(error):
                    raise SourceError(
                        f"{self._file.path}: reading stopped at byte {self.offset:,}: {error}"
                    ) from error
                self._broken = BrokenStream(_broken_reason(str(error)))
                self._salvaged = self._salvage()
        if self._broken is not None:
            if not self._salvaged:
                raise self._broken
            data, self._salvaged = self._salvaged[:size], self._salvaged[size:]
        self.offset += len(data)
        return data

    def skip_to(self, offset: int) -> None:
        """Go forward to an offset; a compressed stream is read through up to there.

        Raises:
            BrokenStream: The compressed stream ends before.
        """
        if offset < self.offset:
            raise ValueError(f"cannot go back from byte {self.offset} to {offset}")
        if self._inflated is None:
            self._raw.seek(offset)
            self.offset = offset
        while self.offset < offset and self.read(min(_STEP, offset - self.offset)):
            pass

    def _read(self, size: int) -> bytes:
        if self._inflated is not None:
            return bytes(self._inflated.read(size))
        return self._raw.read(size) or b""

    def _inflate(self, raw: object) -> pa.CompressedInputStream:
        return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), self._file.compression)

    def _salvage(self) -> bytes:
        """Everything between ``offset`` and the place where the stream breaks.

        A decoder drops what it had decoded in the call that fails. So the stream is opened again and
        fed byte by byte near that place, twice: in steps to find it, then byte by byte to reach it.
        """
        slow_from = max(0, self._raw.tell() - 2 * _INPUT_STEP)
        parts: list[bytes] = []
        good = self.offset
        for step in (1 << 14, 64, 1):
            with self._file.open() as raw:
                inflated = self._inflate(_Trickle(raw, slow_from))
                try:
                    left = good
                    while left:
                        left -= len(inflated.read(min(left, _STEP)))
                    while part := inflated.read(step):
                        parts.append(bytes(part))
                        good += len(part)
                except OSError as error:
                    if not is_damage(error):
                        raise
        return b"".join(parts)


class _Trickle:
    """A file that hands out single bytes from some offset on."""

    closed = False

    def __init__(self, raw: BinaryIO, slow_from: int) -> None:
        self._raw = raw
        self._slow_from = slow_from
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        slow = self._at >= self._slow_from
        data = self._raw.read(1 if slow else min(size, self._slow_from - self._at)) or b""
        self._at += len(data)
        return data

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        self.closed = True


def is_damage(error: Exception) -> bool:
    """True if Arrow says that the bytes are wrong; False if they could not be read (disk, network)."""
    return isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None)


def _broken_reason(message: str) -> str:
    if "Truncated" in message:
        return f"the compressed stream ends early ({message}); download the file again or re-compress it"
    return (
        f"the compressed stream is damaged here ({message}), so that rows shortly before this one may be "
        "wrong too; download the file again or re-compress it"
    )
