"""Which cached block makes room: orders by hand, an independent LRU, Belady's bound."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cache_runs import CACHES, CHAINS, Cache, chained, lru_hits, serve, stored
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.policies.eviction import EVICTIONS
from kvsim.policies.prefix import PrefixPolicy
from kvsim.policies.radix import RadixPolicy
from kvsim.policy import Pool
from kvsim.request import Sequence
from kvsim.testing import check_policy

ORDERS = [name for name in EVICTIONS if name != "oracle"]


@pytest.mark.parametrize(
    ("eviction", "rows", "left"),
    [
        # The last row needs the place of one of the blocks before it.
        ("lru", [[1, 2], [1, 2], [3], [4]], [1, 1, 1, 1]),
        ("lfu", [[1, 2], [1, 2], [3], [4]], [2, 2, 0, 1]),
        ("lru", [[1], [3], [1], [4]], [1, 0, 1, 1]),
        ("fifo", [[1], [3], [1], [4]], [0, 1, 0, 1]),
        ("lru", [[3], [1, 2], [4]], [0, 2, 1]),
        ("length", [[3], [1, 2], [4]], [1, 1, 1]),
        ("lru", [[1], [3], [4]], [0, 1, 1]),
        ("oracle", [[1], [3], [4], [1]], [1, 0, 1, 1]),
    ],
)
@pytest.mark.parametrize("policy", [PrefixPolicy, RadixPolicy])
def test_block_that_goes_first_by_hand(
    policy: type[PrefixPolicy | RadixPolicy], eviction: str, rows: list[list[int]], left: list[int]
) -> None:
    size = {"page_size": 2} if policy is RadixPolicy else {}
    chosen = policy(block_size=2, eviction=eviction, **size)
    before = {block for row in rows for block in row} - {4}

    serve(chosen, stored(*rows), len(before) + 1)

    found = [chosen.lookup(Sequence(row, 0.0, 2 * len(blocks) + 1)) for row, blocks in enumerate(rows)]
    assert [match.tokens // 2 for match in found] == left


@pytest.mark.parametrize("eviction", EVICTIONS)
@pytest.mark.parametrize("block_size", [1, 3, 16])
def test_every_order_passes_the_public_checks(eviction: str, block_size: int) -> None:
    check_policy(PrefixPolicy(eviction=eviction, block_size=block_size), seed=3, rounds=6)


def test_only_the_order_that_cuts_runs_up_is_not_counted() -> None:
    pool = Pool.of_blocks(20, 64, workload=stored([1], [2]))
    counted = {}
    for eviction in EVICTIONS:
        policy = PrefixPolicy(block_size=4, eviction=eviction)
        policy.reset(pool)
        counted[eviction] = policy.counted() is not None

    assert [name for name, is_counted in counted.items() if not is_counted] == ["fifo"]


def test_unknown_order_is_refused_and_an_oracle_says_so_in_its_name() -> None:
    with pytest.raises(InputError, match="eviction must be one of lru, lfu, fifo, length, oracle, got 'mru'"):
        PrefixPolicy(eviction="mru")

    assert PrefixPolicy(eviction="oracle").name == "prefix-oracle"
    assert PrefixPolicy(eviction="fifo").name == PrefixPolicy.name == "prefix"


# -- an independent LRU ------------------------------------------------------------------------------


@CACHES
@pytest.mark.parametrize("policy", ["prefix", "radix"])
@settings(max_examples=60)
@given(rows=CHAINS, spare=st.integers(0, 6))
def test_lru_hits_are_those_of_an_independent_lru(
    make: Callable[[int], Cache], policy: str, rows: list[list[int]], spare: int
) -> None:
    room = max(map(len, rows)) + spare
    chosen = PrefixPolicy(block_size=2) if policy == "prefix" else RadixPolicy(page_size=2, block_size=2)

    # The block of each request's private token is there only while it runs.
    found = serve(chosen, stored(*rows), room + 1)

    assert [tokens // 2 for tokens in found] == lru_hits(make(room), chained(rows))


@st.composite
def contested(draw: st.DrawFn) -> tuple[list[list[int]], int]:
    """Draw requests and room for hardly more than the longest."""
    rows = draw(CHAINS)
    return rows, max(map(len, rows)) + draw(st.integers(1, 4))


@pytest.mark.parametrize("policy", ["prefix", "radix"])
@settings(max_examples=120)
@given(case=contested())
def test_no_order_hits_more_than_belady(policy: str, case: tuple[list[list[int]], int]) -> None:
    rows, room = case

    def hits(eviction: str) -> int:
        if policy == "prefix":
            return sum(serve(PrefixPolicy(block_size=2, eviction=eviction), stored(*rows), room))
        return sum(serve(RadixPolicy(page_size=2, block_size=2, eviction=eviction), stored(*rows), room))

    assert max(map(hits, ORDERS)) <= hits("oracle")
