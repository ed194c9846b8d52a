"""Walk ladders for several seeds at once, round by round, until each has its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kvsim.bisection import Bisection
from kvsim.search_knobs import Ladder
from kvsim.search_point import Outcome, Point
from kvsim.search_store import Store
from kvsim.slo import Bound, holds

Progress = Callable[[int, int, str], None]
"""Told runs done, runs expected in all (a guess that gets better), and what is being looked for."""


@dataclass(slots=True)
class Walk:
    """The search of one seed along one ladder."""

    ladder: Ladder
    seed: int
    base: Point
    """Settings and price that all its points share."""
    bisection: Bisection = field(init=False)
    points: list[Point] = field(default_factory=list)
    """Points tried, in that order."""

    def __post_init__(self) -> None:
        """Begin where the ladder says."""
        ladder = self.ladder
        self.bisection = Bisection(ladder.start, ladder.step, ladder.least, ladder.most)

    @property
    def point(self) -> Point | None:
        """The run that is needed next; None when the answer is known."""
        rung = self.bisection.rung
        return None if rung is None else self.ladder.point(rung, self.seed, self.base)

    def tell(self, outcome: Outcome, bounds: Sequence[Bound]) -> None:
        """Take the outcome of that run."""
        point = self.point
        assert point is not None
        self.points.append(point)
        self.bisection.tell(holds(bounds, outcome.figures))

    @property
    def value(self) -> float | None:
        """The hardest value that keeps to the limits; None where none does."""
        best = self.bisection.best
        return None if best is None else self.ladder.value(best)


class Tracker:
    """Counts the runs of a whole search, whose number is not known in advance."""

    def __init__(self, store: Store, progress: Progress | None) -> None:
        """Report to `progress` as runs end."""
        self._store, self._progress = store, progress
        self.later = 0
        """Runs that parts of the search which have not begun will need, about."""

    def fetch(self, points: Sequence[Point], after: int, what: str) -> None:
        """Have these points run, with about `after` more to come in this part."""
        waiting = len([point for point in dict.fromkeys(points) if point not in self._store.outcomes])
        begun = self._store.runs

        def done() -> None:
            if self._progress is not None:
                left = waiting - (self._store.runs - begun) + after + self.later
                self._progress(self._store.runs, self._store.runs + max(left, 0), what)

        self._store.fetch(points, done)


def walk_all(
    walks: Sequence[Walk], store: Store, bounds: Sequence[Bound], tracker: Tracker, what: str
) -> None:
    """Run every walk to its end; those that stand at the same time run side by side."""
    while True:
        open_walks = [walk for walk in walks if walk.point is not None]
        if not open_walks:
            return
        asked = [(walk, point) for walk in open_walks if (point := walk.point) is not None]
        after = sum(walk.bisection.remaining - 1 for walk in open_walks)
        tracker.fetch([point for _, point in asked], after, what)
        for walk, point in asked:
            walk.tell(store.outcomes[point], bounds)
