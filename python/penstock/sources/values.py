"""What one Python value must be to serve as a text or as token ids, and why it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def checked_text(value: object) -> str:
    """Why this value is not a text, or an empty string."""
    if value is None:
        return "is null"
    if not isinstance(value, str):
        return f"has the wrong type: expected a string, got {type(value).__name__}"
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            return f"holds a lone surrogate at position {error.start:,}, which UTF-8 cannot represent"
    return ""


def checked_ids(value: object) -> Any:
    """Token ids as an int32 array, or in words why they are not."""
    if value is None:
        return "is null"
    if isinstance(value, (list, tuple)) and bool in set(map(type, value)):
        return "has the wrong type: expected token ids (integers), got a bool among them"
    try:
        ids = np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        return f"has the wrong type: expected token ids, got {type(value).__name__}"
    if ids.ndim == 1 and ids.size == 0:
        return np.zeros(0, np.int32)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        return f"has the wrong type: expected a sequence of token ids (integers), got {type(value).__name__}"
    if ids.min() < 0 or ids.max() > np.iinfo(np.int32).max:
        wrong = ids.min() if ids.min() < 0 else ids.max()
        return f"holds the token id {wrong}; ids are numbers from 0 to 2,147,483,647"
    return ids.astype(np.int32)


def num_bytes(value: object) -> int:
    """Bytes of text in a row, near enough to bound memory: exact for text that is not ASCII too."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, (int, float)):
        return 8
    if isinstance(value, dict):  # before Mapping, whose check is slow
        return sum(map(num_bytes, value.values()))
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if isinstance(value, (bytes, bytearray)):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(num_bytes, value.values()))
    if isinstance(value, (tuple, list)) and len(value) <= 2:
        return sum(map(num_bytes, value))
    return 4 * len(value) if isinstance(value, (tuple, list)) else 8
