"""Seconds between the consecutive tokens of requests, and what they are distributed like."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np

from kvsim.request import FloatColumn, IntColumn


class Gaps:
    """Inter-token latencies of all requests together: how long, and how many requests waited that long at once."""

    def __init__(self) -> None:
        """Start with none."""
        self._seconds = array("d")
        self._counts = array("i")
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

    @property
    def seconds(self) -> FloatColumn:
        """Every gap noted, float64."""
        return np.frombuffer(self._seconds, dtype=np.float64) if self._seconds else np.zeros(0)

    @property
    def counts(self) -> IntColumn:
        """How often each occurred, int64."""
        return np.array(self._counts, dtype=np.int64)

    def __iter__(self) -> Iterator[tuple[float, int]]:
        """Go through (seconds, count)."""
        return zip(self._seconds, self._counts, strict=True)

    def __len__(self) -> int:
        """Count the entries."""
        return len(self._seconds)
