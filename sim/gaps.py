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
    goes with the different gaps and hardly with the length of the run.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._seconds = array("d")
        self._counts = array("i")
        self._sorted: tuple[FloatColumn, IntColumn] = np.zeros(0), np.zeros(0, np.int64)
        self.noted = 0
        """Grows whenever somebody got a token, even where the gap itself is handed over later."""

    def add(self, seconds: float, count: int) -> None:
        """Note that so many requests got a token this long after their last one."""
        self._seconds.append(seconds)
        self._counts.append(count)
        self.noted += 1

    def extend(self, seconds: FloatColumn, counts: IntColumn) -> None:
        """Note many at once."""
        self._seconds.frombytes(seconds.tobytes())
        self._counts.frombytes(counts.astype(np.int32).tobytes())
        # As many as are sorted already: what is sorted in again and again then costs a logarithm, not a square.
        if len(self._seconds) >= max(PENDING, len(self._sorted[0])):
            self._merge()

    def distribution(self) -> tuple[FloatColumn, IntColumn]:
        """Return the different gaps, ascending, in seconds (float64), and how often each occurred (int64)."""
        if self._seconds:
            self._merge()
        return self._sorted

    def _merge(self) -> None:
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
