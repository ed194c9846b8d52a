"""The best value of a setting that can be too small and too large."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

from kvsim.search_edge import capacity_guess
from kvsim.search_estimate import Estimate
from kvsim.search_knobs import BEST, best_values, rate_ladder
from kvsim.search_plan import Plan
from kvsim.search_point import Point
from kvsim.search_result import Band, Score, Search
from kvsim.search_store import Store
from kvsim.search_walk import Tracker, Walk, walk_all
from kvsim.slo import holds

NEAR = 1.1
"""Ratio of neighbours on the ladder below which nothing is tried between them."""


class BestSearch:
    """Score a coarse ladder everywhere, then look ever closer around the best, so that no second hill is missed.

    The score of a value is the highest rate that it serves within the limits, or the objective's figure at the
    traffic's own rate. Values that do not keep to the limits in every seed have none. Among values whose means lie
    within the precision of the best one's, the present setting is kept if it is one of them, else the smallest is
    taken.
    """

    def __init__(self, plan: Plan, store: Store, tracker: Tracker) -> None:
        """Take what to look for and where to have it run."""
        self.plan, self.store, self.tracker = plan, store, tracker
        self.setting = BEST[plan.knob]
        self.own = int(getattr(plan.setup.config, self.setting))
        self.scores: dict[int, Score] = {}
        self._guesses: dict[int, float] = {}
        self._points: list[Point] = []

    def run(self) -> Search:
        """Search, and return the answer."""
        plan = self.plan
        values = best_values(plan.knob, plan.setup, plan.low, plan.high)
        if values[0] <= self.own <= values[-1]:
            values = sorted({*values, self.own})
        self.tracker.later = self._runs(4 if plan.knob != "block-size" else 0)
        self._add(values)
        while plan.knob != "block-size" and (between := self._between()):
            self.tracker.later = self._runs(2)
            self._add(between)
        self.tracker.later = 0
        best = self.best
        points = list(self._points)
        band = None if best is None else self._band(best)
        return Search(
            plan, self.store.outcomes, points, scores=self.scores, best=best, own=self.own, band=band
        )

    @property
    def best(self) -> int | None:
        """The present setting if it scores as well as any, else the smallest value that does."""
        return _best(self.plan, self.scores, self.own)

    def _runs(self, values: int) -> int:
        a_value = 8 if self.plan.objective is None else 1
        return values * a_value * len(self.plan.seeds)

    def _between(self) -> list[int]:
        """Return values halfway, by ratio, between the best and neighbours that differ from it, where there is room."""
        best, values = self.best, sorted(self.scores)
        if best is None:
            return []
        found = []
        for left, right in pairwise(values):
            middle = round(math.sqrt(left * right))
            if best in (left, right) and right / left > NEAR and left < middle < right:
                other = self.scores[right if best == left else left].mean
                top = self.scores[best].mean
                if other is None or top is None or abs(other - top) > self.plan.precision * abs(top):
                    found.append(middle)
        return found

    def _add(self, values: Iterable[int]) -> None:
        new = [value for value in values if value not in self.scores]
        self.scores |= self._score(new, 1.0)

    def _score(self, values: list[int], factor: float) -> dict[int, Score]:
        bases = {value: Point(0, None, ((self.setting, value),), factor) for value in values}
        if self.plan.objective is None:
            return self._by_rate(bases)
        points = {
            (value, seed): base._replace(seed=seed)
            for value, base in bases.items()
            for seed in self.plan.seeds
        }
        self.tracker.fetch(list(points.values()), 0, self.plan.knob)
        self._points += points.values()
        scores = {}
        for value in values:
            found = [self.store.outcomes[points[value, seed]].figures for seed in self.plan.seeds]
            key = self.plan.objective.key
            numbers = [each.get(key) if holds(self.plan.bounds, each) else None for each in found]
            at = tuple(points[value, seed] for seed in self.plan.seeds)
            scores[value] = Score(value, tuple(None if n is None else float(n) for n in numbers), at)
        return scores

    def _by_rate(self, bases: dict[int, Point]) -> dict[int, Score]:
        """Score each value by the highest rate that it serves within the limits."""
        plan = self.plan
        asked = [base.changes for value, base in bases.items() if value not in self._guesses]
        guesses = capacity_guess(plan, self.store, self.tracker, asked) if asked else {}
        self._guesses |= {int(changes[0][1]): guess for changes, guess in guesses.items()}
        walks = {
            value: [
                Walk(rate_ladder(self._guesses[value], plan.precision, None, None), seed, base)
                for seed in plan.seeds
            ]
            for value, base in bases.items()
            if value in self._guesses
        }
        walk_all(
            [walk for each in walks.values() for walk in each],
            self.store,
            plan.bounds,
            self.tracker,
            plan.knob,
        )
        scores = {value: Score(value, (None,), ()) for value in bases}
        for value, each in walks.items():
            at = tuple(
                walk.ladder.point(walk.bisection.best, walk.seed, walk.base)
                for walk in each
                if walk.bisection.best is not None
            )
            scores[value] = Score(value, tuple(walk.value for walk in each), at)
            self._points += [point for walk in each for point in walk.points]
        return scores

    def _band(self, best: int) -> Band | None:
        """Score the best and its neighbours again at cost × (1 ± error)."""
        error, values = self.plan.cost_error, sorted(self.scores)
        if error is None:
            return None
        place = values.index(best)
        near = values[max(place - 1, 0) : place + 2]
        before = len(self._points)
        self.tracker.later = self._runs(len(near))
        slow = self._score(near, 1 + error)
        self.tracker.later = 0
        fast = self._score(near, 1 - error)
        ends = [_estimate(scores[best]) for scores in (slow, fast)]
        best_then = tuple(_best(self.plan, scores, best) for scores in (slow, fast))
        return Band(error, ends[0], ends[1], points=tuple(self._points[before:]), best=best_then)


def _best(plan: Plan, scores: dict[int, Score], own: int) -> int | None:
    means = {value: mean for value, score in scores.items() if (mean := score.mean) is not None}
    if not means:
        return None
    if plan.objective is not None and plan.objective.at_most:
        least = min(means.values())
        good = [value for value, mean in means.items() if mean <= least * (1 + plan.precision)]
    else:
        most = max(means.values())
        good = [value for value, mean in means.items() if mean >= most * (1 - plan.precision)]
    return own if own in good else min(good)


def _estimate(score: Score) -> Estimate | None:
    known = [value for value in score.values if value is not None]
    return Estimate.of(known) if len(known) == len(score.values) else None
