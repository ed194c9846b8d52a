"""Cases of attention: what is refused, and the sums that gates and fits rest on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.calibration.case import Case
from kvsim.errors import InputError

LENGTHS = st.integers(1, 30).flatmap(lambda kv: st.tuples(st.integers(1, kv), st.just(kv)))
WINDOWS = st.none() | st.integers(1, 40)


def case(**changes: Any) -> Case:  # Any: whichever field a test changes
    return Case(**{"q": (1, 1), "kv": (40, 20), "heads": (8, 2, 16), "page": 8, **changes})


def seen(q: int, kv: int, window: int | None) -> list[set[int]]:
    """Return the positions that each query attends to, by the definition."""
    owns = range(kv - q, kv)
    return [{n for n in range(own + 1) if window is None or own - n < window} for own in owns]


@given(st.lists(LENGTHS, min_size=1, max_size=4), WINDOWS)
def test_pairs_and_bytes_are_what_counting_gives(lengths: list[tuple[int, int]], window: int | None) -> None:
    counted = [seen(q, kv, window) for q, kv in lengths]
    made = case(q=tuple(q for q, _ in lengths), kv=tuple(kv for _, kv in lengths), window=window)

    assert made.pairs == sum(len(each) for queries in counted for each in queries)
    assert made.kv_bytes == made.token_bytes * sum(len(set().union(*queries)) for queries in counted)
    assert made.unique_kv_bytes == made.kv_bytes
    assert made.flops == 4 * 8 * 16 * made.pairs


@given(st.lists(st.integers(17, 60), min_size=1, max_size=5), st.integers(1, 3), WINDOWS)
def test_shared_tokens_are_read_from_memory_once_a_group(
    kv: list[int], groups: int, window: int | None
) -> None:
    made = case(q=(1,) * len(kv), kv=tuple(kv), layout="shared", prefix=16, groups=groups, window=window)
    read = {
        (index % groups, None if token < 16 else index, token)
        for index, length in enumerate(kv)
        for token in set().union(*seen(1, length, window))
    }

    assert made.unique_kv_bytes == made.token_bytes * len(read)


def test_a_shared_prefix_takes_its_pages_once() -> None:
    assert case(layout="paged").pages == 5 + 3
    assert case(layout="shared", prefix=16).pages == 5 + 3 - 2
    assert case(layout="shared", prefix=16, groups=4).pages == 5 + 3
    assert case(layout="contiguous", page=64).pages == 2


def test_bytes_follow_the_dtype_of_the_cache() -> None:
    assert case().token_bytes == 2 * 2 * 16 * 2
    assert case(kv_dtype="fp8").token_bytes == 2 * 2 * 16


@pytest.mark.parametrize(
    ("q", "op"), [((1, 1), "attn_decode"), ((2, 5), "attn_prefill"), ((1, 5), "attn_mixed")]
)
def test_queries_tell_which_op_it_is(q: tuple[int, int], op: str) -> None:
    assert case(q=q).op == op


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": ()}, "q and kv must name as many sequences, at least one: 0 and 2"),
        ({"q": (1, 21)}, "sequence 1: needs 1 ≤ q ≤ kv, got q 21 and kv 20"),
        ({"q": (0, 1)}, "sequence 0: needs 1 ≤ q ≤ kv, got q 0 and kv 40"),
        ({"heads": (8, 3, 16)}, "heads must be a multiple of KV heads, all ≥ 1, got 8/3/16"),
        ({"layout": "sparse"}, "layout must be one of paged, contiguous, shared, got 'sparse'"),
        ({"dtype": "fp8"}, "dtype must be one of bf16, fp16, fp32, got 'fp8'"),
        ({"kv_dtype": "int4"}, "kv_dtype must be one of bf16, fp16, fp32, fp8, int8, got 'int4'"),
        ({"page": 0}, "page must be ≥ 1 token, got 0"),
        ({"window": 0}, "window must be ≥ 1 token or None, got 0"),
        ({"layout": "contiguous"}, "a slot of 8 tokens cannot hold a sequence of 40"),
        ({"prefix": 8}, "prefix and groups need layout 'shared', got 'paged'"),
        ({"layout": "shared", "prefix": 12}, "prefix must be whole pages of 8 and at most the 19 tokens"),
        ({"layout": "shared", "prefix": 24}, "prefix must be whole pages of 8 and at most the 19 tokens"),
        ({"layout": "shared", "groups": 0}, "groups must be ≥ 1, got 0"),
    ],
)
def test_an_impossible_case_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        case(**changes)

    assert message in str(caught.value)


def test_the_label_is_one_line_however_long_the_batch() -> None:
    label = case(q=(1,) * 500, kv=(40,) * 499 + (90,), window=32).label

    assert label == "attn_decode 500 seqs q 1 kv 40–90 heads 8/2/16 paged page 8 window 32 bf16/bf16"
