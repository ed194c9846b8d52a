"""Seconds as a function of one size: straight pieces between nodes, a formula's slope beyond them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import pairwise
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from kvsim.calibration.monotone import isotonic
from kvsim.calibration.residual_table import significant
from kvsim.cost import Line

Floats = NDArray[np.float64]
MOST_NODES = 40
ENDLESS = 1 << 62
GOOD_ENOUGH = 0.02
"""Relative miss at a measured size up to which no node is added for it."""


class Curve:
    """Non-decreasing seconds over a size: constant before the first node, a straight line after the last."""

    def __init__(self, nodes: tuple[float, ...], seconds: tuple[float, ...], slope: float) -> None:
        """`slope` is in seconds per unit of size, for sizes beyond the last node."""
        self.nodes = nodes
        self.seconds = seconds
        self.slope = slope

    def at(self, size: float) -> float:
        """Return the seconds at this size."""
        nodes, seconds = self.nodes, self.seconds
        high = bisect_right(nodes, size)
        if high == 0:
            return seconds[0]
        if high == len(nodes):
            return seconds[-1] + self.slope * (size - nodes[-1])
        low = high - 1
        share = (size - nodes[low]) / (nodes[high] - nodes[low])
        return seconds[low] + share * (seconds[high] - seconds[low])

    def line(self, size: int) -> Line:
        """Return the straight piece that whole sizes around this one lie on."""
        nodes, seconds = self.nodes, self.seconds
        high = bisect_right(nodes, size)
        since = ceil(nodes[high - 1]) if high else 0
        if high == len(nodes):
            return Line(seconds[-1] - self.slope * nodes[-1], self.slope, ENDLESS, since)
        until = ceil(nodes[high]) - 1
        if high == 0:
            return Line(seconds[0], 0.0, until)
        low = high - 1
        rate = (seconds[high] - seconds[low]) / (nodes[high] - nodes[low])
        return Line(seconds[low] - rate * nodes[low], rate, until, since)


def at_least(line: Line, seconds: float, size: int) -> Line:
    """Return what is left around a size of a line, rising or level, when nothing is faster than `seconds`."""
    if not line.rate:
        return line._replace(fixed=max(line.fixed, seconds))
    last_below = int((seconds - line.fixed) / line.rate)
    if size > last_below:
        return line._replace(since=max(line.since, last_below + 1))
    return line._replace(fixed=seconds, rate=0.0, until=min(line.until, last_below))


def within(line: Line, least: float, most: float, size: int, inside: bool) -> Line:
    """Cut a line around a size where measurements begin and end, and say on which side of that it lies."""
    first, last = ceil(min(least, ENDLESS)), floor(min(most, ENDLESS))
    if size < first:
        return line._replace(until=min(line.until, first - 1), is_measured=False)
    if size > last:
        return line._replace(since=max(line.since, last + 1), is_measured=False)
    return line._replace(since=max(line.since, first), until=min(line.until, last), is_measured=inside)


def fit_curve(sizes: Floats, seconds: Floats, formula: Callable[[Floats], Floats]) -> Curve:
    """Correct a formula, seconds by size, where measurements disagree.

    Measured sizes become nodes, the worst missed first, until none is missed by more than GOOD_ENOUGH. Where they are
    further apart than an octave the formula's shape is kept between them, and its slope beyond the last.
    """
    unique, measured = _merged(sizes, seconds)
    measured = np.exp(isotonic(np.log(measured)))
    ratios = measured / formula(unique)
    chosen = {0, len(unique) - 1}
    while True:
        kept = sorted(chosen)
        axis = _filled(unique[kept])
        total = formula(axis) * np.interp(np.log(axis), np.log(unique[kept]), ratios[kept])
        total = np.maximum.accumulate(total)
        miss = np.abs(np.interp(unique, axis, total) / measured - 1)
        miss[kept] = 0.0
        worst = int(np.argmax(miss))
        if miss[worst] <= GOOD_ENOUGH or len(kept) >= MOST_NODES:
            break
        chosen.add(worst)
    last, twice = formula(np.array([axis[-1], 2 * axis[-1]])).tolist()
    slope = max(0.0, (twice - last) / axis[-1])
    return Curve(
        tuple(axis.tolist()), tuple(significant(value) for value in total.tolist()), significant(slope)
    )


def _filled(nodes: Floats) -> Floats:
    """Return the nodes and, in gaps of more than an octave, others a half octave apart."""
    added = [
        np.geomspace(low, high, int(2 * np.log2(high / low)) + 1)[1:-1]
        for low, high in pairwise(nodes.tolist())
        if high > 2 * low
    ]
    return np.unique(np.concatenate([nodes, *added]))


def _merged(sizes: Floats, seconds: Floats) -> tuple[Floats, Floats]:
    """Return each size once, with the geometric mean of its times."""
    unique, place = np.unique(sizes, return_inverse=True)
    mean = np.bincount(place, np.log(seconds)) / np.bincount(place)
    return unique.astype(np.float64), np.asarray(np.exp(mean), dtype=np.float64)
