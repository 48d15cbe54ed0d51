"""The output folder: whose run it holds, who may write, and when it is complete."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import pyarrow as pa

from penstock.errors import ConfigError, FingerprintError, OutputError
from penstock.sink import files as _files
from penstock.sink import manifest
from penstock.sink.parts import PART_NAME
from penstock.sources import Plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from penstock.sink.files import Files
    from penstock.sink.manifest import Part

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

RUN = "_run.json"
SUCCESS = "_SUCCESS.json"
LOCK = "_lock"
STAGED = ".penstock-"
VERSION = 1
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Run:
    """What ``_run.json`` holds.

    Attributes:
        plan: The plan, as ``Plan.to_json`` gives it.
        fingerprint: Everything a resumed run must share with the first.
        format: ``"parquet"`` or ``"jsonl"``.
    """

    plan: dict[str, Json]
    fingerprint: dict[str, Json]
    format: str

    @classmethod
    def of(cls, plan: Mapping[str, object], fingerprint: Mapping[str, object], format: str) -> Run:
        """The given run as it looks after a trip through JSON, so that stored and given compare equal."""
        if format not in ("parquet", "jsonl"):
            raise ConfigError(f"format={format!r}: it is 'parquet' or 'jsonl'.")
        try:
            copy = json.loads(json.dumps([plan, fingerprint], allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"plan and fingerprint hold plain finite JSON values only: {error}.") from error
        given = cls(copy[0], copy[1], format)
        given.read_plan()
        return given

    def read_plan(self) -> Plan:
        """The plan as an object.

        Raises:
            ConfigError: It is not what ``Plan.to_json`` gives.
        """
        try:
            return Plan.from_json(self.plan)
        except (AttributeError, IndexError, KeyError, TypeError, pa.ArrowException) as error:
            raise ConfigError(f"the plan is not what Plan.to_json gives ({error!r}).") from error

    def to_bytes(self) -> bytes:
        """The content of ``_run.json``."""
        fields = {"version": VERSION, "format": self.format}
        return json.dumps({**fields, "fingerprint": self.fingerprint, "plan": self.plan}).encode()


def load(files: Files, output: str) -> Run:
    """Read ``_run.json``."""
    path = os.path.join(output, RUN)
    try:
        fields = json.loads(files.read(path))
    except FileNotFoundError:
        raise OutputError(
            f"{output}: no run here, {RUN} is missing. Name the folder given as --output."
        ) from None
    except ValueError as error:
        raise OutputError(f"{path}: damaged ({error}). Restore it, or use another --output.") from error
    if not isinstance(fields, dict) or fields.get("version") != VERSION:
        raise OutputError(f"{path}: another version of Penstock wrote it. Use that, or another --output.")
    return Run(fields["plan"], fields["fingerprint"], fields["format"])


def create_or_compare(files: Files, output: str, run: Run) -> None:
    """Make `output` the folder of `run`, or see that it already is; call while holding its lock.

    Raises:
        FingerprintError: The folder belongs to a run with other settings.
        OutputError: The folder holds files of somebody else, and no run.
    """
    sizes = files.sizes(output) or {}
    if RUN in sizes:
        _compare(output, load(files, output), run)
        return
    refuse_foreign(output, sizes)
    _files.stage(files, os.path.join(output, STAGED + RUN), run.to_bytes())
    _files.publish(files, output, STAGED + RUN, RUN)


def refuse_foreign(output: str, sizes: Mapping[str, int]) -> None:
    """Raise if `output` holds files but no run: they are somebody's, and no place to write to."""
    if RUN in sizes:
        return
    own = (LOCK, manifest.FOLDER)
    foreign = sorted(name for name in sizes if name not in own and not name.startswith(STAGED))
    if foreign:
        more = f" and {len(foreign) - 3:,} more" if len(foreign) > 3 else ""
        raise OutputError(
            f"{output}: holds files but no run of Penstock ({', '.join(foreign[:3])}{more}). "
            "Give --output a new or an empty folder."
        )


def _compare(output: str, stored: Run, given: Run) -> None:
    pairs: list[tuple[str, object, object]] = [
        ("format", stored.format, given.format),
        ("plan", stored.plan, given.plan),
    ]
    for name in {**stored.fingerprint, **given.fingerprint}:
        before, now = (side.fingerprint.get(name, _ABSENT) for side in (stored, given))
        pairs.append((name, before, now))
    different = [found for pair in pairs if (found := _first_difference(*pair))]
    if not different:
        return
    field, before, now = different[0]
    others = ", ".join(name for name, _, _ in different[1:6])
    also = f" (also different: {others})" if others else ""
    raise FingerprintError(
        f"{output}: belongs to a run with other settings: "
        f"{field} was {_show(before)} there and is {_show(now)} now{also}. "
        "Use another --output, or the same settings."
    )


def _first_difference(field: str, stored: object, given: object) -> tuple[str, object, object] | None:
    """The first place, down to a leaf, where two JSON values differ."""
    if stored == given:
        return None
    if isinstance(stored, dict) and isinstance(given, dict):
        for key in {**stored, **given}:
            found = _first_difference(f"{field}.{key}", stored.get(key, _ABSENT), given.get(key, _ABSENT))
            if found:
                return found
    if isinstance(stored, list) and isinstance(given, list):
        for index, pair in enumerate(zip(stored, given, strict=False)):
            if found := _first_difference(f"{field}[{index}]", *pair):
                return found
        if len(stored) != len(given):
            return f"number of {field}", len(stored), len(given)
    return field, stored, given


def _show(value: object) -> str:
    text = "absent" if value is _ABSENT else json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 200 else text[:197] + "..."


def sweep(files: Files, output: str, writer: str, finished: Iterable[Part]) -> None:
    """Remove what crashes left; call while holding the lock of the folder.

    Staged files only of `writer`, others' may be in the making. Parts that stand for no unit: names are
    given and manifest lines written under the lock, so that nobody alive is still going to list them.
    """
    standing = {part.name for part in finished}
    for name in files.sizes(output) or {}:
        orphan = PART_NAME.fullmatch(name) and name not in standing
        if orphan or name.startswith(f"{STAGED}{writer}-"):
            files.remove(os.path.join(output, name))


def write_success(files: Files, output: str, finished: Iterable[Part]) -> None:
    """Create ``_SUCCESS.json``; call while holding the lock of the folder, with every unit finished."""
    parts = list(finished)
    totals = {
        "version": VERSION,
        "rows": sum(part.num_rows for part in parts),
        "errors": sum(part.num_errors for part in parts),
        "tokens": sum(part.num_tokens for part in parts),
        "bytes": sum(part.num_bytes for part in parts),
        "parts": len(parts),
        "file_bytes": sum(part.file_bytes for part in parts),
    }
    _files.stage(files, os.path.join(output, STAGED + SUCCESS), json.dumps(totals, indent=1).encode())
    _files.publish(files, output, STAGED + SUCCESS, SUCCESS)
