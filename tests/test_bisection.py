"""The bracket that is expanded and halved, and the mean of several seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.bisection import Bisection
from kvsim.search_estimate import T_95, Estimate, t_quantile


def walk(bisection: Bisection, edge: int) -> list[int]:
    tried = []
    while bisection.rung is not None:
        tried.append(bisection.rung)
        bisection.tell(bisection.rung <= edge)
    return tried


@given(
    st.integers(-1000, 1000), st.integers(-1000, 1000), st.integers(1, 50), st.integers(-1000, 0), st.data()
)
def test_the_edge_is_found_wherever_it_lies(
    edge: int, start: int, step: int, least: int, data: st.DataObject
) -> None:
    most = data.draw(st.integers(least, 1000))
    bisection = Bisection(start, step, least, most)

    tried = walk(bisection, edge)

    assert bisection.best == (None if edge < least else min(edge, most))
    assert len(tried) == len(set(tried)) <= 2 + 2 * 11
    assert all(least <= rung <= most for rung in tried)
    assert bisection.is_open == (edge >= most)


@given(st.integers(0, 63), st.integers(0, 2**64 - 1))
def test_without_monotony_it_ends_where_one_holds_and_the_next_does_not(start: int, pattern: int) -> None:
    held = [bool(pattern >> rung & 1) for rung in range(64)]
    bisection = Bisection(start, 1, 0, 63)
    while bisection.rung is not None:
        bisection.tell(held[bisection.rung])

    if bisection.best is not None:
        assert held[bisection.best]
        assert bisection.best == 63 or not held[bisection.best + 1]


def test_strides_double_until_the_bracket_is_closed() -> None:
    assert walk(Bisection(10, 5, 0, 1000), 72)[:5] == [10, 15, 25, 45, 85]


@pytest.mark.parametrize("freedom", [1, 2, 4, 9, 30, 31, 60, 200])
def test_the_quantile_leaves_one_in_forty_above_it(freedom: int) -> None:
    # Student's density integrated numerically: t = √n·tan u turns it into cos^(n−1) u over a finite interval.
    u = np.linspace(-np.pi / 2, np.pi / 2, 2_000_001)
    density = np.cos(u) ** (freedom - 1)
    below = u <= np.arctan(t_quantile(freedom) / np.sqrt(freedom))

    assert density[below].sum() / density.sum() == pytest.approx(0.975, abs=2e-5)


def test_quantiles_fall_towards_the_normal_one() -> None:
    assert list(T_95) == sorted(T_95, reverse=True)
    assert T_95[-1] > t_quantile(31) > t_quantile(1000) > 1.96


def test_an_interval_covers_the_truth_nineteen_times_of_twenty() -> None:
    draws = np.random.default_rng(5).normal(10, 3, (4000, 5))
    found = [Estimate.of(list(row)) for row in draws]

    covered = np.mean(
        [each.low is not None and each.high is not None and each.low <= 10 <= each.high for each in found]
    )
    assert covered == pytest.approx(0.95, abs=0.012)


def test_a_single_draw_has_no_interval() -> None:
    assert Estimate.of([3.0]) == Estimate(3.0, None, None, (3.0,))
