"""Whether a queue grows: how fast requests pile up while they arrive, against how much their number wanders anyway."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from kvsim.request import FloatColumn, IntColumn

WARM_UP = 0.25
"""Share of the time of arrivals that is not looked at: an empty server fills up first."""
CELLS = 20
"""Equal stretches into which the rest is cut, to see how much the number of requests wanders."""
WAITING = 1.0
"""Requests that wait on average in the last quarter of the arrivals, at least, where a queue is said to grow."""
SETTLED = 10.0
"""Mean stays that the arrivals span, at least, where a growing batch is taken for chance."""


class Backlog(NamedTuple):
    """What piled up between the first and the last arrival."""

    growth: float
    """Slope of N(t) / arrivals a second: the share of the arrivals that pile up, in the system as a whole."""
    significance: float
    """Mean step of N(t) from cell to cell over that mean's standard error, as if N(t) were a random walk."""
    waiting: float
    """Mean number of requests in the last quarter that were never scheduled before."""
    stays: float
    """Time of the arrivals over the mean stay."""

    @property
    def queue_growth(self) -> float:
        """The growth where it is a queue's and more than chance, else 0.

        It has to exceed its standard error, which a server that just keeps up does in one case of six and one with
        room to spare hardly ever, and somebody has to wait: a batch that grows is no queue. Where the arrivals are
        over before a batch has settled nobody can know what would come next, so that a growing batch counts.
        """
        counts = self.waiting >= WAITING or self.stays < SETTLED
        return self.growth if self.significance > 1 and counts else 0.0


def measure_backlog(
    arrival: FloatColumn, scheduled: FloatColumn, finish: FloatColumn, start: float, end: float, stay: float
) -> Backlog | None:
    """Measure requests that were let in; NaN stands for what did not happen. None without two arrivals apart.

    `stay` is how long a request, or the session it opens, is there on average, in seconds.

    N(t) is the number of requests that wait or run; `start` and `end` are the first and the last arrival in open loop.
    The slope is that of the least-squares line through all of N(t) from w = start + (end − start) / 4 to `end`, in
    closed form from the times that each request is there, [s, e] cut to that window with middle m:

        slope = Σ ((e − m)² − (s − m)²) / 2 · 12 / (end − w)³

    A server that can do a share x of what arrives has a growth of 1 − x; one that keeps up, 0 but for chance.
    """
    if not end > start or not len(arrival):
        return None
    begin = start + WARM_UP * (end - start)
    middle = (begin + end) / 2
    entered = np.clip(arrival, begin, end)
    left = np.clip(np.where(np.isnan(finish), end, finish), begin, end)
    slope = float(((left - middle) ** 2 - (entered - middle) ** 2).sum()) / 2 * 12 / (end - begin) ** 3
    rate = float(np.count_nonzero(arrival <= end)) / (end - start)
    last = end - (end - start) / 4
    began = np.clip(np.where(np.isnan(scheduled), end, scheduled), last, end)
    waited = float((began - np.clip(arrival, last, end)).sum()) / (end - last)
    return Backlog(
        slope / rate,
        _significance(entered, left, begin, end),
        waited,
        (end - start) / stay if stay else math.inf,
    )


def mean_stay(arrival: FloatColumn, finish: FloatColumn, parent: IntColumn | None) -> float:
    """Return the mean seconds from a request's arrival to the last finish of it and all that follow it.

    Without `parent` that is the mean end-to-end latency; with it, how long a session is there. What never finishes is
    left out; 0 where nothing does.
    """
    if parent is None:
        stays = finish - arrival
    else:
        root = np.arange(len(parent))
        for row in np.flatnonzero(parent >= 0).tolist():
            # Parents stand before those that wait for them.
            root[row] = root[parent[row]]
        last = np.full(len(parent), np.nan)
        np.fmax.at(last, root, finish)
        stays = (last - arrival)[parent < 0]
    return float(np.nanmean(stays)) if np.isfinite(stays).any() else 0.0


def _significance(entered: FloatColumn, left: FloatColumn, begin: float, end: float) -> float:
    """Return the mean step between the cells' means of N(t) over its standard error; 0 where nothing moves."""
    edges = np.linspace(begin, end, CELLS + 1)
    area = np.array([(np.maximum(edge - entered, 0) - np.maximum(edge - left, 0)).sum() for edge in edges])
    steps = np.diff(np.diff(area) / ((end - begin) / CELLS))
    mean, spread = float(steps.mean()), float(steps.std(ddof=1))
    if spread <= 1e-9 * abs(mean):
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / (spread / math.sqrt(len(steps)))
