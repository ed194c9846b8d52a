"""Reserving blocks for outputs that may come: nothing is `paged`, everything never preempts, a share lies between."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import run, trace
from test_engine_laws import Case, cases

from kvsim import simulate
from kvsim.errors import InputError
from kvsim.policies.reserved import ReservedPolicy
from kvsim.policy import NO_MATCH, Pool
from kvsim.request import Sequence
from kvsim.traces.generate import generate


def admitted(policy: ReservedPolicy, prompt: int, blocks: int = 100, longest: int = 64) -> int:
    """Return the blocks that a request gets at admission."""
    policy.reset(Pool.of_blocks(blocks, longest))
    policy.admit(Sequence(0, 0.0, prompt), NO_MATCH, prompt)
    return policy.blocks_in_use


@pytest.mark.parametrize(
    ("reserve", "blocks"),
    [(1.0, 6), (0.5, 4), (0.1, 3), (0.0, 2)],
)
def test_a_share_of_the_longest_output_gets_blocks_at_admission(reserve: float, blocks: int) -> None:
    # 7 prompt tokens and 16, 8, 2 or no outputs, in blocks of 4.
    assert admitted(ReservedPolicy(reserve=reserve, max_tokens=16, block_size=4), 7) == blocks


def test_without_a_limit_outputs_may_fill_the_model_length() -> None:
    assert admitted(ReservedPolicy(block_size=4), 7) == 16
    assert admitted(ReservedPolicy(block_size=4, reserve=0.5), 8) == 9


def test_a_reservation_is_never_more_than_the_pool() -> None:
    assert admitted(ReservedPolicy(block_size=4), 7, blocks=11) == 10


@settings(max_examples=60)
@given(cases())
def test_nothing_reserved_is_paged_to_the_last_step(case: Case) -> None:
    work, config = case

    paged, reserved = (
        run(work, f"{name}:block_size=4", **config) for name in ("paged", "reserved:reserve=0")
    )

    for one, other in zip(paged.steps, reserved.steps, strict=True):
        assert one._replace(planned=None) == other._replace(planned=None)
        assert one.planned.end == other.planned.end
    assert paged.times("finish") == pytest.approx(reserved.times("finish"), nan_ok=True, abs=0)


@settings(max_examples=60)
@given(case=cases(), limit=st.none() | st.integers(30, 40))
def test_nobody_is_preempted_while_all_that_may_come_is_reserved(case: Case, limit: int | None) -> None:
    # The cases draw at most 30 outputs.
    work, config = case

    found = run(work, ReservedPolicy(block_size=4, max_tokens=limit), **config)

    assert sum(found.counts("preemptions")) == 0


def test_outputs_beyond_the_limit_go_on_block_by_block() -> None:
    found = run(trace((0, 4, 12)), ReservedPolicy(block_size=4, max_tokens=4), blocks=9)

    assert [step.blocks for step in found.steps] == [2] * 5 + [3] * 4 + [4] * 3
    assert found.steps[0].slots.reserved == 4
    assert found.steps[0].slots.internal == 0


def test_what_an_answer_leaves_unused_is_internal_waste() -> None:
    found = run(trace((0, 4, 3)), ReservedPolicy(block_size=4, max_tokens=12), blocks=9)

    # 16 slots held, 4 + 3 − 1 ever filled.
    assert [(step.slots.live, step.slots.reserved, step.slots.internal) for step in found.steps] == [
        (4, 2, 10), (5, 1, 10), (6, 0, 10),
    ]  # fmt: skip


def summary(policy: str) -> dict[str, Any]:
    work = generate("azure-conv", 150, rate=6.0, seed=0)
    settings: dict[str, Any] = {
        "gpu": "a100-40-sxm",
        "kv_cache_memory_bytes": 2 * 10**9,
        "max_model_len": 8192,
    }
    return simulate(work, policy, measure_capacity=False, **settings).summary


def test_reserving_more_trades_preemptions_for_waste() -> None:
    found = [summary(f"reserved:max_tokens=1000:reserve={share}") for share in (0.0, 0.3, 1.0)]

    preemptions = [each["preemptions"] for each in found]
    waste = [each["waste"] for each in found]
    assert preemptions == sorted(preemptions, reverse=True)
    assert preemptions[0] > preemptions[1] >= preemptions[2] == 0
    assert waste == sorted(waste)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"reserve": 1.5}, r"reserve must be a share in \[0, 1\], got 1.5"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
    ],
)
def test_parameters_that_cannot_be_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ReservedPolicy(**parameters).reset(Pool.of_blocks(20, 64))
