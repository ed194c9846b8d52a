"""Inter-token latencies as a distribution small enough to keep: a thousand quantiles, denser towards the slow end."""

from __future__ import annotations

import numpy as np

from kvsim.request import FloatColumn, IntColumn

LEVELS: FloatColumn = np.unique(
    np.concatenate([np.linspace(0, 1, 401), np.linspace(0.9, 1, 401), np.linspace(0.99, 1, 201)]).round(6)
)
"""Shares of the gaps at which a quantile is kept."""


def itl_columns(seconds: FloatColumn, counts: IntColumn) -> dict[str, FloatColumn]:
    """Return `share` and `itl_ms`, where that share of all gaps between tokens is at most `itl_ms` long.

    `seconds` ascend, `counts` says how often each gap occurred. Gaps so few that every one can be kept are kept.
    """
    ends = np.cumsum(counts, dtype=np.int64)
    if not len(ends) or not ends[-1]:
        return {"share": np.empty(0), "itl_ms": np.empty(0)}
    share = ends / ends[-1]
    rows = np.arange(len(share))
    if len(share) > len(LEVELS):
        rows = np.unique(np.minimum(np.searchsorted(share, LEVELS), len(share) - 1))
    return {"share": share[rows], "itl_ms": seconds[rows] * 1e3}
