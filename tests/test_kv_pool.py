"""Pages of KV: disjoint locations, shared prefixes, slots, and numbers that survive 8-bit storage."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.calibration.case import Case
from kvsim.errors import InputError

torch: Any = pytest.importorskip("torch")

from kvsim.calibration.kv_pool import KvPool, place  # noqa: E402
from kvsim.calibration.kv_store import KvStore, cold_locations  # noqa: E402

KV = st.lists(st.integers(9, 40), min_size=1, max_size=5)


def placed(locations: int = 2, order: Any = "random", **changes: Any) -> KvPool:  # Any: fields of a case
    fields: dict[str, Any] = {
        "q": (1, 1),
        "kv": (20, 9),
        "heads": (4, 2, 8),
        "page": 4,
        "dtype": "fp32",
        **changes,
    }
    case = Case(**fields)
    return place(case, KvStore.holding(case, locations, device="cpu", seed=0), locations, seed=1, order=order)


def slots(pool: KvPool, location: int) -> list[list[int]]:
    return [pool.slots(location, index).tolist() for index in range(len(pool.case.q))]


@given(KV, st.sampled_from([1, 3, 4, 16]), st.integers(1, 4))
@settings(max_examples=40)
def test_no_token_lies_in_two_places(kv: list[int], page: int, locations: int) -> None:
    pool = placed(locations, q=(1,) * len(kv), kv=tuple(kv), page=page)
    every = [slot for location in range(locations) for each in slots(pool, location) for slot in each]

    assert len(every) == len(set(every)) == locations * sum(kv)
    assert set(every) <= set(range(pool.key.shape[0] * page))


@given(KV, st.integers(1, 3))
@settings(max_examples=40)
def test_a_group_shares_the_very_same_pages_and_nothing_else(kv: list[int], groups: int) -> None:
    pool = placed(q=(1,) * len(kv), kv=tuple(kv), layout="shared", prefix=8, groups=groups)
    where = slots(pool, 0)
    own = [slot for each in where for slot in each[8:]]
    prefixes = {tuple(each[:8]) for each in where}

    assert all(each[:8] == where[index % groups][:8] for index, each in enumerate(where))
    assert len(prefixes) == min(groups, len(kv))
    assert len(own) == len(set(own))
    assert not set(own) & {slot for each in prefixes for slot in each}


def test_pages_are_scattered_unless_asked_for_in_order() -> None:
    assert placed(order="sequential").tables[0, 0, :5].tolist() == [0, 1, 2, 3, 4]
    assert placed().tables[0, 0, :5].tolist() != [0, 1, 2, 3, 4]


def test_a_slot_is_one_page_and_dense() -> None:
    where = slots(placed(layout="contiguous", page=32), 1)

    assert all(each == list(range(each[0], each[0] + len(each))) and each[0] % 32 == 0 for each in where)


def test_every_location_is_aligned_to_16_bytes() -> None:
    tables = placed(locations=3, kv=(17, 9)).tables

    assert tables.stride(0) * tables.element_size() % 16 == 0


def test_taking_sequences_keeps_their_pages_and_queries() -> None:
    pool = placed(q=(1, 5, 2), kv=(30, 20, 9))
    taken = pool.take((1, 2))

    assert slots(taken, 1) == slots(pool, 1)[1:]
    assert taken.query.equal(pool.query[1:])
    assert taken.q_start.tolist() == [0, 5, 7]
    assert taken.kv_len.tolist() == [20, 9]


@pytest.mark.parametrize(("kv_dtype", "step"), [("int8", 1 / 16), ("fp8", 2**-3), ("fp16", 2**-10)])
def test_written_numbers_come_back_rounded(kv_dtype: str, step: float) -> None:
    pool = placed(kv_dtype=kv_dtype)
    store = KvStore(tokens=64, kv_heads=2, head_size=8, kv_dtype=kv_dtype, device="cpu", seed=0)
    numbers = torch.randn(20, 2, 8).clamp(-2, 2)
    store.write(pool.slots(0, 0), numbers, numbers)

    assert ((store.key[pool.slots(0, 0)].float() * store.scale - numbers).abs() <= step).all()


@pytest.mark.parametrize("kv_dtype", ["fp32", "bf16", "fp16", "fp8", "int8"])
def test_a_store_is_filled_with_normal_numbers(kv_dtype: str) -> None:
    store = KvStore(tokens=500, kv_heads=2, head_size=8, kv_dtype=kv_dtype, device="cpu", seed=3)
    numbers = torch.cat([store.key.float(), store.value.float()]) * store.scale

    assert abs(numbers.mean()) < 0.05
    assert abs(numbers.std() - 1) < 0.05


def test_too_many_locations_are_refused_with_the_room_there_is() -> None:
    case = Case(q=(1,), kv=(20,), heads=(4, 2, 8), page=4, dtype="fp32")
    store = KvStore.holding(case, 3, device="cpu", seed=0)

    with pytest.raises(InputError, match=r"4 locations of 5 pages of 4 tokens .* 60 tokens has room for 3"):
        place(case, store, 4, seed=0)


def test_a_store_of_other_heads_is_refused() -> None:
    case = Case(q=(1,), kv=(20,), heads=(4, 2, 8), dtype="fp32")
    store = KvStore(tokens=64, kv_heads=1, head_size=8, kv_dtype="fp32", device="cpu", seed=0)

    with pytest.raises(InputError, match="the store holds KV heads/head size 1/8 fp32"):
        place(case, store, 1, seed=0)


def test_rotation_puts_five_caches_between_two_reads() -> None:
    assert cold_locations(60 << 20, 60 << 20) == 8
    assert cold_locations(10 << 20, 60 << 20) == 31
    assert cold_locations(10 << 30, 60 << 20, least=2) == 2
