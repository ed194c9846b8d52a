"""Closed forms of queueing theory: what one request at a time must wait."""

from __future__ import annotations

import numpy as np
import pytest
from small_runs import prepare, trace

from kvsim.cost import LinearCost
from kvsim.request import FloatColumn
from kvsim.traces.arrivals import arrivals

REQUESTS = 20_000


def time_to_first_token(arrival: FloatColumn, service: float) -> FloatColumn:
    """Serve requests of one step, one at a time and in order, and return what each took."""
    work = trace(*[(float(at), 1, 1) for at in arrival])
    simulation = prepare(work, "paged", cost=LinearCost(service, 0.0, 0.0), max_num_seqs=1)

    simulation.run()

    return np.asarray(simulation.outcomes.first_token) - arrival


def standard_error(values: FloatColumn) -> float:
    """Estimate the error of the mean of a correlated sequence from the means of 100 long batches."""
    means = values[: len(values) // 100 * 100].reshape(100, -1).mean(axis=1)
    return float(means.std(ddof=1) / 10)


@pytest.mark.parametrize(
    ("rate", "service", "published"),
    [
        (1.0, 0.1, 0.10556),
        (5.0, 0.1, 0.150),
        (8.0, 0.1, 0.300),
        # Intra-op parallelism of degree 2 halves the service time: D/K + R·D²/(2K(K − R·D)).
        (5.0, 0.05, 0.05833),
    ],
)
def test_mean_time_to_first_token_is_that_of_a_poisson_queue_with_fixed_service(
    rate: float, service: float, published: float
) -> None:
    # M/D/1, DistServe (OSDI'24) §3: D + R·D²/(2(1 − R·D)).
    expected = service + rate * service**2 / (2 * (1 - rate * service))
    waits = time_to_first_token(arrivals("poisson", REQUESTS, rate, np.random.default_rng(43)), service)

    assert expected == pytest.approx(published, abs=5e-6)
    assert abs(waits.mean() - expected) < 3 * standard_error(waits)
    assert standard_error(waits) < 0.08 * expected


def test_each_request_waits_what_lindley_says() -> None:
    arrival = arrivals("gamma:2", 5_000, 6.0, np.random.default_rng(1))
    expected: list[float] = []
    wait = 0.0
    for gap in np.diff(arrival, prepend=arrival[0]):
        wait = max(0.0, wait + 0.1 - gap) if expected else 0.0
        expected.append(wait + 0.1)

    assert time_to_first_token(arrival, 0.1) == pytest.approx(expected, abs=1e-9)


def test_regular_arrivals_below_capacity_never_wait() -> None:
    assert time_to_first_token(np.arange(500) * 0.25, 0.125).tolist() == [0.125] * 500


def test_regular_arrivals_above_capacity_wait_longer_and_longer() -> None:
    # D/D/1 with gaps T < D: request n waits n·(D − T).
    waits = time_to_first_token(np.arange(500) * 0.125, 0.25)

    assert waits.tolist() == [0.25 + n * 0.125 for n in range(500)]


def test_burst_of_n_waits_half_a_burst_on_average() -> None:
    waits = time_to_first_token(np.zeros(64), 0.5)

    assert waits.mean() == 0.5 * (64 + 1) / 2


@pytest.mark.parametrize("places", [1, 4, 16])
def test_places_multiply_the_throughput_where_a_step_costs_the_same(places: int) -> None:
    work = trace(*[(0.0, 1, 10)] * 64)
    simulation = prepare(work, blocks=400, cost=LinearCost(1.0, 0.0, 0.0), max_num_seqs=places)

    simulation.run()

    assert simulation.clock == 64 // places * 10
