"""The grid: which points there are, that they fit, and in which order they would be missed."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.calibration.drawn_lengths import ROWS, DrawnLengths
from kvsim.calibration.grid import TILE_ENDS, Extent, Planned, make_grid, shuffled

FULL = Extent(heads=(32, 8, 128), pool_tokens=2 << 20, longest=131072)
SMOKE = Extent(heads=(8, 2, 32), pool_tokens=16384, longest=4096, smoke=True)
SETS = {"D1", "D2", "D3", "D4", "D5", "P1", "P2", "P3", "M", "G", "E"}


def of_set(grid: list[Planned], name: str) -> list[Planned]:
    return [planned for planned in grid if planned.set == name]


@pytest.mark.parametrize("extent", [FULL, SMOKE])
def test_every_set_is_there_and_ids_are_unique(extent: Extent) -> None:
    grid = make_grid(extent)

    assert {planned.set for planned in grid} == SETS
    assert max(Counter(planned.id for planned in grid).values()) == 1


@given(
    pool=st.integers(256, 1 << 22),
    longest=st.integers(16, 1 << 18),
    page=st.sampled_from([1, 16, 256]),
    smoke=st.booleans(),
    seed=st.integers(0, 1 << 32),
)
@settings(max_examples=20)
def test_every_case_fits_pool_and_context(pool: int, longest: int, page: int, smoke: bool, seed: int) -> None:
    extent = Extent(heads=(8, 2, 32), pool_tokens=pool, longest=longest, page=page, smoke=smoke)

    for planned in make_grid(extent, seed):
        if planned.case is not None:
            assert planned.case.pages * planned.case.page <= pool
            assert max(planned.case.kv) <= longest


def test_a_smoke_grid_has_no_more_than_four_sequences_of_256_tokens() -> None:
    cases = [planned.case for planned in make_grid(SMOKE) if planned.case is not None]

    assert max(max(case.kv) for case in cases) == 256
    assert max(len(case.kv) for case in cases if case.op == "attn_decode") == 4
    assert len(make_grid(SMOKE)) < 150


def test_a_third_of_the_drawn_decodes_is_held_out_at_sizes_that_products_have() -> None:
    drawn = of_set(make_grid(FULL), "D2")
    held_out = [planned.case for planned in drawn if planned.held_out]

    assert (len(drawn), len(held_out)) == (120, 40)
    assert all(case is not None and len(case.kv) in ROWS for case in held_out)
    assert any(case is not None and len(set(case.kv)) > 10 for case in held_out)


def test_one_row_more_than_a_tile_is_held_out_of_every_product() -> None:
    held_out = Counter(planned.name for planned in of_set(make_grid(FULL), "G") if planned.held_out)
    rows = sum(m <= 1024 for m in TILE_ENDS)

    assert held_out == {name: rows if name == "lm_head" else len(TILE_ENDS) for name in FULL.products}


def test_pages_of_each_size_hold_the_same_lengths_and_slots_those_that_fit() -> None:
    by_page: dict[int, set[tuple[int, ...]]] = {}
    for planned in of_set(make_grid(FULL), "D3"):
        assert planned.case is not None
        page = 0 if planned.case.layout == "contiguous" else planned.case.page
        by_page.setdefault(page, set()).add(planned.case.kv)

    assert set(by_page) == {0, 1, 32, 64, 128, 256}
    assert by_page[1] == by_page[32] == by_page[128] >= by_page[0]
    assert len(by_page[0]) > 8


def test_a_batch_is_drawn_by_seed_and_index_alone() -> None:
    drawn, again = (DrawnLengths(3, 4096, 1 << 20) for _ in range(2))
    again.decodes(1)

    assert drawn.decodes(5) == again.decodes(5) != DrawnLengths(4, 4096, 1 << 20).decodes(5)
    assert drawn.chunks(5, 3) == again.chunks(5, 3)
    assert all(8 <= q < kv <= 4096 for q, kv in zip(*drawn.chunks(7, 4), strict=True))


def test_shared_prefixes_have_twins_that_share_nothing() -> None:
    cases = [planned.case for planned in make_grid(FULL) if planned.case is not None]
    lengths = {case.kv for case in cases if case.layout == "shared"}

    assert lengths
    assert all(any(case.kv == kv and case.layout == "paged" for case in cases) for kv in lengths)


def test_a_models_own_windows_take_the_place_of_the_usual_ones() -> None:
    extent = Extent(heads=(8, 2, 32), pool_tokens=1 << 20, longest=32768, windows=(512,))
    windows = {planned.case.window for planned in of_set(make_grid(extent), "D4") if planned.case}

    assert windows == {512}


def test_what_no_profile_can_do_without_comes_first() -> None:
    core = make_grid(FULL)[:140]

    assert {planned.name for planned in core if planned.set == "G"} == set(FULL.products)
    assert {planned.case.op for planned in core if planned.case} == {"attn_decode", "attn_prefill"}


def test_same_seed_gives_the_same_grid_and_order_another_gives_others() -> None:
    grid = make_grid(SMOKE, 1)

    assert grid == make_grid(SMOKE, 1) != make_grid(SMOKE, 2)
    assert shuffled(grid, 3) == shuffled(grid, 3) != shuffled(grid, 4)
    assert sorted(planned.id for planned in shuffled(grid, 3)) == sorted(planned.id for planned in grid)
