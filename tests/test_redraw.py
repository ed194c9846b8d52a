"""Traffic drawn again: same requests, other arrivals; exact rates; sessions with replacement."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import trace

from kvsim.errors import InputError
from kvsim.traces.bootstrap import bootstrapped
from kvsim.traces.generate import generate
from kvsim.traces.redraw import RESAMPLINGS, GeneratedTraffic, RecordedTraffic, at_rate, start_times
from kvsim.traces.trace import Trace

AGENT = generate("agent", 300, rate=0.5, seed=1)
PLAIN = generate("azure-conv", 300, rate=2.0, seed=1, arrival="gamma:2")


def rate_of(work: Trace) -> float:
    times = start_times(work)
    return (len(times) - 1) / float(np.ptp(times))


@pytest.mark.parametrize("work", [AGENT, PLAIN], ids=["sessions", "open loop"])
@pytest.mark.parametrize("how", RESAMPLINGS)
def test_every_draw_has_exactly_the_rate_asked_for(work: Trace, how: str) -> None:
    traffic = RecordedTraffic(work, how)

    assert rate_of(traffic.draw(3, 7.0)) == pytest.approx(7.0, rel=1e-9)
    assert rate_of(traffic.draw(3)) == pytest.approx(rate_of(work), rel=1e-9)


@pytest.mark.parametrize("how", ["gamma", "poisson"])
def test_new_arrivals_leave_the_requests_in_their_order(how: str) -> None:
    drawn = RecordedTraffic(AGENT, how).draw(5, 1.0)

    assert drawn.prompt_tokens.tolist() == AGENT.prompt_tokens.tolist()
    assert drawn.block_ids is AGENT.block_ids
    assert drawn.arrival.tolist() != AGENT.arrival.tolist()


def test_gamma_gaps_have_the_burstiness_of_the_trace() -> None:
    work = generate("alpaca", 20_000, rate=2.0, seed=2, arrival="gamma:3")
    gaps = np.diff(RecordedTraffic(work).draw(9).arrival)

    assert gaps.std() / gaps.mean() == pytest.approx(3, rel=0.1)


def test_seeds_differ_and_a_seed_is_the_same_at_every_rate() -> None:
    traffic = RecordedTraffic(PLAIN)
    slow, fast, other = traffic.draw(1, 1.0), traffic.draw(1, 4.0), traffic.draw(2, 1.0)

    assert np.ptp(slow.arrival) == pytest.approx(4 * np.ptp(fast.arrival))
    assert (slow.arrival - slow.arrival[0]) / 4 == pytest.approx(fast.arrival - fast.arrival[0])
    assert slow.arrival.tolist() != other.arrival.tolist()


def test_evenly_spaced_arrivals_have_nothing_to_draw() -> None:
    regular = RecordedTraffic(trace(*[(float(i), 4, 4) for i in range(10)]))

    assert not regular.varies
    assert regular.draw(1, 2.0).arrival.tolist() == regular.draw(2, 2.0).arrival.tolist()


def test_a_trace_without_arrivals_can_only_be_spread_by_drawing() -> None:
    together = trace(*[(0.0, 4, 4)] * 5)

    assert RecordedTraffic(together).own_rate is None
    assert RecordedTraffic(together).draw(0).arrival.tolist() == [0.0] * 5
    assert rate_of(RecordedTraffic(together).draw(0, 3.0)) == pytest.approx(3.0)
    assert RecordedTraffic(together, "none").draw(0, 3.0).arrival.tolist() == [0.0] * 5


@settings(max_examples=10)
@given(st.integers(0, 2**32))
def test_a_session_drawn_again_keeps_its_course(seed: int) -> None:
    drawn = bootstrapped(AGENT, np.random.default_rng(seed))

    assert drawn.parent is not None
    assert drawn.session is not None
    waits = np.flatnonzero(drawn.parent >= 0)
    assert (drawn.session[drawn.parent[waits]] == drawn.session[waits]).all()
    known = {tuple(AGENT.prompt_tokens[AGENT.session == one].tolist()) for one in np.unique(AGENT.session)}  # type: ignore[arg-type]
    for one in np.unique(drawn.session):
        assert tuple(drawn.prompt_tokens[drawn.session == one].tolist()) in known


def test_copies_of_a_session_share_what_sessions_shared_and_nothing_else() -> None:
    # Two sessions behind one system prompt (id 7) with texts of their own.
    work = trace(
        (0.0, 8, 1),
        (0.0, 8, 1),
        ids=[[7, 1], [7, 2]],
        block_tokens=4,
        session=[0, 1],
        parent=[-1, -1],
        think=[0.0, 0.0],
    )
    seed = next(s for s in range(50) if np.random.default_rng(s).integers(2, size=2).tolist() == [0, 0])

    drawn = bootstrapped(work, np.random.default_rng(seed))

    (shared, one), (again, other) = drawn.ids(0).tolist(), drawn.ids(1).tolist()
    assert shared == again
    assert len({shared, one, other}) == 3


def test_starts_stay_where_they_were_when_sessions_are_drawn() -> None:
    drawn = RecordedTraffic(AGENT, "sessions").draw(4)

    assert start_times(drawn) == pytest.approx(start_times(AGENT))


def test_a_generated_draw_is_all_new_at_the_rate_asked_for() -> None:
    traffic = GeneratedTraffic("chat", 200, own_rate=2.0)

    assert rate_of(traffic.draw(1)) == pytest.approx(2.0)
    assert traffic.draw(1).prompt_tokens.tolist() != traffic.draw(2).prompt_tokens.tolist()
    with pytest.raises(InputError, match="give --rate"):
        GeneratedTraffic("chat", 200).draw(1)


def test_think_times_are_people_s_own_at_any_rate() -> None:
    assert AGENT.think is not None
    assert at_rate(AGENT, 50.0).think is AGENT.think


def test_unknown_resampling_is_refused() -> None:
    with pytest.raises(
        InputError, match="--resample must be one of gamma, poisson, sessions, none, got 'bootstrap'"
    ):
        RecordedTraffic(PLAIN, "bootstrap")
