"""Batches of a trace's own lengths: what is drawn, what it is cut to, and that nothing else of the grid changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import trace

from kvsim.calibration.drawn_lengths import ROWS, SMOKE_ROWS
from kvsim.calibration.grid import Extent, make_grid
from kvsim.calibration.trace_lengths import TraceLengths
from kvsim.request import Workload

FULL = Extent(heads=(32, 8, 128), pool_tokens=2 << 20, longest=131072)
WORK = trace((0.0, 700, 300), (1.0, 40, 10), (2.0, 5000, 90))


def lengths(workload: Workload = WORK, longest: int = 1 << 17, most: int = 1 << 20) -> TraceLengths:
    return TraceLengths(workload, 3, longest, most)


def test_decodes_are_as_long_as_requests_get_and_as_frequent_as_their_outputs() -> None:
    drawn = np.array([kv for index in range(60) for kv in lengths().decodes(index)])
    parts = [(drawn > low) & (drawn <= high) for low, high in ((700, 1000), (40, 50), (5000, 5090))]

    assert np.any(parts, axis=0).all()
    assert [float(part.mean()) for part in parts] == pytest.approx([0.75, 0.025, 0.225], abs=0.02)


def test_chunks_are_parts_of_prompts_behind_their_beginnings() -> None:
    for index in range(40):
        count = 1 + index % 4
        for new, length in zip(*lengths().chunks(index, count), strict=True):
            assert 1 < new < length <= 5000
            assert length in (700, 40, 5000) or new == 8192 // count


def test_chunks_are_no_longer_than_steps_may_be() -> None:
    long = trace((0.0, 100_000, 5))
    q, kv = lengths(long, longest=1 << 20).chunks(0, 4)

    assert max(q) <= 8192 // 4
    assert max(kv) <= 32768


@given(index=st.integers(0, 500), most=st.integers(16, 1 << 20), longest=st.integers(8, 1 << 17))
def test_batches_fit_memory_and_context(index: int, most: int, longest: int) -> None:
    drawn = lengths(longest=longest, most=most).decodes(index, snap=index % 2 == 0)

    assert max(drawn) <= min(longest, most)
    assert sum(drawn) <= most
    assert index % 2 or len(drawn) in ROWS


@given(st.integers(0, 200))
def test_what_is_held_out_has_sizes_that_products_are_timed_at(index: int) -> None:
    assert len(lengths().decodes(index, snap=True)) in ROWS
    assert sum(lengths().chunks(index, 1 + index % 8, snap=True)[0]) in ROWS
    assert sum(lengths().prompts(index)) in ROWS


@settings(max_examples=20)
@given(
    st.lists(st.tuples(st.just(0.0), st.integers(1, 200_000), st.integers(1, 5000)), min_size=1, max_size=5),
    st.booleans(),
    st.integers(64, 1 << 18),
)
def test_any_trace_gives_a_grid_that_fits(rows: list[tuple[float, int, int]], smoke: bool, pool: int) -> None:
    extent = Extent(heads=(8, 2, 32), pool_tokens=pool, longest=4096, smoke=smoke)

    for planned in make_grid(extent, 1, trace(*rows)):
        if planned.case is not None:
            assert planned.case.pages * planned.case.page <= pool
            assert max(planned.case.kv) <= 4096


def test_a_trace_changes_what_is_drawn_and_leaves_the_even_points() -> None:
    plain, traced = make_grid(FULL), make_grid(FULL, workload=WORK)
    for name in ("D1", "P2", "G", "E"):
        assert [each for each in plain if each.set == name] == [each for each in traced if each.set == name]
    for name in ("D2", "P3", "M"):
        mine = [each.case for each in traced if each.set == name and each.case]
        assert mine
        assert max(max(case.kv) for case in mine) <= 5090


def test_the_same_seed_draws_the_same_and_another_another() -> None:
    assert make_grid(FULL, 1, WORK) == make_grid(FULL, 1, WORK) != make_grid(FULL, 2, WORK)


def test_a_smoke_grid_stays_small() -> None:
    smoke = Extent(heads=(8, 2, 32), pool_tokens=16384, longest=4096, smoke=True)
    cases = [planned.case for planned in make_grid(smoke, workload=WORK) if planned.case is not None]

    assert max(max(case.kv) for case in cases) == 256
    assert {planned.m for planned in make_grid(smoke, workload=WORK) if planned.set == "E"} == set(SMOKE_ROWS)
