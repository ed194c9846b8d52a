"""What a cost model says of its own error, and runs at prices that are lower or higher by it."""

from __future__ import annotations

from kvsim.config import RunConfig
from kvsim.cost import CostModel, Line, Step
from kvsim.engine import Simulation
from kvsim.policy import Policy
from kvsim.request import Workload
from kvsim.run import prepare_cost, prepare_limits, prepare_policy, prepare_pool


class ScaledCost:
    """Another cost model's seconds times a factor; all else is that model's."""

    def __init__(self, cost: CostModel, factor: float) -> None:
        """Take what to scale, and by how much."""
        self.cost, self.factor = cost, factor
        self.discounts_sharing: bool = getattr(cost, "discounts_sharing", False)
        """Whether tokens that several decodes read are charged less."""
        self.reads_longest: bool = getattr(cost, "reads_longest", False)
        """Whether the longest decode matters."""

    @property
    def label(self) -> str:
        """Name the model and the factor."""
        return f"{self.factor:g} × {self.cost.label}"

    @property
    def hull_share(self) -> float | None:
        """Share of the priced steps that lie within what was measured; None where nothing was."""
        share: float | None = getattr(self.cost, "hull_share", None)
        return share

    def seconds(self, step: Step) -> float:
        """Return how long the step takes."""
        if not step.prefills and not (self.discounts_sharing and step.decode_shared):
            line = self.decode_line(step.decodes, step.context, step.decode_longest)
            if line is not None:
                # The same operations as when the line is used: factor · (a + b·c) may differ in the last bit.
                self.count_steps(1, line.is_measured, step.decode_shared > 0)
                return line.fixed + line.rate * step.context
        return self.factor * self.cost.seconds(step)

    def decode_line(self, decodes: int, context: int, longest: int = 0) -> Line | None:
        """Return the scaled line of steps without prefills; None where the model has none."""
        line_of = getattr(self.cost, "decode_line", None)
        known = (decodes, context, longest) if self.reads_longest else (decodes, context)
        line: Line | None = None if line_of is None else line_of(*known)
        if line is None:
            return None
        return line._replace(fixed=self.factor * line.fixed, rate=self.factor * line.rate)

    def count_steps(self, steps: int, is_measured: bool, shares: bool) -> None:
        """Let the model count steps that a line priced, if it counts."""
        count = getattr(self.cost, "count_steps", None)
        if count is not None:
            count(steps, is_measured, shares)


def stated_error(cost: CostModel) -> float | None:
    """Return a calibrated profile's own error on steps that it has not seen; None where none is known.

    The largest of its mean absolute errors on decode, prefill and mixed steps.
    """
    errors = getattr(getattr(cost, "profile", None), "errors", {})
    return max(
        (float(error.mean) for name, error in errors.items() if name.startswith("step ")), default=None
    )


def prepare_scaled(
    workload: Workload, policy: str | Policy, config: RunConfig, cost_factor: float = 1.0
) -> Simulation:
    """Prepare a run whose every step takes `cost_factor` times as long; InputError for settings that cannot work."""
    chosen = prepare_policy(policy, config)
    limits = prepare_limits(config)
    chosen.reset(prepare_pool(workload, chosen, config))
    cost = prepare_cost(config, chosen)
    return Simulation(workload, chosen, limits, cost if cost_factor == 1 else ScaledCost(cost, cost_factor))
