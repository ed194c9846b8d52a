"""Figures of the summary, against numpy on the samples themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import Run, run, trace

from kvsim.cost import LinearCost
from kvsim.request import FloatColumn
from kvsim.summary import Columns, summarise
from kvsim.traces import Trace

rows = st.lists(
    st.tuples(st.floats(0, 20), st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=12
).map(lambda drawn: trace(*sorted(drawn)))
"""Requests that often have to wait, and to make room for each other, in ten blocks of 4."""


def finished(work: Trace) -> tuple[Run, dict[str, Any]]:
    """Run with steps of uneven length, and sum up."""
    found = run(
        work, blocks=11, max_model_len=40, max_num_batched_tokens=24, cost=LinearCost(0.1, 0.01, 0.003)
    )
    return found, summarise(found.simulation, Columns.of(found.simulation))


def check(summary: dict[str, Any], name: str, sample: FloatColumn) -> None:
    """Compare every figure of a distribution with numpy's."""
    expected = {
        f"mean_{name}_ms": sample.mean(),
        f"median_{name}_ms": np.median(sample),
        f"std_{name}_ms": sample.std(),
    }
    expected |= {f"p{p}_{name}_ms": np.percentile(sample, p) for p in (50, 90, 95, 99)}
    for key, value in expected.items():
        assert summary[key] == pytest.approx(value, rel=1e-9, abs=1e-6), key


@given(rows)
def test_latencies_are_numpys_over_the_completed(work: Trace) -> None:
    found, summary = finished(work)

    columns = Columns.of(found.simulation)
    done = np.isfinite(columns.finish)
    check(summary, "ttft", columns.ttft_ms[done])
    check(summary, "e2el", columns.e2el_ms[done])
    check(summary, "queue", columns.queue_ms[done])
    if (columns.output[done] > 1).any():
        check(summary, "tpot", columns.tpot_ms[done & (columns.output > 1)])
    normalised = columns.e2el_ms[done] / columns.output[done]
    assert summary["mean_normalized_latency_ms"] == pytest.approx(normalised.mean())


def token_times(found: Run) -> dict[int, list[float]]:
    """Return when each request's tokens came out, read off the steps alone."""
    times: dict[int, list[float]] = {}
    decoding: set[int] = set()
    for step in found.steps:
        decoding -= {job.index for job in step.planned.preempted}
        sampled = {job.index for job in step.planned.sampled}
        for row, _ in step.scheduled:
            if row in decoding or row in sampled:
                times.setdefault(row, []).append(step.planned.end)
        decoding |= sampled
    return times


@settings(max_examples=200)
@given(rows)
def test_inter_token_latency_has_a_sample_for_every_gap_between_tokens(work: Trace) -> None:
    found, summary = finished(work)

    times = token_times(found)
    assert [len(times[row]) for row in sorted(times)] == [
        min(int(output), 40 - int(prompt))
        for prompt, output in zip(work.prompt_tokens, work.output_tokens, strict=True)
    ]
    gaps = np.concatenate([np.diff(values) for _, values in sorted(times.items())]) * 1e3
    if len(gaps):
        check(summary, "itl", gaps)
    assert sum(count for _, count in found.simulation.replica.ledger.gaps) == len(gaps)


@given(rows)
def test_end_to_end_is_first_token_plus_all_gaps(work: Trace) -> None:
    found, _ = finished(work)

    columns = Columns.of(found.simulation)
    for row, values in token_times(found).items():
        assert columns.first_token[row] == values[0]
        assert columns.finish[row] == values[-1]


@given(rows)
def test_throughput_is_what_was_completed_over_the_duration(work: Trace) -> None:
    found, summary = finished(work)

    duration = max(found.times("finish")) - min(found.times("arrival"))
    inputs = int(work.prompt_tokens.sum())
    assert summary["duration"] == duration
    assert summary["request_throughput"] == pytest.approx(len(work) / duration)
    assert summary["total_input_tokens"] == inputs
    assert summary["total_token_throughput"] == pytest.approx(
        inputs / duration + float(summary["output_throughput"])
    )


@given(rows)
def test_batch_over_time_is_that_of_the_steps(work: Trace) -> None:
    found, summary = finished(work)

    # A second of the run is one sample; no time passes between steps but when nobody is there.
    seconds = np.array([end - start for start, end in found.spans])
    running = np.array([step.running for step in found.steps])
    duration = float(summary["duration"])
    assert summary["running_mean"] == pytest.approx((running * seconds).sum() / duration)
    assert summary["running_max"] == running.max()
    above = seconds[running > summary["running_p99"]].sum()
    assert above <= 0.01 * duration + 1e-9
    busy_below = seconds[running >= summary["running_p99"]].sum()
    assert busy_below >= 0.01 * duration - 1e-9


def test_hit_rates_are_by_tokens_and_by_blocks() -> None:
    work = trace((0, 9, 1), (5, 9, 1), (9, 3, 1), ids=[[1, 2], [1, 2], []], block_tokens=4)

    found = run(work, "prefix:block_size=4", blocks=11)

    summary = summarise(found.simulation, Columns.of(found.simulation))
    assert summary["cached_tokens"] == 8
    assert summary["prefix_cache_hit_rate"] == 8 / 21
    assert summary["prefix_cache_hit_rate_blocks"] == 2 / 4


def test_capacity_is_measured_with_a_full_queue() -> None:
    from kvsim import simulate

    settings = {"num_gpu_blocks_override": 11, "block_size": 4, "max_model_len": 40, "cost": "linear:1,0,0"}
    work = trace(*[(100.0 * row, 4, 1) for row in range(30)])

    # Never more than one at a time as sent; ten blocks hold ten prompts of a block.
    summary = simulate(work, "paged", **settings).summary
    assert summary["running_max"] == 1
    assert summary["batch_capacity"] == 10
    assert summary["batch_capacity_bound"] == 1
    assert simulate(work, "contiguous", **settings).summary["batch_capacity"] == 1
    assert simulate(work, "paged", measure_capacity=False, **settings).summary["batch_capacity"] is None
