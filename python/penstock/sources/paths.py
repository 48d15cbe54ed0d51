"""Input files: what a path, folder, glob or URL stands for, and how each file is recognised again."""

from __future__ import annotations

import glob
import itertools
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from penstock.errors import ConfigError, MissingExtensionError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
COMPRESSIBLE = ("jsonl", "csv", "tsv", "text", "text-file")
NAMES = (*dict.fromkeys(FORMATS.values()), "text-file")


class Span(NamedTuple):
    """Rows to read from one file: a range of bytes for lines, of row numbers for everything else.

    ``stop`` and ``num_rows`` are None for the rest of the file.
    """

    unit: int = 0
    start: int = 0
    stop: int | None = None
    first_row: int = 0
    num_rows: int | None = None


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of the input, and what tells it from a changed one.

    Attributes:
        path: Local path, or URL.
        format: ``jsonl``, ``parquet``, ``arrow``, ``csv``, ``tsv``, ``text`` or ``text-file``.
        compression: None, ``gzip`` or ``zstd``.
        size: Bytes; -1 if the store does not say.
        mtime_ns: When it was modified last, for local files.
        version: The ETag or modification time of a remote file, as far as the store tells.
    """

    path: str
    format: str
    compression: str | None = None
    size: int = -1
    mtime_ns: int | None = None
    version: str | None = None

    def open(self) -> BinaryIO:
        """The bytes of the file, as stored.

        Raises:
            SourceError: It cannot be opened.
        """
        try:
            if is_url(self.path):
                system, inside = _file_system(self.path)
                return cast("BinaryIO", system.open(inside, "rb"))
            return cast("BinaryIO", Path(self.path).open("rb", buffering=0))
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be opened: {error}") from error

    def check_unchanged(self) -> None:
        """Compare with the file as it is now.

        Raises:
            SourceError: It is gone, or was changed.
        """
        now = identify(self.path, self.format)
        for what in ("size", "mtime_ns", "version"):
            then, is_now = getattr(self, what), getattr(now, what)
            if then != is_now:
                raise SourceError(
                    f"{self.path}: changed since the plan ({what} was {then}, now it is {is_now}); "
                    "bring the file back, or start a new output folder"
                )


def is_url(path: str) -> bool:
    """True for ``scheme://...``, which fsspec opens."""
    return "://" in path


def expand(paths: Any, format: str | None = None) -> list[InputFile]:
    """The files that some paths stand for, in an order that depends on their names alone.

    Args:
        paths: A path, folder, glob or URL, or several. A folder is searched through; names that begin
            with ``.`` or ``_`` and unknown endings are passed over.
        format: How to read every file, whatever its ending.

    Raises:
        ConfigError: A file has an ending that says nothing, or is named twice.
        SourceError: A path leads to no file.
    """
    if format is not None and format not in NAMES:
        raise ConfigError(f"there is no format {format!r}; the formats are: {', '.join(NAMES)}")
    several = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not several:
        raise SourceError("no input: the list of paths is empty")
    files: list[InputFile] = []
    for path in several:
        if not isinstance(path, (str, os.PathLike)):
            raise ConfigError(f"a path must be a string or a Path, not {type(path).__name__}")
        files.extend(_expand_one(os.fspath(path), format))
    seen: set[str] = set()
    for file in files:
        real = file.path if is_url(file.path) else os.path.realpath(file.path)
        if real in seen:
            raise ConfigError(f"{file.path}: named twice by the input paths; its rows would come out twice")
        seen.add(real)
    return files


def identify(path: str, format: str | None = None) -> InputFile:
    """The file behind one path, with its size and time of modification.

    Raises:
        ConfigError: Its ending says nothing, and no format is given.
        SourceError: It cannot be found.
    """
    name, compression = detect(path, format)
    try:
        if not is_url(path):
            stat = Path(path).stat()
            return InputFile(path, name, compression, stat.st_size, stat.st_mtime_ns)
        system, inside = _file_system(path)
        facts = system.info(inside)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
    version = next(
        (str(facts[key]) for key in ("ETag", "etag", "mtime", "LastModified", "last_modified", "created")
         if facts.get(key) is not None), None,
    )  # fmt: skip
    size = facts.get("size")
    return InputFile(path, name, compression, -1 if size is None else int(size), None, version)


def detect(path: str, format: str | None = None) -> tuple[str, str | None]:
    """Format and compression by the ending of a name.

    Example:
        >>> detect("corpus/part-0.jsonl.gz")
        ('jsonl', 'gzip')

    Raises:
        ConfigError: The ending says nothing, or the two do not go together.
    """
    base = path.split("?", 1)[0] if is_url(path) else path
    endings = ["", "", *(ending.lower() for ending in PurePosixPath(base).suffixes)]
    compression = COMPRESSIONS.get(endings[-1])
    name = format or FORMATS.get(endings[-1 if compression is None else -2])
    if name is None:
        raise ConfigError(
            f"{path}: the ending says nothing about the format; known endings are {', '.join(FORMATS)}, "
            f"some with {', '.join(COMPRESSIONS)} behind them. Pass format= ({', '.join(NAMES)})"
        )
    if compression is not None and name not in COMPRESSIBLE:
        raise ConfigError(f"{path}: {name} files compress inside; {compression} around one cannot be read")
    return name, compression


def _expand_one(path: str, format: str | None) -> list[InputFile]:
    path = path.removeprefix("file://")
    found = _remote_names(path) if is_url(path) else _local_names(path)
    if isinstance(found, str):
        return [identify(found, format)]
    files = [identify(name, format) for name in found if format is not None or _is_known(name)]
    if not files:
        raise SourceError(f"{path}: no input file there; known endings are {', '.join(FORMATS)}")
    return files


def _local_names(path: str) -> str | list[str]:
    """The path itself if it is a file, else the files below or matching it."""
    place = Path(path).expanduser()
    if place.is_dir():
        return [str(name) for name in _walk(place)]
    if place.exists():
        return str(place)
    if not glob.has_magic(path):
        raise SourceError(
            f"{path}: there is no such file or folder (a str is a path; one row of text is written [text])"
        )
    matches = (Path(name) for name in glob.glob(str(place), recursive=True))  # noqa: PTH207 - any root
    shown = [name for name in sorted(matches) if _is_shown(name.name, place.name)]
    return [str(file) for name in shown for file in (_walk(name) if name.is_dir() else [name])]


def _walk(folder: Path) -> list[Path]:
    """The files below a folder that are not hidden, sorted by their parts."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if _is_shown(name)]
        found += [Path(place, name) for name in names if _is_shown(name)]
    return sorted(found)


def _remote_names(url: str) -> str | list[str]:
    """The URL itself if it is a file, else the URLs of the files below or matching it."""
    system, inside = _file_system(url)
    try:
        if system.isdir(inside):
            return _shown_urls(system, system.find(inside), inside)
        if system.exists(inside):
            return url
        if not glob.has_magic(inside):
            raise SourceError(f"{url}: there is no such file or folder")
        names: list[str] = []
        for name, facts in system.glob(inside, detail=True).items():
            names += system.find(name) if facts.get("type") == "directory" else [name]
    except (OSError, NotImplementedError) as error:
        raise SourceError(f"{url}: cannot be listed: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{url}: {error}") from error
    return _shown_urls(system, names, _above_wildcards(inside), PurePosixPath(inside).name)


def _above_wildcards(pattern: str) -> str:
    """The folder above the first wildcard of a glob pattern."""
    parts = pattern.split("/")
    return "/".join(itertools.takewhile(lambda part: not glob.has_magic(part), parts))


def _shown_urls(system: Any, names: Iterable[str], root: str, pattern: str = "") -> list[str]:
    urls = []
    for name in sorted(set(names), key=lambda each: each.split("/")):
        below = name[len(root) :].strip("/").split("/")
        if all(_is_shown(part) for part in below[:-1]) and _is_shown(below[-1], pattern):
            urls.append(str(system.unstrip_protocol(name)))
    return urls


def _is_shown(name: str, pattern: str = "") -> bool:
    """False for hidden and ``_`` names, unless the pattern asks for them."""
    return not name.startswith((".", "_")) or pattern.startswith((".", "_"))


def _is_known(path: str) -> bool:
    try:
        detect(path)
    except ConfigError:
        return False
    return True


def _file_system(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtensionError(f"{url}: URLs need fsspec: pip install fsspec") from error
    try:
        system, inside = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingExtensionError(f"{url}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{url}: {error}") from error
    return system, inside
