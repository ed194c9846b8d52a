"""The last value that keeps to the limits: the highest rate, or the smallest pool."""

from __future__ import annotations

import math

from kvsim.errors import InputError
from kvsim.search_estimate import Estimate
from kvsim.search_knobs import RATE, Ladder, rate_ladder, smallest_ladder
from kvsim.search_plan import Plan
from kvsim.search_point import Point
from kvsim.search_result import Band, Edge, Search
from kvsim.search_store import Store
from kvsim.search_walk import Tracker, Walk, walk_all

FLOOD = 1e9
"""Starts a second that come to all at once."""


class EdgeSearch:
    """Walk one ladder for each seed; then again with steps slower and faster by the cost's error."""

    def __init__(self, plan: Plan, store: Store, tracker: Tracker) -> None:
        """Take what to look for and where to have it run."""
        self.plan, self.store, self.tracker = plan, store, tracker

    def run(self) -> Search:
        """Search, and return the answer."""
        plan = self.plan
        if plan.cost_error is not None:
            self.tracker.later = 10 * len(plan.seeds)
        walks = self._walk(self._ladder(), Point(0))
        self.tracker.later = 0
        edges = [_edge(walk) for walk in walks]
        band = self._band(walks) if all(edge.value is not None for edge in edges) else None
        points = [point for walk in walks for point in walk.points]
        return Search(plan, self.store.outcomes, points, edges=edges, band=band)

    def _ladder(self) -> Ladder:
        plan = self.plan
        if plan.knob != RATE:
            return smallest_ladder(plan.knob, plan.setup, plan.low, plan.high)
        guess = capacity_guess(plan, self.store, self.tracker, [()])[()]
        return rate_ladder(guess, plan.precision, plan.low, plan.high)

    def _walk(self, ladder: Ladder, base: Point) -> list[Walk]:
        walks = [Walk(ladder, seed, base) for seed in self.plan.seeds]
        walk_all(walks, self.store, self.plan.bounds, self.tracker, self.plan.knob)
        return walks

    def _band(self, walks: list[Walk]) -> Band | None:
        """Search again at cost × (1 ± error), beginning near the answers; all walks of both prices at once."""
        error = self.plan.cost_error
        if error is None:
            return None
        found: dict[float, list[Walk]] = {
            factor: [_again(walk, factor) for walk in walks] for factor in (1 + error, 1 - error)
        }
        both = [walk for again in found.values() for walk in again]
        what = f"{self.plan.knob} at cost ± {error:.2%}"
        walk_all(both, self.store, self.plan.bounds, self.tracker, what)
        slow, fast = ([walk.value for walk in again] for again in found.values())
        return Band(
            error, _mean(slow), _mean(fast), points=tuple(point for walk in both for point in walk.points)
        )


def capacity_guess(
    plan: Plan, store: Store, tracker: Tracker, settings: list[tuple[tuple[str, int | float], ...]]
) -> dict[tuple[tuple[str, int | float], ...], float]:
    """Return, for each change of settings, starts / duration of a draw that comes all at once.

    Near the highest rate that can be served, so a good place to begin. Settings that cannot work are left out.
    """
    points = {changes: Point(plan.seeds[0], FLOOD, changes) for changes in settings}
    tracker.fetch(list(points.values()), 8 * len(points) * len(plan.seeds), plan.knob)
    guesses = {}
    for changes, point in points.items():
        figures = store.outcomes[point].figures
        starts, duration = figures.get("starts") or 0, figures.get("duration") or 0
        if figures and starts < 2:
            raise InputError(
                f"{plan.setup.traffic.name}: a rate needs at least two arrivals, there is {starts}"
            )
        if figures and not figures.get("arrival_span"):
            raise InputError(
                f"{plan.setup.traffic.name}: all requests start at the same time, which no rate can spread; draw the "
                "times, as in --resample poisson"
            )
        if duration:
            guesses[changes] = starts / duration
        elif figures:
            guesses[changes] = 1.0
    return guesses


def _edge(walk: Walk) -> Edge:
    best = walk.bisection.best
    at = None if best is None else walk.ladder.point(best, walk.seed, walk.base)
    return Edge(walk.seed, walk.value, walk.bisection.is_open, at)


def _again(walk: Walk, factor: float) -> Walk:
    """Return the same search at another price, from where the answer should be then."""
    best = walk.bisection.best
    assert best is not None
    start, ladder = best, walk.ladder
    if ladder.knob == RATE:
        # Half the price is twice the rate, where latency limits do not come before.
        ratio = ladder.value(best + 1) / ladder.value(best)
        start -= round(math.log(factor) / math.log(ratio))
    step = 1 if ladder.knob != "num-gpu-blocks" else max(1, abs(best) // 50)
    moved = Ladder(ladder.knob, ladder.value, start, step, ladder.least, ladder.most)
    return Walk(moved, walk.seed, walk.base._replace(cost_factor=factor))


def _mean(values: list[float | None]) -> Estimate | None:
    known = [value for value in values if value is not None]
    return Estimate.of(known) if len(known) == len(values) else None
