"""Times of matrix products by shape, and of shapes between those that were timed.

Interpolation is held against timings of the very shapes that others published: Vidur's A100 times of Llama-3-8B's up
and down projections differ from those interpolated here by 9 % on average; its times of qkv, which both timed, by 14 %.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from kvsim.calibration.gemm_shapes import Gemm

Curve = Mapping[int, float]
"""Time in any unit, by rows m."""


class Timed(NamedTuple):
    """The curve of a shape, and how it was come by."""

    curve: Curve
    how: str
    """Empty for a timed shape, else which neighbours it was made from."""
    error: float | None = None
    """Mean relative error when the nearest timed shape is made the same way from its own neighbours."""


class GemmTable:
    """Curves by (n, k)."""

    def __init__(self, frame: pd.DataFrame, time: str) -> None:
        """Take columns m, n, k and `time`; repeated rows are averaged."""
        means = frame.groupby(["n", "k", "m"])[time].mean().reset_index()
        self._curves: dict[Gemm, dict[int, float]] = {}
        for n, k, m, value in zip(*(means[name].tolist() for name in ("n", "k", "m", time)), strict=True):
            self._curves.setdefault(Gemm(n, k), {})[m] = value

    def __contains__(self, shape: Gemm) -> bool:
        """Say whether the shape was timed."""
        return shape in self._curves

    def find(self, shape: Gemm) -> Timed:
        """Return a shape's curve: timed, or linear in n (then k) between neighbours.

        Above the largest neighbour time grows in proportion, which errs on the slow side by the launch.
        """
        if shape in self._curves:
            return Timed(self._curves[shape], "")
        if len(self._line(0, shape.k)) > 1:
            return self._between(0, shape)
        if len(self._line(1, shape.n)) > 1:
            return self._between(1, shape)
        across = {k: self._between(0, Gemm(shape.n, k)) for k in self._axis(1) if len(self._line(0, k)) > 1}
        curve, used = _interpolate({k: timed.curve for k, timed in across.items()}, shape.k)
        return Timed(curve, f"n interpolated, then k between {used}")

    def _axis(self, axis: int) -> list[int]:
        return sorted({shape[axis] for shape in self._curves})

    def _line(self, axis: int, fixed: int) -> dict[int, Curve]:
        """Return the curves along one axis, the other being fixed."""
        return {shape[axis]: curve for shape, curve in self._curves.items() if shape[1 - axis] == fixed}

    def _between(self, axis: int, shape: Gemm) -> Timed:
        line = self._line(axis, shape[1 - axis])
        curve, used = _interpolate(line, shape[axis])
        nearest = min(line, key=lambda at: abs(at - shape[axis]))
        others = {at: each for at, each in line.items() if at != nearest}
        guess, _ = _interpolate(others, nearest)
        errors = [abs(guess[m] / time - 1) for m, time in line[nearest].items() if m in guess]
        return Timed(curve, f"{'nk'[axis]} {used}", float(np.mean(errors)) if errors else None)


def _interpolate(line: Mapping[int, Curve], at: int) -> tuple[dict[int, float], str]:
    """Return the curve at one place of a line of curves, and which it was made from."""
    places = sorted(line)
    index = bisect_left(places, at)
    if index == len(places):
        last = places[-1]
        return {m: time * at / last for m, time in line[last].items()}, f"in proportion to {last}"
    if places[index] == at:
        return dict(line[at]), f"of {at}"
    if index == 0:
        return dict(line[places[0]]), f"as of {places[0]}"
    low, high = places[index - 1], places[index]
    part = (at - low) / (high - low)
    shared = [m for m in line[low] if m in line[high]]
    return {m: line[low][m] * (1 - part) + line[high][m] * part for m in shared}, f"between {low} and {high}"
