"""Longest cached prefix first: who is let in when, and what that brings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import Run, run, trace
from tight_runs import Case, cases, run_watched, simulation_of

from kvsim.explain import explain
from kvsim.policies.radix import RadixPolicy
from kvsim.traces import Trace
from kvsim.waiting import MOST_SORTED

ONE_AT_A_TIME: dict[str, Any] = {"max_num_seqs": 1, "scheduling_policy": "lpm"}


def admitted(found: Run) -> list[int]:
    """Return the rows in the order in which they were admitted."""
    return [row for step in found.steps for row, _ in step.admitted]


def prompts(*ids: list[int], at: float = 0.0) -> Trace:
    """Return requests of one output whose prompts are these tokens, each with one of its own behind."""
    return trace(*((at, len(row) + 1, 1) for row in ids), ids=list(ids))


def test_who_has_more_cached_goes_first() -> None:
    work = prompts([1, 2, 3, 4], [7, 8], [1, 2, 9], [1, 2, 3, 9])

    assert admitted(run(work, "prefix:block_size=1", **ONE_AT_A_TIME)) == [0, 3, 2, 1]


def test_equals_keep_the_order_of_arrival() -> None:
    work = prompts([1, 2], [7, 8], [1, 4], [5, 6], [1, 3])

    assert admitted(run(work, "radix", **ONE_AT_A_TIME)) == [0, 2, 4, 1, 3]


def test_order_is_that_of_arrival_where_nothing_is_cached() -> None:
    work = prompts([1], [2], [1])

    assert admitted(run(work, "paged:block_size=4", **ONE_AT_A_TIME)) == [0, 1, 2]


def test_newcomer_with_more_cached_is_tried_while_the_first_in_line_is_refused() -> None:
    # 20 tokens: row 0 ends with 15 of them; row 1 would need 12 more, row 2 has all but one token there.
    work = trace((0, 8, 8), (1, 12, 1), (3, 8, 1), ids=[[*range(8)], [50], [*range(7)]])

    found = run(work, RadixPolicy(block_size=4), blocks=6, scheduling_policy="lpm")

    assert admitted(found) == [0, 2, 1]
    assert found.times("first_scheduled")[2] == 3.0


def test_long_line_is_served_in_order_of_arrival() -> None:
    lonely = [[1000 + row] for row in range(MOST_SORTED)]
    work = prompts([1, 2], *lonely, [1, 2], [1, 3])

    found = admitted(run(work, "radix", blocks=4096, **ONE_AT_A_TIME))

    # 131 wait, then 130, 129, 128: from then on those with something cached go first.
    assert found[:5] == [0, 1, 2, MOST_SORTED + 1, MOST_SORTED + 2]
    assert found[5:] == [*range(3, MOST_SORTED + 1)]


@st.composite
def batches(draw: st.DrawFn) -> tuple[Trace, int, int]:
    """Draw prompts that wait together, and return the longest and the number of different tokens."""
    rows = draw(st.lists(st.lists(st.integers(0, 2), max_size=7), min_size=1, max_size=10))
    tokens = {tuple(row[:end]) for row in rows for end in range(1, len(row) + 1)}
    return prompts(*rows), max(map(len, rows)) + 1, len(tokens)


@settings(max_examples=150)
@given(batch=batches())
def test_batch_is_computed_with_no_token_twice_if_the_longest_prompt_fits(
    batch: tuple[Trace, int, int],
) -> None:
    # RadixAttention's theorem 3.1: a depth-first order is optimal from there on, and lpm is one.
    work, longest, different = batch

    found = run(work, RadixPolicy(block_size=1), blocks=longest + 1, **ONE_AT_A_TIME)

    shared = int(work.prompt_tokens.sum()) - len(work) - different
    assert sum(found.counts("cached")) == shared


@pytest.mark.parametrize("policy", ["radix:block_size=1", "prefix:block_size=1"])
def test_order_finds_at_least_as_much_as_first_come(policy: str) -> None:
    rng = np.random.default_rng(5)
    rows = [[int(group), *map(int, rng.integers(0, 3, 4))] for group in rng.integers(10, 16, 60)]
    work = prompts(*rows)

    hits = {
        order: sum(run(work, policy, blocks=16, scheduling_policy=order, max_num_seqs=1).counts("cached"))
        for order in ("fcfs", "lpm")
    }

    best = 60 * 5 - len({tuple(row[:end]) for row in rows for end in range(1, 6)})
    assert hits["fcfs"] < 0.6 * best
    assert hits["lpm"] == best


ORDERED = (
    "prefix:block_size=4",
    "prefix:block_size=4:eviction=lfu",
    "radix:block_size=4",
    "tiered:block_size=4:cpu_gib=3e-8:write=back",
)


@settings(max_examples=80)
@given(case=cases(), policy=st.sampled_from(ORDERED))
def test_run_in_that_order_is_the_same_watched_or_not(case: Case, policy: str) -> None:
    work, _, limits = case
    bulk, watched = (simulation_of((work, policy, limits | {"scheduling_policy": "lpm"})) for _ in range(2))

    bulk.run()
    run_watched(watched)

    for name in (*bulk.outcomes.FLOATS, *bulk.outcomes.COUNTS):
        assert repr(getattr(bulk.outcomes, name)) == repr(getattr(watched.outcomes, name)), name
    assert bulk.replica.ledger.integrals(bulk.clock) == watched.replica.ledger.integrals(watched.clock)


def test_explain_accounts_for_every_token_of_a_prompt_that_is_found_beyond_its_last_whole_block() -> None:
    work = trace((0, 32, 1), (5, 32, 1), (9, 40, 1), ids=[[*range(32)]] * 2 + [[*range(20)]])

    found = explain(work, "radix", cost="linear:1,0,0", max_model_len=64, num_gpu_blocks_override=20)

    assert found.lookups is not None
    assert [tuple(each)[1:] for each in found.lookups] == [(0, 0, 16, 16), (31, 0, 0, 1), (20, 0, 12, 8)]
