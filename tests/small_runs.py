"""Small runs for the tests of engine and policies: rows on paper in, steps and outcomes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kvsim.cost import CostModel, LinearCost
from kvsim.engine import Simulation
from kvsim.policy import Policy, Pool
from kvsim.registry import make_policy
from kvsim.request import Sequence
from kvsim.scheduler import Limits
from kvsim.traces import Trace

ONE_SECOND = LinearCost(1.0, 0.0, 0.0)
"""Every step takes a second."""

Row = tuple[float, int, int]
"""Arrival, prompt tokens, output tokens."""


def trace(*rows: Row, ids: list[list[int]] | None = None, block_tokens: int = 1, **more: Any) -> Trace:
    """Write a trace; `ids` name each row's content, `more` are further columns."""
    columns: list[Any] = [list(column) for column in zip(*rows, strict=True)] or [[], [], []]
    content: dict[str, Any] = {}
    if ids is not None:
        ends = np.cumsum([0, *map(len, ids)])
        flat = np.array([block for row in ids for block in row], np.int64)
        content = {"block_ids": flat, "block_offsets": ends, "block_tokens": block_tokens}
    return Trace(
        name="by hand",
        arrival=np.array(columns[0], np.float64),
        prompt_tokens=np.array(columns[1], np.int64),
        output_tokens=np.array(columns[2], np.int64),
        **content,
        **{name: np.array(column) for name, column in more.items()},
    )


@dataclass
class Run:
    """A simulation that has run, with a record of every step."""

    simulation: Simulation
    steps: list[Any]
    """What `replica.watch` was given."""

    def times(self, name: str) -> list[float]:
        """Return a column of times of the outcomes, in trace order."""
        return list(getattr(self.simulation.outcomes, name))

    def counts(self, name: str) -> list[int]:
        """Return a column of counts of the outcomes, in trace order."""
        return list(getattr(self.simulation.outcomes, name))

    @property
    def scheduled(self) -> list[list[tuple[int, int]]]:
        """Return (row, tokens) of every step, in scheduling order."""
        return [step.scheduled for step in self.steps]

    @property
    def spans(self) -> list[tuple[float, float]]:
        """Return start and end of every step."""
        return [(step.planned.start, step.planned.end) for step in self.steps]

    @property
    def preempted(self) -> list[list[int]]:
        """Return the rows preempted in every step."""
        return [[job.index for job in step.planned.preempted] for step in self.steps]

    @property
    def finished(self) -> list[list[int]]:
        """Return the rows that end with every step, in order."""
        return [[job.index for job in step.planned.finished] for step in self.steps]


def prepare(
    work: Trace,
    policy: str | Policy = "paged:block_size=4",
    *,
    blocks: int = 64,
    cost: CostModel = ONE_SECOND,
    max_model_len: int = 64,
    pool: dict[str, Any] | None = None,
    **limits: Any,
) -> Simulation:
    """Set up a run in a pool of so many blocks, the null block included."""
    chosen = make_policy(policy) if isinstance(policy, str) else policy.clone()
    bounds = Limits(
        **{"max_model_len": max_model_len, "max_num_seqs": 8, "max_num_batched_tokens": 64, **limits}
    )

    def true_tokens(sequence: Sequence) -> int:
        row = sequence.index
        return int(min(work.prompt_tokens[row] + work.output_tokens[row], max_model_len)) - 1

    chosen.reset(
        Pool.of_blocks(
            blocks,
            max_model_len,
            workload=work,
            max_num_batched_tokens=bounds.max_num_batched_tokens,
            async_scheduling=bounds.async_scheduling,
            true_tokens=true_tokens if "oracle" in chosen.name else None,
            **(pool or {}),
        )
    )
    return Simulation(work, chosen, bounds, cost)


def run(work: Trace, policy: str | Policy = "paged:block_size=4", **settings: Any) -> Run:
    """Run a trace to its end; the settings are those of `prepare`."""
    found = Run(prepare(work, policy, **settings), [])
    found.simulation.replica.watch = found.steps.append
    found.simulation.run()
    return found
