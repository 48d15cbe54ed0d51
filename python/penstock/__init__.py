"""Penstock scores text with transformer models as fast as the accelerator allows.

Names are loaded when first used: ``import penstock`` imports neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

try:
    import_module("penstock._core")
except ModuleNotFoundError as error:
    if error.name != "penstock._core":
        raise
    raise ModuleNotFoundError(
        "penstock's compiled part (penstock._core) is missing. In a clone, build it with "
        "`pip install -c constraints.txt .` (it needs a C++20 compiler); do not put the source folder "
        "python/ on sys.path.",
        name="penstock._core",
    ) from None

if TYPE_CHECKING:
    from penstock.batch import Batch
    from penstock.cached import CachedPrefetcher
    from penstock.errors import (
        AbandonedWorkersError,
        ClosedError,
        ConfigError,
        FingerprintError,
        ForkedError,
        LoadTimeoutError,
        MissingColumnError,
        MissingExtensionError,
        ModelError,
        OutputError,
        PenstockError,
        RowError,
        RowTokenizerError,
        RowTooLargeError,
        SourceError,
        SourceExhaustedError,
        TokenizerError,
    )
    from penstock.prefetcher import Prefetcher
    from penstock.scorer import Run, score, stream
    from penstock.stats import Stats
    from penstock.tokenizer import Packed, Ragged, Tokenizer

__all__ = [
    "AbandonedWorkersError",
    "Batch",
    "CachedPrefetcher",
    "ClosedError",
    "ConfigError",
    "FingerprintError",
    "ForkedError",
    "LoadTimeoutError",
    "MissingColumnError",
    "MissingExtensionError",
    "ModelError",
    "OutputError",
    "Packed",
    "PenstockError",
    "Prefetcher",
    "Ragged",
    "RowError",
    "RowTokenizerError",
    "RowTooLargeError",
    "Run",
    "SourceError",
    "SourceExhaustedError",
    "Stats",
    "Tokenizer",
    "TokenizerError",
    "__version__",
    "score",
    "stream",
]

_ROOMS = {
    "Batch": "batch",
    "CachedPrefetcher": "cached",
    "Packed": "tokenizer",
    "Prefetcher": "prefetcher",
    "Ragged": "tokenizer",
    "Run": "scorer",
    "Stats": "stats",
    "Tokenizer": "tokenizer",
    "score": "scorer",
    "stream": "scorer",
}
__version__: str


def __getattr__(name: str) -> object:
    """Load a public name from its room when it is first used."""
    if name == "__version__":
        value: object = import_module("importlib.metadata").version("penstock")
    elif name in _ROOMS or name.endswith("Error"):
        value = getattr(import_module(f"penstock.{_ROOMS.get(name, 'errors')}"), name)
    else:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public list, nothing else."""
    return __all__
