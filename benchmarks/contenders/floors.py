"""What nothing could beat: an ideal loader, simulated. It loses no time anywhere and knows no overhead.

It starts the documents in the order of the source, at most ``in_flight`` at once, each the moment it may. A
step takes the next ``rows`` documents, in the order of the source or as they complete, once they are all
there and the step before is over.

A loader that keeps order must hold what is loaded behind a slow document until that one is there. ``window``
bounds it: counted from the first document that is not there, only so many are started. Steps hold no load
back here, so this is a floor for every loader with that window.
"""

from __future__ import annotations

import heapq


def ideal_s(
    load_s: list[float],
    step_s: float,
    *,
    rows: int,
    in_flight: int,
    in_order: bool,
    window: int | None = None,
) -> float:
    """Seconds of the ideal run.

    Example:
        >>> ideal_s([3.0, 1.0, 1.0], 0.5, rows=1, in_flight=3, in_order=True)
        4.5
        >>> ideal_s([3.0, 1.0, 1.0], 0.5, rows=1, in_flight=3, in_order=False)
        3.5
        >>> ideal_s([3.0, 1.0, 1.0], 0.5, rows=1, in_flight=3, in_order=True, window=1)
        5.5
    """
    there = finishes(load_s, in_flight, window)
    if not in_order:
        there.sort()
    end = 0.0
    for first in range(0, len(there), rows):
        end = max(end, *there[first : first + rows]) + step_s
    return end


def finishes(load_s: list[float], in_flight: int, window: int | None) -> list[float]:
    """When each document is there."""
    places = [0.0] * in_flight  # when each is free for a load
    there: list[float] = []
    all_there: list[float] = []  # up to and with each document
    for position, seconds in enumerate(load_s):
        start = heapq.heappop(places)
        if window is not None and position >= window:
            start = max(start, all_there[position - window])
        there.append(start + seconds)
        all_there.append(max(there[-1], all_there[-1] if all_there else 0.0))
        heapq.heappush(places, there[-1])
    return there
