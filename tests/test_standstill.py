"""Runs that would never end are cut short, and say so; runs that only look like it go on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.cost import LinearCost
from kvsim.engine import COMPLETED, REJECTED, UNFINISHED, Simulation
from kvsim.policies.paged import PagedPolicy
from kvsim.policies.prefix import PrefixPolicy
from kvsim.policy import Policy, Pool
from kvsim.scheduler import Limits
from kvsim.traces.trace import Trace


def trace(*rows: tuple[float, int, int], priority: list[int] | None = None) -> Trace:
    """Return rows of arrival, prompt and output tokens."""
    arrival, prompt, output = zip(*rows, strict=True)
    return Trace(
        name="rows",
        arrival=np.array(arrival, float),
        prompt_tokens=np.array(prompt),
        output_tokens=np.array(output),
        priority=None if priority is None else np.array(priority),
    ).checked()


def simulate(
    rows: Trace, policy: Policy, num_blocks: int, *, rejects: bool = True, **limits: Any
) -> Simulation:
    """Run with blocks of 4 tokens and steps of a second."""
    policy.reset(Pool.of_blocks(num_blocks, 64, max_num_batched_tokens=16, workload=rows))
    bounds = Limits(max_model_len=64, max_num_seqs=8, max_num_batched_tokens=16, **limits)
    simulation = Simulation(rows, policy, bounds, LinearCost(1.0, 0.0, 0.0), reject_never_fits=rejects)
    simulation.run()
    return simulation


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_request_that_outgrows_the_pool_ends_the_run(asynchronous: bool) -> None:
    rows = trace((0.0, 6, 2), (1.0, 10, 40), (2.0, 5, 3))
    policy = PagedPolicy(block_size=4, scheduler_reserve_full_isl=False)

    simulation = simulate(rows, policy, 6, rejects=False, async_scheduling=asynchronous)

    assert simulation.outcomes.status[1] == UNFINISHED
    assert simulation.endless is not None
    assert "requests 1 are preempted and admitted over and over" in simulation.endless


def test_a_request_that_outgrows_the_pool_and_finds_all_of_itself_there_just_stays() -> None:
    rows = trace((0.0, 6, 2), (1.0, 10, 40), (2.0, 5, 3))
    policy = PrefixPolicy(block_size=4, scheduler_reserve_full_isl=False)

    simulation = simulate(rows, policy, 6, rejects=False)

    assert simulation.endless is None
    assert list(simulation.outcomes.status) == [COMPLETED, UNFINISHED, UNFINISHED]


def test_a_request_that_outgrows_the_pool_is_rejected_unless_asked_otherwise() -> None:
    rows = trace((0.0, 6, 2), (1.0, 10, 40), (2.0, 5, 3))

    simulation = simulate(rows, PagedPolicy(block_size=4, scheduler_reserve_full_isl=False), 6)

    assert simulation.endless is None
    assert list(simulation.outcomes.status) == [COMPLETED, REJECTED, COMPLETED]


def test_behind_the_gate_it_blocks_the_queue_and_the_run_ends_by_itself() -> None:
    rows = trace((0.0, 6, 2), (1.0, 30, 4), (2.0, 5, 3))

    simulation = simulate(rows, PagedPolicy(block_size=4), 6, rejects=False)

    assert simulation.endless is None
    assert list(simulation.outcomes.status) == [COMPLETED, UNFINISHED, UNFINISHED]


def test_equals_that_push_each_other_out_in_turn_end_the_run() -> None:
    rows = trace((0.0, 40, 8), (0.0, 33, 9), priority=[1, 1])
    policy = PagedPolicy(block_size=4, scheduler_reserve_full_isl=False)

    simulation = simulate(rows, policy, 16, scheduling_policy="priority", long_prefill_token_threshold=4)

    assert simulation.endless is not None
    assert list(simulation.outcomes.status) == [UNFINISHED, UNFINISHED]


@given(st.lists(st.tuples(st.just(0.0), st.integers(1, 30), st.integers(1, 10)), min_size=2, max_size=12))
def test_thrashing_that_gets_somewhere_goes_on(rows: list[tuple[float, int, int]]) -> None:
    policy = PagedPolicy(block_size=4, scheduler_reserve_full_isl=False)

    simulation = simulate(trace(*rows), policy, 12, long_prefill_token_threshold=1)

    assert simulation.endless is None
    assert set(simulation.outcomes.status) == {COMPLETED}
