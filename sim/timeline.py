"""The run over time, in at most a few thousand rows however long it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvsim.request import FloatColumn, IntColumn

ROWS = 8192
"""Rows beyond which neighbours are merged."""


class Timeline:
    """Sums over stretches of steps, all of the same number of steps; that number doubles as the run goes on.

    A pause belongs to the stretch of the step that follows it.
    """

    FIGURES = ("live", "reserved", "internal", "external", "reusable", "free", "running", "waiting")
    COLUMNS = ("start_s", "end_s", "steps", "tokens", *FIGURES)

    def __init__(self, start: float) -> None:
        """Start with one step a row."""
        self._start = start
        self._stride = 1
        self._steps = 0
        self._ends = np.zeros(0)
        self._sums: NDArray[np.float64] = np.zeros((2 + len(self.FIGURES), 0))

    def add(self, ends: FloatColumn, steps: IntColumn, tokens: IntColumn, figures: FloatColumn) -> None:
        """Take over rows: when they end, whether each is a step, its tokens, and `FIGURES` × its seconds."""
        before = np.cumsum(steps) - steps + self._steps
        self._steps += int(steps.sum())
        stretch = before // self._stride
        firsts = np.flatnonzero(np.diff(stretch, prepend=-1))
        lasts = np.append(firsts[1:], len(ends)) - 1
        sums: NDArray[np.float64] = np.vstack((steps, tokens, figures))
        if len(firsts) < len(ends):
            sums = np.add.reduceat(sums, firsts, axis=1)
        first = int(stretch[0])
        if first < self._sums.shape[1]:
            self._sums[:, first] += sums[:, 0]
            self._ends[first] = ends[lasts[0]]
            sums, lasts = sums[:, 1:], lasts[1:]
        self._sums = np.hstack((self._sums, sums))
        self._ends = np.append(self._ends, ends[lasts])
        while len(self._ends) >= ROWS:
            self._merge()

    @property
    def columns(self) -> dict[str, FloatColumn]:
        """Slot-seconds and request-seconds per row, beside start, end, steps and tokens."""
        starts = np.append(self._start, self._ends[:-1])[: len(self._ends)]
        lasting = self._ends > starts
        if not lasting.any():
            return {name: np.zeros(0) for name in self.COLUMNS}
        # A row without duration has nothing to show but its steps; they go to the next one, or the last.
        row = np.minimum(np.cumsum(lasting) - lasting, lasting.sum() - 1)
        sums = [np.bincount(row, each) for each in self._sums]
        return dict(zip(self.COLUMNS, (starts[lasting], self._ends[lasting], *sums), strict=True))

    def _merge(self) -> None:
        self._stride *= 2
        even = len(self._ends) // 2 * 2
        odd_sums, odd_ends = self._sums[:, even:], self._ends[even:]
        self._sums = np.hstack((self._sums[:, 0:even:2] + self._sums[:, 1:even:2], odd_sums))
        self._ends = np.append(self._ends[1:even:2], odd_ends)
