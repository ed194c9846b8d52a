"""The band that runs and comparisons print: what the step cost's own error means for throughput and latency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import Parameter

if TYPE_CHECKING:
    from kvsim.comparison import Comparison
    from kvsim.config import RunConfig
    from kvsim.request import Workload
    from kvsim.result import Result

MOST_REQUESTS, MOST_COMPARED = 20_000, 2_000
"""Longest trace whose band is computed without being asked for, of one run and of a comparison. Two more runs a policy
take seconds then; what a command prints must not depend on how fast the machine is."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class BandOptions:
    """Whether there is a band, and how wide the error is."""

    band: bool | None = None
    """Run twice more, with step times lower and higher by the cost's own error, and print each figure's ± %. By
    default where that error is known and the trace has at most 20,000 requests (2,000 where policies are compared)."""
    cost_error: float | None = None
    """Relative error of step times for the band, as in 0.1; the cost profile's own unless given."""

    def add(self, result: Result, workload: Workload, policy: str, config: RunConfig) -> str:
        """Put the band into the result, as `cost_band` of its configuration, and return the line that says it."""
        from kvsim.band import known_error, simulate_band

        if self.band is False:
            return ""
        wanted = self.band is True or self.cost_error is not None
        error = known_error(policy, config) if self.cost_error is None else self.cost_error
        if error is None and not wanted:
            return "band: unknown, since nobody measured this step cost; --cost-error 0.1 shows what 10 % would do"
        if not wanted and len(workload) > MOST_REQUESTS:
            return f"band: not computed for more than {MOST_REQUESTS:,} requests; --band runs the trace twice more"
        found = simulate_band(workload, policy, config, error=self.cost_error, summary=result.summary)
        result.config["cost_band"] = found.record()
        return f"band: {found.words()}"

    def add_all(self, comparison: Comparison, workload: Workload, config: RunConfig) -> list[str]:
        """Do the same for every policy of a comparison; nothing is said where there is no band."""
        from kvsim.comparison import same_bytes

        wanted = self.band is True or self.cost_error is not None
        if not wanted and len(workload) > MOST_COMPARED:
            return []
        lines = []
        for name, result in comparison.results.items():
            line = self.add(result, workload, name, same_bytes(config))
            if "cost_band" in result.config:
                lines.append(f"{name}, {line}")
        return lines

    def check(self, policy: str, config: RunConfig) -> None:
        """Raise InputError for a band that could not be computed after the run."""
        from kvsim.band import known_error
        from kvsim.errors import InputError

        error = self.cost_error
        if error is not None and self.band is False:
            raise InputError("--cost-error goes with a band, not with --no-band")
        if error is not None and not 0 <= error < 1:
            raise InputError(
                f"--cost-error must be a share from 0 to below 1, as in 0.1 for ± 10 %, got {error}"
            )
        if self.band and error is None and known_error(policy, config) is None:
            raise InputError(
                f"--band: cost {config.cost!r} states no error of its own; --cost-error gives one"
            )
