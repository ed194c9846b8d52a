"""Arrival processes: sorted, at the asked mean rate, with the asked burstiness."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.request import FloatColumn
from kvsim.traces.arrivals import arrivals

SPECS = ["poisson", "gamma:0.5", "gamma:3", "uniform", "onoff:2,8"]


def drawn(spec: str, rows: int = 100_000, rate: float = 4.0, seed: int = 3) -> FloatColumn:
    return arrivals(spec, rows, rate, np.random.default_rng(seed))


@given(
    spec=st.sampled_from(SPECS),
    rows=st.integers(0, 200),
    rate=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**32),
)
def test_arrivals_are_sorted_finite_and_not_negative(spec: str, rows: int, rate: float, seed: int) -> None:
    times = drawn(spec, rows, rate, seed)

    assert times.shape == (rows,)
    assert times.dtype == np.float64
    assert np.all(np.diff(times, prepend=0.0) >= 0)
    assert np.all(np.isfinite(times))


@pytest.mark.parametrize("spec", SPECS)
def test_the_mean_rate_is_kept(spec: str) -> None:
    times = drawn(spec)

    assert len(times) / times[-1] == pytest.approx(4.0, rel=0.03)


@pytest.mark.parametrize("spec", SPECS)
def test_the_same_seed_gives_the_same_times(spec: str) -> None:
    assert np.array_equal(drawn(spec, seed=1), drawn(spec, seed=1))


@pytest.mark.parametrize(("spec", "variation"), [("poisson", 1.0), ("gamma:0.5", 0.5), ("gamma:3", 3.0)])
def test_gaps_vary_as_asked(spec: str, variation: float) -> None:
    gaps = np.diff(drawn(spec))

    assert gaps.std() / gaps.mean() == pytest.approx(variation, rel=0.03)


def test_uniform_arrivals_start_at_zero_and_have_equal_gaps() -> None:
    assert drawn("uniform", 4, 2.0).tolist() == [0.0, 0.5, 1.0, 1.5]


def test_nothing_arrives_in_the_off_phase() -> None:
    times = drawn("onoff:2,8")

    assert np.all(times % 10 <= 2)
    assert np.mean(np.diff(times) > 8) == pytest.approx(1 / (4 * 10), rel=0.05)


def test_onoff_without_an_off_phase_is_poisson() -> None:
    assert drawn("onoff:5,0", 50) == pytest.approx(drawn("poisson", 50))


BAD = ["", "fixed", "poisson:2", "gamma", "gamma:0", "gamma:-1", "gamma:x", "gamma:nan", "gamma:1,2"]
BAD += ["uniform:1", "onoff", "onoff:1", "onoff:0,1", "onoff:1,-1", "onoff:inf,1", "onoff:1,2,3"]


@pytest.mark.parametrize("spec", BAD)
def test_a_bad_process_names_the_allowed_ones(spec: str) -> None:
    with pytest.raises(InputError, match=r"poisson, gamma:CV, uniform or onoff:ON_S,OFF_S.*got"):
        drawn(spec)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bad_rate_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match="rate must be a positive number"):
        drawn("poisson", 10, rate)
