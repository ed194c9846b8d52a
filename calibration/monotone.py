"""Bring measured times into an order that work can have: more never takes less."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ROUNDS = 50


def make_monotone(grid: Floats, weights: Floats | None = None) -> Floats:
    """Return positive values close to `grid`, in logarithms, that fall along no axis.

    Neighbours in the wrong order are averaged, axis by axis, until none are left; those with little weight give way.
    A last running maximum takes away what rounding leaves.
    """
    values = np.log(grid)
    shares = np.ones_like(values) if weights is None else weights
    for _ in range(ROUNDS):
        for axis in range(values.ndim):
            rows, row_shares = np.moveaxis(values, axis, -1), np.moveaxis(shares, axis, -1)
            for place in np.argwhere(np.any(np.diff(rows, axis=-1) < 0, axis=-1)):
                rows[tuple(place)] = isotonic(rows[tuple(place)], row_shares[tuple(place)])
        if all(np.all(np.diff(values, axis=axis) >= 0) for axis in range(values.ndim)):
            break
    for axis in range(values.ndim):
        values = np.maximum.accumulate(values, axis=axis)
    return np.asarray(np.exp(values), dtype=np.float64)


def isotonic(values: Floats, weights: Floats | None = None) -> Floats:
    """Return the nearest row, in weighted least squares, that does not fall (pool adjacent violators)."""
    shares = np.ones_like(values) if weights is None else weights
    means: list[float] = []
    sums: list[float] = []
    counts: list[int] = []
    for value, share in zip(values.tolist(), shares.tolist(), strict=True):
        means.append(value)
        sums.append(share)
        counts.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            mean, share, count = means.pop(), sums.pop(), counts.pop()
            means[-1] = (means[-1] * sums[-1] + mean * share) / (sums[-1] + share)
            sums[-1] += share
            counts[-1] += count
    return np.repeat(means, counts)
