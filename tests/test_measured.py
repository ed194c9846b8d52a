"""Measured requests: latencies, what ran over time, and how far a run is from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measured_runs import run, write_folder, write_trace, write_usage

from kvsim.errors import InputError
from kvsim.measured import Measured, Requests
from kvsim.measured_compare import Within, compare_measured
from kvsim.measured_folder import read_folder


def requests(
    arrival: list[float], scheduled: list[float], first: list[float], finish: list[float], outputs: list[int]
) -> Requests:
    return Requests(
        arrival=np.array(arrival, dtype=float),
        scheduled=np.array(scheduled, dtype=float),
        first_token=np.array(first, dtype=float),
        finish=np.array(finish, dtype=float),
        prompt_tokens=np.full(len(arrival), 10, dtype=np.int64),
        output_tokens=np.array(outputs, dtype=np.int64),
    )


TWO = requests([0, 1], [0.5, 2], [1, 3], [3, 5], [3, 1])


def test_latencies_are_those_of_the_time_stamps() -> None:
    assert TWO.ttft_ms.tolist() == [1000, 2000]
    assert TWO.e2el_ms.tolist() == [3000, 4000]
    assert TWO.tpot_ms[0] == 1000
    assert np.isnan(TWO.tpot_ms[1])
    assert TWO.duration == 5


def test_what_runs_and_waits_is_counted_at_each_moment() -> None:
    found = TWO.over_time(np.array([0.0, 0.6, 1.5, 2.5, 4.0, 5.0]))

    assert found["in_flight"].tolist() == [1, 1, 2, 2, 1, 0]
    assert found["running"].tolist() == [0, 1, 1, 2, 1, 0]
    assert found["waiting"].tolist() == [1, 0, 1, 0, 0, 0]


def test_kv_grows_by_a_token_for_each_that_is_decoded() -> None:
    found = TWO.over_time(np.array([0.5, 1.0, 2.0, 3.5, 5.5]))["kv_tokens"]

    assert found.tolist() == pytest.approx([0, 10, 11, 10, 0])


@st.composite
def random_requests(draw: st.DrawFn) -> Requests:
    gaps = st.lists(st.integers(0, 64), min_size=4, max_size=4)
    rows = draw(st.lists(st.tuples(gaps, st.integers(1, 9)), min_size=1, max_size=12))
    times = np.cumsum(np.array([row for row, _ in rows], dtype=float) / 64, axis=1)
    columns = [times[:, place].tolist() for place in range(4)]
    return requests(*columns, [count for _, count in rows])


@given(random_requests())
def test_means_over_time_are_the_integrals_of_the_counts(found: Requests) -> None:
    if found.duration == 0:
        return
    edges = np.linspace(0, found.duration, 20_001)
    middles = (edges[:-1] + edges[1:]) / 2

    sampled = {name: float(values.mean()) for name, values in found.over_time(middles).items()}

    means = found.means()
    for name, mean in means.items():
        assert sampled[name] == pytest.approx(mean, abs=2e-3 * max(1.0, max(means.values())))


@pytest.mark.parametrize("name", ["scheduled", "first_token", "finish"])
def test_time_stamps_that_run_backwards_are_refused_with_the_request(name: str) -> None:
    wrong = getattr(TWO, name).copy()
    wrong[1] = 0.25

    with pytest.raises(InputError, match=f"run request 2: {name} at 0.25"):
        Measured(name="run", requests=replace(TWO, **{name: wrong}))


def test_a_run_in_which_nothing_lasts_is_refused() -> None:
    with pytest.raises(InputError, match="nothing lasted"):
        Measured(name="run", requests=requests([0], [0], [0], [0], [1]))


def test_kv_use_is_compared_where_the_server_recorded_it(tmp_path: Path) -> None:
    result = run(write_trace(tmp_path / "t.jsonl"))
    folder = write_folder(tmp_path / "measured", result)
    write_usage(folder, result)

    frame = compare_measured(read_folder(folder), result).over_time

    ours, theirs = frame["kv_cache_usage_simulated"], frame["kv_cache_usage_measured"]
    assert ours.max() > 0.02
    assert abs(ours.mean() - theirs.mean()) < 0.15 * theirs.mean()


def test_a_figure_on_its_limit_is_within_it(tmp_path: Path) -> None:
    result = run(write_trace(tmp_path / "t.jsonl"))
    measured = read_folder(write_folder(tmp_path / "measured", result, slower=1.25))

    tight = compare_measured(measured, result, Within(0.19, 0.19))
    wide = compare_measured(measured, result, Within(0.21, 0.21))

    assert (tight.is_within, wide.is_within) == (False, True)
