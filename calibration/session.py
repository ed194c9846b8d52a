"""One calibration: check kernels, time the grid in shuffled order within a budget, watch for drift, and gate."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from kvsim.calibration.bench import Bench
from kvsim.calibration.grid import Planned, shuffled
from kvsim.calibration.held_out import with_enough_fitted
from kvsim.calibration.partial_file import PartialFile
from kvsim.calibration.peak_gate import Peak, bytes_read, gate_points
from kvsim.calibration.points import Point
from kvsim.calibration.slow_clock import SLOW_CLOCK, flag_clocks, normal_clock, slow_points, with_both
from kvsim.calibration.timer import LEAST_REPEATS, Timer
from kvsim.errors import InputError
from kvsim.model import KV_BITS

DRIFT = 0.03
"""Relative change of a sentinel's median that is warned of."""
SENTINEL_EVERY = 50
"""Points between two repeats of the sentinels."""
RETIMING_SHARE = 0.1
"""Most of the budget that is set aside to time points with a slow clock again."""
MOST_FAILURES = 5
"""Points in a row that may fail before the device is taken for broken."""


class Progress(NamedTuple):
    """Where a calibration stands."""

    done: int
    total: int
    """Points that are expected to fit the budget."""
    eta_seconds: float
    """Until the last of them, or the budget's end."""
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was measured, and what there is to say about it."""

    points: tuple[Point, ...]
    sentinels: tuple[object, ...]
    warnings: tuple[str, ...]
    dropped: int
    """Points of the grid that the budget did not allow."""


@dataclass(slots=True, kw_only=True)
class Session:
    """Times a grid with a timer on a bench; `run` may be interrupted and leaves what was measured in `partial`."""

    bench: Bench
    timer: Timer
    grid: Sequence[Planned]
    """Most needed first."""
    partial: PartialFile
    budget: float = 300.0
    """Seconds for everything, numeric checks included."""
    seed: int = 0
    peak: Peak | None = None
    """What no point may exceed; None where unknown."""
    repeats: int = LEAST_REPEATS
    report: Callable[[Progress], None] = lambda progress: None
    clock: Callable[[], float] = time.monotonic
    """Seconds, for the budget."""
    warnings: list[str] = field(default_factory=list)

    def run(self) -> Outcome:
        """Measure, starting with what is not in the partial file, until all is done or the budget is spent."""
        start = self.clock()
        known = {point.id for point in self.partial.points}
        remaining = [planned for planned in self.grid if planned.id not in known]
        self._check(remaining)
        sentinels = self._sentinels()
        self._warm_up(sentinels)
        measured = self._measure(remaining, sentinels, start)
        self._retime(start)
        self._repeat(sentinels)
        points = with_enough_fitted(gated(flag_clocks(self.partial.points), self.peak))
        self._warn(points, remaining, measured)
        return Outcome(
            points=tuple(points),
            sentinels=tuple(self.partial.sentinels),
            warnings=tuple(self.warnings),
            dropped=len(self.grid) - len(self.partial.points),
        )

    def _check(self, remaining: Sequence[Planned]) -> None:
        """Let every kind of kernel prove itself before anything is timed."""
        for number, planned in enumerate(remaining):
            self.report(Progress(number, len(remaining), self.budget, "checking kernels"))
            self.bench.check(planned)

    def _measure(self, remaining: Sequence[Planned], sentinels: Sequence[Planned], start: float) -> int:
        """Time points in shuffled order, those that the budget will not reach left to the end; return how many."""
        rank = {planned.id: number for number, planned in enumerate(remaining)}
        waiting = shuffled(remaining, self.seed)
        begun = self.clock()
        done = failures = 0
        while waiting:
            now = self.clock()
            each = (now - begun) / done if done else 0.0
            left = self.budget - (now - start) - self._set_aside(each)
            if left <= each:
                break
            if done % SENTINEL_EVERY == 0:
                self._repeat(sentinels)
            fitting = len(waiting) if not each else min(len(waiting), int(left / each))
            last = sorted(rank[planned.id] for planned in waiting)[fitting - 1]
            chosen = next(planned for planned in waiting if rank[planned.id] <= last)
            waiting.remove(chosen)
            self.report(Progress(done, done + fitting, fitting * each or left, chosen.set))
            failures = 0 if self._time_or_skip(chosen) else failures + 1
            if failures == MOST_FAILURES:
                raise InputError(f"{MOST_FAILURES} points in a row failed; {self.warnings[-1]}")
            done += 1
        return done

    def _time_or_skip(self, planned: Planned) -> bool:
        try:
            self.partial.add(self._timed(planned))
        except RuntimeError as failure:  # out of memory, or a launch that the driver refuses
            self._skipped(planned, failure)
            return False
        return True

    def _skipped(self, planned: Planned, failure: RuntimeError) -> None:
        reason = (str(failure).splitlines() or [""])[0]
        self.warnings.append(f"{planned.id} could not be timed: {type(failure).__name__}: {reason}")

    def _timed(self, planned: Planned) -> Point:
        ready = self.bench.prepare(planned)
        found = self.timer.measure(ready.call, ready.calls, self.repeats, ready.eager)
        told = found.readings._asdict()
        return replace(ready.point, ns=found.ns, mode=found.mode, calls=found.calls, **told)

    def _slow(self) -> list[Point]:
        """Return points that were timed once, at a slow clock."""
        return [point for point in slow_points(self.partial.points) if not point.slow_ns]

    def _set_aside(self, each: float) -> float:
        return min(each * len(self._slow()), RETIMING_SHARE * self.budget)

    def _retime(self, start: float) -> None:
        """Time points with a slow clock once more, as far as the budget reaches, and keep both times."""
        planned = {each.id: each for each in self.grid}
        slow, begun, done = self._slow(), self.clock(), 0
        for point in slow:
            now = self.clock()
            each = (now - begun) / done if done else 0.0
            if self.budget - (now - start) <= each:
                break
            self.report(Progress(done, len(slow), each * (len(slow) - done), "slow clock, again"))
            try:
                self.partial.add(with_both(point, self._timed(planned[point.id])))
            except RuntimeError as failure:
                self._skipped(planned[point.id], failure)
            done += 1
        if slow:
            self.warnings.append(
                f"{done} of {len(slow)} points were timed again: their SM clock was under {SLOW_CLOCK:.0%} of the "
                f"median, {normal_clock(self.partial.points):.0f} MHz"
            )

    def _sentinels(self) -> list[Planned]:
        """Return one decode and one product, of middling size."""
        picked = []
        for group in ("D1", "G"):
            alike = [planned for planned in self.grid if planned.set == group and not planned.held_out]
            alike.sort(key=lambda planned: (sum(planned.case.kv) if planned.case else planned.m, planned.id))
            picked += alike[len(alike) // 2 : len(alike) // 2 + 1]
        return picked

    def _warm_up(self, sentinels: Sequence[Planned]) -> None:
        """Time the sentinels for nothing: what runs first in a process is slow, and no drift."""
        for planned in sentinels:
            try:
                self._timed(planned)
            except RuntimeError as failure:
                self._skipped(planned, failure)

    def _repeat(self, sentinels: Sequence[Planned]) -> None:
        """Time the sentinels again and compare with their first time."""
        for planned in sentinels:
            try:
                point = self._timed(planned)
            except RuntimeError as failure:
                self._skipped(planned, failure)
                continue
            first = next((each["ns"] for each in self.partial.sentinels if each["id"] == planned.id), None)
            ns = point.seconds * 1e9
            drift = 0.0 if first is None else ns / first - 1
            after = len(self.partial.points)
            self.partial.add_sentinel(
                {"id": planned.id, "after": after, "ns": ns, "drift": drift, "sm_mhz": point.sm_mhz}
            )
            if abs(drift) > DRIFT:
                self.warnings.append(f"drift: {planned.id} took {drift:+.1%} after {after} points")

    def _warn(self, points: Sequence[Point], remaining: Sequence[Planned], measured: int) -> None:
        known = {point.id for point in points}
        missing = Counter(planned.set for planned in self.grid if planned.id not in known)
        if missing:
            sets = ", ".join(f"{count} of {name}" for name, count in sorted(missing.items()))
            self.warnings.append(f"{sum(missing.values())} of {len(self.grid)} points were not timed: {sets}")
        for flag in ("above-peak", "clock"):
            named = [point.id for point in points if flag in point.flags]
            if named:
                self.warnings.append(f"{len(named)} points are flagged {flag}: {', '.join(named[:5])}")


def gated(points: Sequence[Point], peak: Peak | None) -> list[Point]:
    """Flag points above the card's peak; what is shared counts once, since only then it comes from memory."""
    if peak is None:
        return list(points)
    found = []
    for point in points:
        flagged = gate_points([point], peak, repeats_in_cache=False)[0]
        if point.shared_tokens and _unique_bytes(point) <= peak.bandwidth * point.seconds:
            flagged = point
        found.append(replace(flagged, cold=point.cold, flags=tuple(dict.fromkeys(flagged.flags))))
    return found


def _unique_bytes(point: Point) -> float:
    bits, scale = KV_BITS[point.kv_dtype]
    token = 2 * point.heads[1] * (point.heads[2] * bits / 8 + scale)
    return bytes_read(point) - point.shared_tokens * token
