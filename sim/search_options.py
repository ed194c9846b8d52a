"""How a search looks for its answer: limits, seeds, precision, bounds."""

from __future__ import annotations

from dataclasses import dataclass

from kvsim.errors import InputError

DEFAULT_SEEDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """What a search is asked for, besides the knob and the settings of its runs."""

    slo: str = "stable"
    """Limits with commas: ttft, tpot, itl, e2e or queue, with _mean, _p50, _p90, _p95 or _p99, as in
    ttft_p99=2s,tpot_p99=50ms; stable for a queue that does not grow, which a highest rate has to keep too unless
    stable=no; goodput=95%, failed=1%, hit_rate=30%, preemptions=0, throughput=5/s, output_throughput=900/s. Exit code
    1 says that no value keeps to them."""
    objective: str = "rate"
    """What the best setting is best at: rate (the highest within the limits), or a figure at the traffic's own rate, as
    in output_throughput, goodput or ttft_p99."""
    seeds: int | None = None
    """Draws of the traffic, from the first seed on; 5 unless given, 1 where draws do not differ."""
    precision: float = 0.01
    """Step between two rates, as a share; scores that differ by no more are as good."""
    low: float | None = None
    """Least value of the knob to try."""
    high: float | None = None
    """Largest value of the knob to try."""
    cost_error: float | None = None
    """Share by which step times may be wrong, where the cost profile does not say; the answer gets a band from it."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.seeds is not None and self.seeds < 1:
            raise InputError(f"--seeds must be at least 1, got {self.seeds}")
        if not 1e-4 <= self.precision <= 0.5:
            raise InputError(f"--precision must be a share from 0.0001 to 0.5, got {self.precision:g}")
        for flag, bound in (("--low", self.low), ("--high", self.high)):
            if bound is not None and not 0 < bound < float("inf"):
                raise InputError(f"{flag} must be a number above 0, got {bound:g}")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise InputError(f"--low must be at most --high, got {self.low:g} and {self.high:g}")
        if self.cost_error is not None and not 0 < self.cost_error < 1:
            raise InputError(f"--cost-error must be a share above 0 and below 1, got {self.cost_error:g}")

    def draws(self, first: int, varies: bool) -> tuple[int, ...]:
        """Return the seeds to draw with."""
        count = (DEFAULT_SEEDS if self.seeds is None else self.seeds) if varies else 1
        return tuple(range(first, first + count))
