"""Preemption by swap: what goes over the link, what it costs, and when it is not possible."""

from __future__ import annotations

import pytest
from small_runs import Run, run, trace

from kvsim import simulate
from kvsim.errors import InputError
from kvsim.policies.paged import PagedPolicy
from kvsim.traces.generate import generate

LINK = 16e-9
"""GB/s: 16 bytes a second, where a token is a byte."""
TWELVE_BYTES = 12 / 2**30
"""Room for three blocks of four tokens."""


def swapped(**parameters: float) -> Run:
    """Run two requests in five blocks of 4, so that the second is preempted after 9 tokens."""
    policy = PagedPolicy(block_size=4, preemption="swap", link_gb_per_s=LINK, **parameters)
    return run(trace((0, 8, 5), (0, 9, 3)), policy, blocks=6)


def moved(found: Run) -> int:
    """Return the bytes that went over the link."""
    policy = found.simulation.replica.policy
    assert isinstance(policy, PagedPolicy)
    return policy.swapped_bytes


def test_swapped_request_comes_back_without_being_computed_again() -> None:
    found = swapped()

    # Row 1 is preempted in the second step and resumes when row 0 is done, with one token to compute.
    assert found.scheduled == [[(0, 8), (1, 9)], [(0, 1)], [(0, 1)], [(0, 1)], [(0, 1)], [(1, 1)], [(1, 1)]]
    assert found.counts("preemptions") == [0, 1]
    assert found.counts("recomputed") == [0, 0]
    assert found.simulation.replica.computed_tokens == (8 + 5 - 1) + (9 + 3 - 1)


def test_copies_are_whole_blocks_and_lengthen_the_steps_that_make_them() -> None:
    found = swapped()

    # 3 blocks of 4 bytes each way, at 16 bytes a second.
    assert moved(found) == 24
    assert [end - start for start, end in found.spans] == [1, 1.75, 1, 1, 1, 1.75, 1]


def test_every_copy_of_a_block_of_a_tensor_costs_its_submission() -> None:
    found = swapped(copy_us=125_000.0)

    # As above, and 3 blocks of K and V of one layer, at an eighth of a second each.
    assert [end - start for start, end in found.spans] == [1, 2.5, 1, 1, 1, 2.5, 1]


def test_time_to_submit_a_copy_is_not_negative() -> None:
    with pytest.raises(InputError, match="copy_us must be microseconds from 0 up, got -1"):
        swapped(copy_us=-1.0)


def test_what_comes_back_from_swap_is_no_cache_hit() -> None:
    found = swapped()

    assert found.counts("cached") == [0, 0]
    assert found.counts("readmission_hits") == [0, 0]
    assert found.steps[5].admitted == [(1, 9)]


@pytest.mark.parametrize(("gib", "recomputed", "moved_bytes"), [(TWELVE_BYTES, 0, 24), (11 / 2**30, 9, 0)])
def test_full_cpu_pool_makes_the_engine_recompute(gib: float, recomputed: int, moved_bytes: int) -> None:
    found = swapped(swap_space_gib=gib)

    assert found.counts("recomputed") == [0, recomputed]
    assert moved(found) == moved_bytes


def test_cpu_pool_is_free_again_after_the_way_back() -> None:
    policy = PagedPolicy(block_size=4, preemption="swap", link_gb_per_s=LINK, swap_space_gib=TWELVE_BYTES)

    found = run(trace((0, 8, 5), (0, 9, 3), (20, 8, 5), (20, 9, 3)), policy, blocks=6)

    assert found.counts("preemptions") == [0, 1, 0, 1]
    assert found.counts("recomputed") == [0, 0, 0, 0]
    assert moved(found) == 48


def test_request_preempted_in_its_prefill_keeps_the_chunks_it_has() -> None:
    policy = PagedPolicy(block_size=4, preemption="swap", link_gb_per_s=LINK)
    work = trace((0, 4, 6), (0, 16, 1))

    found = run(work, policy, blocks=6, max_num_batched_tokens=8)

    # 4 + 4 tokens, then 1 + 7, then 1 + 5 would need 6 blocks in all.
    assert found.counts("preemptions") == [0, 1]
    assert found.counts("recomputed") == [0, 0]
    assert found.simulation.replica.computed_tokens == (4 + 6 - 1) + 16


def test_chunk_that_a_preemption_takes_back_is_not_swapped_out() -> None:
    policy = PagedPolicy(block_size=4, preemption="swap", link_gb_per_s=LINK)
    work = trace((0, 16, 1), (0.5, 4, 6), priority=[1, 0])

    found = run(
        work,
        policy,
        blocks=6,
        max_num_batched_tokens=8,
        long_prefill_token_threshold=4,
        scheduling_policy="priority",
    )

    # Row 0 had its tokens 12 to 15 scheduled when row 1, more urgent, needed a block.
    assert found.counts("preemptions") == [1, 0]
    assert found.simulation.replica.computed_tokens == 16 + (4 + 6 - 1)


def test_summary_counts_the_bytes_both_ways() -> None:
    work = generate("sharegpt", 40, rate=50.0, seed=2)
    limits = {"num_gpu_blocks_override": 140, "max_model_len": 2048, "cost": "linear:0.01,0,0"}

    swap = simulate(work, "paged:preemption=swap", **limits).summary
    recompute = simulate(work, "paged", **limits).summary

    block_bytes = 16 * 131_072
    assert swap["preemptions"] > 0
    assert swap["swapped_bytes"] % (2 * block_bytes) == 0
    assert (swap["recomputed_tokens"], recompute["swapped_bytes"]) == (0, 0)
    assert swap["swapped_bytes"] > 0 < recompute["recomputed_tokens"]
