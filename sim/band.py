"""How far a run's figures move when every step takes longer or shorter by the cost model's own error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kvsim.config import RunConfig
from kvsim.cost_error import prepare_scaled, stated_error
from kvsim.errors import InputError
from kvsim.policy import Policy
from kvsim.request import Workload
from kvsim.run import prepare_cost, prepare_policy, prepare_pool
from kvsim.summary import Columns, summarise

FIGURES = {
    "request_throughput": "requests/s",
    "output_throughput": "output tokens/s",
    "mean_ttft_ms": "TTFT mean",
    "p50_ttft_ms": "TTFT p50",
    "p99_ttft_ms": "TTFT p99",
    "mean_tpot_ms": "TPOT mean",
    "p50_tpot_ms": "TPOT p50",
    "p99_tpot_ms": "TPOT p99",
}
"""Keys of the summary that get a band, with their names."""
SAID = ("request_throughput", "p50_ttft_ms", "p99_ttft_ms", "p50_tpot_ms", "p99_tpot_ms")
"""Those that are said in a line: what the table of a run shows."""


class Spread(NamedTuple):
    """A figure at shorter steps, at the model's own, and at longer ones."""

    fast: float
    value: float
    slow: float

    @property
    def share(self) -> float:
        """The larger of the two changes, as a share of the value."""
        change = max(abs(self.fast - self.value), abs(self.slow - self.value))
        return change / abs(self.value) if change else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """What an error of the step times does to a run's figures."""

    error: float
    """Relative error of the step times."""
    is_stated: bool
    """Whether it is the cost profile's own, not the user's."""
    figures: Mapping[str, Spread]
    """By key of the summary; those that the run has."""

    def record(self) -> dict[str, object]:
        """Return it as JSON."""
        spreads = {
            name: found._asdict() | {"plus_minus": found.share} for name, found in self.figures.items()
        }
        words = {"cost_error": self.error, "is_stated": self.is_stated, "words": self.words()}
        return words | {"figures": spreads}

    def words(self) -> str:
        """Say it in one line, figure by figure as ± x %."""
        whose = "the cost profile's own error" if self.is_stated else "as given"
        said = {name: self.figures[name] for name in SAID if name in self.figures}
        parts = [f"{FIGURES[name]} {_percent(found.share)}" for name, found in said.items()]
        return f"step times {_percent(self.error)} ({whose}): {', '.join(parts)}"


def known_error(policy: str | Policy, config: RunConfig) -> float | None:
    """Return the relative error that the step cost states of itself; None where nothing was measured."""
    chosen = prepare_policy(policy, config)
    chosen.reset(prepare_pool(None, chosen, config))
    return stated_error(prepare_cost(config, chosen))


def simulate_band(
    workload: Workload,
    policy: str | Policy = "paged",
    config: RunConfig | None = None,
    *,
    error: float | None = None,
    summary: Mapping[str, Any] | None = None,  # Any: numbers, or None where nothing ran
    **changes: Any,  # Any: RunConfig fields by name
) -> Band:
    """Run again with every step shorter, then longer, by the cost model's error, and compare.

    `error` is relative and between 0 and 1; the model's own unless given, and needed where it has none. `summary` is
    that of the run itself, which is run too unless it is handed over. Every step is off by the same share: errors
    that differ from step to step partly cancel, so this is the wider band.
    """
    config = (config or RunConfig()).changed(**changes)
    own = known_error(policy, config) if error is None else None
    size = own if error is None else error
    if size is None:
        raise InputError(f"cost {config.cost!r} states no error of its own; give one, as in --cost-error 0.1")
    if not 0 <= size < 1:
        raise InputError(f"--cost-error must be a share from 0 to below 1, as in 0.1 for ± 10 %, got {size}")
    fast, slow = (_figures(workload, policy, config, factor) for factor in (1 - size, 1 + size))
    base = _figures(workload, policy, config, 1.0) if summary is None else summary
    spreads = {
        name: Spread(fast[name], float(base[name]), slow[name])
        for name in FIGURES
        if base.get(name) and name in fast and name in slow
    }
    return Band(error=size, is_stated=error is None, figures=spreads)


def _figures(workload: Workload, policy: str | Policy, config: RunConfig, factor: float) -> dict[str, float]:
    simulation = prepare_scaled(workload, policy, config, factor)
    simulation.run()
    found = summarise(simulation, Columns.of(simulation))
    return {name: float(value) for name in FIGURES if (value := found[name]) is not None}


def _percent(share: float) -> str:
    return f"± {share:.1%}".replace("%", " %")
