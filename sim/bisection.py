"""Find the last rung of a ladder that holds: expand a bracket, then halve it."""

from __future__ import annotations


class Bisection:
    """The highest whole number that holds, where whatever is higher is harder.

    Ask `rung` which number to try, `tell` what came out, until `rung` is None; `best` is then the highest that holds.
    It starts at `start` and doubles its steps, from `step`, until one rung holds and another does not. Where holding
    is not monotone it still ends at a rung that holds with one above it that does not.
    """

    def __init__(self, start: int, step: int, least: int, most: int) -> None:
        """Take the rung to begin with, the first step, and the ends of the ladder."""
        assert least <= most
        assert step >= 1
        self.least, self.most = least, most
        self.best: int | None = None
        """Highest rung known to hold."""
        self._broken: int | None = None
        self._step = step
        self.rung: int | None = min(max(start, least), most)
        """Rung to try next; None when all is known."""

    def tell(self, holds: bool) -> None:
        """Take the answer for `rung`, and choose the next."""
        assert self.rung is not None
        if holds:
            self.best = self.rung
        else:
            self._broken = self.rung
        self.rung = self._next()

    @property
    def is_open(self) -> bool:
        """Whether the end of the ladder holds, so that the true answer may lie beyond."""
        return self.best == self.most

    @property
    def remaining(self) -> int:
        """Rungs still to be tried; a guess while one side of the bracket is not known."""
        if self.rung is None:
            return 0
        if self.best is None or self._broken is None:
            return 2 + self._step.bit_length()
        return (self._broken - self.best - 1).bit_length()

    def _next(self) -> int | None:
        low, high = self.best, self._broken
        if low is not None and high is not None:
            return (low + high) // 2 if high - low > 1 else None
        if low is not None:
            if low == self.most:
                return None
            tried = min(low + self._step, self.most)
        else:
            assert high is not None
            if high == self.least:
                return None
            tried = max(high - self._step, self.least)
        self._step *= 2
        return tried
