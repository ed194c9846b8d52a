"""Non-negative coefficients times features, and a table of what they miss."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvsim.calibration.hull import Hull, hull_of
from kvsim.calibration.nnls import nnls, relative_nnls
from kvsim.calibration.residual_table import Table, fit_table, grid_of, octave_nodes, significant

Floats = NDArray[np.float64]
TABLE_POINTS = 24
"""Fewest points for a table; fewer are left to the coefficients."""


class Form(NamedTuple):
    """What is fitted: features that are linear in each axis of the table, and others beside it."""

    features: Callable[[Floats], Floats]
    """Features of places on the axes; one row a place."""
    rest: Callable[[Floats], Floats]
    """The other features of the simplest call at a place, by which a node's time is known."""
    octaves: tuple[float, ...]
    """Between nodes of each axis."""


class Affine(NamedTuple):
    """Coefficients, a table or none, and where the points were."""

    coefficients: tuple[float, ...]
    """In seconds per feature, none negative."""
    table: Table | None
    hull: Hull
    """Of (sequences, Σ KV tokens) for decodes, of (Σ new tokens, 1 + tokens cached before a chunk) for chunks."""


def fit_affine(
    form: Form,
    places: Floats,
    rest: Floats,
    seconds: Floats,
    known: float | None = None,
    least: tuple[float, ...] | None = None,
    reach: Floats | None = None,
) -> Affine:
    """Fit points at `places` of the table's axes, with other features `rest`.

    `known` fixes the coefficient of the first of the rest; else no coefficient is below its `least`, 0 unless given.
    The table is fitted to what is left, such that the time of the simplest calls, formula and table together, falls
    along no axis. The hull is that of `reach`, two columns, or of the first two axes.
    """
    features = np.hstack([form.features(places), rest])
    width = features.shape[1] - rest.shape[1]
    if known is None:
        floor = np.array(least) if least else np.zeros(features.shape[1])
        above = 1 - features @ floor / seconds
        coefficients = floor + nnls(features / seconds[:, None], above)
    else:
        others = np.delete(features, width, axis=1)
        left = np.maximum(seconds - known * features[:, width], 0.1 * seconds)
        coefficients = np.insert(relative_nnls(others, left), width, known)
    coefficients = np.array([significant(value) for value in coefficients.tolist()])
    corners = places if reach is None else reach
    hull = hull_of(corners[:, 0], corners[:, 1])
    table = None
    if len(seconds) >= TABLE_POINTS:
        axes = tuple(octave_nodes(*pair) for pair in zip(places.T, form.octaves, strict=True))
        nodes = grid_of(axes)
        at_nodes = np.hstack([form.features(nodes), form.rest(nodes)]) @ coefficients
        found = fit_table(axes, places, seconds, features @ coefficients, at_nodes)
        table = Table(
            axes, np.array([significant(value) for value in found.values.ravel()]).reshape(found.values.shape)
        )
    return Affine(tuple(coefficients.tolist()), table, hull)
