"""Requests served one after another for the sake of the cache, and an independent LRU to compare with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from small_runs import trace

from kvsim.policy import Policy, Pool
from kvsim.request import Sequence
from kvsim.traces import Trace, read_trace

CONVERSATION = Path(__file__).resolve().parents[2] / "shared" / "traces/mooncake/conversation_trace.jsonl"
MOONCAKE_BLOCK = 512

CHAINS = st.lists(st.lists(st.integers(0, 2), max_size=5), min_size=1, max_size=25)
"""Requests by their blocks; few different ones, so that many begin alike."""

Cache = Callable[[int], bool]
"""Touches a block and tells whether it was there."""


def stored(*rows: list[int], gap: float = 10.0) -> Trace:
    """Return requests far apart with these blocks of 2 tokens and a private token behind."""
    work = ((number * gap, 2 * len(row) + 1, 1) for number, row in enumerate(rows))
    return trace(*work, ids=[*rows], block_tokens=2)


def serve(policy: Policy, work: Trace, blocks: int) -> list[int]:
    """Serve a trace, one request after another, in so many usable blocks; return the tokens that each found."""
    policy.reset(Pool.of_blocks(blocks + 1, 1 << 20, workload=work, true_tokens=lambda _: 0))
    hits = []
    for row, prompt in enumerate(work.prompt_tokens.tolist()):
        sequence = Sequence(row, 0.0, prompt)
        match = policy.lookup(sequence)
        assert policy.admit(sequence, match, prompt - match.tokens) is not None
        sequence.computed = prompt
        policy.release(sequence, finished=True)
        hits.append(match.tokens)
    return hits


def plain_lru(capacity: int) -> Cache:
    """Return an LRU of so many blocks."""
    blocks: OrderedDict[int, None] = OrderedDict()

    def touch(block: int) -> bool:
        was_there = block in blocks
        blocks[block] = None
        blocks.move_to_end(block)
        if len(blocks) > capacity:
            blocks.popitem(last=False)
        return was_there

    return touch


def libcachesim_lru(capacity: int) -> Cache:
    """Return libCacheSim's LRU of so many blocks."""
    library = pytest.importorskip(
        "libcachesim", reason="libCacheSim's Python package is not installed (pip install libcachesim)"
    )
    cache = library.LRU(cache_size=capacity)

    def touch(block: int) -> bool:
        return bool(cache.get(library.Request(obj_id=block, obj_size=1)))

    return touch


CACHES = pytest.mark.parametrize("make", [plain_lru, libcachesim_lru])
"""Runs a test with both."""


def lru_hits(cache: Cache, rows: Iterable[list[int]]) -> list[int]:
    """Count hits of requests that touch their blocks from first to last, and free them from last to first."""
    hits = []
    for row in rows:
        hits.append(sum([cache(block) for block in row]))
        for block in reversed(row):
            cache(block)
    return hits


def chained(rows: list[list[int]]) -> list[list[int]]:
    """Number blocks by all that comes before them, as hashes would."""
    numbers: dict[tuple[int, ...], int] = {}
    return [
        [numbers.setdefault(tuple(row[: end + 1]), len(numbers)) for end in range(len(row))] for row in rows
    ]


def conversation() -> Trace:
    """Read Mooncake's conversation trace; skip the test where it is not there."""
    if not CONVERSATION.exists():
        pytest.skip(f"{CONVERSATION} is not there")
    return read_trace(CONVERSATION)


def rows_of(work: Trace) -> list[list[int]]:
    """Return the ids of every row."""
    assert work.block_ids is not None
    assert work.block_offsets is not None
    return [part.tolist() for part in np.split(work.block_ids, work.block_offsets[1:-1])]
