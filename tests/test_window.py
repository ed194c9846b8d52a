"""Windows and chunks: what a token sees, counted by hand, and the engine's running sums of it."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import prepare, run, trace
from test_engine_laws import CHUNKED, Case, cases

from kvsim.capacity import held_blocks, uniform_paging_waste, windowed_blocks
from kvsim.cost import Step
from kvsim.errors import InputError
from kvsim.model import LayerGroup, layer_groups
from kvsim.policies.block_pool import CachingPool
from kvsim.policies.contents import Contents
from kvsim.policies.groups import Group, PrefixIndex
from kvsim.policies.paged import PagedPolicy
from kvsim.policies.sliding_window import SlidingWindowPolicy
from kvsim.policy import NO_MATCH, Policy, Pool, Span
from kvsim.request import Sequence
from kvsim.window import Chunk, area, first_seen, seen
from kvsim.zoo import find_model

widths = st.none() | st.integers(1, 9) | st.integers(1, 9).map(Chunk)


def visible(position: int, window: int | None) -> set[int]:
    """Return the positions that the token at `position` attends to, itself included."""
    if isinstance(window, Chunk):
        return {other for other in range(position + 1) if other // int(window) == position // int(window)}
    return {other for other in range(position + 1) if window is None or position - other < window}


@given(st.integers(1, 40), st.integers(1, 40), widths)
def test_sums_over_a_chunk_of_prompt_are_those_of_its_tokens(
    length: int, tokens: int, window: int | None
) -> None:
    tokens = min(tokens, length)
    each = [visible(position, window) for position in range(length - tokens, length)]

    assert first_seen(length - 1, window) == min(each[-1])
    assert seen(length, tokens, window) == len(set().union(*each))
    assert area(length, tokens, window) == sum(map(len, each))


def test_a_chunk_is_not_a_window_of_its_width() -> None:
    assert Chunk(8) == Chunk(8)
    assert Chunk(8) not in (8, Chunk(9))
    assert len({8, Chunk(8), Chunk(8)}) == 2
    assert (repr(Chunk(8)), str(Chunk(8)), f"{Chunk(8)}") == ("Chunk(8)", "chunks of 8", "chunks of 8")
    assert pickle.loads(pickle.dumps(Span(Chunk(8), 2))) == Span(Chunk(8), 2) != Span(8, 2)


class ByContext:
    """A microsecond for each KV token that each span reads."""

    label = "by context (assumed)"

    def seconds(self, step: Step) -> float:
        """Weigh the spans differently, in powers of two."""
        sums = (step.decode_context, step.prefill_context, step.prefill_area)
        return 2.0**-10 + sum(2.0 ** -(20 + place) * value for one in sums for place, value in enumerate(one))


@settings(max_examples=80)
@given(case=cases(), caches=st.booleans())
def test_every_step_reads_what_its_tokens_see(case: Case, caches: bool) -> None:
    work, config = case
    policy = SlidingWindowPolicy(block_size=4, kv_groups=CHUNKED, enable_prefix_caching=caches)
    windows: list[int | None] = [None, Chunk(8), Chunk(6)]

    found = run(work, policy, **{**config, "cost": ByContext()})

    length: dict[int, int] = {}
    for step in found.steps:
        length |= dict(step.admitted)
        reads = [0, 0, 0]
        areas = [0, 0, 0]
        for row, tokens in step.scheduled:
            length[row] += tokens
            for place, window in enumerate(windows):
                reads[place] += seen(length[row], tokens, window)
                areas[place] += area(length[row], tokens, window)
        work_done = step.planned.work
        prefilled = work_done.prefill_context or (0, 0, 0)
        rising = work_done.prefill_area or (0, 0, 0)
        assert reads == [one + other for one, other in zip(work_done.decode_context, prefilled, strict=True)]
        assert areas == [one + other for one, other in zip(work_done.decode_context, rising, strict=True)]


@settings(max_examples=80)
@given(case=cases(), name=st.sampled_from(["paged:block_size=4", "groups", "hybrid"]))
def test_steps_in_bulk_are_those_planned_one_by_one(case: Case, name: str) -> None:
    work, config = case
    config = {**config, "cost": ByContext(), "async_scheduling": False}
    policy: str | Policy = name
    if name == "groups":
        policy = SlidingWindowPolicy(block_size=4, kv_groups=CHUNKED)
    elif name == "hybrid":
        policy = SlidingWindowPolicy(block_size=2)
    config["pool"] = {"spans": (Span(Chunk(7), 3), Span(None, 1), Span(5, 2))}

    watched = run(work, policy, **config).simulation
    bulk = prepare(work, policy, **config)
    bulk.run()

    assert list(bulk.outcomes.finish) == pytest.approx(list(watched.outcomes.finish), abs=0, nan_ok=True)
    assert bulk.replica.ledger.integrals(bulk.clock) == watched.replica.ledger.integrals(watched.clock)


# vLLM's ChunkedLocalAttentionManager, by the examples in its docstrings


@pytest.mark.parametrize(("computed", "skipped"), [(13, 8), (8, 8), (7, 0)])
def test_tokens_before_the_chunk_of_the_next_token_are_skipped(computed: int, skipped: int) -> None:
    assert first_seen(computed, Chunk(8)) == skipped
    assert Group(Chunk(8), 4).outside(computed) == skipped // 4


def chunked_hit(limit: int, cached: tuple[int, ...], chunk: int = 8) -> list[bool]:
    """Return which blocks of 4 a hit up to `limit` tokens has, where full attention would hit all of them."""
    work = trace((0, limit + 1, 1), ids=[[*range(limit // 4 + 1)]], block_tokens=4)
    pool, contents = CachingPool(40, groups=2), Contents(work, 4)
    keys = contents.keys(Sequence(0, 0.0, limit + 1))
    for block in range(limit // 4):
        pool.name(pool.take(1)[0], 0, keys[block])
    for block in cached:
        pool.name(pool.take(1)[0], 1, keys[block])
    index = PrefixIndex((Group(None, 4), Group(Chunk(chunk), 4)), pool, contents, None)
    return list(map(bool, index.find(Sequence(0, 0.0, limit + 1)).blocks[1]))


def test_a_hit_needs_the_blocks_of_its_last_chunk_only() -> None:
    assert chunked_hit(15, (2,)) == [False, False, True]
    assert chunked_hit(15, ()) == [False, False]
    assert chunked_hit(16, ()) == [False] * 4


def test_chunks_that_begin_inside_a_block_need_that_block() -> None:
    assert chunked_hit(16, (2, 3), 10) == [False, False, True, True]
    assert chunked_hit(16, (3,), 10) == []


def test_without_full_attention_something_has_to_vouch_for_earlier_chunks() -> None:
    work = trace((0, 17, 1), ids=[[*range(5)]], block_tokens=4)
    pool, contents = CachingPool(20), Contents(work, 4)
    keys = contents.keys(Sequence(0, 0.0, 17))
    index = PrefixIndex((Group(Chunk(8), 4),), pool, contents, None)

    assert index.find(Sequence(0, 0.0, 17)).tokens == 0
    pool.name(pool.take(1)[0], 0, keys[1])
    assert index.find(Sequence(0, 0.0, 17)).tokens == 8
    pool.name(pool.take(1)[0], 0, keys[3])
    assert index.find(Sequence(0, 0.0, 17)).tokens == 16


def test_blocks_of_a_chunk_go_when_the_next_one_begins() -> None:
    policy = SlidingWindowPolicy(block_size=4, kv_groups='[{"type":"full"},{"type":"chunked","window":8}]')
    policy.reset(Pool.of_blocks(40, 64))
    sequence = Sequence(0, 0.0, 14)
    policy.admit(sequence, NO_MATCH, 14)

    held = []
    for length in (14, 15, 16, 17):
        sequence.computed, sequence.tokens = length, length + 1
        policy.grow(sequence, length + 1)
        held.append([sum(map(bool, table)) for table in policy.tables(sequence)])

    # 8 to 13 are in the chunk of 14; 16 begins the next.
    assert held == [[4, 2], [4, 2], [5, 1], [5, 1]]


def test_scout_gives_back_what_lies_before_the_chunk() -> None:
    scout = find_model("llama-4-scout")

    assert scout.spans == (Span(Chunk(8192), 36), Span(None, 12))
    assert [group.layers for group in scout.layer_groups()] == [12] * 4
    assert uniform_paging_waste(scout, 8192) == 0
    assert uniform_paging_waste(scout, 8193) == pytest.approx(0.75, abs=0.0002)
    assert uniform_paging_waste(scout, 1_000_000) == pytest.approx(0.75, abs=0.01)


def test_start_up_counts_a_chunk_and_the_largest_step() -> None:
    assert windowed_blocks(Chunk(8192), 10**6, 16, 8192) == 1024
    assert windowed_blocks(8192, 10**6, 16, 8192) == 1025
    assert held_blocks([LayerGroup(Chunk(8), 1)], 13, 4) == 4 - 2


def test_a_chunk_and_a_window_of_one_width_are_kinds_of_their_own() -> None:
    assert layer_groups((Span(Chunk(8), 4), Span(8, 2))) == (
        LayerGroup(Chunk(8), 2), LayerGroup(Chunk(8), 2), LayerGroup(8, 2),
    )  # fmt: skip


def test_sinks_are_refused_with_chunks() -> None:
    policy = SlidingWindowPolicy(kv_groups='[{"type":"chunked","window":64}]', sinks=4)

    with pytest.raises(InputError, match="sinks must be 0 with chunked local attention, got 4"):
        policy.reset(Pool.of_blocks(40, 64))


# sinks and prefix sharing


def sink_hit(cached: tuple[int, ...]) -> int:
    """Return the tokens hit of 12 in blocks of 1, window 4, 2 sinks."""
    work = trace((0, 13, 1), ids=[[*range(13)]])
    pool, contents = CachingPool(40), Contents(work, 1)
    keys = contents.keys(Sequence(0, 0.0, 13))
    for token in cached:
        pool.name(pool.take(1)[0], 0, keys[token])
    return PrefixIndex((Group(4, 1, sinks=2),), pool, contents, None).find(Sequence(0, 0.0, 13)).tokens


@pytest.mark.parametrize(
    ("cached", "hit"),
    [
        ((0, 1, 9, 10, 11), 12),
        ((0, 9, 10, 11), 1),
        ((1, 9, 10, 11), 0),
        ((0, 1, 2, 3, 9), 4),
    ],
)
def test_a_hit_behind_the_window_needs_the_sinks(cached: tuple[int, ...], hit: int) -> None:
    assert sink_hit(cached) == hit


def test_paged_layers_and_chunks_read_alike_at_first() -> None:
    work = trace((0, 4, 3))

    plain = run(work, PagedPolicy(block_size=4), pool={"spans": (Span(None, 1),)})
    chunks = run(work, PagedPolicy(block_size=4), pool={"spans": (Span(Chunk(5), 1),)})

    assert [step.planned.work.decode_context for step in plain.steps] == [(0,), (5,), (6,)]
    assert [step.planned.work.decode_context for step in chunks.steps] == [(0,), (5,), (1,)]
    assert [step.slots.internal - step.slots.live for step in chunks.steps][-1] == 8 - 1 - 1
