"""Requests of several sequences: what they share, what they copy, and that they go through everything together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import Run, run, trace

from kvsim import simulate
from kvsim.beam import Beam
from kvsim.config import RunConfig
from kvsim.errors import InputError
from kvsim.policies.paged import PagedPolicy
from kvsim.policy import Pool
from kvsim.request import Sequence
from kvsim.traces import Trace
from kvsim.traces.generate import generate

LINK = 16e-9
"""GB/s: 16 bytes a second, where a token is a byte."""
OPT = {"model": "opt-13b", "gpu": "a100-40-sxm", "cost": "linear:0.03,1e-4,0"}


def sampled(work: Trace, width: int, policy: Any = "paged:block_size=4", **settings: Any) -> Run:
    """Run requests of so many samples, or beams where the pool's `beam` says so."""
    given = {"width": width, **settings.pop("pool", {})}
    return run(work, policy, width=width, pool=given, **settings)


def in_use(found: Run) -> list[int]:
    """Return the blocks in use after each step was planned."""
    return [step.blocks for step in found.steps]


@given(st.integers(1, 20), st.integers(1, 30), st.integers(2, 5), st.integers(1, 6))
def test_samples_hold_the_prompt_once_and_the_rest_each(
    prompt: int, output: int, width: int, size: int
) -> None:
    found = sampled(trace((0, prompt, output)), width, f"paged:block_size={size}", blocks=400)

    common, lengths = prompt // size, range(prompt + 1, prompt + output)
    assert in_use(found)[0] == -(-prompt // size)
    assert in_use(found)[1:] == [common + width * (-(-length // size) - common) for length in lengths]


@given(st.integers(1, 20), st.integers(2, 30), st.integers(2, 5), st.integers(1, 6))
def test_a_prompt_that_ends_inside_a_block_costs_all_samples_but_one_a_copy(
    prompt: int, output: int, width: int, size: int
) -> None:
    found = sampled(trace((0, prompt, output)), width, f"paged:block_size={size}", blocks=400)

    assert found.simulation.replica.policy.copies == (width - 1 if prompt % size else 0)


def test_prompt_is_computed_once_and_then_a_token_a_sample() -> None:
    found = sampled(trace((0, 7, 3)), 3)

    assert found.scheduled == [[(0, 7)], [(0, 3)], [(0, 3)]]
    assert [step.planned.work.context for step in found.steps] == [7, 3 * 8, 3 * 9]
    assert found.simulation.replica.computed_tokens == 7 + 3 * 2


def test_each_sample_counts_for_max_num_seqs() -> None:
    found = sampled(trace(*[(0, 4, 3)] * 3), 3, max_num_seqs=8)

    assert [step.running for step in found.steps] == [2, 2, 2, 1, 1, 1]


def test_samples_of_a_request_get_their_tokens_together_or_wait() -> None:
    # Row 0 takes 4 tokens a step as long as it has a prompt, so that 2 are left of 6.
    found = sampled(
        trace((0, 16, 2), (0, 2, 3)),
        3,
        max_num_seqs=6,
        max_num_batched_tokens=6,
        long_prefill_token_threshold=4,
    )

    assert found.scheduled[:5] == [[(0, 4), (1, 2)], [(0, 4)], [(0, 4)], [(0, 4)], [(0, 3), (1, 3)]]


def test_samples_are_preempted_together_and_come_back_from_swap() -> None:
    policy = PagedPolicy(block_size=4, link_gb_per_s=LINK)

    found = sampled(trace((0, 7, 7), (0, 7, 7)), 2, policy, blocks=8)

    # 2 + 2 blocks, and a copy each; the fifth block of row 0 is too much.
    assert found.counts("preemptions") == [0, 1]
    assert found.counts("recomputed") == [0, 0]
    assert policy_of(found).swapped_bytes == 2 * 3 * 4
    assert found.simulation.replica.computed_tokens == 2 * (7 + 2 * 6)


def test_full_swap_space_is_one_line_with_what_was_needed() -> None:
    policy = PagedPolicy(block_size=4, swap_space_gib=11 / 2**30)

    with pytest.raises(
        InputError, match=r"swap_space_gib .* is full: .* row 1 .* needed 1\.118e-08 GiB so far"
    ):
        sampled(trace((0, 7, 7), (0, 7, 7)), 2, policy, blocks=8)


def test_copies_take_time_on_top_of_the_step_that_waits_for_them() -> None:
    pool = {"copy_bytes_per_second": 16.0}

    found = sampled(trace((0, 7, 3)), 3, pool=pool)

    # 2 blocks of 4 bytes at 16 bytes a second, before the first token is written.
    assert [end - start for start, end in found.spans] == [1, 1.5, 1]
    assert policy_of(found).copied_bytes == 8


def test_contiguous_samples_copy_the_whole_prompt_to_all_but_one() -> None:
    pool = {"copy_bytes_per_second": 16.0}

    found = sampled(trace((0, 8, 3)), 3, "contiguous:block_size=4", pool=pool)

    assert [end - start for start, end in found.spans] == [1, 2, 1]
    assert (found.simulation.replica.policy.copies, found.simulation.replica.policy.copied_bytes) == (2, 16)


def test_forked_beam_is_copied_whole_where_memory_is_contiguous() -> None:
    beam = Beam(width=3, turnover=4.0)

    found = sampled(trace((0, 8, 4)), 3, "contiguous:block_size=4", pool={"beam": beam})

    # Up to output 4 everybody goes on from one: at first the prompt twice, then 9 and 10 tokens twice.
    assert found.simulation.replica.policy.copied_bytes == 2 * (8 + 9 + 10)


def test_dead_beam_gives_back_what_only_it_had() -> None:
    beam = Beam(width=4, turnover=1e9)

    found = sampled(trace((0, 8, 9)), 4, blocks=40, pool={"beam": beam})

    # Everybody goes on from one in every step: all blocks but the last are in common.
    assert in_use(found) == [2, 6, 6, 6, 6, 7, 7, 7, 7]


def test_beams_that_die_are_not_swapped_out_and_the_next_token_is_written_by_their_successors() -> None:
    policy = PagedPolicy(block_size=4)
    beam = Beam(width=3, turnover=1e9)
    policy.reset(Pool.of_blocks(20, 64, width=3, beam=beam))
    sequence = Sequence(0, 0.0, 4)

    policy.admit(sequence, policy.lookup(sequence), 4)
    policy.grow(sequence, 5)
    sequence.tokens, sequence.computed, sequence.lost = 6, 5, 5
    policy.release(sequence, finished=False)
    moved = policy.swapped_bytes
    policy.admit(sequence, policy.lookup(sequence), 1)

    # A block of the prompt and one of the only beam that lives on; two more when three write to it.
    assert moved == 2 * policy.copied_bytes // policy.copies
    assert (policy.blocks_in_use, policy.copies) == (4, 2)


def test_request_whose_samples_never_fit_is_rejected_with_the_numbers() -> None:
    found = sampled(trace((0, 8, 9), (0, 8, 20)), 3, blocks=12)

    assert found.simulation.outcomes.reasons == {
        1: "3 sequences of 27 tokens with a prompt of 8 need 17 blocks of 4, the pool has 11"
    }


@pytest.mark.parametrize("policy", ["paged", "contiguous:reservation=oracle"])
@pytest.mark.parametrize("flag", ["samples", "beam"])
def test_summary_counts_the_tokens_of_all_and_what_sharing_saves(policy: str, flag: str) -> None:
    work = generate("alpaca", 60, rate=20.0, seed=1)

    summary = simulate(work, policy, **OPT, **{flag: 4}).summary

    assert summary["total_output_tokens"] == 4 * int(work.output_tokens.sum())
    assert summary["total_input_tokens"] == int(work.prompt_tokens.sum())
    assert (summary["memory_saved_by_sharing"] > 0) == (policy == "paged")
    assert summary["copies"] > 0 < summary["copied_bytes"]


@pytest.mark.parametrize("policy", ["paged", "contiguous"])
def test_first_tokens_of_all_samples_count_in_the_busiest_second(policy: str) -> None:
    work = trace((0, 20, 3), (0.1, 5, 1))

    found = simulate(work, policy, samples=4, max_model_len=64, cost="linear:0.01,0,0").summary

    assert found["max_output_tokens_per_s"] == found["total_output_tokens"] == 16


def test_policies_that_are_compared_see_the_same_forks() -> None:
    work = generate("alpaca", 20, rate=1.0, seed=1)

    one, other = (
        simulate(work, f"contiguous:placement={place}", beam=3, **OPT) for place in ("buddy", "best-fit")
    )

    assert one.summary["copied_bytes"] == other.summary["copied_bytes"]


def test_shared_prefixes_count_as_saved_memory() -> None:
    work = generate("shared-prefix", 60, rate=20.0, seed=1)

    saved = [simulate(work, policy).summary["memory_saved_by_sharing"] for policy in ("prefix", "paged")]

    assert saved[0] > 0.1
    assert saved[1] == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"beam": 0}, "beam must be at least 1, got 0"),
        ({"samples": 2, "beam": 2}, "samples 2 and beam 2: only one of them may be above 1"),
        (
            {"samples": 9, "max_num_seqs": 8},
            "max_num_seqs must be at least the 9 sequences of a request, got 8",
        ),
        ({"beam": 2, "async_scheduling": True}, "async_scheduling is for requests of one sequence, without"),
        ({"beam": 2, "model": "mistral-7b-v0.1"}, "layers attend to everything; mistral-7b-v0.1 has windows"),
        (
            {"samples": 2, "policy": "prefix"},
            r"a policy that can hold it \(contiguous, paged.*\), got 'prefix'",
        ),
    ],
)
def test_settings_that_cannot_work_are_one_line(settings: dict[str, Any], said: str) -> None:
    policy = settings.pop("policy", "paged")

    with pytest.raises(InputError, match=said):
        simulate(generate("alpaca", 2, rate=1.0), policy, RunConfig(), **settings)


def policy_of(found: Run) -> PagedPolicy:
    """Return the run's policy."""
    policy = found.simulation.replica.policy
    assert isinstance(policy, PagedPolicy)
    return policy
