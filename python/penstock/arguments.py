"""Checks of arguments: what cannot be right is refused by name, with the value and the rule.

A check returns the value as Penstock uses it: a whole number of numpy becomes an ``int``, so that it can
be written as JSON.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeVar

from penstock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

T = TypeVar("T")

_SHOWN = 80  # characters of a value in a message


def optional(check: Callable[[str, Any], T], name: str, value: Any) -> T | None:
    """None as it is, anything else as ``check`` gives it.

    Raises:
        ConfigError: ``check`` refuses it.

    Example:
        >>> optional(whole, "max_batch_rows", None)
        >>> optional(whole, "max_batch_rows", 8)
        8
    """
    return None if value is None else check(name, value)


def whole(name: str, value: Any, *, least: int = 1, most: int | None = None) -> int:
    """A whole number within bounds. Those of numpy are taken; ``True``, ``8.0`` and ``"8"`` are not.

    Raises:
        ConfigError: It is not.

    Example:
        >>> whole("num_workers", 8)
        8
        >>> whole("num_workers", True)
        Traceback (most recent call last):
        penstock.errors.ConfigError: num_workers=True: must be a whole number, at least 1.
    """
    if is_whole(value) and least <= value and (most is None or value <= most):
        return int(value)
    bounds = f", at least {least:,}" if most is None else f" between {least:,} and {most:,}"
    raise refused(name, value, f"a whole number{bounds}")


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, by its type.

    Example:
        >>> is_whole(8), is_whole(True), is_whole(8.0)
        (True, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool)


def seconds(name: str, value: Any) -> float:
    """A time greater than 0; it may be endless.

    Raises:
        ConfigError: It is not.

    Example:
        >>> seconds("timeout", 3)
        3.0
    """
    if not isinstance(value, bool) and isinstance(value, Real) and float(value) > 0:
        return float(value)
    raise refused(name, value, "a number of seconds, greater than 0")


def flag(name: str, value: Any) -> bool:
    """True or False, and nothing that merely counts as one of them.

    Raises:
        ConfigError: It is not.

    Example:
        >>> flag("ordered", True)
        True
    """
    if isinstance(value, bool):
        return value
    raise refused(name, value, "True or False")


def string(name: str, value: Any) -> str:
    """A string.

    Raises:
        ConfigError: It is not.

    Example:
        >>> string("prompt", "query: ")
        'query: '
    """
    if isinstance(value, str):
        return value
    raise refused(name, value, "a string")


def path_name(name: str, value: Any) -> str:
    """A path, as a string.

    Raises:
        ConfigError: It is neither a string nor a ``Path``.

    Example:
        >>> path_name("output", "scored")
        'scored'
    """
    if isinstance(value, (str, os.PathLike)):
        return str(os.fspath(value))
    raise refused(name, value, "a string or a Path")


def choice(name: str, value: Any, allowed: Collection[T]) -> T:
    """One of a few values.

    Raises:
        ConfigError: It is none of them.

    Example:
        >>> choice("truncation", "left", ("right", "left"))
        'left'
    """
    for each in allowed:
        if isinstance(value, type(each)) and value == each:
            return each
    raise refused(name, value, f"one of {', '.join(map(repr, allowed))}")


def function(name: str, value: T) -> T:
    """Something that can be called.

    Raises:
        ConfigError: It cannot.

    Example:
        >>> function("load", len)
        <built-in function len>
    """
    if callable(value):
        return value
    raise refused(name, value, "a function")


def column_name(name: str, value: Any) -> str:
    """The name of a column.

    Raises:
        ConfigError: It is no string, or an empty one.

    Example:
        >>> column_name("text_column", "text")
        'text'
    """
    if isinstance(value, str) and value:
        return value
    raise refused(name, value, "the name of a column, a string that is not empty")


def column_names(name: str, value: Any) -> tuple[str, ...]:
    """The names of columns; a single string is not a list of them.

    Raises:
        ConfigError: It is something else.

    Example:
        >>> column_names("keep", ["id", "title"])
        ('id', 'title')
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise refused(name, value, "a list of column names")
    return tuple(column_name(name, each) for each in value)


def refused(name: str, value: object, rule: str) -> ConfigError:
    """The error that says what an argument must be.

    Example:
        >>> str(refused("retries", -1, "a whole number, at least 0"))
        'retries=-1: must be a whole number, at least 0.'
    """
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "..."
    return ConfigError(f"{name}={shown}: must be {rule}.")
