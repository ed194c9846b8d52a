"""The fast engine equals the literal reference: on random cases, and on small ones where it once did not."""

from __future__ import annotations

import os
from typing import Any

from against_reference import compare
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference.contents import Row
from reference.draw import Case, contiguous_cases, paged_cases, sample_cases
from reference.loop import DEFAULTS

from kvsim.beam import Beam
from kvsim.scheduler import VLLM_VERSIONS

EXAMPLES = int(os.environ.get("KVSIM_EXAMPLES", "300"))
many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def row(arrival: float, prompt: int, output: int, hash_ids: list[int] | None = None, **more: Any) -> Row:
    """Return a trace row."""
    ids = {} if hash_ids is None else {"hash_ids": hash_ids}
    return {"arrival_s": arrival, "prompt_len": prompt, "output_len": output, **ids, **more}


def config(**changes: Any) -> dict[str, Any]:
    """Return a small configuration."""
    small = {"block_size": 4, "max_model_len": 64, "max_num_seqs": 8, "max_num_batched_tokens": 64}
    return {**DEFAULTS, **small, "hash_block_tokens": 4, **changes}


@many
@given(paged_cases(), st.sampled_from(VLLM_VERSIONS))
def test_blocks_are_scheduled_as_the_reference_does(case: Case, version: str) -> None:
    rows, config = case

    compare((rows, {**config, "vllm_version": version}))


@many
@given(contiguous_cases())
def test_contiguous_memory_is_scheduled_as_the_reference_does(case: Case) -> None:
    compare(case)


@many
@given(sample_cases(contiguous=False))
def test_samples_that_share_blocks_are_scheduled_as_the_reference_does(case: Case) -> None:
    compare(case)


@many
@given(sample_cases(contiguous=True))
def test_samples_in_contiguous_memory_are_scheduled_as_the_reference_does(case: Case) -> None:
    compare(case)


@many
@given(st.booleans().flatmap(sample_cases), st.sampled_from([0.5, 4.0, 20.0]), st.integers(0, 3))
def test_beams_are_scheduled_and_forked_as_the_reference_does(case: Case, turnover: float, seed: int) -> None:
    rows, config = case
    width = config["samples"]
    beam = Beam(width=width, turnover=turnover, seed=seed)

    def parents(row: int, output: int) -> tuple[int, ...]:
        return beam.lineage(row).parents(output) or tuple(range(width))

    compare((rows, {**config, "beam": beam, "parents": parents}))


def test_blocks_of_a_victim_whose_last_token_is_on_the_way_have_no_hash_for_it() -> None:
    rows = [
        row(0.0, 1, 1, [0]),
        row(0.0, 1, 1, [0]),
        row(0.0, 1, 2, [0]),
        row(0.0, 5, 10),
        row(5 / 128, 8, 5),
    ]

    compare(
        (
            rows,
            config(
                groups=[{"type": "full"}, {"type": "full"}],
                enable_prefix_caching=True,
                scheduler_reserve_full_isl=False,
                async_scheduling=True,
                hash_block_tokens=1,
                max_num_seqs=3,
                max_num_batched_tokens=25,
                max_model_len=25,
                block_size=1,
                num_blocks=51,
            ),
        )
    )


def test_window_of_a_sequence_that_was_passed_over_moves_on_one_step_earlier() -> None:
    at = 5 / 128
    rows = [
        *(row(0.0, 1, output, [0], priority=0) for output in (4, 1, 1)),
        row(at, 1, 1, [0], priority=0),
        row(at, 6, 12, [0, 1, 2], priority=1),
        row(at, 1, 1, [0], priority=2),
        row(at, 7, 6, list(range(7)), priority=0),
        row(at, 8, 5, priority=1),
        row(at, 1, 1, priority=1),
    ]

    compare(
        (
            rows,
            config(
                groups=[{"type": "swa", "window": 4}, {"type": "swa", "window": 19}],
                enable_prefix_caching=True,
                watermark=0.25,
                enable_chunked_prefill=False,
                policy="priority",
                hash_block_tokens=1,
                cost_b=0.0,
                cost_c=0.0,
                async_scheduling=True,
                max_num_batched_tokens=29,
                max_model_len=29,
                block_size=8,
                num_blocks=9,
            ),
        )
    )


def test_refused_request_is_tried_again_when_an_evicted_hit_makes_it_smaller() -> None:
    rows = [row(0.0, 33, 1, list(range(8))), row(0.5, 6, 40), row(0.5078125, 33, 2, list(range(8)))]

    compare(
        (
            rows,
            config(
                groups=[{"type": "full"}, {"type": "full"}],
                enable_prefix_caching=True,
                scheduler_reserve_full_isl=False,
                long_prefill_token_threshold=4,
                num_blocks=22,
            ),
        )
    )


def test_refused_request_is_tried_again_when_arrivals_lower_the_adaptive_threshold() -> None:
    rows = [row(0.0, 30, 20), row(1 / 128, 40, 2), *(row(1 / 32, 4, 1) for _ in range(3))]

    compare(
        (
            rows,
            config(
                scheduler_reserve_full_isl=False,
                long_prefill_token_threshold=1,
                long_prefill_token_threshold_adaptive=True,
                num_blocks=15,
            ),
        )
    )
