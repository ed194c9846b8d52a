"""What holds of every run, whatever the policy and the limits: random small cases in tight pools."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import Run, run, trace

from kvsim.cost import LinearCost
from kvsim.engine import COMPLETED, REJECTED, UNFINISHED
from kvsim.ledger import CATEGORIES
from kvsim.policies.sliding_window import SlidingWindowPolicy
from kvsim.policy import Policy, Span, parameter_defaults
from kvsim.registry import policies
from kvsim.traces import Trace

TICK = 2.0**-10
"""Arrivals are multiples of it and costs powers of two, so that sums of times are exact in any order."""

GROUPS = '[{"type":"full"},{"type":"swa","window":6,"block_size":2},{"type":"swa","window":3}]'
CHUNKED = '[{"type":"full"},{"type":"chunked","window":8},{"type":"chunked","window":6}]'
HYBRID = {"spans": (Span(None, 1), Span(6, 3))}
SWAP_LINK = 2.0**20 / 1e9
"""GB/s of a link that moves 2²⁰ bytes a second."""

POLICIES: dict[str, str | Policy] = {
    name: f"{name}:block_size=4" if "block_size" in parameter_defaults(cls) else name
    for name, cls in policies().items()
}
POLICIES |= {
    text: f"{text}:block_size=4"
    for text in (
        "contiguous:placement=buddy",
        "contiguous:reservation=oracle",
        "contiguous:reservation=oracle:placement=best-fit",
        "contiguous:reservation=pow2:placement=buddy",
        "paged:watermark=0.2",
        f"paged:preemption=swap:link_gb_per_s={SWAP_LINK}",
        f"paged:preemption=swap:swap_space_gib=2.5e-8:link_gb_per_s={SWAP_LINK}",
        "prefix:watermark=0.1",
        "sliding-window:window=5",
        "sliding-window:window=5:sinks=3",
        "sliding-window:window=6:enable_prefix_caching=true",
        "sliding-window:window=6:sinks=3:enable_prefix_caching=true:prefix_cache_retention_interval=none",
        "sliding-window:window=6:enable_prefix_caching=true:prefix_cache_retention_interval=none",
    )
}
POLICIES["chunked"] = SlidingWindowPolicy(block_size=4, kv_groups=CHUNKED)
POLICIES["chunked, caching"] = SlidingWindowPolicy(
    block_size=4, kv_groups=CHUNKED, enable_prefix_caching=True
)
POLICIES["groups"] = SlidingWindowPolicy(block_size=4, kv_groups=GROUPS)
POLICIES["groups, caching"] = SlidingWindowPolicy(block_size=4, kv_groups=GROUPS, enable_prefix_caching=True)
POLICIES["hybrid model"] = SlidingWindowPolicy(block_size=2)

Case = tuple[Trace, dict[str, Any]]


@st.composite
def traces(draw: st.DrawFn, longest: int) -> Trace:
    """Draw requests in bursts; prompts start alike, and some are sent after another's answer."""
    count = draw(st.integers(1, 14))
    ticks = np.cumsum([draw(st.sampled_from([0, 0, 0, 1, 7, 40, 300])) for _ in range(count)])
    lengths = st.integers(1, longest // 2) | st.integers(1, longest + 1)
    rows = [(float(tick) * TICK, draw(lengths), draw(st.integers(1, 30))) for tick in ticks]
    blocks = [-(-prompt // 4) for _, prompt, _ in rows]
    ids = [[*range(draw(st.integers(0, most))), *range(100, 100 + most)][:most] for most in blocks]
    parents = [
        draw(st.integers(0, row - 1)) if row and draw(st.integers(0, 4)) == 0 else -1 for row in range(count)
    ]
    return trace(
        *rows,
        ids=ids,
        block_tokens=4,
        priority=[draw(st.integers(0, 3)) for _ in rows],
        parent=parents,
        think=[draw(st.sampled_from([0, 3, 50])) * TICK for _ in rows],
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw requests and the limits of a run; pools hold two or three requests, or hardly one."""
    longest = draw(st.integers(8, 40))
    seqs = draw(st.sampled_from([1, 2, 3, 5, 8]))
    chunked = draw(st.booleans())
    cost = LinearCost(
        draw(st.sampled_from([2.0**-7, 2.0**-10])),
        draw(st.sampled_from([0.0, 2.0**-17])),
        draw(st.sampled_from([0.0, 2.0**-26])),
    )
    return draw(traces(longest)), {
        "blocks": draw(st.integers(4, 26)),
        "cost": cost,
        "max_model_len": longest,
        "max_num_seqs": seqs,
        "enable_chunked_prefill": chunked,
        "max_num_batched_tokens": (seqs if chunked else max(seqs, longest)) + draw(st.integers(0, 30)),
        "long_prefill_token_threshold": draw(st.sampled_from([0, 0, 5])),
        "scheduling_policy": draw(st.sampled_from(["fcfs", "priority", "sjf", "lpm"])),
        "scheduler": draw(st.sampled_from(["vllm", "vllm", "vllm", "static"])),
        "async_scheduling": draw(st.booleans()),
    }


def execute(name: str, case: Case) -> Run:
    """Run a case under the policy of that name."""
    work, config = case
    return run(work, POLICIES[name], pool=HYBRID if name == "hybrid model" else None, **config)


every_policy = pytest.mark.parametrize("name", POLICIES)
few = settings(max_examples=12)


@every_policy
@few
@given(case=cases())
def test_slots_sum_to_the_capacity_at_every_step_and_none_is_negative(name: str, case: Case) -> None:
    found = execute(name, case)

    for step in found.steps:
        assert sum(step.slots) == found.simulation.replica.policy.capacity
        assert min(step.slots) >= 0


@every_policy
@few
@given(case=cases())
def test_pool_is_whole_again_at_the_end(name: str, case: Case) -> None:
    policy = execute(name, case).simulation.replica.policy

    assert policy.usage(None).held == policy.usage(None).shared == policy.blocks_in_use == 0
    if hasattr(policy, "free_queue"):
        assert sorted(policy.free_queue()) == list(range(1, policy.num_blocks))
    elif hasattr(policy, "holes"):
        assert sum(hole.size for hole in policy.holes()) * policy.slots_per_token == policy.capacity


@every_policy
@few
@given(case=cases())
def test_every_request_is_completed_or_rejected_with_a_reason(name: str, case: Case) -> None:
    simulation = execute(name, case).simulation

    outcomes = simulation.outcomes
    assert simulation.endless is None
    assert UNFINISHED not in outcomes.status
    assert {row for row, status in enumerate(outcomes.status) if status == REJECTED} == set(outcomes.reasons)
    assert all(outcomes.reasons.values())


def segments(found: Run) -> dict[int, list[list[int]]]:
    """Return [first, last] position in tokens of each stay in the batch, per row."""
    stays: dict[int, list[list[int]]] = defaultdict(list)
    for step in found.steps:
        for row, hit in step.admitted:
            stays[row].append([hit, hit])
        for row, tokens in step.scheduled:
            stays[row][-1][1] += tokens
    return stays


@every_policy
@few
@given(case=cases())
def test_tokens_computed_are_those_needed_and_those_computed_again(name: str, case: Case) -> None:
    found = execute(name, case)

    work, outcomes, computed = case[0], found.simulation.outcomes, 0
    for row, stays in segments(found).items():
        final = min(work.prompt_tokens[row] + work.output_tokens[row], case[1]["max_model_len"]) - 1
        again = [before[1] - after[0] for before, after in pairwise(stays)]
        assert stays[-1][1] == final
        assert outcomes.cached[row] == stays[0][0]
        assert outcomes.recomputed[row] == sum(max(0, tokens) for tokens in again)
        # A hit may reach beyond what the preemption threw away: others went on with the same prefix.
        computed += final - stays[0][0] + sum(again)
    assert found.simulation.replica.computed_tokens == computed


@every_policy
@few
@given(case=cases())
def test_times_of_every_request_and_of_the_steps_are_in_order(name: str, case: Case) -> None:
    found = execute(name, case)

    times = zip(*[found.times(name) for name in found.simulation.outcomes.FLOATS], strict=True)
    for row, (arrival, scheduled, first, finish) in enumerate(times):
        if found.simulation.outcomes.status[row] == COMPLETED:
            assert arrival <= scheduled < first <= finish
    ends = [time for span in found.spans for time in span]
    assert ends == sorted(ends)


@every_policy
@few
@given(case=cases())
def test_running_and_waiting_obey_littles_law_exactly(name: str, case: Case) -> None:
    found = execute(name, case)

    simulation = found.simulation
    totals = simulation.replica.ledger.integrals(simulation.clock)
    pairs = zip(found.times("arrival"), found.times("finish"), simulation.outcomes.status, strict=True)
    spent = sum(finish - arrival for arrival, finish, status in pairs if status == COMPLETED)
    assert totals["running"] + totals["waiting"] == spent


@settings(max_examples=60)
@given(cases(), st.sampled_from(list(POLICIES)), st.floats(0.001, 0.3), st.floats(0, 0.003))
def test_littles_law_holds_to_float_precision_for_any_times(
    case: Case, name: str, step: float, token: float
) -> None:
    work, config = case

    found = execute(name, (work, {**config, "cost": LinearCost(step, token, token / 7)}))

    simulation = found.simulation
    totals = simulation.replica.ledger.integrals(simulation.clock)
    pairs = zip(found.times("arrival"), found.times("finish"), simulation.outcomes.status, strict=True)
    spent = sum(finish - arrival for arrival, finish, status in pairs if status == COMPLETED)
    assert totals["running"] + totals["waiting"] == pytest.approx(spent, rel=1e-9, abs=1e-9)


@every_policy
@few
@given(case=cases())
def test_shares_of_memory_are_the_steps_slots_over_time_and_sum_to_one(name: str, case: Case) -> None:
    found = execute(name, (case[0], {**case[1], "async_scheduling": False}))

    ledger, clock = found.simulation.replica.ledger, found.simulation.clock
    totals = ledger.integrals(clock)
    for kind in ("live", "reserved", "internal"):
        slots = [getattr(step.slots, kind) for step in found.steps]
        spent = sum(count * (end - start) for count, (start, end) in zip(slots, found.spans, strict=True))
        assert totals[kind] == spent
    assert sum(totals[kind] for kind in CATEGORIES) == ledger.capacity * (clock - ledger.start)
    assert min(totals.values()) >= 0


@every_policy
@few
@given(case=cases())
def test_step_keeps_to_budget_places_and_pool(name: str, case: Case) -> None:
    found = execute(name, case)

    for step in found.steps:
        assert sum(tokens for _, tokens in step.scheduled) <= case[1]["max_num_batched_tokens"]
        assert step.running <= case[1]["max_num_seqs"]
        assert len({row for row, _ in step.scheduled}) == len(step.scheduled)
