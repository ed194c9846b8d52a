"""Times in the engine are exact, and closed-loop sessions send one request at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import prepare, run, trace

from kvsim import simulate
from kvsim.cost import LinearCost
from kvsim.traces import Trace, read_trace

SESSION = (
    Path(__file__).resolve().parents[2]
    / "shared"
    / "traces"
    / "kv-cache-tester"
    / "traces"
    / "trace_0020.json.gz"
)

seconds = st.floats(0, 1e7, allow_subnormal=False)
"""Times that are no round numbers, small beside large."""


@given(st.lists(seconds, min_size=1, max_size=6, unique=True).map(sorted), st.floats(1e-9, 100))
def test_request_that_finds_the_engine_idle_starts_at_its_arrival_to_the_last_bit(
    arrivals: list[float], step: float
) -> None:
    found = run(trace(*[(at, 3, 1) for at in arrivals]), cost=LinearCost(step, 0.0, 0.0), max_num_seqs=1)

    free = 0.0
    for at, start, end in zip(arrivals, found.times("first_scheduled"), found.times("finish"), strict=True):
        assert start == max(at, free)
        free = start + step
        assert end == free


@given(st.lists(seconds, min_size=1, max_size=6).map(sorted))
def test_arrivals_are_those_of_the_trace_to_the_last_bit(arrivals: list[float]) -> None:
    found = run(trace(*[(at, 3, 2) for at in arrivals]))

    assert found.times("arrival") == arrivals


@st.composite
def sessions(draw: st.DrawFn) -> Trace:
    """Draw up to four sessions of up to five turns, rows mixed, think times no round numbers."""
    rows, parents, thinks = [], [], []
    last: dict[int, int] = {}
    starts = [draw(st.floats(0, 4)) for _ in range(draw(st.integers(1, 4)))]
    for row in range(draw(st.integers(1, 16))):
        session = row if row < len(starts) else draw(st.integers(0, len(starts) - 1))
        session = min(session, len(starts) - 1)
        rows.append((starts[session], draw(st.integers(1, 20) | st.just(40)), draw(st.integers(1, 9))))
        parents.append(last.get(session, -1))
        thinks.append(draw(st.floats(0, 3)))
        last[session] = row
    return trace(*rows, parent=parents, think=thinks)


@given(sessions(), st.sampled_from(["paged:block_size=4", "contiguous:block_size=4"]))
def test_next_request_is_sent_its_think_time_after_the_answer(work: Trace, policy: str) -> None:
    simulation = prepare(work, policy, blocks=10, max_model_len=36, cost=LinearCost(0.1, 0.01, 0.001))

    simulation.run()

    outcomes = simulation.outcomes
    assert work.parent is not None
    assert work.think is not None
    for row, parent in enumerate(work.parent.tolist()):
        rejected = parent >= 0 and parent in outcomes.reasons
        answered = outcomes.arrival[parent] if rejected else outcomes.finish[parent]
        expected = float(answered + work.think[row]) if parent >= 0 else work.arrival[row]
        assert outcomes.arrival[row] == expected


@given(sessions())
def test_session_never_overlaps_itself(work: Trace) -> None:
    found = run(work, blocks=10, max_model_len=36, cost=LinearCost(0.1, 0.01, 0.001))

    assert work.parent is not None
    session = list(range(len(work)))
    for row, parent in enumerate(work.parent.tolist()):
        session[row] = session[parent] if parent >= 0 else row
    for step in found.steps:
        running = [session[row] for row, _ in step.scheduled]
        assert len(set(running)) == len(running)


def test_answer_of_a_rejected_request_comes_at_once() -> None:
    work = trace((1, 50, 1), (1, 4, 1), parent=[-1, 0], think=[0.0, 2.5])

    found = run(work, max_model_len=8)

    assert found.times("arrival") == [1, 3.5]
    assert found.times("finish")[1] == 4.5


def test_two_requests_may_wait_for_one_answer() -> None:
    work = trace((0, 4, 2), (0, 4, 1), (0, 4, 1), parent=[-1, 0, 0], think=[0.0, 3.0, 1.0])

    found = run(work)

    assert found.times("arrival") == [0, 5, 3]
    assert found.times("finish") == [2, 6, 4]


def test_think_time_of_zero_joins_the_very_next_step() -> None:
    work = trace((0, 4, 1), (0, 4, 3), (0, 4, 1), parent=[-1, -1, 0], think=[0.0, 0.0, 0.0])

    found = run(work)

    assert [[row for row, _ in step] for step in found.scheduled] == [[0, 1], [1, 2], [1]]


@pytest.mark.shared
@pytest.mark.skipif(not SESSION.exists(), reason=f"no session at {SESSION}")
def test_recorded_session_is_replayed_one_request_at_a_time() -> None:
    work = read_trace(SESSION)

    result = simulate(
        work, "prefix", cost="linear:0.01,1e-5,0", kv_cache_memory_bytes=2**36, measure_capacity=False
    )

    frame = result.requests
    done = frame[frame["status"] == "completed"]
    assert len(done) > 50
    arrival, finish = frame["arrival_s"].to_numpy(), frame["finish_s"].fillna(frame["arrival_s"]).to_numpy()
    assert work.think is not None
    assert np.array_equal(arrival[1:], finish[:-1] + work.think[1:])
    assert result.summary["running_max"] == 1


@settings(max_examples=30)
@given(sessions(), st.booleans())
def test_same_work_gives_the_same_steps_and_times(work: Trace, ahead: bool) -> None:
    first, second = (
        run(work, "prefix:block_size=4", blocks=12, max_model_len=40, async_scheduling=ahead)
        for _ in range(2)
    )

    assert first.scheduled == second.scheduled
    assert first.spans == second.spans
    for name in (*first.simulation.outcomes.FLOATS, *first.simulation.outcomes.COUNTS):
        ours, theirs = getattr(first.simulation.outcomes, name), getattr(second.simulation.outcomes, name)
        assert ours.tobytes() == theirs.tobytes()
