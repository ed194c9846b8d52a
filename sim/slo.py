"""Limits that a run has to meet, as in `ttft_p99=2s,tpot_p99=50ms,stable`: read, held against a run, put in words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvsim.errors import InputError, nearest

LATENCIES = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2e": "e2el", "e2el": "e2el", "queue": "queue"}
"""Latencies that can be limited, and their name in a summary."""
STATISTICS = ("mean", "median", "p50", "p90", "p95", "p99")
"""What of a latency's distribution is limited."""
SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
"""Units of a latency; a number without one is refused, since servers count in ms and people in s."""

STABLE_GROWTH = 0.01
"""Share of the arrivals that may pile up in a queue that is said not to grow; see `kvsim.backlog`."""

Figures = Mapping[str, float | int | None]
"""What a run measured: its summary, and `queue_growth`, `failed_share`, `good_share`."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One figure of a run and what it has to keep to."""

    name: str
    """As the user wrote it."""
    key: str
    """Where it is in the figures."""
    limit: float
    """In the figure's own unit."""
    at_most: bool = True
    """Whether the limit is the most allowed, or the least."""
    unit: str = ""
    """`ms` for latencies, `%` for shares; empty for plain numbers."""

    def holds(self, figures: Figures) -> bool:
        """Tell whether a run keeps to it; a figure that the run does not have breaks it."""
        value = figures.get(self.key)
        if value is None:
            return False
        return value <= self.limit if self.at_most else value >= self.limit

    def strain(self, figures: Figures) -> float:
        """Return value / limit, or limit / value for a least: above 1 the bound is broken.

        Where the limit is 0 it is 0 for a run that holds and infinite for one that does not.
        """
        value = figures.get(self.key)
        if value is None:
            return math.inf
        above, below = (value, self.limit) if self.at_most else (self.limit, value)
        if below > 0:
            return max(above, 0.0) / below
        return 0.0 if self.holds(figures) else math.inf

    def words(self) -> str:
        """Say what is asked for."""
        if self.key == "queue_growth":
            return "a queue that does not grow"
        return f"{self.label} {'≤' if self.at_most else '≥'} {self.text(self.limit)}"

    def found(self, figures: Figures) -> str:
        """Say what a run has instead."""
        value = figures.get(self.key)
        if value is None:
            return f"{self.label} is missing, for nothing completed"
        if self.key == "queue_growth":
            return f"{value:.1%} of the arrivals piled up"
        return f"{self.label} was {self.text(value)}"

    @property
    def label(self) -> str:
        """The figure's name for a table, without its unit."""
        return "queue growth" if self.key == "queue_growth" else self.name.replace("_", " ")

    def text(self, value: float) -> str:
        """Write a value of this figure with its unit."""
        if self.unit == "ms":
            return f"{value / 1e3:,.4g} s" if value >= 1000 else f"{value:.4g} ms"
        if self.unit == "%":
            return f"{100 * value:.4g} %"
        return f"{value:,.6g}{self.unit}"


STABLE = Bound("stable", "queue_growth", STABLE_GROWTH, unit="%")
"""The queue does not grow."""
COMPLETE = Bound("failed", "failed_share", 0.0, unit="%")
"""Every request completes that any setting could complete; holds unless `failed=` says otherwise."""

COUNTS = {
    "goodput": ("good_share", False, "%"),
    "failed": ("failed_share", True, "%"),
    "hit_rate": ("prefix_cache_hit_rate", False, "%"),
    "preemptions": ("preemptions", True, ""),
    "throughput": ("request_throughput", False, "/s"),
    "output_throughput": ("output_throughput", False, "/s"),
}
"""Other figures: key, whether the limit is the most, unit."""


def parse_slo(text: str, *, sustainable: bool = False) -> tuple[Bound, ...]:
    """Read limits with commas between them.

    `LATENCY_STATISTIC=TIME` with ttft, tpot, itl, e2e or queue, mean, median, p50, p90, p95 or p99, and us, ms, s
    or min; `stable`; `goodput=95%` (requests within --goodput's limits), `failed=1%`, `hit_rate=30%`,
    `preemptions=0`, `throughput=5/s`, `output_throughput=900/s`. Unless `failed` is limited, no request may fail
    that any setting could serve. With `sustainable`, `stable` goes without saying unless `stable=no` takes it away.
    """
    bounds: list[Bound] = []
    parts = [part.strip() for part in text.split(",")]
    if sustainable and not {"stable", "stable=no"} & set(parts):
        parts.append("stable")
    for part in parts:
        if part == "stable=no":
            continue
        bound = _bound(part)
        if any(bound.key == other.key for other in bounds):
            raise InputError(f"--slo limits {bound.name!r} twice, got {text!r}")
        bounds.append(bound)
    return tuple(bounds) if any(bound.key == COMPLETE.key for bound in bounds) else (COMPLETE, *bounds)


def parse_objective(name: str) -> Bound | None:
    """Read what is to be the best: a figure that can be limited, or `rate` (None here), the highest within limits."""
    if name == "rate":
        return None
    if name in COUNTS:
        key, at_most, unit = COUNTS[name]
        return Bound(name, key, 0.0, at_most, unit)
    if "=" in name or name == "stable":
        raise InputError(f"--objective takes the name of one figure, as in output_throughput, got {name!r}")
    return _bound(f"{name}=1s")


def strain(bounds: Sequence[Bound], figures: Figures) -> float:
    """Return the strain of the bound that is nearest to breaking, or most broken."""
    return max((bound.strain(figures) for bound in bounds), default=0.0)


def holds(bounds: Sequence[Bound], figures: Figures) -> bool:
    """Tell whether a run keeps to all of them."""
    return all(bound.holds(figures) for bound in bounds)


def words(bounds: Sequence[Bound]) -> str:
    """Say what is asked for; that every request completes goes without saying."""
    said = [bound.words() for bound in bounds if bound != COMPLETE] or ["every request completed"]
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"


def _bound(text: str) -> Bound:
    name, equals, value = (part.strip() for part in text.partition("="))
    if name == "stable":
        if equals:
            raise InputError(f"--slo stable takes no value but no, got {text!r}")
        return STABLE
    if name in COUNTS:
        key, at_most, unit = COUNTS[name]
        return Bound(name, key, _number(text, value, unit), at_most, unit)
    latency, _, statistic = name.partition("_")
    if latency not in LATENCIES or statistic not in STATISTICS:
        known = [*(f"{one}_{each}" for one in LATENCIES for each in STATISTICS), *COUNTS, "stable"]
        raise InputError(
            f"--slo has no figure {name!r}{nearest(name, known)}; it is LATENCY_STATISTIC=TIME with "
            f"{', '.join(LATENCIES)} and {', '.join(STATISTICS)}, or one of {', '.join(COUNTS)}, or stable"
        )
    return Bound(name, f"{statistic}_{LATENCIES[latency]}_ms", 1e3 * _seconds(text, value), unit="ms")


def _seconds(text: str, value: str) -> float:
    match = re.fullmatch(r"([0-9.eE+-]+)\s*(us|ms|s|min)", value)
    number = _float(match[1]) if match else None
    if match is None or number is None or not number > 0:
        raise InputError(f"--slo needs a time above 0 with its unit, as in 200ms or 2s, got {text!r}")
    return number * SECONDS[match[2]]


def _number(text: str, value: str, unit: str) -> float:
    """Read a share (0.95 or 95%), a rate (5/s or 5) or a count."""
    if unit == "%":
        number = _float(value.removesuffix("%"))
        share = number if number is None or not value.endswith("%") else number / 100
        if share is None or not 0 <= share <= 1:
            raise InputError(f"--slo needs a share from 0 to 1, as in 0.95 or 95%, got {text!r}")
        return share
    number = _float(value.removesuffix("/s") if unit == "/s" else value)
    if number is None or not number >= 0:
        raise InputError(f"--slo needs a number from 0 up, got {text!r}")
    return number


def _float(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
