"""Sharing by content, block by block: vLLM's prefix caching document and its rules C, P and A5."""

from __future__ import annotations

import pytest
from small_runs import prepare, run, trace

from kvsim.policies.prefix import PrefixPolicy
from kvsim.policy import Lease, Policy, Pool
from kvsim.request import Sequence


def waiting(index: int, prompt: int) -> Sequence:
    """Return a sequence that wants to be admitted."""
    return Sequence(index, 0.0, prompt)


def admit(policy: Policy, sequence: Sequence) -> Lease | None:
    """Look a sequence up and admit it with all its tokens."""
    match = policy.lookup(sequence)
    chunk = sequence.tokens - match.tokens
    lease = policy.admit(sequence, match, chunk)
    if lease is not None:
        sequence.computed = match.tokens + chunk
    return lease


DOCUMENT = trace(
    (0, 15, 6),
    (3, 14, 3),
    (9, 29, 1),
    ids=[[*range(15)], [*range(10), *range(100, 104)], [*range(12), *range(200, 217)]],
)
"""vLLM's prefix caching document: row 1 has its first 10 tokens from row 0, row 2 its first 12."""


def test_document_example_hits_two_blocks_and_evicts_in_the_published_order() -> None:
    # Ten blocks of 4, numbered from 0 there and from 1 here, where 0 is the null block.
    simulation = prepare(DOCUMENT, PrefixPolicy(block_size=4), blocks=11)
    policy, running = simulation.replica.policy, simulation.replica.batch.running
    assert isinstance(policy, PrefixPolicy)
    tables: list[dict[int, list[int]]] = []
    simulation.replica.watch = lambda _: tables.append(
        {row: policy.tables(job)[0][:] for row, job in running.items()}
    )

    simulation.run()

    assert tables[3] == {0: [1, 2, 3, 4, 5], 1: [1, 2, 6, 7]}
    assert list(simulation.outcomes.cached) == [0, 8, 12]
    assert tables[-1] == {2: [block + 1 for block in (0, 1, 2, 7, 8, 9, 4, 3)]}


def test_decodes_that_read_the_same_blocks_are_told_apart_for_the_step_cost() -> None:
    found = run(DOCUMENT, PrefixPolicy(block_size=4), blocks=11)

    # Rows 0 and 1 share two blocks; while row 1 computes its prompt, only row 0 decodes.
    assert [step.planned.work.decode_shared for step in found.steps] == [0, 0, 0, 0, 8, 8, 0]


def test_document_example_frees_in_reverse_to_the_back_of_the_queue() -> None:
    work = trace((0, 15, 6), (3, 14, 3), ids=[[*range(15)], [*range(10), *range(100, 104)]])
    simulation = prepare(work, PrefixPolicy(block_size=4), blocks=11)
    policy = simulation.replica.policy
    assert isinstance(policy, PrefixPolicy)
    simulation.keeps_places = True

    simulation.run()

    assert policy.free_queue() == [block + 1 for block in (7, 8, 9, 4, 3, 2, 6, 5, 1, 0)]


def test_tail_block_that_is_not_full_is_the_first_to_be_reused() -> None:
    # Rule P5 of vLLM 0.32: blocks without a hash go to the front. One output fewer leaves a partial tail each.
    work = trace((0, 15, 5), (3, 14, 2), ids=[[*range(15)], [*range(10), *range(100, 104)]])
    simulation = prepare(work, PrefixPolicy(block_size=4), blocks=11)
    policy = simulation.replica.policy
    assert isinstance(policy, PrefixPolicy)
    simulation.keeps_places = True

    simulation.run()

    assert policy.free_queue() == [7, 5, 8, 9, 10, 4, 3, 6, 2, 1]


def cached(prompt: int, again: int) -> tuple[PrefixPolicy, Sequence, Sequence]:
    """Let one sequence run in blocks of 4 and another of the same content be admitted beside it."""
    work = trace((0, prompt, 1), (0, again, 1), ids=[[*range(prompt)], [*range(again)]])
    policy = PrefixPolicy(block_size=4)
    policy.reset(Pool.of_blocks(20, 64, workload=work))
    first, second = waiting(0, prompt), waiting(1, again)
    admit(policy, first)
    return policy, first, second


@pytest.mark.parametrize(("prompt", "hit"), [(8, 4), (9, 8), (12, 8), (3, 0), (4, 0), (5, 4)])
def test_hit_leaves_one_token_to_compute(prompt: int, hit: int) -> None:
    # Rule C4: at most ⌊(tokens − 1)/4⌋ blocks.
    policy, _, second = cached(prompt, prompt)

    assert policy.lookup(second).tokens == hit


def test_block_computed_again_keeps_its_own_number() -> None:
    # vLLM v1 appends to block tables and never replaces: the last block of an equal prompt is a second one.
    policy, first, second = cached(8, 8)

    admit(policy, second)

    assert policy.tables(first) == [[1, 2]]
    assert policy.tables(second) == [[1, 3]]
    assert policy.blocks_in_use == 3


def test_lookup_takes_the_twin_that_was_named_first() -> None:
    policy, first, second = cached(8, 8)
    admit(policy, second)
    policy.release(first, finished=True)
    policy.release(second, finished=True)

    third = waiting(1, 8)
    third.tokens = 9
    admit(policy, third)

    assert policy.tables(third)[0][:2] == [1, 2]


def test_hit_on_a_free_block_counts_as_needed_and_on_a_held_one_does_not() -> None:
    # Rule A5: 4 usable blocks. Beside its holder a prompt of 16 needs 2 more; after it was freed all 4.
    work = trace((0, 9, 1), (0, 16, 1), (0, 4, 1), ids=[[*range(9)], [*range(16)], [900]])
    policy = PrefixPolicy(block_size=4)
    policy.reset(Pool.of_blocks(5, 16, workload=work))
    first, second = waiting(0, 9), waiting(1, 16)
    admit(policy, first)
    assert admit(policy, second) is None
    policy.release(first, finished=True)
    assert policy.blocks_in_use == 0

    other = waiting(2, 4)
    assert admit(policy, other) is not None
    assert policy.lookup(second).tokens == 8
    assert admit(policy, second) is None
    policy.release(other, finished=True)
    assert admit(policy, second) is not None


def test_no_hits_are_reported_where_nothing_is_shared_even_under_preemption() -> None:
    found = run(trace((0, 8, 5), (0, 9, 3)), "prefix:block_size=4", blocks=6)

    # Row 1 loses 9 tokens and finds 8 of its own again when it comes back.
    assert found.counts("preemptions") == [0, 1]
    assert found.counts("cached") == [0, 0]
    assert found.counts("readmission_hits") == [0, 8]
    assert found.counts("recomputed") == [0, 1]


def test_first_hits_and_hits_after_a_preemption_are_counted_apart() -> None:
    work = trace((0, 8, 5), (0, 9, 3), (9, 8, 1), ids=[[1, 2], [3, 4, 5], [3, 4]], block_tokens=4)

    found = run(work, "prefix:block_size=4", blocks=6)

    assert found.counts("cached") == [0, 0, 4]
    assert found.counts("readmission_hits") == [0, 8, 0]
