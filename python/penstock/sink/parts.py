"""One unit's table as the bytes of one part file, and back.

The bytes depend on the rows and the unit alone, not on how the table was put together: a unit done
twice gives the same file. Part names end in the start of their SHA-256, so a file under a final name
can be checked without asking anybody, and two writers that race for a unit cannot harm each other:
the same bytes have the same name, other bytes another one.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import hashlib
import json
import math
import re
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock.errors import OutputError
from penstock.sink.manifest import Part, Rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.sources import Unit

PART_NAME = re.compile(r"part-\d{5,}-[0-9a-f]{8}\.(parquet|jsonl)")
METADATA_KEY = b"penstock"
_MAX_REASONS = 100
_MAX_REASON_CHARS = 300


def encode(unit: Unit, table: pa.Table, format: str) -> memoryview:
    """The bytes of the part file of `unit`.

    Parquet pages carry checksums, and the file's key-value metadata says under ``penstock`` which unit,
    files and rows it holds. Numbers in JSONL are finite: NaN and the infinities become null.
    """
    table = table.combine_chunks()  # page borders follow chunk borders
    if format == "jsonl":
        return memoryview(_to_jsonl(table))
    origin = {
        "unit": unit.id,
        "first_index": unit.first_index,
        "num_rows": unit.num_rows,
        "segments": [[segment.path, segment.first_row, segment.num_rows] for segment in unit.segments],
    }
    metadata = {**(table.schema.metadata or {}), METADATA_KEY: json.dumps(origin, separators=(",", ":"))}
    stream = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(metadata),
        stream,
        compression="zstd",
        compression_level=1,
        row_group_size=max(1, table.num_rows),
        write_page_checksum=True,
    )
    return memoryview(stream.getvalue())


def describe(
    unit: Unit,
    table: pa.Table,
    content: memoryview,
    format: str,
    *,
    digits: int,
    splits: Sequence[object],
    quarantined: Mapping[int, str],
) -> Part:
    """The manifest entry of a part; `digits`: the width of unit ids in names, so that names sort."""
    sha256 = hashlib.sha256(content).hexdigest()
    listed = sorted(quarantined.items())[:_MAX_REASONS]
    return Part(
        unit=unit.id,
        name=f"part-{unit.id:0{digits}d}-{sha256[:8]}.{format}",
        sha256=sha256,
        file_bytes=len(content),
        num_rows=table.num_rows,
        num_errors=table.num_rows - table["error"].null_count if "error" in table.column_names else 0,
        num_tokens=_sum(table, "num_tokens"),
        num_bytes=_sum(table, "num_bytes"),
        segments=tuple(Rows(segment.path, segment.first_row, segment.num_rows) for segment in unit.segments),
        splits=tuple(splits),
        quarantined={str(index): reason[:_MAX_REASON_CHARS] for index, reason in listed} or None,
        num_quarantined=len(quarantined),
    )


def decode(part: Part, content: bytes, path: str) -> pa.Table:
    """The table in a part file, once its bytes are proven right.

    JSONL knows fewer types than Arrow: what comes back are strings, 64-bit numbers, booleans and lists.

    Raises:
        OutputError: The bytes are not those that were written.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != part.sha256:
        raise OutputError(
            f"{path}: the file is not what was written (its SHA-256 is {found[:16]}..., "
            f"the manifest says {part.sha256[:16]}...). "
            "Remove it and run the same command again: its unit is done again."
        )
    if part.name.endswith(".parquet"):
        return pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    return pa.Table.from_pylist([json.loads(line) for line in content.splitlines()])


def _sum(table: pa.Table, name: str) -> int:
    if name not in table.column_names or not pa.types.is_integer(table[name].type):
        return 0
    return pc.sum(table[name]).as_py() or 0


def _to_jsonl(table: pa.Table) -> bytes:
    rows = table.cast(_with_plain_times(table.schema)).to_pylist()
    text = "".join(_json_line(row) for row in rows)
    # Line ends to str.splitlines and to JavaScript, though not to JSON; outside strings they cannot occur.
    for character in "\x85\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def _with_plain_times(schema: pa.Schema) -> pa.Schema:
    """Nanoseconds do not fit Python's types: such columns go out as Arrow prints them."""
    for index, field in enumerate(schema):
        if pa.types.is_timestamp(field.type) or pa.types.is_time64(field.type):
            schema = schema.set(index, field.with_type(pa.string()))
        elif pa.types.is_duration(field.type):
            schema = schema.set(index, field.with_type(pa.int64()))
    return schema


def _json_line(row: object) -> str:
    try:
        return _ENCODER.encode(row) + "\n"
    except ValueError:  # a number that is not finite: rare, so only then is the row walked
        return _ENCODER.encode(_finite(row)) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _other_types(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_other_types)
