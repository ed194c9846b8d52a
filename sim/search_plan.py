"""What a search was asked for."""

from __future__ import annotations

from dataclasses import dataclass

from kvsim.errors import InputError
from kvsim.search_knobs import RATE, SMALLEST, UNITS
from kvsim.search_point import Setup
from kvsim.slo import STABLE, Bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A knob, the limits, the seeds, and how finely to look."""

    knob: str
    setup: Setup
    bounds: tuple[Bound, ...]
    """Limits that every value has to keep to."""
    objective: Bound | None
    """What is to be the best, for knobs that have a best value; None for the highest rate within the limits."""
    seeds: tuple[int, ...]
    precision: float
    """Relative step between two rates."""
    low: float | None
    high: float | None
    cost_label: str
    cost_error: float | None
    """Relative error of the step times; None where none is known."""
    is_error_stated: bool
    """Whether the error is the cost profile's own, not the user's."""

    @property
    def unit(self) -> str:
        """What a value of the knob counts."""
        return self.rate_unit if self.knob == RATE else UNITS[self.knob]

    @property
    def rate_unit(self) -> str:
        """What a rate counts: requests, or session starts where later requests wait for answers."""
        drawn = self.setup.traffic.draw(self.seeds[0], 1.0)
        return "requests/s" if drawn.parent is None else "session starts/s"

    @property
    def scans_rates(self) -> bool:
        """Whether rates are walked, not only a setting at the traffic's own rate."""
        return self.knob == RATE or (self.knob not in SMALLEST and self.objective is None)

    @property
    def score_unit(self) -> str:
        """What the objective counts."""
        if self.objective is None:
            return self.rate_unit
        return {"ms": "ms", "%": "share"}.get(self.objective.unit, self.objective.unit)

    def check(self) -> None:
        """Raise InputError for limits that the traffic or the settings cannot have."""
        wanted = (*self.bounds, *([self.objective] if self.objective else []))
        if any(bound.key == "good_share" for bound in wanted) and self.setup.config.goodput is None:
            raise InputError(
                "goodput needs --goodput to say which requests are good, as in --goodput ttft:200,tpot:50"
            )
        if self.scans_rates:
            return
        if self.setup.traffic.own_rate is not None:
            return
        if STABLE in self.bounds:
            raise InputError(
                f"{self.setup.traffic.name}: all requests arrive at once, so that a queue cannot but grow; give an "
                "arrival rate, or limits other than stable"
            )
