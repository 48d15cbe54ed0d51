"""The types of kept columns: found in the first rows, then held, so that every batch has one schema.

Arrow would convert silently where a value does not fit (1.5 into int64 becomes 1, a string becomes a
list of its letters, an unknown field of a struct is dropped). Here a value that does not fit is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence

_REFUSALS = (pa.ArrowException, ValueError, TypeError, OverflowError)


class KeptColumn:
    """One kept column: its type so far, and how Python values become an Arrow array of it.

    Args:
        kind: The type to begin with; null for one that is still to be found.
        fixed: False lets the type widen (null to anything, int64 to float64, new fields of a struct)
            as rows come in. True holds it.
    """

    def __init__(self, kind: pa.DataType | None = None, *, fixed: bool = False) -> None:
        self.type: pa.DataType = pa.null() if kind is None else kind
        self._fixed = fixed

    def convert(self, values: Sequence[Any]) -> tuple[pa.Array, dict[int, str]]:
        """Python values as an Arrow array.

        Returns:
            The array, null where a value does not fit, and for each of those the reason.

        Example:
            >>> column = KeptColumn(pa.int64(), fixed=True)
            >>> array, misfits = column.convert([1, "two", None])
            >>> array.to_pylist(), misfits[1]
            ([1, None, None], "'two' is of type string, but the column is int64")
        """
        array = self._whole(values)
        if array is not None:
            return array, {}
        fitting = list(values)
        misfits: dict[int, str] = {}
        for row, value in enumerate(values):
            if self._whole([value]) is None:
                fitting[row] = None
                misfits[row] = _misfit(value, self.type)
        array = self._whole(fitting)
        if array is None:  # each fits alone, but Arrow infers no type for all of them together
            parts = [self._whole([value]) for value in fitting]
            array = pa.concat_arrays([part.cast(self.type) for part in parts if part is not None])
        return array, misfits

    def _whole(self, values: Sequence[Any]) -> pa.Array | None:
        """All values as one array of the column's type, or None if one of them does not fit."""
        try:
            found = _inferred(values)
            kind = _common(self.type, found.type)
            if kind is None or (self._fixed and kind != self.type):
                return None
            if found.type == kind:
                array = found
            elif pa.types.is_floating(kind) and pa.types.is_integer(found.type):
                array = found.cast(kind, safe=False)  # the nearest float, as every JSON reader takes it
            else:
                array = pa.array(values, type=kind)
        except _REFUSALS:
            return None
        if isinstance(array, pa.ChunkedArray):
            return None
        self.type = kind
        return array


def settled(kind: pa.DataType) -> pa.DataType:
    """The type with string in place of every null type that no value ever filled."""
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(settled(kind.value_type))
    if pa.types.is_struct(kind):
        fields = [kind.field(place) for place in range(kind.num_fields)]
        return pa.struct([pa.field(each.name, settled(each.type)) for each in fields])
    return kind


def holds_struct(kind: pa.DataType) -> bool:
    """True if a struct is anywhere in the type."""
    if pa.types.is_list(kind):
        return holds_struct(kind.value_type)
    return bool(pa.types.is_struct(kind))


def _inferred(values: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except OverflowError:  # whole numbers over int64: all of them may still fit uint64
        return pa.array(values, type=pa.uint64())


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds both without changing what a value means, or None."""
    if one == other:
        return one
    if pa.uint64() in (one, other) and pa.types.is_integer(one) and pa.types.is_integer(other):
        return one  # no integer type holds both; the numbers that do not fit are refused one by one
    fields = (pa.schema([("", kind)]) for kind in (one, other))
    try:
        both = pa.unify_schemas(list(fields), promote_options="permissive").field(0).type
    except _REFUSALS:
        return None
    if pa.types.is_null(one) or pa.types.is_null(other):
        return both
    return None if pa.types.is_string(one) != pa.types.is_string(both) else both


def _misfit(value: Any, kind: pa.DataType) -> str:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    try:
        named = str(_inferred([value]).type)
    except UnicodeEncodeError:
        return f"{shown} holds a lone surrogate, which UTF-8 cannot represent"
    except _REFUSALS:
        named = type(value).__name__
    return f"{shown} is of type {named}, but the column is {kind}"
