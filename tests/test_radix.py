"""The radix policy: hits to the token, one copy of equal tokens, and the same run however it is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import prepare, run, trace

from kvsim.cost import LinearCost
from kvsim.errors import InputError
from kvsim.ledger import CATEGORIES
from kvsim.policies.contents import OUTPUT, REQUEST_STRIDE
from kvsim.policies.eviction import EVICTIONS
from kvsim.policies.radix import RadixPolicy
from kvsim.policy import Pool, Usage
from kvsim.request import Sequence
from kvsim.testing import check_policy
from kvsim.traces import Trace

ROWS = st.lists(
    st.tuples(
        st.integers(0, 40).map(lambda tick: tick / 4),
        st.integers(0, 30),
        st.integers(1, 12),
        st.lists(st.integers(0, 2), max_size=7),
    ),
    min_size=1,
    max_size=12,
)
"""Arrival, prompt, output, and the ids of the prompt's content, 4 tokens each."""


@st.composite
def cases(draw: st.DrawFn) -> tuple[Trace, RadixPolicy, dict[str, Any]]:
    """Draw a case in 40 tokens, often with preemptions and queues."""
    rows = sorted(draw(ROWS), key=lambda row: row[0])
    ids = [content[: -(-prompt // 4)] for _, prompt, _, content in rows]
    work = trace(*[row[:3] for row in rows], ids=ids, block_tokens=4)
    policy = RadixPolicy(
        page_size=draw(st.sampled_from([1, 2, 3, 4])),
        eviction=draw(st.sampled_from(list(EVICTIONS))),
        watermark=draw(st.sampled_from([0.0, 0.2])),
        block_size=4,
    )
    limits = {
        "max_num_seqs": draw(st.sampled_from([1, 2, 4, 8])),
        "max_num_batched_tokens": draw(st.sampled_from([8, 16, 40])),
        "scheduling_policy": draw(st.sampled_from(["fcfs", "lpm"])),
        "cost": LinearCost(0.125, 0.0078125, 0.0009765625),
        "blocks": 11,
        "max_model_len": 40,
    }
    return work, policy, limits


@settings(max_examples=150)
@given(case=cases())
def test_run_that_is_watched_equals_one_whose_pages_are_counted(
    case: tuple[Trace, RadixPolicy, dict[str, Any]],
) -> None:
    work, policy, limits = case
    bulk = prepare(work, policy, **limits)

    watched = run(work, policy, **limits).simulation
    bulk.run()

    assert bulk.replica.batch.block_size == policy.page_size
    assert watched.replica.batch.block_size == 0
    for name in (*watched.outcomes.FLOATS, *watched.outcomes.COUNTS):
        assert repr(getattr(bulk.outcomes, name)) == repr(getattr(watched.outcomes, name)), name
    found = [simulation.replica.ledger.integrals(simulation.clock) for simulation in (bulk, watched)]
    assert [found[0][name] for name in CATEGORIES] == [found[1][name] for name in CATEGORIES]


def fresh(work: Trace, tokens: int, **parameters: Any) -> RadixPolicy:
    """Return a policy over an empty pool of so many tokens."""
    policy = RadixPolicy(**parameters)
    policy.reset(Pool.of_tokens(tokens, workload=work))
    return policy


def admit(policy: RadixPolicy, row: int, prompt: int) -> tuple[Sequence, int] | None:
    """Admit a whole prompt; return the sequence and the tokens it found."""
    sequence = Sequence(row, 0.0, prompt)
    match = policy.lookup(sequence)
    if policy.admit(sequence, match, prompt - match.tokens) is None:
        return None
    sequence.computed = prompt
    return sequence, match.tokens


def serve(policy: RadixPolicy, work: Trace, rows: Iterator[int] | list[int]) -> list[int]:
    """Serve rows one after another, one output token each; return what each found."""
    hits = []
    for row in rows:
        admitted = admit(policy, row, int(work.prompt_tokens[row]))
        assert admitted is not None
        hits.append(admitted[1])
        policy.release(admitted[0], finished=True)
    return hits


DOCUMENT = trace(
    (0, 15, 6),
    (3, 14, 3),
    (9, 29, 1),
    ids=[[*range(15)], [*range(10), *range(100, 104)], [*range(12), *range(200, 217)]],
)
"""vLLM's prefix caching document: row 1 has its first 10 tokens from row 0, row 2 its first 12."""


@pytest.mark.parametrize(("page_size", "hits"), [(1, [0, 10, 12]), (4, [0, 8, 12]), (5, [0, 10, 10])])
def test_hit_ends_at_the_first_token_that_differs_or_at_the_page_before_it(
    page_size: int, hits: list[int]
) -> None:
    # Blocks of 4 hit 8 of these 10 tokens (vLLM's document): the whole blocks.
    found = run(DOCUMENT, RadixPolicy(page_size=page_size, block_size=4), blocks=16)

    assert found.counts("cached") == hits


def test_content_cut_short_by_the_end_of_a_prompt_is_found_too() -> None:
    # Ids of 16 tokens: row 0 ends inside its second, row 1 goes on to the end of it.
    work = trace((0, 20, 1), (0, 40, 1), ids=[[7, 8], [7, 8, 9]], block_tokens=16)

    assert serve(fresh(work, 64), work, [0, 1]) == [0, 20]


def test_equal_tokens_computed_twice_are_kept_once() -> None:
    # The last token of an equal prompt has to be computed; vLLM would keep the second copy.
    work = trace((0, 8, 1), (0, 8, 1), ids=[[*range(8)]] * 2)
    policy = fresh(work, 20)

    first, second = admit(policy, 0, 8), admit(policy, 1, 8)

    assert first is not None
    assert second is not None
    assert second[1] == 7
    assert policy.usage(None) == Usage(held=8, shared=8)


def test_answer_is_found_once_its_request_has_finished() -> None:
    answer = [OUTPUT + k for k in range(3)]
    work = trace((0, 5, 3), (50, 9, 1), ids=[[*range(5)], [*range(5), *answer, 99]])

    found = run(work, RadixPolicy(block_size=4), blocks=16)

    # The last token of an answer has no KV.
    assert found.counts("cached") == [0, 7]


def test_preempted_request_finds_what_the_other_has_left_of_its_prompt() -> None:
    found = run(trace((0, 8, 5), (0, 7, 6)), RadixPolicy(block_size=4), blocks=5)

    # 16 tokens, of which the first takes 12 in the end and the second's prompt keeps its first 4.
    assert found.counts("preemptions") == [0, 1]
    assert found.counts("readmission_hits") == [0, 4]


def test_preempted_request_leaves_its_prompt_and_not_its_outputs() -> None:
    work = trace((0, 5, 9))
    policy = fresh(work, 20)
    admitted = admit(policy, 0, 5)
    assert admitted is not None
    sequence = admitted[0]
    sequence.tokens = 6
    policy.grow(sequence, 6)
    sequence.computed = 6

    policy.release(sequence, finished=False)

    assert policy.usage(None) == Usage(held=0, reusable=5)


def test_leaf_loses_as_many_tokens_as_are_needed_and_no_more() -> None:
    work = trace((0, 10, 1), (0, 13, 1), (0, 10, 1), ids=[[*range(10)], [*range(100, 113)], [*range(10)]])
    policy = fresh(work, 20)

    assert serve(policy, work, [0, 1]) == [0, 0]
    assert policy.lookup(Sequence(2, 0.0, 10)).tokens == 7


def test_what_is_held_is_never_evicted() -> None:
    work = trace((0, 10, 1), (0, 10, 1), (0, 11, 1), ids=[[*range(10)], [*range(50, 60)], [*range(80, 91)]])
    policy = fresh(work, 20)
    held = admit(policy, 0, 10)
    serve(policy, work, [1])

    assert held is not None
    assert admit(policy, 2, 11) is None
    assert policy.lookup(Sequence(0, 0.0, 10)).tokens == 9
    assert policy.lookup(Sequence(1, 0.0, 10)).tokens == 9


def test_prompts_of_the_same_step_find_each_other() -> None:
    work = trace((0, 9, 1), (0, 9, 1), ids=[[*range(8), 20], [*range(8), 30]])

    assert run(work, RadixPolicy(block_size=4), blocks=16).counts("cached") == [0, 8]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"eviction": "random"}, "eviction must be one of lru, lfu, fifo, length, oracle, got 'random'"),
        ({"page_size": 0}, "page_size must be at least 1 token, got 0"),
        ({"block_size": 0}, "block_size must be at least 1 token, got 0"),
        ({"watermark": 1.0}, r"watermark must be in \[0, 1\), got 1.0"),
        ({"page_size": 64}, "the pool must hold at least a page of 64 tokens, got 40"),
    ],
)
def test_parameter_that_cannot_work_is_refused_with_what_could(
    parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fresh(DOCUMENT, 40, **parameters)


def test_prompt_that_can_never_fit_is_refused_with_the_numbers() -> None:
    policy = fresh(DOCUMENT, 41, page_size=4)

    assert policy.refuses(40) is None
    assert policy.refuses(41) == "41 tokens need 11 pages of 4, the pool has 10"


def test_oracle_says_so_in_its_name() -> None:
    assert RadixPolicy(eviction="oracle").name == "radix-oracle"
    assert RadixPolicy(eviction="lfu").name == RadixPolicy.name == "radix"


@pytest.mark.parametrize("eviction", EVICTIONS)
@pytest.mark.parametrize("page_size", [1, 3, 16])
def test_every_setting_passes_the_public_checks(eviction: str, page_size: int) -> None:
    check_policy(RadixPolicy(eviction=eviction, page_size=page_size), seed=3, rounds=6)


def test_ids_of_several_tokens_never_meet_private_tokens() -> None:
    # An id so large that its tokens would have the numbers of row 1's private prompt.
    number = (OUTPUT + REQUEST_STRIDE) // 16
    work = trace((0, 32, 1), (0, 32, 1), ids=[[number, number + 1], []], block_tokens=16)

    assert serve(fresh(work, 64), work, [0, 1]) == [0, 0]
