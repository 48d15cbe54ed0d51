"""Words that follow a number."""

from __future__ import annotations


def counted(number: int, what: str, plural: str = "") -> str:
    """A number and what there are so many of.

    Args:
        number: How many.
        what: The word for one.
        plural: The word for all other numbers; with an s unless given.

    Example:
        >>> counted(1, "row"), counted(12_000, "row"), counted(2, "batch", "batches")
        ('1 row', '12,000 rows', '2 batches')
    """
    return f"{number:,} {what if number == 1 else plural or what + 's'}"
