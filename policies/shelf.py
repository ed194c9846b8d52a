"""Places for pages that a policy counts without numbers, for whoever wants to draw them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from kvsim.request import IntColumn


def places_from(known: tuple[int, IntColumn] | None, first: int, pages: int) -> IntColumn:
    """Return the places of so many pages from `first` on, −1 where `known`, places from some page on, has none."""
    places = np.full(pages, -1, np.int64)
    if known is not None:
        start, there = known
        low, high = max(first, start), min(first + pages, start + len(there))
        if low < high:
            places[low - first : high - first] = there[low - start : high - start]
    return places


def fill(places: Iterable[IntColumn], room: int) -> None:
    """Give every page without a place (−1), or with one that another has too, the lowest that is free of `room`."""
    columns, taken = list(places), np.zeros(room, np.bool_)
    for column in columns:
        column[(column >= 0) & taken[column]] = -1
        taken[column[column >= 0]] = True
    free, used = np.flatnonzero(~taken), 0
    for column in columns:
        missing = np.flatnonzero(column < 0)
        column[missing] = free[used : used + len(missing)]
        used += len(missing)
