"""A table of what a formula misses: seconds at the nodes of a grid, linear between them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from math import floor, log2

import numpy as np
from numpy.typing import NDArray

from kvsim.calibration.monotone import make_monotone

Floats = NDArray[np.float64]
Axes = tuple[tuple[float, ...], ...]
SMOOTH = 1e-3
"""Weight of differences between neighbouring nodes against the points: it decides where no point is near."""
CLIP = 0.25
"""Most that a table may add or take, as a share of the formula, at a node that no point touches."""
TOUCHED = 0.25
"""Weight of points at a node from which on it counts as measured."""
GUESSED = 1e-3
"""Weight of a node without points when nodes that are out of order are averaged."""
LEAST = 0.01
"""Least share of the formula that a table may leave."""


class Table:
    """Seconds on a grid of features, multilinear between its nodes, constant beyond them.

    Linear and not logarithmic in the features, because times nearly are: between nodes two octaves apart, logarithmic
    interpolation of a published H200 table missed 7.0 instead of 5.3 %. As the formula beside it is linear too, their
    sum never falls along an axis if it does not from node to node.
    """

    def __init__(self, axes: Axes, values: Floats) -> None:
        """`axes` are ascending node positions, `values` an array of that shape."""
        self.axes = axes
        self.values = values
        self._flat: list[float] = values.ravel().tolist()

    def at(self, *place: float) -> float:
        """Return the interpolated seconds."""
        corners = [(0, 1.0)]
        for axis, value in zip(self.axes, place, strict=True):
            size = len(axis)
            high = bisect_right(axis, value)
            if high == 0 or high == size:
                low = min(high, size - 1)
                corners = [(number * size + low, weight) for number, weight in corners]
                continue
            low = high - 1
            share = (value - axis[low]) / (axis[high] - axis[low])
            corners = [
                corner
                for number, weight in corners
                for corner in (
                    (number * size + low, weight * (1.0 - share)),
                    (number * size + high, weight * share),
                )
            ]
        flat = self._flat
        return sum([flat[number] * weight for number, weight in corners])


def octave_nodes(values: Floats, octaves: float = 1.0) -> tuple[float, ...]:
    """Return the least and the largest value and, between them, powers of two that many octaves apart."""
    least, most = float(values.min()), float(values.max())
    first, last = floor(log2(least) / octaves) + 1, floor(log2(most) / octaves)
    near = 2.0 ** (octaves / 4)
    inner = (2.0 ** (place * octaves) for place in range(first, last + 1))
    return tuple(sorted({least, most, *(node for node in inner if least * near < node < most / near)}))


def grid_of(axes: Axes) -> Floats:
    """Return every node's position, one row a node, the last axis moving fastest."""
    mesh = np.meshgrid(*axes, indexing="ij")
    return np.stack(mesh, axis=-1).reshape(-1, len(axes))


def corner_weights(axes: Axes, places: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Return, for each row of `places`, the flat numbers of its 2^d corner nodes and their weights."""
    numbers = np.zeros((len(places), 1), dtype=np.intp)
    shares = np.ones((len(places), 1))
    for axis, column in zip(axes, places.T, strict=True):
        nodes = np.array(axis)
        low = np.clip(np.searchsorted(nodes, column, side="right") - 1, 0, max(len(nodes) - 2, 0))
        high = np.minimum(low + 1, len(nodes) - 1)
        gap = np.where(high > low, nodes[high] - nodes[low], 1.0)
        share = np.clip((column - nodes[low]) / gap, 0.0, 1.0)[:, None]
        numbers = np.hstack([numbers * len(nodes) + low[:, None], numbers * len(nodes) + high[:, None]])
        shares = np.hstack([shares * (1 - share), shares * share])
    return numbers, shares


def fit_table(axes: Axes, places: Floats, seconds: Floats, formula: Floats, at_nodes: Floats) -> Table:
    """Return the table that, added to a formula, meets the points and never lets the sum fall along an axis.

    `formula` and `at_nodes` are the formula's seconds at the points and at the nodes. The unknowns are each node's
    ratio to the formula: least squares, with errors relative to `seconds`; see SMOOTH and CLIP.
    """
    shape = tuple(len(axis) for axis in axes)
    numbers, shares = corner_weights(axes, places)
    factors = shares * at_nodes[numbers] / seconds[:, None]
    size = len(at_nodes)

    def left(ratios: Floats) -> Floats:
        pulled = (factors * ratios[numbers]).sum(axis=1)
        met = np.bincount(numbers.ravel(), (factors * pulled[:, None]).ravel(), minlength=size)
        return np.asarray(met + SMOOTH * _differences(ratios.reshape(shape)).ravel(), dtype=np.float64)

    missing = (seconds - formula) / seconds
    right = np.bincount(numbers.ravel(), (factors * missing[:, None]).ravel(), minlength=size)
    ratios = conjugate_gradient(left, np.asarray(right, dtype=np.float64))
    touch = np.bincount(numbers.ravel(), shares.ravel(), minlength=size)
    ratios = np.where(touch >= TOUCHED, ratios, np.clip(ratios, -CLIP, CLIP))
    total = (at_nodes * np.maximum(1 + ratios, LEAST)).reshape(shape)
    total = make_monotone(total, np.maximum(touch, GUESSED).reshape(shape))
    return Table(axes, total - at_nodes.reshape(shape))


def significant(value: float) -> float:
    """Round to seven digits, so that a fit is the same before and after it is written to a file."""
    return float(f"{value:.7g}")


def conjugate_gradient(
    left: Callable[[Floats], Floats], right: Floats, rounds: int = 1000, tolerance: float = 1e-8
) -> Floats:
    """Solve left(x) = right for a symmetric positive definite linear `left`."""
    found = np.zeros_like(right)
    residual, direction = right.copy(), right.copy()
    size = float(residual @ residual)
    goal = tolerance**2 * size
    for _ in range(rounds):
        if size <= goal:
            break
        applied = left(direction)
        step = size / float(direction @ applied)
        found = found + step * direction
        residual = residual - step * applied
        before, size = size, float(residual @ residual)
        direction = residual + size / before * direction
    return found


def _differences(grid: Floats) -> Floats:
    """Return the gradient of half the sum of squared differences between neighbours."""
    pull = np.zeros_like(grid)
    for axis in range(grid.ndim):
        steps = np.diff(grid, axis=axis)
        before, after = [(0, 0)] * grid.ndim, [(0, 0)] * grid.ndim
        before[axis], after[axis] = (1, 0), (0, 1)
        pull += np.pad(steps, before) - np.pad(steps, after)
    return pull
