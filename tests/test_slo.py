"""Limits on a run: what may be written, what holds, and how it is said."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.slo import COMPLETE, STABLE, Bound, holds, parse_objective, parse_slo, strain, words

RUN = {
    "p99_ttft_ms": 1500.0,
    "p99_tpot_ms": 60.0,
    "failed_share": 0.0,
    "queue_growth": 0.0,
    "good_share": 0.9,
}


@pytest.mark.parametrize(
    ("text", "key", "limit"),
    [
        ("ttft_p99=2s", "p99_ttft_ms", 2000.0),
        ("tpot_p95=50ms", "p95_tpot_ms", 50.0),
        ("e2e_mean=1.5 min", "mean_e2el_ms", 90_000.0),
        ("itl_median=800us", "median_itl_ms", 0.8),
        ("queue_p90=1e2ms", "p90_queue_ms", 100.0),
        ("goodput=95%", "good_share", 0.95),
        ("hit_rate=0.3", "prefix_cache_hit_rate", 0.3),
        ("throughput=5/s", "request_throughput", 5.0),
        ("preemptions=0", "preemptions", 0.0),
    ],
)
def test_a_limit_names_a_figure_of_the_summary_in_its_unit(text: str, key: str, limit: float) -> None:
    complete, bound = parse_slo(text)

    assert complete == COMPLETE
    assert (bound.key, bound.limit) == (key, pytest.approx(limit))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ttft_p99=2", "needs a time above 0 with its unit, as in 200ms or 2s, got 'ttft_p99=2'"),
        ("ttft_p99=-2s", "needs a time above 0"),
        ("ttft_p98=2s", "no figure 'ttft_p98' \\(did you mean 'ttft_p9"),
        ("latency=2s", "no figure 'latency'"),
        ("goodput=95", "needs a share from 0 to 1, as in 0.95 or 95%, got 'goodput=95'"),
        ("stable=yes", "stable takes no value but no"),
        ("ttft_p99=1s,ttft_p99=2s", "limits 'ttft_p99' twice"),
        ("e2e_p99=1s,e2el_p99=2s", "limits 'e2el_p99' twice"),
        ("throughput=fast", "needs a number from 0 up"),
        ("", "no figure ''"),
    ],
)
def test_what_is_no_limit_is_said_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_slo(text)
    assert "\n" not in str(caught.value)


def test_a_run_keeps_to_limits_or_breaks_them() -> None:
    assert holds(parse_slo("ttft_p99=2s,stable"), RUN)
    assert not holds(parse_slo("ttft_p99=1s,stable"), RUN)
    assert not holds(parse_slo("goodput=95%"), RUN)


def test_strain_is_the_share_of_the_limit_that_is_used() -> None:
    assert strain(parse_slo("ttft_p99=2s,tpot_p99=50ms"), RUN) == pytest.approx(1.2)
    assert strain(parse_slo("goodput=95%"), RUN) == pytest.approx(0.95 / 0.9)


def test_nobody_may_fail_unless_that_is_limited() -> None:
    failing = RUN | {"failed_share": 0.01}

    assert not holds(parse_slo("ttft_p99=2s"), failing)
    assert holds(parse_slo("ttft_p99=2s,failed=1%"), failing)
    assert strain(parse_slo("ttft_p99=2s"), failing) == math.inf


def test_a_figure_that_is_missing_breaks_its_limit() -> None:
    assert not holds(parse_slo("ttft_p99=2s"), {"failed_share": 0.0, "p99_ttft_ms": None})
    assert parse_slo("ttft_p99=2s")[1].found({}) == "ttft p99 is missing, for nothing completed"


@given(st.floats(0.001, 1e6), st.floats(0, 1e7), st.booleans())
def test_strain_says_what_holds_says(limit: float, value: float, at_most: bool) -> None:
    bound = Bound("x", "x", limit, at_most)
    tension = bound.strain({"x": value})

    assert bound.holds({"x": value}) == (tension <= 1) or tension == pytest.approx(1)


def test_a_sustainable_rate_has_a_queue_that_does_not_grow() -> None:
    assert STABLE in parse_slo("ttft_p99=2s", sustainable=True)
    assert STABLE not in parse_slo("ttft_p99=2s")
    assert STABLE not in parse_slo("ttft_p99=2s,stable=no", sustainable=True)
    assert parse_slo("stable", sustainable=True) == parse_slo("stable")


def test_limits_are_said_with_their_units() -> None:
    asked = words(parse_slo("ttft_p99=2s,tpot_p99=50ms,stable"))

    assert asked == "ttft p99 ≤ 2 s, tpot p99 ≤ 50 ms and a queue that does not grow"
    assert words(parse_slo("failed=0")) == "every request completed"
    assert STABLE.found({"queue_growth": 0.123}) == "12.3% of the arrivals piled up"


def test_an_objective_is_the_name_of_a_figure() -> None:
    assert parse_objective("rate") is None
    latency, throughput = parse_objective("ttft_p99"), parse_objective("output_throughput")
    assert latency is not None
    assert throughput is not None
    assert (latency.key, latency.at_most, throughput.at_most) == ("p99_ttft_ms", True, False)
    with pytest.raises(InputError, match="name of one figure"):
        parse_objective("ttft_p99=2s")
