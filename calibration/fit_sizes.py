"""Kernels that one size decides: matrix products and samplers by rows, elementwise kernels by tokens, messages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kvsim.calibration.curve import Curve, fit_curve
from kvsim.calibration.nnls import relative_nnls
from kvsim.calibration.points import Point
from kvsim.calibration.roofline_fit import fit_roofline, padded


def fit_product(points: Sequence[Point]) -> Curve:
    """Fit a matrix product over its padded rows: a roofline, corrected at measured rows."""
    rows = np.array([padded(point.m) for point in points], dtype=np.float64)
    seconds = np.array([point.seconds for point in points])
    return fit_curve(rows, seconds, fit_roofline(rows, seconds).at)


def fit_line(sizes: Sequence[int], points: Sequence[Point]) -> Curve:
    """Fit c₀ + c₁ · size, corrected at measured sizes."""
    at = np.array(sizes, dtype=np.float64)
    seconds = np.array([point.seconds for point in points])
    start, slope = relative_nnls(np.stack([np.ones(len(at)), at], axis=1), seconds).tolist()
    return fit_curve(at, seconds, lambda size: start + slope * size)
