"""What a check came to: ours beside the published, and whether that is near enough."""

from __future__ import annotations

import math
from typing import NamedTuple

from kvsim.validate_table import Check, Interval, Value

FLOAT_NOISE = 1e-9
"""Relative; so that a value on the edge of a band is inside."""

GOOD = {"E": "exact", "T": "in band", "physics": "holds"}
BAD = {"E": "OFF", "T": "OUT OF BAND", "physics": "BROKEN"}
KNOWN_MISS = "known miss"
FAILED = "FAILED"
NOT_THERE = "needs trace"
"""A trace that the check needs is not there."""
NOT_YET = "not yet"
"""A feature that the check needs is not there."""
CONTEXT = "context"
"""Nothing to judge: conditions are not known, or it is an input or a definition. Ours may stand beside it."""


class Row(NamedTuple):
    """A check with its outcome."""

    check: Check
    ours: Value | Interval | None
    """In the check's unit; None where nothing ran."""
    verdict: str
    note: str = ""
    """Why it is unchecked, missed or failed."""

    @property
    def is_fine(self) -> bool:
        """Whether the exit code may be 0: nothing that was checked is off without a documented cause."""
        return self.verdict not in (*BAD.values(), FAILED)

    @property
    def was_checked(self) -> bool:
        """Whether there are two numbers to compare."""
        return self.ours is not None

    @property
    def number(self) -> Value | None:
        """Ours, of an interval its middle."""
        return self.ours.value if isinstance(self.ours, Interval) else self.ours

    @property
    def difference(self) -> float | None:
        """Ours − published, in the check's unit; None where they are no two numbers, or the published is a range."""
        ours, published = self.number, self.check.published
        if isinstance(ours, int | float) and isinstance(published, int | float):
            return ours - published
        return None

    @property
    def relative(self) -> float | None:
        """The difference as a share of the published."""
        published, difference = self.check.published, self.difference
        if difference is None or not isinstance(published, int | float) or not published:
            return None
        return difference / abs(published)


def judge(check: Check, found: Value | Interval) -> Row:
    """Compare what a measure found with what was published."""
    ours = _scaled(found, check.scale)
    if check.kind not in GOOD:
        return Row(check, ours, CONTEXT)
    if _is_near(check, ours):
        return Row(check, ours, GOOD[check.kind])
    miss = check.miss
    middle = ours.value if isinstance(ours, Interval) else ours
    if miss is not None and isinstance(middle, int | float) and miss.least <= middle <= miss.most:
        return Row(check, ours, KNOWN_MISS, miss.cause)
    return Row(check, ours, BAD[check.kind])


def unchecked(check: Check) -> Row:
    """Return the row of a check that nothing reruns."""
    reason = check.unchecked.removeprefix(f"{NOT_YET}: ")
    return Row(check, None, CONTEXT if reason == check.unchecked else NOT_YET, reason)


def _scaled(found: Value | Interval, scale: float) -> Value | Interval:
    if isinstance(found, Interval):
        return Interval(*(each / scale for each in found))
    if scale == 1 or isinstance(found, str | tuple):
        return found
    return found / scale


def _is_near(check: Check, ours: Value | Interval) -> bool:
    kind, size = check.tolerance
    published = check.published
    if kind == "between" and isinstance(published, tuple):
        low, high = (float(each) for each in published)
        middle = ours.value if isinstance(ours, Interval) else ours
        return isinstance(middle, int | float) and low <= middle <= high
    if isinstance(ours, Interval) and isinstance(published, int | float):
        spare = _half_width(kind, size, published) + abs(published) * FLOAT_NOISE
        return ours.low - spare <= published <= ours.high + spare
    if not isinstance(published, int | float) or isinstance(ours, str | tuple):
        return kind == "equal" and ours == published
    slack = abs(published) * FLOAT_NOISE
    if kind == "equal":
        return ours == published
    if kind == "least":
        return ours >= published - slack
    if kind == "most":
        return ours <= published + slack
    return math.isfinite(ours) and abs(ours - published) <= _half_width(kind, size, published) + slack


def _half_width(kind: str, size: float, published: float) -> float:
    """Return how far from the published a number may be, in its unit."""
    if kind == "digits":
        return 0.5 * float(10.0**-size)
    return {"within": size * abs(published), "plus_minus": size}.get(kind, 0.0)
