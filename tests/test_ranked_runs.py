"""Orders of eviction over runs of blocks, against the same orders over single blocks."""

from __future__ import annotations

import pytest
from against_reference import compare_runs
from hypothesis import given
from small_runs import prepare, run
from test_engine_laws import Case, cases
from test_fast_equals_slow import many

from kvsim.policies.ranked_runs import RANKS, RankedPrefix


@pytest.mark.parametrize("block_size", [1, 4])
@pytest.mark.parametrize("eviction", RANKS)
@many
@given(case=cases())
def test_runs_make_room_in_the_order_of_their_blocks(eviction: str, block_size: int, case: Case) -> None:
    work, limits = case
    limits = limits | {"async_scheduling": False, "blocks": limits["blocks"] * 4 // block_size}
    policy = f"prefix:eviction={eviction}:block_size={block_size}"
    bulk = prepare(work, policy, **limits)

    bulk.run()

    assert isinstance(bulk.replica.policy, RankedPrefix)
    compare_runs(bulk, run(work, policy, **limits).simulation)
