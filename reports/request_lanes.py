"""A request's life in spans, and lanes that lives share when they do not overlap."""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import NamedTuple


class Part(NamedTuple):
    """A stretch of a request's life."""

    name: str
    """`queue`, `prefill`, `decode` or `preempted`."""
    start: float
    end: float


class Life:
    """What one request has gone through so far."""

    __slots__ = ("_name", "_parts", "_since", "arrival", "cached", "preemptions")

    def __init__(self, arrival: float) -> None:
        """Start in the queue."""
        self.arrival = arrival
        self.cached = 0
        """Tokens of the prompt found in the cache when first admitted."""
        self.preemptions = 0
        self._parts: list[Part] = []
        self._name = "queue"
        self._since = arrival

    def turn(self, name: str, at: float) -> None:
        """End the part that is under way and begin the next."""
        self._parts.append(Part(self._name, self._since, at))
        self._name, self._since = name, at

    def parts(self, end: float) -> list[Part]:
        """Return all parts that take time, the last one up to `end`."""
        return [part for part in (*self._parts, Part(self._name, self._since, end)) if part.end > part.start]


class Lanes:
    """Give each life a lane on which it overlaps no other.

    Lives come in order of their ends, so memory holds one number a lane. The lane that has been free for the
    shortest time is taken, which needs no more lanes than there are lives at once (interval scheduling by
    earliest end, best fit).
    """

    def __init__(self) -> None:
        """Start without a lane."""
        self._free: list[tuple[float, int]] = []
        """(end of the last life, lane), ascending."""

    def take(self, start: float, end: float) -> tuple[int, bool]:
        """Return a lane that is free from `start` on, counted from 1, and whether it is a new one."""
        place = bisect_right(self._free, (start, len(self._free) + 1))
        is_new = place == 0
        lane = len(self._free) + 1 if is_new else self._free.pop(place - 1)[1]
        insort(self._free, (end, lane))
        return lane, is_new
