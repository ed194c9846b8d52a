"""Random small runs in tight pools, for the tests of what watches a run."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from small_runs import prepare, trace

from kvsim.cost import CostModel, LinearCost
from kvsim.engine import Simulation
from kvsim.policies.sliding_window import SlidingWindowPolicy
from kvsim.policy import Policy
from kvsim.replica import StepRecord
from kvsim.traces import Trace
from kvsim.watchers import add_watch

GROUPS = '[{"type":"full"},{"type":"swa","window":6,"block_size":2},{"type":"swa","window":3}]'

COST = LinearCost(0.125, 0.0078125, 0.0009765625)

POLICIES: tuple[str | Policy, ...] = (
    "paged:block_size=4",
    "paged:block_size=2:watermark=0.1",
    "paged:block_size=4:preemption=swap",
    "prefix:block_size=4",
    "contiguous",
    "contiguous:reservation=oracle",
    "sliding-window:block_size=4:window=6:enable_prefix_caching=true",
    SlidingWindowPolicy(block_size=4, kv_groups=GROUPS, enable_prefix_caching=True),
)

ROWS = st.lists(
    st.tuples(
        st.integers(0, 40).map(lambda tick: tick / 4),
        st.integers(0, 30),
        st.integers(1, 12),
        st.lists(st.integers(0, 2), max_size=7),
    ),
    min_size=1,
    max_size=12,
)
"""Arrival, prompt, output, and the ids of the prompt's content, 4 tokens each."""


Case = tuple[Trace, str | Policy, dict[str, Any]]
"""Work, policy and limits."""


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a case in ten blocks or 40 slots, often with preemptions and queues."""
    rows = sorted(draw(ROWS), key=lambda row: row[0])
    ids = [content[: -(-prompt // 4)] for _, prompt, _, content in rows]
    work = trace(
        *[row[:3] for row in rows],
        ids=ids,
        block_tokens=4,
        priority=draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows))),
    )
    chunked = draw(st.booleans())
    limits: dict[str, Any] = {
        "max_num_seqs": draw(st.sampled_from([1, 2, 4, 8])),
        "max_num_batched_tokens": draw(st.sampled_from([8, 16, 40])) if chunked else 48,
        "enable_chunked_prefill": chunked,
        "scheduler": draw(st.sampled_from(["vllm", "vllm", "static"])),
        "scheduling_policy": draw(st.sampled_from(["fcfs", "fcfs", "priority", "sjf", "lpm"])),
        "async_scheduling": draw(st.booleans()),
    }
    return work, draw(st.sampled_from(POLICIES)), limits


def simulation_of(case: Case, cost: CostModel = COST) -> Simulation:
    """Set a case up."""
    work, policy, limits = case
    return prepare(work, policy, blocks=11, max_model_len=40, cost=cost, **limits)


def simulations() -> st.SearchStrategy[Simulation]:
    """Draw a simulation that has not run yet."""
    return cases().map(simulation_of)


def run_watched(simulation: Simulation) -> list[StepRecord]:
    """Run to the end and return every step."""
    steps: list[StepRecord] = []
    add_watch(simulation.replica, steps.append)
    simulation.run()
    return steps
