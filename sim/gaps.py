"""Seconds between the consecutive tokens of requests, and what they are distributed like."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np

from kvsim.request import FloatColumn, IntColumn

PENDING = 1 << 18
"""Gaps that are kept as they came before they are sorted in among the others: 12 bytes each."""


class Gaps:
    """Inter-token latencies of all requests together: how long, and how many requests waited that long at once.

    Equal gaps are kept as one. Steps that differ by a whole number of tokens take one of a few times, so memory
    goes with the different gaps and hardly with the length of the run. When they end is kept by the second.
    """

    def __init__(self, start: float = 0.0) -> None:
        """Start with none; seconds are counted from `start`."""
        self._start = start
        self._seconds = array("d")
        self._counts = array("i")
        self._ends = array("d")
        self._by_second: tuple[IntColumn, IntColumn] = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._sorted: tuple[FloatColumn, IntColumn] = np.zeros(0), np.zeros(0, np.int64)
        self.noted = 0
        """Grows whenever somebody got a token, even where the gap itself is handed over later."""

    def add(self, seconds: float, count: int, end: float) -> None:
        """Note that so many requests got a token at `end`, this long after their last one."""
        self._seconds.append(seconds)
        self._counts.append(count)
        self._ends.append(end)
        self.noted += 1

    def extend(self, seconds: FloatColumn, counts: IntColumn, ends: FloatColumn) -> None:
        """Note many at once."""
        self._seconds.frombytes(seconds.tobytes())
        self._counts.frombytes(counts.astype(np.int32).tobytes())
        self._ends.frombytes(ends.tobytes())
        # As many as are sorted already: what is sorted in again and again then costs a logarithm, not a square.
        if len(self._seconds) >= max(PENDING, len(self._sorted[0])):
            self._merge()

    def distribution(self) -> tuple[FloatColumn, IntColumn]:
        """Return the different gaps, ascending, in seconds (float64), and how often each occurred (int64)."""
        if self._seconds:
            self._merge()
        return self._sorted

    def most_in_a_second(self, others: FloatColumn, each: int) -> int:
        """Return the most tokens that came within one second counted from the start.

        `others` are the times of those that came after no gap, `each` as many at once.
        """
        if self._seconds:
            self._merge()
        first = np.full(len(others), each, np.int64)
        counts = _summed(self._by_second, self._second_of(others), first)[1]
        return int(counts.max(initial=0))

    def _second_of(self, times: FloatColumn) -> IntColumn:
        return np.floor(times - self._start).astype(np.int64)

    def _merge(self) -> None:
        ends, each = np.array(self._ends), np.array(self._counts, dtype=np.int64)
        self._by_second = _summed(self._by_second, self._second_of(ends), each)
        self._ends = array("d")
        seconds, counts = self._sorted
        seconds = np.concatenate((seconds, self._seconds))
        counts = np.concatenate((counts, self._counts))
        self._seconds, self._counts = array("d"), array("i")
        order = np.argsort(seconds)
        seconds, counts = seconds[order], counts[order]
        # Equal gaps as one: sums must not depend on which of them were noted together.
        firsts = np.flatnonzero(np.diff(seconds, prepend=-1.0))
        self._sorted = seconds[firsts], np.add.reduceat(counts, firsts)

    def __iter__(self) -> Iterator[tuple[float, int]]:
        """Go through the different gaps as (seconds, how often)."""
        seconds, counts = self.distribution()
        return zip(seconds.tolist(), counts.tolist(), strict=True)


def _summed(
    known: tuple[IntColumn, IntColumn], keys: IntColumn, counts: IntColumn
) -> tuple[IntColumn, IntColumn]:
    """Return different keys, ascending, and the sums of their counts, of those known and those to come."""
    if len(keys):
        # Most follow each other in time.
        firsts = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
        keys, counts = keys[firsts], np.add.reduceat(counts, firsts)
    found, place = np.unique(np.concatenate((known[0], keys)), return_inverse=True)
    return found, np.bincount(place, np.concatenate((known[1], counts)), len(found)).astype(np.int64)
