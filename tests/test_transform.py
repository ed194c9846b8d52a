"""Transforms: what they keep, in which order they apply, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.traces.generate import generate
from kvsim.traces.reuse import reuse
from kvsim.traces.stats import stats
from kvsim.traces.trace import Trace
from kvsim.traces.transform import transform


def plain(rows: int = 100, arrival: str = "uniform") -> Trace:
    return generate("alpaca", rows, rate=2.0, seed=1, arrival=arrival)


@given(
    name=st.sampled_from(["alpaca", "chat", "shared-prefix"]),
    between=st.none() | st.just((0.0, 20.0)),
    sample=st.none() | st.floats(0.3, 1.0),
    head=st.none() | st.integers(1, 50),
    repeat=st.none() | st.integers(1, 3),
    scale_rate=st.none() | st.floats(0.1, 10.0),
)
@settings(deadline=None, max_examples=60)
def test_what_comes_out_is_a_valid_sorted_trace(
    name: str,
    between: tuple[float, float] | None,
    sample: float | None,
    head: int | None,
    repeat: int | None,
    scale_rate: float | None,
) -> None:
    trace = generate(name, 60, rate=3.0, seed=2)

    out = transform(
        trace, between=between, sample=sample, seed=1, head=head, repeat=repeat, scale_rate=scale_rate
    )
    assert len(out) >= 1
    assert out.checked().sha256() == out.sha256()


def test_nothing_asked_is_nothing_done() -> None:
    trace = plain()

    assert transform(trace) is trace


def test_between_keeps_a_half_open_window_and_starts_time_there() -> None:
    out = transform(plain(), between=(1.0, 3.0))

    assert out.arrival.tolist() == [0.0, 0.5, 1.0, 1.5]
    assert out.prompt_tokens.tolist() == plain().prompt_tokens[2:6].tolist()


def test_head_keeps_the_first_requests_or_all() -> None:
    assert transform(plain(), head=3).prompt_tokens.tolist() == plain().prompt_tokens[:3].tolist()
    assert len(transform(plain(), head=1000)) == 100


def test_sample_keeps_about_its_share_and_the_same_one_for_a_seed() -> None:
    trace = plain(20_000)

    out = transform(trace, sample=0.3, seed=5)
    assert len(out) == pytest.approx(6000, rel=0.05)
    assert out.sha256() == transform(trace, sample=0.3, seed=5).sha256()
    assert out.sha256() != transform(trace, sample=0.3, seed=6).sha256()


def test_sample_keeps_sessions_whole() -> None:
    trace = generate("chat", 500, rate=1.0, seed=3)
    assert trace.session is not None

    out = transform(trace, sample=0.5, seed=1)
    assert out.session is not None
    kept = np.isin(trace.session, out.session)
    assert len(out) == np.count_nonzero(kept)
    assert 0 < len(out) < 500


def test_sample_draws_requests_without_a_session_one_by_one() -> None:
    trace = plain(1000)
    mixed = transform(
        Trace(
            name="mixed",
            arrival=trace.arrival,
            prompt_tokens=trace.prompt_tokens,
            output_tokens=trace.output_tokens,
            session=np.where(np.arange(1000) < 500, 7, -1),
        ),
        sample=0.5,
    )

    assert mixed.session is not None
    assert np.count_nonzero(mixed.session == 7) in (0, 500)
    assert np.count_nonzero(mixed.session == -1) == pytest.approx(250, rel=0.2)


def test_scale_rate_divides_arrivals_and_leaves_thinking_alone() -> None:
    trace = generate("chat", 100, rate=1.0, seed=3)

    out = transform(trace, scale_rate=4.0)
    assert np.array_equal(out.arrival, trace.arrival / 4)
    assert out.think is not None
    assert trace.think is not None
    assert np.array_equal(out.think, trace.think)


def test_repeat_goes_on_at_the_same_rate() -> None:
    out = transform(plain(), repeat=3)

    assert np.allclose(np.diff(out.arrival), 0.5)
    assert out.prompt_tokens.tolist() == plain().prompt_tokens.tolist() * 3
    assert stats(transform(plain(1000, "poisson"), repeat=2)).arrival_rate == pytest.approx(
        stats(plain(1000, "poisson")).arrival_rate
    )


def test_repeated_sessions_start_at_the_same_rate() -> None:
    trace = generate("chat", 300, rate=1.0, seed=3)

    assert stats(transform(trace, repeat=4)).arrival_rate == pytest.approx(stats(trace).arrival_rate)


def test_repeat_of_requests_at_one_moment_stays_at_that_moment() -> None:
    single = transform(plain(1), repeat=3)

    assert single.arrival.tolist() == [0.0, 0.0, 0.0]


def test_repeated_sessions_are_new_sessions_about_the_same_content() -> None:
    trace = generate("chat", 50, rate=1.0, seed=3)
    out = transform(trace, repeat=2)

    assert trace.session is not None
    assert trace.parent is not None
    assert out.session is not None
    assert out.parent is not None
    assert out.session[50:].tolist() == (trace.session + trace.session.max() + 1).tolist()
    assert out.parent[:50].tolist() == trace.parent.tolist()
    assert out.parent[50:].tolist() == np.where(trace.parent >= 0, trace.parent + 50, -1).tolist()
    assert out.ids(57).tolist() == trace.ids(7).tolist()


def test_a_second_round_finds_everything_in_the_cache() -> None:
    once, twice = (reuse(transform(generate("chat", 50, rate=1.0, seed=3), repeat=times)) for times in (1, 2))

    assert once is not None
    assert twice is not None
    assert twice.unique == once.unique
    assert twice.references == 2 * once.references


def test_the_order_is_between_sample_head_repeat_scale_rate() -> None:
    trace = plain()

    together = transform(trace, scale_rate=2.0, repeat=2, head=5, sample=0.5, seed=1, between=(5.0, 40.0))
    apart = transform(trace, between=(5.0, 40.0))
    apart = transform(apart, sample=0.5, seed=1)
    for step in ({"head": 5}, {"repeat": 2}, {"scale_rate": 2}):
        apart = transform(apart, **step)  # type: ignore[arg-type]
    assert together.sha256() == apart.sha256()
    assert len(together) == 10


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"head": 0}, "head must be at least 1 request, got 0"),
        ({"between": (3.0, 3.0)}, "START < END, got 3,3"),
        ({"between": (float("nan"), 3.0)}, "START < END, got nan,3"),
        (
            {"between": (900.0, 901.0)},
            r"between 900,901 keeps no request of alpaca; they arrive up to 49\.5 s",
        ),
        ({"sample": 0.0}, "sample must be a share above 0 and at most 1, got 0"),
        ({"sample": 1.5}, "sample must be a share above 0 and at most 1, got 1.5"),
        ({"sample": 1e-9}, "keeps no request of the 100 of alpaca; take a larger share"),
        ({"repeat": 0}, "repeat must be at least 1, got 0"),
        ({"scale_rate": 0.0}, "scale_rate must be a positive number, got 0"),
        ({"scale_rate": float("inf")}, "scale_rate must be a positive number, got inf"),
    ],
)
def test_what_makes_no_sense_is_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        transform(plain(), **asked)  # type: ignore[arg-type]
