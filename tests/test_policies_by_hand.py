"""Worked examples of papers and of vLLM's documents and rules, followed block by block."""

from __future__ import annotations

import pytest
from small_runs import run, trace

from kvsim.policies.contiguous import ContiguousPolicy
from kvsim.policies.paged import PagedPolicy
from kvsim.policy import Lease, Policy, Pool
from kvsim.request import Sequence

NOTHING: list[int] = []


def waiting(index: int, prompt: int) -> Sequence:
    """Return a sequence that wants to be admitted."""
    return Sequence(index, 0.0, prompt)


def admit(policy: Policy, sequence: Sequence, tokens: int | None = None) -> Lease | None:
    """Look a sequence up and admit it with its whole prompt, or a first chunk."""
    match = policy.lookup(sequence)
    chunk = sequence.tokens - match.tokens if tokens is None else tokens
    lease = policy.admit(sequence, match, chunk)
    if lease is not None:
        sequence.computed = match.tokens + chunk
    return lease


def decode(policy: Policy, sequence: Sequence) -> Lease | None:
    """Let a sequence sample a token and put it into memory."""
    sequence.tokens += 1
    lease = policy.grow(sequence, sequence.computed + 1)
    if lease is not None:
        sequence.computed += 1
    return lease


def test_second_decode_allocates_the_block_that_the_first_filled() -> None:
    # vLLM paper §4.3, Fig. 6: a prompt of 7 in blocks of 4.
    policy = PagedPolicy(block_size=4)
    policy.reset(Pool.of_blocks(10, 64))
    sequence = waiting(0, 7)

    admit(policy, sequence)
    assert policy.tables(sequence) == [[1, 2]]
    decode(policy, sequence)
    assert policy.tables(sequence) == [[1, 2]]
    decode(policy, sequence)
    assert policy.tables(sequence) == [[1, 2, 3]]


@pytest.mark.parametrize(("longest", "row", "unused"), [(2048, (0, 7, 4), 2038), (512, (0, 3, 3), 507)])
def test_reservation_that_is_never_filled_is_internal(
    longest: int, row: tuple[float, int, int], unused: int
) -> None:
    # vLLM paper §3.1, Fig. 3: 10 of 2048 tokens used, and 5 of 512.
    found = run(
        trace(row),
        ContiguousPolicy(block_size=1),
        blocks=longest + 1,
        max_model_len=longest,
        max_num_batched_tokens=longest,
    )

    final = row[1] + row[2] - 1
    assert [step.slots.internal for step in found.steps] == [unused] * row[2]
    assert [step.slots.reserved for step in found.steps] == [final - row[1] - done for done in range(row[2])]


def test_watermark_counts_the_null_block_and_is_waived_when_nothing_runs() -> None:
    # Rule A4: ⌊0.25 · 8⌋ = 2 of 7 usable blocks stay free at admissions beside others.
    policy = PagedPolicy(block_size=4, watermark=0.25)
    policy.reset(Pool.of_blocks(8, 28))
    alone, beside = waiting(0, 16), waiting(1, 8)
    assert admit(policy, alone) is not None
    assert admit(policy, beside) is None
    beside.tokens = beside.prompt_tokens = 4
    assert admit(policy, beside) is not None
    for _ in range(8):
        assert decode(policy, alone) is not None

    policy.release(alone, finished=True)
    policy.release(beside, finished=True)
    assert admit(policy, waiting(2, 28)) is not None


def test_gate_asks_for_the_whole_prompt_and_takes_the_chunk() -> None:
    # Rule A3: a check, not a reservation.
    policy = PagedPolicy(block_size=4)
    policy.reset(Pool.of_blocks(6, 20))

    assert admit(policy, waiting(0, 12), tokens=4) is not None
    assert policy.blocks_in_use == 1
    assert admit(policy, waiting(1, 17), tokens=4) is None
    assert admit(policy, waiting(2, 16), tokens=4) is not None


def test_without_the_gate_the_first_chunk_is_enough() -> None:
    policy = PagedPolicy(block_size=4, scheduler_reserve_full_isl=False)
    policy.reset(Pool.of_blocks(6, 64))

    assert admit(policy, waiting(0, 60), tokens=4) is not None


def test_refusal_takes_nothing() -> None:
    policy = PagedPolicy(block_size=4)
    policy.reset(Pool.of_blocks(4, 64))
    sequence = waiting(0, 12)
    admit(policy, sequence)

    assert decode(policy, sequence) is None
    assert admit(policy, waiting(1, 1)) is None
    assert policy.tables(sequence) == [[1, 2, 3]]
    assert policy.free_queue() == NOTHING


def test_what_is_freed_last_is_reused_first_without_caching() -> None:
    policy = PagedPolicy(block_size=4)
    policy.reset(Pool.of_blocks(8, 64))
    first, second = waiting(0, 8), waiting(1, 12)
    admit(policy, first)
    admit(policy, second)

    policy.release(first, finished=True)
    policy.release(second, finished=True)

    assert policy.free_queue() == [5, 4, 3, 2, 1, 6, 7]
