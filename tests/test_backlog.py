"""Whether a queue grows, on queues whose fate is known."""

from __future__ import annotations

import numpy as np
import pytest

from kvsim.backlog import Backlog, mean_stay, measure_backlog
from kvsim.request import FloatColumn
from kvsim.slo import STABLE_GROWTH


def one_by_one(arrival: FloatColumn, service: float) -> Backlog:
    """Serve in order, one at a time (Lindley), and measure."""
    scheduled = np.empty(len(arrival))
    free = -1.0
    for row, at in enumerate(arrival):
        scheduled[row] = max(free, at)
        free = scheduled[row] + service
    found = measure_backlog(
        arrival, scheduled, scheduled + service, float(arrival[0]), float(arrival[-1]), service
    )
    assert found is not None
    return found


def poisson(requests: int, seed: int) -> FloatColumn:
    """Draw arrivals at exactly one a second."""
    times = np.cumsum(np.random.default_rng(seed).exponential(1, requests))
    drawn: FloatColumn = (times - times[0]) / (times[-1] - times[0]) * (requests - 1)
    return drawn


@pytest.mark.parametrize("service", [1.05, 1.25, 2.0, 4.0])
def test_what_piles_up_is_what_cannot_be_served(service: float) -> None:
    # Fluid limit: a server that does 1/service of one arrival a second leaves 1 − 1/service.
    found = one_by_one(np.arange(2000.0), service)

    assert found.growth == pytest.approx(1 - 1 / service, rel=0.02)
    assert found.queue_growth == found.growth


@pytest.mark.parametrize("service", [0.3, 0.9, 1.0])
def test_nothing_piles_up_where_regular_arrivals_are_served_in_time(service: float) -> None:
    assert one_by_one(np.arange(2000.0), service).queue_growth == 0


def test_random_arrivals_grow_a_queue_about_where_the_server_is_full() -> None:
    def verdicts(load: float) -> list[bool]:
        return [one_by_one(poisson(4000, seed), load).queue_growth > 0.01 for seed in range(20)]

    assert sum(verdicts(0.9)) == 0
    assert sum(verdicts(1.08)) == 20


def test_a_large_batch_that_wanders_is_no_queue() -> None:
    # M/G/∞: everybody is served at once, 40 at a time on average, and the number wanders.
    for seed in range(50):
        arrival = poisson(1000, seed)
        finish = arrival + np.random.default_rng(seed + 100).exponential(40, 1000)
        found = measure_backlog(arrival, arrival, finish, 0.0, float(arrival[-1]), 40.0)
        assert found is not None
        assert found.queue_growth == 0


def test_a_batch_that_still_fills_up_when_the_arrivals_end_counts_as_growing() -> None:
    arrival = np.arange(100.0)
    found = measure_backlog(arrival, arrival, arrival + 500, 0.0, 99.0, 500.0)

    assert found is not None
    assert found.waiting == 0
    assert found.queue_growth == pytest.approx(1, rel=0.02)


def test_who_never_finishes_stays_in_the_system() -> None:
    arrival, never = np.arange(100.0), np.full(100, np.nan)
    found = measure_backlog(arrival, never, never, 0.0, 99.0, 0.0)

    assert found is not None
    assert found.queue_growth == pytest.approx(1, rel=0.02)
    assert found.waiting > 80


def test_arrivals_at_one_time_say_nothing() -> None:
    assert measure_backlog(np.zeros(5), np.zeros(5), np.ones(5), 0.0, 0.0, 1.0) is None


def test_the_slope_is_the_least_squares_line_of_the_number_in_the_system() -> None:
    arrival = poisson(300, 3)
    finish = arrival + np.random.default_rng(4).exponential(5, 300)
    end = float(arrival[-1])
    times = np.linspace(end / 4, end, 200_001)
    number = np.searchsorted(arrival, times, "right") - np.searchsorted(np.sort(finish), times, "right")

    found = measure_backlog(arrival, arrival, finish, 0.0, end, 5.0)

    assert found is not None
    assert found.growth == pytest.approx(np.polyfit(times, number, 1)[0] / (300 / end), rel=1e-3, abs=1e-5)


def test_a_session_stays_until_its_last_answer() -> None:
    arrival, finish = np.array([0.0, 10.0, 30.0, 5.0]), np.array([4.0, 20.0, 40.0, np.nan])
    parent = np.array([-1, 0, 1, -1])

    assert mean_stay(arrival, finish, parent) == 40
    assert mean_stay(arrival, finish, None) == 8
    assert mean_stay(arrival[3:], finish[3:], None) == 0


@pytest.mark.parametrize(("requests", "expected"), [(300, 1.05), (1000, 1.02), (4000, 1.01)])
def test_the_load_from_which_a_queue_grows_is_overstated_by_little(requests: int, expected: float) -> None:
    # M/D/1, whose queue grows from a load of 1 on; reports/recipes.md quotes these means.
    def edge(seed: int) -> float:
        low, high = 0.5, 2.0
        for _ in range(9):
            load = (low * high) ** 0.5
            grows = one_by_one(poisson(requests, seed), load).queue_growth > STABLE_GROWTH
            low, high = (low, load) if grows else (load, high)
        return low

    assert np.mean([edge(seed) for seed in range(60 if requests < 4000 else 15)]) == pytest.approx(
        expected, abs=0.008
    )
