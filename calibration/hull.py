"""Where measurements reach: the convex hull of two features, in logarithms."""

from __future__ import annotations

from math import inf, log

import numpy as np
from numpy.typing import NDArray

Corner = tuple[float, float]
SLACK = 1e-9


class Hull:
    """A convex polygon around points (x, y > 0) of the log-log plane; its corners are measured points."""

    def __init__(self, corners: tuple[Corner, ...]) -> None:
        """Take the corners in order, as `hull_of` returns them."""
        self.corners = corners
        self._logs = [(log(x), log(y)) for x, y in corners]

    def reach(self, x: float) -> tuple[float, float]:
        """Return the least and the largest y inside at this x; (inf, -inf) where there is none."""
        at = log(x)
        low, high = inf, -inf
        for (x0, y0), (x1, y1) in zip(self._logs, self._logs[1:] + self._logs[:1], strict=True):
            if min(x0, x1) - SLACK <= at <= max(x0, x1) + SLACK:
                ends = (y0, y1) if abs(x1 - x0) <= SLACK else (y0 + (y1 - y0) * (at - x0) / (x1 - x0),)
                low, high = min(low, *ends), max(high, *ends)
        return float(np.exp(low - SLACK)), float(np.exp(high + SLACK))

    def holds(self, x: float, y: float) -> bool:
        """Tell whether the point lies inside or on the edge."""
        low, high = self.reach(x)
        return low <= y <= high


def hull_of(x: NDArray[np.float64], y: NDArray[np.float64]) -> Hull:
    """Return the hull of measured points (Andrew's monotone chain)."""
    corners = sorted(set(zip(x.tolist(), y.tolist(), strict=True)))
    if len(corners) <= 2:
        return Hull(tuple(corners))
    lower, upper = _chain(corners), _chain(corners[::-1])
    return Hull(tuple(lower[:-1] + upper[:-1]))


def _chain(corners: list[Corner]) -> list[Corner]:
    kept: list[Corner] = []
    for corner in corners:
        while len(kept) > 1 and _turn(kept[-2], kept[-1], corner) <= SLACK:
            kept.pop()
        kept.append(corner)
    return kept


def _turn(a: Corner, b: Corner, c: Corner) -> float:
    """Return > 0 where a → b → c turns left in the log-log plane."""
    abx, aby = log(b[0] / a[0]), log(b[1] / a[1])
    return abx * log(c[1] / a[1]) - aby * log(c[0] / a[0])
