"""For how long something had which value."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvsim.request import FloatColumn, IntColumn


class Durations:
    """Seconds for which a count had each of its values."""

    def __init__(self) -> None:
        """Start with none."""
        self._seconds: FloatColumn = np.zeros(0)
        self._seen: NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)

    def add(self, counts: IntColumn, seconds: FloatColumn) -> None:
        """Add rows in which the count was so much for so many seconds."""
        size = max(len(self._seconds), int(counts.max()) + 1)
        self._seconds = np.asarray(np.bincount(counts, weights=seconds, minlength=size), np.float64) + np.pad(
            self._seconds, (0, size - len(self._seconds))
        )
        seen = np.pad(self._seen, (0, size - len(self._seen)))
        seen[counts[seconds != 0]] = True
        self._seen = seen

    def table(self) -> tuple[IntColumn, FloatColumn]:
        """Return the values that occurred, ascending, and the seconds of each."""
        values = np.flatnonzero(self._seen)
        return values, self._seconds[values]
