"""Points that were timed while the card's clock was low: found, timed once more, and both times kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from kvsim.calibration.points import Point

SLOW_CLOCK = 0.9
"""Share of the run's median SM clock under which a point is timed again, and flagged if it stays there."""


def normal_clock(points: Sequence[Point]) -> float | None:
    """Return the median over the points of the lower of both clock readings, in MHz; None where none was read."""
    return median(clocks) if (clocks := [min(point.sm_mhz) for point in points if point.sm_mhz]) else None


def slow_points(points: Sequence[Point]) -> list[Point]:
    """Return the points whose SM clock was more than a tenth under the median of all."""
    normal = normal_clock(points)
    if normal is None:
        return []
    return [point for point in points if point.sm_mhz and min(point.sm_mhz) < SLOW_CLOCK * normal]


def flag_clocks(points: Sequence[Point]) -> list[Point]:
    """Flag the slow points."""
    slow = {point.id for point in slow_points(points)}
    return [replace(point, flags=(*point.flags, "clock")) if point.id in slow else point for point in points]


def with_both(first: Point, again: Point) -> Point:
    """Return the timing with the faster clock, and beside it the times of the other."""
    if again.sm_mhz and first.sm_mhz and min(again.sm_mhz) < min(first.sm_mhz):
        first, again = again, first
    return replace(again, slow_ns=first.ns, slow_sm_mhz=first.sm_mhz)
