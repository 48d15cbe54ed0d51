"""The output of a durable run: parts, one manifest per writer, and who may trust what.

An output folder looks like this::

    scored/
        part-00000-5f1c09ab.parquet       unit 0: whole, immutable, named by its content
        part-00001-07d2e644.parquet
        _run.json                         plan, fingerprint and format; written once
        _manifests/manifest-0.jsonl       writer 0: one line with a checksum per finished unit
        _SUCCESS.json                     totals; there once every unit of the plan is done
        _lock                             held for moments, never for a whole run
        .penstock-0-...                   a part in the making by writer 0

A unit is finished when a manifest says so, not when a file is there. A line of a manifest counts
only if its checksum is right *and* its newline is there.
"""

from __future__ import annotations

from penstock.sink.manifest import Part
from penstock.sink.report import RunReport, inspect, read_parts
from penstock.sink.writer import Sink

__all__ = ["Part", "RunReport", "Sink", "inspect", "read_parts"]
