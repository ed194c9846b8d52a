"""Seconds between the consecutive tokens of requests, and what they are distributed like."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kvsim.request import FloatColumn, IntColumn


class Gaps:
    """Inter-token latencies of all requests together: how long, and how many requests waited that long at once."""

    def __init__(self) -> None:
        """Start with none."""
        self._seconds = array("d")
        self._counts = array("i")
        self._sorted: tuple[FloatColumn, NDArray[np.int32]] = (np.zeros(0), np.zeros(0, np.int32))
        self._entries = 0
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

    def distribution(self) -> tuple[FloatColumn, NDArray[np.int32]]:
        """Return every gap noted, ascending, in seconds (float64), and how often each occurred (int32)."""
        if self._entries != len(self._seconds):
            seconds = np.frombuffer(self._seconds)
            order = np.argsort(seconds)
            seconds, counts = seconds[order], np.frombuffer(self._counts, dtype=np.int32)[order]
            # Equal gaps as one: sums must not depend on which of them were noted together.
            firsts = np.flatnonzero(np.diff(seconds, prepend=-1.0))
            self._sorted = seconds[firsts], np.add.reduceat(counts, firsts, dtype=np.int32)
            self._entries = len(self._seconds)
        return self._sorted

    def __iter__(self) -> Iterator[tuple[float, int]]:
        """Go through (seconds, count)."""
        return zip(self._seconds, self._counts, strict=True)
