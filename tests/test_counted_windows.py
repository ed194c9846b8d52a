"""Runs that count what leaves a window, against runs that place every block, and against the reference."""

from __future__ import annotations

from typing import Any

from against_reference import compare, compare_runs
from hypothesis import given
from hypothesis import strategies as st
from reference.draw import Case, paged_config, rows_for
from reference.paged import PagedMemory
from small_runs import prepare, run
from test_engine_laws import Case as Law
from test_engine_laws import cases
from test_fast_equals_slow import many

from kvsim.policies.counted_groups import CountedGroups
from kvsim.policies.sliding_window import SlidingWindowPolicy
from kvsim.policy import Policy

GROUPS = (
    '[{"type":"full"},{"type":"swa","window":6},{"type":"swa","window":6},{"type":"swa","window":9}]',
    '[{"type":"full"},{"type":"chunked","window":8},{"type":"chunked","window":6}]',
    '[{"type":"chunked","window":10},{"type":"swa","window":7}]',
)
POLICIES = (
    *(SlidingWindowPolicy(block_size=4, kv_groups=groups) for groups in GROUPS),
    *(SlidingWindowPolicy(block_size=4, window=5, sinks=sinks) for sinks in (0, 3, 4, 6)),
    SlidingWindowPolicy(block_size=4, kv_groups=GROUPS[0], sinks=2, watermark=0.1),
    SlidingWindowPolicy(block_size=1, window=1),
    SlidingWindowPolicy(block_size=3, kv_groups=GROUPS[1], scheduler_reserve_full_isl=False),
)


@st.composite
def windowed(draw: st.DrawFn) -> Case:
    """Draw rows and groups with windows, whose blocks are of one size and not shared."""
    config: dict[str, Any] = draw(paged_config())
    config |= {"enable_prefix_caching": False, "async_scheduling": False, "reject_never_fits": True}
    swa = st.integers(1, 20).map(lambda window: {"type": "swa", "window": window})
    config["groups"] = [*draw(st.lists(swa | st.just({"type": "full"}), max_size=2)), draw(swa)]
    config["num_blocks"] = 1
    enough = 1 + PagedMemory(config).needs_alone(config["max_model_len"])
    config["num_blocks"] = enough + draw(st.sampled_from([0, 1, 2, 3, enough // 3, enough // 2, 2 * enough]))
    return draw(rows_for(config)), config


@many
@given(windowed())
def test_blocks_of_windows_are_counted_as_the_reference_places_them(case: Case) -> None:
    compare(case)


@many
@given(cases(), st.sampled_from(POLICIES), st.sampled_from(["fcfs", "lpm"]))
def test_sinks_and_chunks_are_counted_as_they_are_placed(law: Law, policy: Policy, order: str) -> None:
    work, limits = law
    limits = limits | {"async_scheduling": False, "scheduling_policy": order}
    bulk = prepare(work, policy, **limits)

    bulk.run()

    assert isinstance(bulk.replica.policy, CountedGroups)
    compare_runs(bulk, run(work, policy, **limits).simulation)
