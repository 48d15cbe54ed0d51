"""Rows as Arrow record batches, wherever they come from.

From the ground up: ``chunk`` (what comes out) and ``seal`` (where it is made), ``values`` and ``kept``
(what one value, one kept column must be), ``paths`` and ``streams`` (files, bytes), ``lines``,
``records`` and ``rowfiles`` (where rows begin and end), ``jsonl``, ``csv``, ``text``, ``parquet``,
``ipc`` and ``columnar`` (one format each), ``formats`` (all of them), ``tables`` and ``rows`` (data in
memory), ``plan`` and ``units`` (a durable run), ``adapt`` (anything to a source).
"""

from __future__ import annotations

from penstock.sources.adapt import as_source
from penstock.sources.chunk import Chunk, Columns, Source, concat
from penstock.sources.formats import FileSource, files
from penstock.sources.paths import InputFile
from penstock.sources.plan import Plan, Segment, Unit, plan_units
from penstock.sources.rows import PAIR_COLUMN, RowReader, RowSource
from penstock.sources.tables import ArrowSource
from penstock.sources.units import UnitSource

__all__ = [
    "PAIR_COLUMN",
    "ArrowSource",
    "Chunk",
    "Columns",
    "FileSource",
    "InputFile",
    "Plan",
    "RowReader",
    "RowSource",
    "Segment",
    "Source",
    "Unit",
    "UnitSource",
    "as_source",
    "concat",
    "files",
    "plan_units",
]
