"""The same traffic again: drawn by seed, at a rate of one's choice.

The mean rate is exact in every draw: start times are stretched until (starts − 1) / (last − first) is the rate asked
for, as vLLM's benchmark stretches its delays to fill requests / rate seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from kvsim.errors import InputError
from kvsim.request import FloatColumn
from kvsim.traces.arrivals import arrivals, source_of_chance
from kvsim.traces.bootstrap import bootstrapped
from kvsim.traces.generate import generate
from kvsim.traces.trace import Trace
from kvsim.traces.transform import sped_up
from kvsim.traces.workloads import workload

RESAMPLINGS = ("gamma", "poisson", "sessions", "none")
"""What a seed draws anew in a recorded trace."""
REGULAR = 1e-3
"""Coefficient of variation of the gaps below which arrivals count as evenly spaced."""


@dataclass(frozen=True, slots=True, eq=False)
class RecordedTraffic:
    """A recorded trace; a seed draws its arrivals, or its sessions, anew.

    `gamma` draws gaps between starts from the gamma distribution with the trace's own mean and coefficient of
    variation, `poisson` from the exponential one; requests keep their order, so what they share lies as far apart as it
    did. `sessions` keeps the start times and draws, with replacement, which session (or lone request) comes at each.
    `none` is the trace itself, whatever the seed.
    """

    trace: Trace
    resampling: str = "gamma"

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if self.resampling not in RESAMPLINGS:
            raise InputError(f"--resample must be one of {', '.join(RESAMPLINGS)}, got {self.resampling!r}")
        if not len(self.trace):
            raise InputError(f"{self.trace.name}: there are no requests")

    @property
    def name(self) -> str:
        """The trace's name."""
        return self.trace.name

    @property
    def requests(self) -> int:
        """Requests in a draw."""
        return len(self.trace)

    @property
    def varies(self) -> bool:
        """Whether seeds differ."""
        if self.resampling == "none":
            return False
        return self.resampling != "gamma" or not self.process.startswith("uniform")

    @property
    def own_rate(self) -> float | None:
        """Starts a second as recorded; None where all start at once."""
        gaps = np.diff(start_times(self.trace))
        mean = float(gaps.mean()) if len(gaps) else 0.0
        return 1 / mean if mean > 0 else None

    @property
    def process(self) -> str:
        """The arrival process that stands for the recorded one: gamma:CV, or what a trace without gaps can have."""
        gaps = np.diff(start_times(self.trace))
        mean = float(gaps.mean()) if len(gaps) else 0.0
        if self.resampling == "poisson" or not mean > 0:
            return "poisson"
        variation = float(gaps.std()) / mean
        return f"gamma:{variation:.6g}" if variation > REGULAR else "uniform"

    @property
    def about(self) -> str:
        """How a seed draws, in words."""
        if self.resampling == "none":
            return "as recorded"
        if self.resampling == "sessions":
            return "sessions drawn with replacement at the recorded start times"
        return f"arrivals drawn anew: {self.process}"

    def identity(self) -> dict[str, object]:
        """Return what a draw depends on besides seed and rate."""
        return {"trace": self.trace.sha256(), "resampling": self.resampling}

    def draw(self, seed: int, rate: float | None = None) -> Trace:
        """Return the traffic of a seed, at so many starts a second, or at the trace's own rate.

        Starts that are all at the same time, and not drawn, stay so at any rate.
        """
        target = self.own_rate if rate is None else rate
        drawn = self.trace
        if self.resampling == "sessions":
            drawn = bootstrapped(drawn, source_of_chance(seed))
        elif self.resampling != "none" and target is not None:
            drawn = _with_starts(drawn, self.process, target, source_of_chance(seed))
        return drawn if target is None else at_rate(drawn, target)


@dataclass(frozen=True, slots=True)
class GeneratedTraffic:
    """A named workload; a seed draws all of it: lengths, contents and arrivals."""

    name: str
    requests: int
    arrival: str = "poisson"
    own_rate: float | None = None
    """Starts a second where no other rate is asked for."""

    @property
    def varies(self) -> bool:
        """Whether seeds differ."""
        return True

    @property
    def about(self) -> str:
        """How a seed draws, in words."""
        return f"generated anew, arrivals {self.arrival}"

    def identity(self) -> dict[str, object]:
        """Return what a draw depends on besides seed and rate."""
        figures = repr(workload(self.name))
        return {"workload": figures, "requests": self.requests, "arrival": self.arrival}

    def draw(self, seed: int, rate: float | None = None) -> Trace:
        """Return the traffic of a seed, at so many starts a second, or at its own rate."""
        target = self.own_rate if rate is None else rate
        if target is None:
            raise InputError(f"workload {self.name} has no arrival rate of its own; give --rate")
        return at_rate(generate(self.name, self.requests, target, seed, self.arrival), target)


def start_times(trace: Trace) -> FloatColumn:
    """Return the arrivals of the rows that wait for nobody's answer, in order."""
    return trace.arrival if trace.parent is None else trace.arrival[trace.parent < 0]


def at_rate(trace: Trace, rate: float) -> Trace:
    """Stretch the arrivals to exactly `rate` starts a second between first and last; think times stay."""
    times = start_times(trace)
    span = float(np.ptp(times)) if len(times) > 1 else 0.0
    return sped_up(trace, rate * span / (len(times) - 1)) if span > 0 else trace


def _with_starts(trace: Trace, process: str, rate: float, rng: np.random.Generator) -> Trace:
    """Draw the start times anew; rows in closed loop stand under their session's start."""
    starts = np.arange(len(trace)) if trace.parent is None else np.flatnonzero(trace.parent < 0)
    times = np.zeros(len(trace))
    times[starts] = arrivals(process, len(starts), rate, rng)
    return (
        replace(trace, arrival=times).checked() if trace.parent is not None else replace(trace, arrival=times)
    )
