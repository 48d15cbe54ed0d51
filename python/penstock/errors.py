"""Every error that Penstock raises on purpose.

::

    PenstockError
    ├── ConfigError (ValueError)          an argument, or two together, cannot be right
    ├── MissingExtensionError (ImportError)   an optional package is needed and absent
    ├── SourceError                       the input as a whole cannot be read on from here
    │   ├── MissingColumnError            a named column is not in the input
    │   └── SourceExhaustedError          an iterator was already used up
    ├── RowError                          one row cannot be used; its neighbours are untouched
    │   ├── RowTooLargeError              over ``max_row_bytes``
    │   ├── LoadTimeoutError (TimeoutError)   one ``load`` call took longer than ``timeout``
    │   └── RowTokenizerError (TokenizerError, ValueError)   a row cannot be tokenized
    ├── TokenizerError                    a tokenizer file is damaged or not supported
    ├── ModelError                        a model cannot be loaded, or not for this task
    ├── OutputError                       the output folder cannot be written or trusted
    │   └── FingerprintError              it belongs to a different run; names the field
    ├── AbandonedWorkersError             more hung ``load`` calls than ``num_workers``
    ├── ClosedError                       used after ``close()``
    └── ForkedError                       used in a forked child

An exception from the caller's own code (``load``, ``collate``, the source) is never wrapped: it is
raised again as it is, with a note that names the row.
"""

from __future__ import annotations


class PenstockError(Exception):
    """Base of every error that Penstock raises on purpose."""


class ConfigError(PenstockError, ValueError):
    """An argument, or two together, cannot be right."""


class MissingExtensionError(PenstockError, ImportError):
    """An optional package is needed and absent; the message names the install command."""


class SourceError(PenstockError):
    """The input as a whole cannot be read on from here."""


class MissingColumnError(SourceError):
    """A named column is not in the input; the message lists those that are."""


class SourceExhaustedError(SourceError):
    """A one-shot iterator was already used up."""


class RowError(PenstockError):
    """One row cannot be used; its neighbours are untouched.

    Attributes:
        place: Where the row comes from: a file, or ``"rows"`` for an iterable.
        row: Its number in that place, counted from 1 as editors count lines; None if unknown.
    """

    def __init__(self, reason: str, *, place: str = "rows", row: int | None = None) -> None:
        self.reason = reason
        self.place = place
        self.row = row
        where = place if row is None else f"{place}, row {row:,}"
        super().__init__(f"{where}: {reason}")

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_row_error, (type(self), self.reason, self.place, self.row)


def _rebuild_row_error(kind: type[RowError], reason: str, place: str, row: int | None) -> RowError:
    return kind(reason, place=place, row=row)


class RowTooLargeError(RowError):
    """A row holds more than ``max_row_bytes`` bytes of text."""


class LoadTimeoutError(RowError, TimeoutError):
    """One ``load`` call took longer than ``timeout`` seconds."""


class TokenizerError(PenstockError):
    """A tokenizer file is damaged or not supported; the message says where."""


class RowTokenizerError(RowError, TokenizerError, ValueError):
    """One row cannot be tokenized; its neighbours are untouched."""


class ModelError(PenstockError):
    """A model cannot be loaded, or not for this task."""


class OutputError(PenstockError):
    """The output folder cannot be written or trusted."""


class FingerprintError(OutputError):
    """The output folder belongs to a different run; the message names the field that differs."""


class AbandonedWorkersError(PenstockError):
    """More ``load`` calls hang than there are workers; the pool will not grow without end."""


class ClosedError(PenstockError):
    """The object was closed."""


class ForkedError(PenstockError):
    """Threads do not survive a fork: make a new object in the child."""
