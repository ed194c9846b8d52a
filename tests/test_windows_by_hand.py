"""Sliding windows block by block: vLLM's hybrid allocator, Mistral's rolling buffer, attention sinks."""

from __future__ import annotations

import pytest
from small_runs import run, trace

from kvsim.policies.block_pool import CachingPool
from kvsim.policies.contents import Contents
from kvsim.policies.groups import Group, PrefixIndex
from kvsim.policies.paged import PagedPolicy
from kvsim.policies.prefix import PrefixPolicy
from kvsim.policies.sliding_window import SlidingWindowPolicy
from kvsim.policy import NO_MATCH, Policy, Pool, Span
from kvsim.request import Sequence


def grown(policy: Policy, length: int, pool: Pool) -> Sequence:
    """Let one sequence prefill all but its last token, which it then decodes."""
    policy.reset(pool)
    sequence = Sequence(0, 0.0, length - 1)
    assert policy.admit(sequence, NO_MATCH, length - 1) is not None
    sequence.computed, sequence.tokens = length - 1, length
    assert policy.grow(sequence, length) is not None
    sequence.computed = length
    return sequence


def test_hybrid_example_holds_eleven_blocks() -> None:
    # vLLM's hybrid KV cache document: blocks of 16, window 32, length 112, 10 full and 20 windowed layers.
    policy = SlidingWindowPolicy(block_size=16)
    pool = Pool.of_blocks(40, 112, spans=(Span(None, 10), Span(32, 20)))

    sequence = grown(policy, 112, pool)

    held = [sum(map(bool, table)) for table in policy.tables(sequence)]
    assert held == [7, 2, 2]
    assert policy.blocks_in_use == 11


def test_one_table_for_all_layers_would_hold_twenty_one() -> None:
    # The same 30 layers in blocks of ten layers each: 7 blocks in each of 3 groups.
    pool = Pool.of_blocks(40, 112, spans=(Span(None, 10), Span(32, 20)))
    paged = PagedPolicy(block_size=16)

    grown(paged, 112, pool)

    assert paged.blocks_in_use * 3 == 21


def test_gemma_layers_make_seven_groups_of_ten_with_eight_of_padding() -> None:
    # Gemma-3-27B: 52 windowed and 10 full layers.
    policy = SlidingWindowPolicy(block_size=16)
    policy.reset(Pool.of_blocks(400, 64, spans=(Span(1024, 52), Span(None, 10))))
    sequence = Sequence(0, 0.0, 16)

    policy.admit(sequence, NO_MATCH, 16)

    assert len(policy.tables(sequence)) == 7
    assert policy.blocks_in_use == 7
    assert 7 * 10 - (52 + 10) == 8


@pytest.mark.parametrize(("prompt", "hit"), [(15, 14), (14, 6), (7, 6), (6, 5), (5, 0), (4, 0)])
def test_window_of_four_needs_three_tokens_before_the_end_of_a_hit(prompt: int, hit: int) -> None:
    # vLLM's hybrid KV cache document, a 15-token prompt in blocks of 1: tokens 2–5 and 11–13 are cached, so the
    # prefixes of 5, 6 and 14 tokens can be hit, and the longest below the prompt is taken.
    cached = (2, 3, 4, 5, 11, 12, 13)
    work = trace((0, prompt, 1), ids=[[*range(15)]])
    pool, contents = CachingPool(20), Contents(work, 1)
    keys = contents.keys(Sequence(0, 0.0, 15))
    for block, token in zip(pool.take(len(cached)), cached, strict=True):
        pool.name(block, 0, keys[token])

    found = PrefixIndex((Group(4, 1),), pool, contents, None).find(Sequence(0, 0.0, prompt))

    assert found.tokens == hit


def test_hit_of_full_and_windowed_layers_is_cut_from_both_sides() -> None:
    # Full attention has tokens 0–8, which bounds the window's scan from the right: 6 instead of 14.
    cached = (2, 3, 4, 5, 11, 12, 13)
    work = trace((0, 15, 1), ids=[[*range(15)]])
    pool, contents = CachingPool(40, groups=2), Contents(work, 1)
    keys = contents.keys(Sequence(0, 0.0, 15))
    for token in range(9):
        pool.name(pool.take(1)[0], 0, keys[token])
    for token in cached:
        pool.name(pool.take(1)[0], 1, keys[token])

    found = PrefixIndex((Group(None, 1), Group(4, 1)), pool, contents, None).find(Sequence(0, 0.0, 15))

    assert found.tokens == 6
    assert [sum(map(bool, table)) for table in found.blocks] == [6, 3]


def test_rolling_buffer_is_eight_times_smaller_at_32k() -> None:
    # Mistral-7B (arXiv 2310.06825): window 4096.
    pool = Pool.of_blocks(2100, 32_768, max_num_batched_tokens=32_768)
    window, paged = SlidingWindowPolicy(block_size=16, window=4096), PagedPolicy(block_size=16)

    grown(window, 32_768, pool)
    grown(paged, 32_768, pool)

    assert paged.blocks_in_use == 2048
    assert window.blocks_in_use == 2048 // 8


def test_blocks_outside_go_before_the_next_step_and_even_if_it_is_refused() -> None:
    # Rule W2: 8 blocks of 2, window 4. After 8 + 8 tokens of two sequences the pool is full.
    policy = SlidingWindowPolicy(block_size=2, window=4, scheduler_reserve_full_isl=False)
    policy.reset(Pool.of_blocks(9, 32, max_num_batched_tokens=32))
    first, second = Sequence(0, 0.0, 20), Sequence(1, 0.0, 8)
    assert policy.admit(first, NO_MATCH, 8) is not None
    assert policy.admit(second, NO_MATCH, 8) is not None
    first.computed, second.computed = 8, 8
    assert policy.blocks_in_use == 8

    refused = policy.grow(first, 20)

    # ⌊(8 − 4 + 1)/2⌋ = 2 blocks are outside; 6 would be needed.
    assert refused is None
    assert policy.tables(first) == [[0, 0, 3, 4]]
    assert policy.blocks_in_use == 6


def test_window_moves_one_block_at_a_time_in_a_run() -> None:
    found = run(
        trace((0, 5, 5)), SlidingWindowPolicy(block_size=2, window=3), blocks=9, max_num_batched_tokens=8
    )

    # Tokens in blocks: 01 23 4. | 23 45 | 45 6. | 45 67 | 67 8.
    assert [step.blocks for step in found.steps] == [3, 2, 2, 2, 2]
    assert [step.slots.live for step in found.steps] == [5, 3, 3, 3, 3]


def test_sinks_stay_while_the_window_moves_on() -> None:
    policy = SlidingWindowPolicy(block_size=1, window=3, sinks=2)
    policy.reset(Pool.of_blocks(20, 20, max_num_batched_tokens=20))
    sequence = Sequence(0, 0.0, 8)
    policy.admit(sequence, NO_MATCH, 8)
    sequence.computed, sequence.tokens = 8, 9

    policy.grow(sequence, 9)

    # StreamingLLM: tokens 0, 1 and the last three, 6–8.
    assert [token for token, block in enumerate(policy.tables(sequence)[0]) if block] == [0, 1, 6, 7, 8]
    assert policy.attention == (Span(3 + 2, 1),)


def test_sinks_cost_what_they_read() -> None:
    work = trace((0, 10, 4))

    plain = run(work, SlidingWindowPolicy(block_size=1, window=3))
    sinks = run(work, SlidingWindowPolicy(block_size=1, window=3, sinks=2))

    assert plain.steps[-1].planned.work.decode_context == (3,)
    assert sinks.steps[-1].planned.work.decode_context == (5,)
    assert sinks.steps[-1].blocks == plain.steps[-1].blocks + 2


def test_window_lets_more_requests_run_at_once() -> None:
    work = trace(*[(0, 32, 32)] * 6)

    full = run(work, "paged:block_size=4", blocks=33)
    window = run(work, "sliding-window:block_size=4:window=8", blocks=33)

    assert window.simulation.clock < full.simulation.clock
    assert sum(window.counts("preemptions")) <= sum(full.counts("preemptions"))


def test_shared_tokens_that_windows_still_cover_are_live_once_under_one_table_for_all_layers() -> None:
    # Both rows begin with the same 8 tokens; through a window of 4 a decode of length n sees tokens n − 4 to n − 1.
    work = trace((0, 9, 3), (0, 9, 3), ids=[[*range(9)], [*range(8), 99]])

    found = run(work, PrefixPolicy(block_size=4), blocks=20, pool={"spans": (Span(4, 1),)})

    # Row 0's prompt of 9 and row 1's own token; then 6 and 7 shared and two more of each; then 7 and three of each.
    assert [step.slots.live for step in found.steps] == [9 + 1, 2 + 2 * 2, 1 + 2 * 3]
