"""Trace figures: lengths, arrivals, prefix reuse and the LRU hit curve."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.traces.generate import generate
from kvsim.traces.reuse import Reuse, lru_hits, played, reuse, smaller_before, stack_distances
from kvsim.traces.stats import stats
from kvsim.traces.trace import Trace

SHARED = Path(__file__).resolve().parents[2] / "shared" / "traces"


def trace_of(prompts: list[tuple[int, list[int]]], block_tokens: int = 4, **columns: object) -> Trace:
    """Make a trace of (prompt tokens, content ids), one request a second."""
    counts = [len(ids) for _, ids in prompts]
    return Trace(
        name="paper",
        arrival=np.arange(len(prompts), dtype=np.float64),
        prompt_tokens=np.array([tokens for tokens, _ in prompts]),
        output_tokens=np.ones(len(prompts), dtype=np.int64),
        block_ids=np.array([block for _, ids in prompts for block in ids], dtype=np.int64),
        block_offsets=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        block_tokens=block_tokens,
        **columns,  # type: ignore[arg-type]
    )


def measured(trace: Trace, *capacities: int) -> Reuse:
    found = reuse(trace, capacities)
    assert found is not None
    return found


def naive_lru(ids: list[int], capacity: int) -> int:
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for block in ids:
        hits += block in cache
        cache[block] = None
        cache.move_to_end(block)
        if len(cache) > capacity:
            cache.popitem(last=False)
    return hits


@given(ids=st.lists(st.integers(0, 12), max_size=80), capacities=st.lists(st.integers(1, 15), max_size=5))
def test_one_pass_counts_the_hits_of_a_naive_lru_at_every_capacity(
    ids: list[int], capacities: list[int]
) -> None:
    found = lru_hits(np.array(ids, dtype=np.int64), capacities)

    assert found == {capacity: naive_lru(ids, capacity) for capacity in capacities}


@given(ids=st.lists(st.integers(0, 9), max_size=60))
def test_stack_distance_is_the_number_of_other_ids_since(ids: list[int]) -> None:
    expected = [
        len(set(ids[len(ids[:i]) - ids[:i][::-1].index(block) : i]))
        for i, block in enumerate(ids)
        if block in ids[:i]
    ]

    assert stack_distances(np.array(ids, dtype=np.int64)).tolist() == expected


@given(permutation=st.integers(0, 70).flatmap(lambda size: st.permutations(range(size))))
def test_smaller_elements_to_the_left_are_counted(permutation: list[int]) -> None:
    expected = [sum(other < value for other in permutation[:i]) for i, value in enumerate(permutation)]

    assert smaller_before(np.array(permutation, dtype=np.int64)).tolist() == expected


@given(
    prompts=st.lists(
        st.integers(1, 20).flatmap(
            lambda tokens: st.tuples(
                st.just(tokens), st.lists(st.integers(0, 8), max_size=-(-tokens // 4), unique=True)
            )
        ),
        min_size=1,
        max_size=12,
    )
)
def test_hits_are_what_an_unlimited_cache_of_tokens_serves(prompts: list[tuple[int, list[int]]]) -> None:
    seen: dict[int, int] = {}
    blocks = tokens = full = 0
    for length, ids in prompts:
        for place, block in enumerate(ids):
            covered = min(4, length - 4 * place)
            served = min(covered, seen.get(block, 0))
            blocks, tokens, full = blocks + (block in seen), tokens + served, full + (served == 4)
            seen[block] = max(seen.get(block, 0), covered)

    found = measured(trace_of(prompts))

    assert (found.hits, found.hit_tokens, found.full_block_hits) == (blocks, tokens, full)
    assert (found.references, found.unique) == (sum(len(ids) for _, ids in prompts), len(seen))


def test_a_partial_block_serves_only_the_tokens_it_had() -> None:
    found = measured(trace_of([(6, [0, 1]), (8, [0, 1]), (9, [0, 1, 2])]))

    assert found.hits == 4
    assert found.hit_tokens == (4 + 2) + (4 + 4)
    assert found.full_block_hits == 3
    assert found.full_blocks == 1 + 2 + 2
    assert found.token_hit_rate == 14 / 23


def test_closed_loop_requests_count_in_the_order_they_are_sent() -> None:
    trace = trace_of(
        [(4, [0]), (8, [0, 1]), (12, [0, 1, 2]), (4, [3])],
        session=np.array([0, 0, 0, 1]),
        parent=np.array([-1, 0, 1, -1]),
        think=np.array([0.0, 2.0, 2.0, 0.0]),
    )
    trace.arrival[:] = [0, 0, 0, 1]

    assert played(trace).prompt_tokens.tolist() == [4, 4, 8, 12]
    assert measured(trace, 1, 2).lru_hits == {1: 0, 2: 3}


def test_the_most_reused_tenth_and_the_times_between_uses_by_hand() -> None:
    # One request a second; block 0 of ten different ones is used at 0, 1, 3 and 6 s, block 1 at 1 and 6 s.
    found = measured(
        trace_of([(8, [0, 9]), (8, [0, 1]), (4, [2]), (8, [0, 3]), (8, [4, 5]), (8, [6, 7]), (12, [0, 1, 8])])
    )

    assert found.unique == 10
    assert (found.hits, found.top_tenth_hits, found.top_tenth_share) == (4, 3, 0.75)
    assert found.seconds_since[50] == np.median([1, 2, 3, 5])
    assert measured(trace_of([(4, [0])])).seconds_since == {}


def test_time_between_uses_counts_thinking_but_no_answers() -> None:
    trace = trace_of(
        [(4, [0]), (4, [0])],
        session=np.array([0, 0]),
        parent=np.array([-1, 0]),
        think=np.array([0.0, 7.0]),
    )
    trace.arrival[:] = 1.0

    assert measured(trace).seconds_since[50] == 7.0


@given(ids=st.lists(st.integers(0, 30), min_size=1, max_size=80))
def test_no_other_tenth_gives_more_hits(ids: list[int]) -> None:
    found = measured(trace_of([(4 * len(ids), ids)]))

    hits = sorted((ids.count(block) - 1 for block in set(ids)), reverse=True)
    assert found.top_tenth_hits == sum(hits[: -(-len(hits) // 10)])


def test_lengths_are_described_by_hand() -> None:
    trace = trace_of([(10, []), (20, []), (60, [])])

    found = stats(trace).prompt
    assert (found.total, found.mean, found.min, found.max) == (90, 30.0, 10, 60)
    assert found.percentiles[50] == 20
    assert found.weighted_mean == (100 + 400 + 3600) / 90
    assert found.std == pytest.approx(np.sqrt((400 + 100 + 900) / 3))


def test_arrivals_are_described_by_their_gaps() -> None:
    found = stats(generate("alpaca", 20_000, rate=5, seed=1, arrival="gamma:2"))

    assert found.arrival_rate == pytest.approx(5, rel=0.05)
    assert found.arrival_cv == pytest.approx(2, rel=0.05)
    assert found.reuse is None


def test_simultaneous_arrivals_have_no_rate() -> None:
    trace = trace_of([(4, [0]), (4, [0])])
    trace.arrival[:] = 0

    found = stats(trace)
    assert found.arrival_rate is None
    assert found.arrival_cv is None
    assert found.span == 0


def test_sessions_and_closed_loop_rows_are_counted() -> None:
    trace = generate("chat", 500, rate=1, seed=1)

    found = stats(trace)
    assert trace.session is not None
    assert found.sessions == trace.session.max() + 1
    assert found.closed_loop == 500 - found.sessions
    assert found.arrival_rate == pytest.approx(1, rel=0.3)


@pytest.mark.parametrize("capacity", [0, -3])
def test_a_cache_without_room_is_refused(capacity: int) -> None:
    with pytest.raises(InputError, match=f"at least 1 block, got {capacity}"):
        lru_hits(np.array([1, 1]), [capacity])


@pytest.mark.shared
def test_mooncake_reuse_is_the_published_one() -> None:
    """Mooncake FAST'25 conversation trace: counts by exact replay."""
    found = measured(shared_trace("mooncake/conversation_trace.jsonl"))

    assert (found.references, found.unique, found.hits) == (288_500, 182_790, 105_710)
    assert round(found.block_hit_rate, 4) == 0.3664
    assert round(found.token_hit_rate, 4) == 0.3736
    assert round(found.full_block_hit_rate, 4) == 0.3819


@pytest.mark.shared
def test_mooncake_lru_hits_are_the_published_ones() -> None:
    expected = {1000: 12_831, 5_859: 39_101, 10_000: 60_921, 19_531: 82_273, 30_000: 93_967}
    expected |= {39_062: 101_324, 50_000: 102_290, 97_656: 104_870, 100_000: 104_924}

    assert measured(shared_trace("mooncake/conversation_trace.jsonl"), *expected).lru_hits == expected


@pytest.mark.shared
def test_mooncake_sums_are_the_published_ones() -> None:
    found = stats(shared_trace("mooncake/conversation_trace.jsonl"))

    assert found.requests == 12_031
    assert (found.prompt.total, found.output.total) == (144_793_823, 4_122_048)
    assert (round(found.prompt.mean), round(found.output.mean)) == (12_035, 343)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "requests", "prompt", "output"),
    [
        ("conv", 19_366, (1154.70, 1020, 14_050), (211.13, 129, 1000)),
        ("code", 8_819, (2047.85, 1469, 7_437), (27.88, 13, 1899)),
    ],
)
def test_azure_lengths_are_the_published_ones(
    file: str, requests: int, prompt: tuple[float, ...], output: tuple[float, ...]
) -> None:
    found = stats(shared_trace(f"azure2023/AzureLLMInferenceTrace_{file}.csv"))

    assert found.requests == requests
    for lengths, expected in ((found.prompt, prompt), (found.output, output)):
        assert (round(lengths.mean, 2), lengths.percentiles[50], lengths.max) == expected
    assert found.span / 60 == pytest.approx(57.8, abs=0.7)


def shared_trace(path: str) -> Trace:
    from kvsim.traces.read import read_trace

    if not SHARED.is_dir():
        pytest.skip(f"the shared traces are not at {SHARED}")
    return read_trace(SHARED / path)
