"""Least squares with coefficients that are not negative."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TOLERANCE = 1e-10


def nnls(matrix: Floats, target: Floats) -> Floats:
    """Return x ≥ 0 that minimises |matrix · x − target|².

    The active set method of Lawson and Hanson, *Solving Least Squares Problems* (1974), chapter 23. Columns are
    scaled to unit length first, since features differ by nine orders of magnitude.
    """
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1.0
    scaled = matrix / scale
    columns = scaled.shape[1]
    found = np.zeros(columns)
    free = np.zeros(columns, dtype=np.bool_)
    for _ in range(3 * columns + 1):
        pull = scaled.T @ (target - scaled @ found)
        pull[free] = 0.0
        if pull.max(initial=0.0) <= TOLERANCE * max(1.0, float(np.linalg.norm(target))):
            break
        free[int(np.argmax(pull))] = True
        _settle(scaled, target, found, free)
    return np.asarray(found / scale, dtype=np.float64)


def _settle(matrix: Floats, target: Floats, found: Floats, free: NDArray[np.bool_]) -> None:
    """Solve over the free columns, and give up those that would turn negative; changes `found` and `free`."""
    while free.any():
        wanted = np.zeros(len(found))
        wanted[free] = np.linalg.lstsq(matrix[:, free], target, rcond=None)[0]
        if wanted[free].min() > 0:
            found[:] = wanted
            return
        falling = free & (wanted <= 0)
        step = min(1.0, float(np.min(found[falling] / (found[falling] - wanted[falling] + 1e-300))))
        found += step * (wanted - found)
        gone = free & (found <= TOLERANCE)
        if not gone.any():
            gone = falling
        found[gone] = 0.0
        free[gone] = False


def relative_nnls(features: Floats, seconds: Floats) -> Floats:
    """Fit seconds ≈ features · x with errors counted relative to the seconds, so that no size dominates."""
    return nnls(features / seconds[:, None], np.ones(len(seconds)))
