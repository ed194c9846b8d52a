"""Free queues of blocks: what is taken next, in pools of any size."""

from __future__ import annotations

import pytest

from kvsim.policies.block_pool import CachingPool, StackPool
from kvsim.policies.eviction_pool import RankedPool

VAST = 1 << 60


@pytest.mark.parametrize("pool", [StackPool(VAST), CachingPool(VAST), RankedPool(VAST, "lfu", None)])
def test_a_pool_costs_nothing_before_its_blocks_are_taken(pool: StackPool | CachingPool) -> None:
    assert pool.take(3) == [1, 2, 3]
    assert pool.free == VAST - 4


def test_blocks_without_content_go_before_those_never_taken_and_these_before_cached_ones() -> None:
    pool = CachingPool(6)
    one, two, three = pool.take(3)
    pool.name(two, 0, 70)

    pool.give_back([three, two, one])

    assert pool.free_queue() == [3, 1, 4, 5, 2]
    assert pool.take(5) == [3, 1, 4, 5, 2]
    assert pool.found == [{}]


def test_what_was_taken_back_last_is_given_out_first() -> None:
    pool = StackPool(6)
    taken = pool.take(4)

    pool.give_back(taken[2:])
    pool.give_back(taken[:2])

    assert pool.free_queue() == [1, 2, 3, 4, 5]
    assert pool.take(5) == [1, 2, 3, 4, 5]
