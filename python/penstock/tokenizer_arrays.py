"""Rows of tokens as the arrays that models take, in memory of the caller's: padded, or packed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock import _core
from penstock.arguments import refused, whole
from penstock.errors import ConfigError
from penstock.ragged import Int32Array, Int64Array, Ragged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST_MULTIPLE = 1 << 20
INT64, INT32 = np.dtype(np.int64), np.dtype(np.int32)
IntArray: TypeAlias = Int32Array | Int64Array
Out: TypeAlias = "Mapping[str, IntArray] | None"


class Packed(NamedTuple):
    """Rows behind one another without padding, for attention that is told where each begins.

    Attributes:
        input_ids: ``[1, n]``, the tokens of all rows: one row, as models take it; ``input_ids[0]`` is flat.
        position_ids: ``[1, n]``, begins anew in each row.
        cu_seqlens: ``int32[rows + 1]``, where each row begins; the last entry is ``n``.
        max_seqlen: Tokens of the longest row.
        token_type_ids: ``[1, n]``; None for tokenizers whose models take none.
    """

    input_ids: IntArray
    position_ids: IntArray
    cu_seqlens: Int32Array
    max_seqlen: int
    token_type_ids: IntArray | None = None


class Padding(NamedTuple):
    """How short rows are filled up."""

    side: str
    multiple_of: int
    pad_id: int
    pad_type_id: int


def pad(
    rows: Ragged, names: Sequence[str], padding: Padding, dtype: npt.DTypeLike | None, out: Out
) -> dict[str, IntArray]:
    """Rows as matrices by name of the model's input, and ``lengths`` where ``out`` has it.

    Raises:
        ConfigError: An argument cannot be right; ``out`` lacks an input, or room.
    """
    multiple_of = whole("multiple_of", padding.multiple_of, most=MOST_MULTIPLE)
    if padding.side not in ("right", "left"):
        raise ConfigError(f'padding_side={padding.side!r}: must be "right" or "left"')
    longest = max(1, _longest(rows))
    width = -(-longest // multiple_of) * multiple_of
    element = _dtype(dtype, out)
    arrays = {name: _room(out, name, (len(rows), width), element) for name in names}
    lengths = None
    if out is not None and "lengths" in out:
        lengths = _room(out, "lengths", (len(rows),), _dtype(None, {"input_ids": out["lengths"]}))
    _core.collate(
        rows.ids,
        rows.offsets[:-1],
        rows.offsets[1:],
        input_ids=arrays["input_ids"],
        attention_mask=arrays.get("attention_mask"),
        token_type_ids=arrays.get("token_type_ids"),
        position_ids=arrays.get("position_ids"),
        type_ids=rows.type_ids,
        pad_id=padding.pad_id,
        pad_type_id=padding.pad_type_id,
        pad_left=padding.side == "left",
    )
    if lengths is not None:
        lengths[...] = rows.lengths
        arrays["lengths"] = lengths
    return arrays


def pack(rows: Ragged, first_position: int, dtype: npt.DTypeLike | None, out: Out) -> Packed:
    """Rows behind one another.

    Raises:
        ConfigError: An argument cannot be right; ``out`` lacks an array, or room.
    """
    size = len(rows.ids)
    most = np.iinfo(np.int32).max
    if size > most:
        raise ConfigError(
            f"cu_seqlens counts to {most:,} only, and there are {size:,} tokens; give fewer rows"
        )
    max_seqlen = _longest(rows)
    first_position = whole("first_position", first_position, least=0, most=most - max_seqlen)
    element = _dtype(dtype, out)
    input_ids, position_ids = (_room(out, name, (size,), element) for name in ("input_ids", "position_ids"))
    types = None if rows.type_ids is None else _room(out, "token_type_ids", (size,), element)
    cu_seqlens: Any = _room(out, "cu_seqlens", (len(rows) + 1,), INT32)
    _core.pack(
        rows.ids,
        rows.offsets[:-1],
        rows.offsets[1:],
        input_ids=input_ids,
        token_type_ids=types,
        position_ids=position_ids,
        cu_seqlens=cu_seqlens,
        type_ids=rows.type_ids,
        first_position=first_position,
    )
    types = None if types is None else types.reshape(1, size)
    return Packed(input_ids.reshape(1, size), position_ids.reshape(1, size), cu_seqlens, max_seqlen, types)


def _longest(rows: Ragged) -> int:
    return int(rows.lengths.max()) if len(rows) else 0


def _dtype(dtype: npt.DTypeLike | None, out: Out) -> np.dtype[Any]:
    """That of the arrays to make: ``dtype``, or else that of ``out``, or else int64."""
    if dtype is None:
        if out is None or "input_ids" not in out:
            return INT64
        dtype = getattr(out["input_ids"], "dtype", INT64)
    try:
        wanted = np.dtype(dtype)
    except TypeError:
        wanted = np.dtype(object)
    if wanted not in (INT64, INT32):
        raise ConfigError(f"dtype={dtype}: must be int64 or int32")
    return wanted


def _room(out: Out, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> IntArray:
    if out is None:
        return np.empty(shape, dtype)
    memory = out.get(name)
    if memory is None:
        raise ConfigError(f"out: holds no {name!r}, which is written to")
    size = math.prod(shape)
    if not isinstance(memory, np.ndarray):
        raise refused(f"out[{name!r}]", memory, "a NumPy array")
    is_plain = memory.flags.c_contiguous and memory.flags.writeable and memory.flags.aligned
    if memory.dtype != dtype or not is_plain or memory.size < size:
        needed = " rows of ".join(f"{number:,}" for number in shape)
        raise ConfigError(
            f"out[{name!r}]: must be contiguous, aligned, writable {dtype} with room for {needed}, not "
            f"{memory.dtype} of {memory.size:,}"
        )
    if any(np.may_share_memory(memory, other) for key, other in out.items() if key != name):
        raise ConfigError(f"out[{name!r}]: lies in the memory of another array of out; give each its own")
    return memory.reshape(-1)[:size].reshape(shape)
