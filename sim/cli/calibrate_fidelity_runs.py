"""Small simulations for the fidelity check: one a memory layout, and the steps that they schedule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from kvsim.config import RunConfig
from kvsim.cost import CostModel, Step
from kvsim.errors import InputError, nearest
from kvsim.policy import Policy, Pool
from kvsim.replica import StepRecord

if TYPE_CHECKING:
    from kvsim.calibration.fidelity import Planned
    from kvsim.calibration.fidelity_steps import Kind, ScheduledStep
    from kvsim.calibration.mini_engine_memory import PoolLayout
    from kvsim.engine import Simulation
    from kvsim.model import Model
    from kvsim.request import Workload

LAYOUTS = ("contiguous", "paged", "prefix", "windowed")
"""What `--layouts` may name."""


class Layout(NamedTuple):
    """A policy, and how it lays KV out."""

    name: str
    """In tables."""
    policy: str
    """As `--policy` takes it."""
    pool: PoolLayout


class Costs(Protocol):
    """Makes the cost of a policy's steps."""

    def __call__(self, layout: Layout, policy: Policy) -> CostModel:
        """Return a cost for the spans that the policy attends to."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the simulations have in common."""

    model: Model
    """With as many layers as are executed."""
    workload: Workload
    config: RunConfig
    """For the scheduler's limits."""
    kv_tokens: int
    """Tokens whose KV fits."""
    per_kind: int
    """Steps taken of each kind."""


def layouts_of(model: Model, wanted: Sequence[str], pages: Sequence[int], slot: int) -> list[Layout]:
    """Return the layouts asked for; `windowed` only where the model has windows, `paged` once a page size."""
    from kvsim.calibration.mini_engine_memory import layout_of_groups, layout_of_one_table

    found: list[Layout] = []
    page = min(pages, key=lambda size: (abs(size - 16), size))
    for name in dict.fromkeys(wanted):
        if name not in LAYOUTS:
            raise InputError(
                f"layout must be one of {', '.join(LAYOUTS)}, got {name!r}{nearest(name, LAYOUTS)}"
            )
        if name == "contiguous":
            found.append(Layout(name, name, layout_of_one_table(model, "contiguous", slot)))
        elif name == "windowed":
            if any(span.window is not None for span in model.spans):
                policy = f"sliding-window:block_size={page}"
                found.append(Layout(f"windowed {page}", policy, layout_of_groups(model, page)))
        else:
            for size in pages if name == "paged" else (page,):
                policy = f"{name}:block_size={size}"
                found.append(Layout(f"{name} {size}", policy, layout_of_one_table(model, "paged", size)))
    if not found:
        raise InputError(f"model {model.name} has no windowed layers, and no other layout was asked for")
    return found


def plan_layout(layout: Layout, setting: Setting, costs: Costs) -> list[Planned]:
    """Simulate a layout, pick steps of every kind over the whole run, and price them.

    The run is simulated twice: block tables of all steps would take more memory than is worth it.
    """
    from kvsim.calibration.fidelity import Planned
    from kvsim.calibration.fidelity_steps import KINDS, spread

    seen = record_steps(layout, setting, costs, wanted=())
    counts = Counter(seen.kinds.values())
    wanted: set[int] = set()
    for kind in KINDS:
        numbers = [number for number, each in seen.kinds.items() if each == kind]
        wanted |= set(spread(numbers, setting.per_kind))
    if not wanted:
        raise InputError(f"layout {layout.name}: no request of the trace can run; {seen.why_not()}")
    recorded = record_steps(layout, setting, costs, wanted)
    return [
        Planned(layout.name, step, *_priced(recorded.cost, step.work), counts[step.kind])
        for step in recorded.steps
    ]


class Recorder:
    """Follows a replica and keeps the steps that are wanted, with their block tables."""

    def __init__(
        self, simulation: Simulation, policy: Policy, cost: CostModel, wanted: Iterable[int] | None
    ) -> None:
        """Watch a simulation that has not run yet; `wanted` are numbers of steps, None for all."""
        self.cost = cost
        self.kinds: dict[int, Kind] = {}
        """Of every step that computes something, by its number."""
        self.steps: list[ScheduledStep] = []
        self._simulation, self._policy = simulation, policy
        self._wanted = None if wanted is None else frozenset(wanted)
        self._computed: dict[int, int] = {}
        self._prefilling: set[int] = set()
        self._number = 0
        simulation.replica.watch = self._watch

    def why_not(self) -> str:
        """Return the first reason why a request was rejected."""
        return next(iter(self._simulation.outcomes.reasons.values()), "nothing was rejected")

    def _watch(self, record: StepRecord) -> None:
        from kvsim.calibration.fidelity_steps import Scheduled, ScheduledStep, kind_of

        number, self._number = self._number, self._number + 1
        hits = 0
        for row, found in record.admitted:
            self._computed[row] = found
            self._prefilling.add(row)
            hits += found > 0
        keep = self._wanted is None or number in self._wanted
        sequences = []
        for row, tokens in record.scheduled:
            self._computed[row] += tokens
            length = self._computed[row]
            tables = self._tables(row) if keep else ()
            sequences.append(Scheduled(row, tokens, length, row not in self._prefilling, tables))
        self._prefilling -= {job.index for job in (*record.planned.sampled, *record.planned.preempted)}
        if not sequences:
            return
        sequences.sort(key=lambda each: not each.is_decode)
        kind = self.kinds[number] = kind_of(sequences, hits)
        if keep:
            self.steps.append(ScheduledStep(number, kind, tuple(sequences), record.planned.work))

    def _tables(self, row: int) -> tuple[tuple[int, ...], ...]:
        from kvsim.block_detail import BlockTables
        from kvsim.policies.contiguous import ContiguousPolicy

        if isinstance(self._policy, ContiguousPolicy):
            address, size = next(piece[:2] for piece in self._policy.occupied() if piece[2] == row)
            assert address % size == 0, "slots of one size lie side by side"
            return ((address // size,),)
        assert isinstance(self._policy, BlockTables)
        job = self._simulation.replica.batch.running[row]
        return tuple(map(tuple, self._policy.tables(job)))


def record_steps(
    layout: Layout, setting: Setting, costs: Costs, wanted: Iterable[int] | None = None
) -> Recorder:
    """Simulate a layout and keep the steps of these numbers, or all, with their block tables."""
    from kvsim.engine import Simulation
    from kvsim.registry import make_policy
    from kvsim.run import prepare_limits

    model, limits = setting.model, prepare_limits(setting.config)
    policy = make_policy(layout.policy)
    policy.reset(
        Pool(
            kv_bytes=setting.kv_tokens * model.layers, token_bytes=model.layers, spans=model.spans,
            max_model_len=limits.max_model_len, max_num_batched_tokens=limits.max_num_batched_tokens,
            workload=setting.workload,
        )
    )  # fmt: skip
    cost = costs(layout, policy)
    simulation = Simulation(setting.workload, policy, limits, cost)
    recorder = Recorder(simulation, policy, cost, wanted)
    simulation.run()
    return recorder


def _priced(cost: CostModel, work: Step) -> tuple[float, bool]:
    """Return a step's price, and whether the profile measured such sizes."""
    before = getattr(cost, "extrapolated_steps", 0)
    seconds = cost.seconds(work)
    return seconds, getattr(cost, "extrapolated_steps", 0) == before
