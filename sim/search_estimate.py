"""What several seeds say together: mean, and a confidence interval by Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
T_95 = (
    12.706, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip
"""97.5 % quantiles of Student's t with 1 to 30 degrees of freedom."""


class Estimate(NamedTuple):
    """A mean over seeds."""

    mean: float
    low: float | None
    """Ends of the 95 % confidence interval of the mean; None for a single seed."""
    high: float | None
    values: tuple[float, ...]
    """A value a seed, in the order of the seeds."""

    @classmethod
    def of(cls, values: Sequence[float], least: float = -math.inf) -> Estimate:
        """Take independent values, at least one: mean ± t(n − 1) · s / √n, and not below what can be at least."""
        mean = float(np.mean(values))
        if len(values) < 2:
            return cls(mean, None, None, tuple(values))
        half = t_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
        return cls(mean, max(mean - half, least), mean + half, tuple(values))


def t_quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t; beyond 30 degrees of freedom by Cornish and Fisher's expansion."""
    if freedom <= len(T_95):
        return T_95[freedom - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
