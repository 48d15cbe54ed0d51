"""The rows of the units of a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from penstock.errors import ConfigError, SourceError, SourceExhaustedError
from penstock.sources.formats import FORMATS
from penstock.sources.paths import InputFile, Span
from penstock.sources.plan import Plan, Segment, Unit
from penstock.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from penstock.sources.chunk import Chunk


class UnitSource:
    """The rows of the units of a plan, each chunk marked with its unit.

    Every planned row comes out, exactly ``num_rows`` of each unit, in order, failed ones as failures.
    Units that lie behind one another in a file that cannot be split are read in one pass.

    Args:
        plan: The plan.
        units: Which units to read, in rising order: units or their ids; may be an iterator that hands
            them out as they are asked for. None: all.
        finished: Ids of units to leave out.
    """

    def __init__(
        self, plan: Plan, units: Iterable[Unit | int] | None = None, *, finished: Iterable[int] = ()
    ) -> None:
        given: object = plan
        if not isinstance(given, Plan):
            raise ConfigError(f"UnitSource needs the Plan of plan_units, not {type(given).__name__}")
        self.plan = plan
        self.text_column = plan.columns.text
        self.pair_column = plan.columns.pair
        self.keep = plan.columns.keep
        self._units = units
        self._finished = frozenset(finished)
        self._started = False
        self._files = {file.path: file for file in plan.files}

    def chunks(self) -> Iterator[Chunk]:
        """A fresh pass over the units.

        Raises:
            SourceError: A file is not what it was when the plan was made.
            SourceExhaustedError: The units came from an iterator, and it was used before.
        """
        if self._units is not None and iter(self._units) is self._units and self._started:
            raise SourceExhaustedError("the units were handed out by an iterator, which was used up")
        self._started = True
        return self._passes()

    def _wanted(self) -> Iterator[Unit]:
        for unit in self.plan.units if self._units is None else self._units:
            chosen = self.plan.units[unit] if isinstance(unit, int) else unit
            if chosen.id not in self._finished:
                yield chosen

    def _passes(self) -> Iterator[Chunk]:
        parts = _Parts(part for unit in self._wanted() for part in _parts_of(unit))
        while parts.next is not None:
            file = self._files[parts.next.segment.path]
            file.check_unchanged()
            spans = parts.of_file(file)
            for chunk in FORMATS[file.format].read(file, self.plan.columns, self.plan.schema, spans):
                parts.count(chunk)
                yield chunk
            for _ in spans:  # the file ended too early: the count of the part at hand says so
                pass


class _Part(NamedTuple):
    """A segment to read, with its unit and the input index of its first row."""

    unit: int
    segment: Segment
    first_index: int


def _parts_of(unit: Unit) -> Iterator[_Part]:
    index = unit.first_index
    for segment in unit.segments:
        yield _Part(unit.id, segment, index)
        index += segment.num_rows


class _Parts:
    """The segments to read, asked for one by one, and how many rows of the one at hand were seen.

    Attributes:
        next: The segment at hand; None at the end.
    """

    def __init__(self, parts: Iterator[_Part]) -> None:
        self._parts = parts
        self.next = next(parts, None)
        self._seen = 0

    def of_file(self, file: InputFile) -> Iterator[Span]:
        """The segments of one file that can be read in one pass, from the one at hand on."""
        reached = 0
        while self.next is not None:
            unit, segment, _ = self.next
            if segment.path != file.path or segment.start < reached:
                return
            self._seen = 0
            yield Span(unit, segment.start, segment.stop, segment.first_row, segment.num_rows)
            if self._seen != segment.num_rows:
                raise _changed(segment, f"it gave {counted(self._seen, 'row')}")
            reached = segment.stop
            self.next = next(self._parts, None)

    def count(self, chunk: Chunk) -> None:
        """Give a chunk its input index.

        Raises:
            SourceError: It brings more rows than were planned.
        """
        if self.next is None:
            raise ValueError("there is no segment at hand")
        _, segment, first_index = self.next
        chunk.first_index = first_index + self._seen
        self._seen += len(chunk)
        if self._seen > segment.num_rows:
            raise _changed(segment, "it gave more")


def _changed(segment: Segment, found: str) -> SourceError:
    return SourceError(
        f"{segment.path}: changed since the plan, which has {counted(segment.num_rows, 'row')} from position "
        f"{segment.start:,} to {segment.stop:,}: {found}; bring the file back, or start a new output folder"
    )
