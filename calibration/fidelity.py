"""The fidelity check: steps that the simulator scheduled, executed and timed, beside what a profile predicts."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal, NamedTuple

import numpy as np

from kvsim.calibration.fidelity_executor import Executor
from kvsim.calibration.fidelity_steps import ScheduledStep
from kvsim.calibration.session import Progress
from kvsim.calibration.slow_clock import SLOW_CLOCK
from kvsim.calibration.timer import Timer
from kvsim.errors import InputError

DRIFT = 0.03
"""Relative change of the step that is timed first and last, above which there is a warning."""
MOST_FAILURES = 5
"""Steps in a row that may fail before the device is taken for broken."""


class Planned(NamedTuple):
    """A step to be executed, and what a profile says that it takes."""

    layout: str
    """How KV is laid out: `contiguous`, `paged 16`, `prefix`, …"""
    step: ScheduledStep
    predicted: float
    """Seconds."""
    is_inside: bool
    """Whether the profile measured such sizes."""
    population: int
    """Steps of this kind in the run that it was taken from."""


class TimedStep(NamedTuple):
    """A step that was executed."""

    planned: Planned
    ns: tuple[float, ...]
    """Raw times of one execution."""
    mode: Literal["graph", "eager"]
    rows: int
    backends: tuple[str, ...]
    sm_mhz: tuple[float, float] | None

    @property
    def seconds(self) -> float:
        """Return the median time."""
        return float(np.median(self.ns)) * 1e-9

    @property
    def error(self) -> float:
        """Return predicted / measured − 1."""
        return self.planned.predicted / self.seconds - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was executed, and what there is to say about it."""

    steps: tuple[TimedStep, ...]
    """In the order in which they were planned."""
    checks: dict[str, float]
    """By layout, how far logits were off the float64 reference."""
    warnings: tuple[str, ...]
    drift: float | None
    """How the first step changed until the end; None where it was timed once."""
    is_interrupted: bool
    remaining: int
    """Planned steps that were not executed."""


@dataclass(slots=True, kw_only=True)
class FidelitySession:
    """Executes planned steps within a budget, layouts and kinds in turn: whatever ends it leaves some of each."""

    executor: Executor
    timer: Timer
    planned: Sequence[Planned]
    budget: float
    """Seconds, numeric checks included."""
    repeats: int = 5
    """Executions of a step, at least, warm-up aside."""
    seed: int = 0
    report: Callable[[Progress], None] = lambda progress: None
    clock: Callable[[], float] = time.monotonic
    warnings: list[str] = field(default_factory=list)
    _timed: dict[int, TimedStep] = field(default_factory=dict)

    def run(self) -> Outcome:
        """Check every layout, then time steps; Ctrl-C ends it like the budget does."""
        start = self.clock()
        checks: dict[str, float] = {}
        drift, is_interrupted = None, False
        try:
            layouts = list(dict.fromkeys(planned.layout for planned in self.planned))
            for number, layout in enumerate(layouts):
                self.report(Progress(number, len(layouts), self.budget, f"checking {layout}"))
                checks[layout] = self.executor.check(layout)
            self._measure(start)
            drift = self._drift()
            self._warn_of_clocks()
        except KeyboardInterrupt:
            is_interrupted = True
        return Outcome(
            steps=tuple(self._timed[place] for place in sorted(self._timed)),
            checks=checks, warnings=tuple(self.warnings), drift=drift, is_interrupted=is_interrupted,
            remaining=len(self.planned) - len(self._timed),
        )  # fmt: skip

    def _measure(self, start: float) -> None:
        order = in_turn(self.planned, self.seed)
        if order:
            self._warm_up(self.planned[order[0]])
        begun = self.clock()
        failures = 0
        for done, place in enumerate(order):
            now = self.clock()
            each = (now - begun) / done if done else 0.0
            left = self.budget - (now - start)
            if left <= each:
                self.warnings.append(
                    f"the budget of {self.budget:g} s ended after {done} of {len(order)} steps"
                )
                return
            planned = self.planned[place]
            eta = min(left, each * (len(order) - done)) if done else left
            self.report(Progress(done, len(order), eta, f"{planned.layout}, {planned.step.kind}"))
            failures = 0 if self._time_or_skip(place) else failures + 1
            if failures == MOST_FAILURES:
                raise InputError(f"{MOST_FAILURES} steps in a row failed; {self.warnings[-1]}")

    def _warm_up(self, planned: Planned) -> None:
        """Time a step for nothing: what runs first in a process is slow."""
        try:
            self._time(planned)
        except RuntimeError as failure:
            self._skipped(planned, failure)

    def _time_or_skip(self, place: int) -> bool:
        planned = self.planned[place]
        try:
            self._timed[place] = self._time(planned)
        except RuntimeError as failure:  # out of memory, or a launch that the driver refuses
            self._skipped(planned, failure)
            return False
        return True

    def _skipped(self, planned: Planned, failure: RuntimeError) -> None:
        reason = (str(failure).splitlines() or [""])[0]
        self.warnings.append(
            f"step {planned.step.number} of {planned.layout} could not be timed: {type(failure).__name__}: {reason}"
        )

    def _time(self, planned: Planned) -> TimedStep:
        ready = self.executor.prepare(planned.layout, planned.step)
        found = self.timer.measure(ready.call, 1, self.repeats, eager=True)
        return TimedStep(planned, found.ns, ready.mode, ready.rows, ready.backends, found.sm_mhz)

    def _drift(self) -> float | None:
        """Time the first step once more and compare."""
        first = next(iter(self._timed.values()), None)
        if first is None:
            return None
        drift = self._time(first.planned).seconds / first.seconds - 1
        if abs(drift) > DRIFT:
            self.warnings.append(f"drift: the first step took {drift:+.1%} at the end")
        return drift

    def _warn_of_clocks(self) -> None:
        """Say how many steps ran at a clock well under the others'."""
        clocks = [min(step.sm_mhz) for step in self._timed.values() if step.sm_mhz]
        if clocks:
            normal = median(clocks)
            slow = sum(clock < SLOW_CLOCK * normal for clock in clocks)
            if slow:
                self.warnings.append(
                    f"{slow} steps ran under {SLOW_CLOCK:.0%} of the median clock, {normal:.0f} MHz"
                )


def in_turn(planned: Sequence[Planned], seed: int) -> list[int]:
    """Return places in an order that visits layouts and kinds in turn, each shuffled."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place in np.random.default_rng(seed).permutation(len(planned)).tolist():
        groups[planned[place].layout, planned[place].step.kind].append(place)
    return list(_round_robin(groups[key] for key in sorted(groups)))


def _round_robin(groups: Iterable[list[int]]) -> Iterable[int]:
    waiting = deque(deque(group) for group in groups)
    while waiting:
        group = waiting.popleft()
        yield group.popleft()
        if group:
            waiting.append(group)
