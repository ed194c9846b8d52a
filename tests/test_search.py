"""Searches whose answer is known: from queueing theory, or counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import trace

from kvsim.errors import InputError
from kvsim.search import search
from kvsim.search_result import Search
from kvsim.traces.generate import generate
from kvsim.traces.redraw import GeneratedTraffic, RecordedTraffic
from kvsim.traces.trace import Trace

SERVICE = 0.1
ONE_SERVER: dict[str, Any] = {
    "cost": f"linear:{SERVICE},0,0", "max_num_seqs": 1, "max_model_len": 64, "num_gpu_blocks_override": 64, "jobs": 1,
}  # fmt: skip
"""Requests of one step, one at a time: D/1 with D = 0.1 s."""


def steps_of_one(requests: int, gap: float = 1.0) -> Trace:
    return trace(*[(gap * row, 1, 1) for row in range(requests)])


def test_regular_arrivals_are_served_up_to_one_over_the_service_time() -> None:
    # D/D/1: the queue grows as soon as the gaps are shorter than the service.
    found = search(RecordedTraffic(steps_of_one(500)), "rate", precision=0.001, **ONE_SERVER)

    assert found.value == pytest.approx(1 / SERVICE, rel=0.02)
    assert found.value is not None
    assert found.value >= 1 / SERVICE * (1 - 0.001)


def test_random_arrivals_are_served_up_to_about_one_over_the_service_time() -> None:
    found = search(RecordedTraffic(steps_of_one(1500), "poisson"), "rate", **ONE_SERVER)

    assert found.value == pytest.approx(1 / SERVICE, rel=0.04)


def test_the_rate_for_a_mean_wait_is_that_of_a_poisson_queue_with_fixed_service() -> None:
    # M/D/1: D + λD²/(2(1 − λD)) = 0.15 s at λ = 5/s (see test_queueing.py).
    found = search(
        RecordedTraffic(steps_of_one(4000), "poisson"), "rate", slo="ttft_mean=150ms", **ONE_SERVER
    )

    assert found.estimate is not None
    spread = float(np.std(found.estimate.values, ddof=1)) / np.sqrt(len(found.estimate.values))
    assert found.estimate.mean == pytest.approx(5, abs=0.05 + 3 * spread)
    assert spread < 0.1


def test_the_smallest_pool_is_that_in_which_all_start_at_once() -> None:
    # Three prompts of one block each, beside vLLM's null block.
    work = trace(*[(0.0, 4, 5)] * 3)
    found = pool_for(work, "ttft_p99=1s")

    assert found.value == 3 + 1


def test_the_smallest_pool_without_waiting_or_recomputing_holds_all_tokens() -> None:
    # 4 prompt tokens and 4 of the 5 outputs are kept: two blocks of four each; five steps of a second.
    work = trace(*[(0.0, 4, 5)] * 3)
    found = pool_for(work, "e2e_p99=5s,preemptions=0")

    assert found.value == 3 * 2 + 1
    assert found.curve.set_index("value").loc[[6, 7], "seeds_met"].tolist() == [0, 1]


def test_a_request_that_cannot_be_held_counts_as_failed() -> None:
    # 30 tokens need eight blocks of four whatever the limits are.
    found = pool_for(trace((0.0, 26, 5), (1.0, 4, 4)), "ttft_p99=1000s")

    assert found.value == 8 + 1


def pool_for(work: Trace, slo: str) -> Search:
    settings: dict[str, Any] = {"cost": "linear:1,0,0", "block_size": 4, "max_model_len": 64, "jobs": 1}
    return search(RecordedTraffic(work, "none"), "num-gpu-blocks", slo=slo, **settings)


def test_the_best_batch_is_the_largest_that_keeps_to_the_limit() -> None:
    # A step takes 10 ms and 1 ms a token, so 20 decodes take 30 ms; more at once would break TPOT.
    work = trace(*[(0.1 * row, 1, 40) for row in range(400)])
    settings: dict[str, Any] = {"cost": "linear:0.01,0.001,0", "max_model_len": 64, "jobs": 1}
    found = search(RecordedTraffic(work), "max-num-seqs", slo="tpot_p99=30ms,stable", high=64, **settings)

    assert found.value is not None
    assert 18 <= found.value <= 22
    assert found.scores[64].mean is not None
    assert found.curve["is_best"].sum() == 1


def test_an_objective_at_the_traffic_s_own_rate_is_the_best_of_the_ladder() -> None:
    # A step costs the same however many tokens it has, so larger chunks give the first token sooner.
    work = trace(*[(0.0, 512, 2)] * 8)
    settings: dict[str, Any] = {"cost": "linear:1,0,0", "max_model_len": 1024, "max_num_seqs": 8, "jobs": 1}
    settings["max_num_batched_tokens"] = 1024
    found = search(
        RecordedTraffic(work, "none"),
        "max-num-batched-tokens",
        slo="failed=0",
        objective="ttft_p99",
        low=64,
        **settings,
    )

    assert found.value == 4096
    assert found.scores[4096].values == (1000.0,)
    assert found.scores[64].values[0] is not None
    assert found.scores[64].values[0] > 50_000


def test_the_band_is_the_answer_at_slower_and_faster_steps() -> None:
    # At cost × 1.1 a server of D = 0.1 s is one of 0.11 s.
    found = search(RecordedTraffic(steps_of_one(300)), "rate", cost_error=0.1, **ONE_SERVER)

    assert found.band is not None
    assert found.band.slow is not None
    assert found.band.fast is not None
    assert found.value is not None
    assert found.band.slow.mean == pytest.approx(found.value / 1.1, rel=0.011)
    assert found.band.fast.mean == pytest.approx(found.value / 0.9, rel=0.011)
    assert "an error of the step cost of 10.0% makes it" in found.sentence


def test_a_calibrated_profile_brings_its_own_error() -> None:
    settings: dict[str, Any] = {"cost": "h100-sxm/llama-3.1-8b", "gpu": "h100-sxm", "seeds": 2, "jobs": 1}
    found = search(GeneratedTraffic("alpaca", 100), "rate", slo="tpot_p99=15ms", precision=0.05, **settings)

    # The larger of its errors on decode and prefill steps.
    assert found.plan.cost_error == pytest.approx(0.014, abs=0.001)
    assert "the cost profile's own error of 1.4%" in found.sentence


def test_an_assumed_cost_has_no_error_to_state() -> None:
    found = search(RecordedTraffic(steps_of_one(50)), "rate", **ONE_SERVER)

    assert found.band is None
    assert "no error of the step cost is known (the cost is assumed)" in found.sentence


def test_limits_that_nothing_meets_are_said_with_what_came_closest() -> None:
    found = search(RecordedTraffic(steps_of_one(50)), "rate", slo="ttft_p99=50ms", **ONE_SERVER)

    assert not found.found
    assert found.value is None
    assert "no rate from" in found.sentence
    assert "broke ttft p99 ≤ 50 ms: ttft p99 was 100 ms" in found.sentence


def test_a_bound_that_holds_is_said_to_be_no_edge() -> None:
    found = search(RecordedTraffic(steps_of_one(50)), "rate", high=2.0, low=1.0, **ONE_SERVER)

    assert found.value == pytest.approx(2, rel=0.01)
    assert "at least" in found.sentence
    assert any("may lie beyond" in note for note in found.notes)


def test_the_answer_does_not_depend_on_the_number_of_workers() -> None:
    traffic = GeneratedTraffic("alpaca", 60)
    one, two = (
        search(traffic, "rate", slo="ttft_p99=1s", seeds=2, precision=0.1, jobs=jobs) for jobs in (1, 2)
    )

    assert one.record() == two.record()
    assert one.runs.equals(two.runs)


def test_fewer_requests_than_the_queue_needs_are_a_note() -> None:
    found = search(GeneratedTraffic("sharegpt", 100), "rate", seeds=2, precision=0.1, jobs=1)

    assert any("take more requests" in note for note in found.notes)


def test_settings_that_cannot_work_are_values_that_do_not_hold(tmp_path: Path) -> None:
    # 16 GB of weights: below 20 % of 80 GB nothing is left for KV.
    traffic = RecordedTraffic(generate("alpaca", 20, 5.0), "none")
    found = search(traffic, "gpu-memory-utilization", slo="ttft_p99=5s", jobs=1)

    assert found.value is not None
    assert 0.2 < found.value < 0.4
    assert found.runs["reason"].str.contains("nothing is left for KV").any()


@pytest.mark.parametrize(
    ("knob", "more", "message"),
    [
        ("speed", {}, "unknown knob 'speed'"),
        ("rate", {"seeds": 0}, "--seeds must be at least 1"),
        ("rate", {"precision": 0.0}, "--precision must be a share"),
        ("rate", {"low": 3.0, "high": 2.0}, "--low must be at most --high"),
        ("rate", {"slo": "goodput=90%"}, "goodput needs --goodput"),
        ("rate", {"cost_error": 2.0}, "--cost-error must be a share"),
        ("block-size", {"policy": "paged:block_size=32"}, "sets block_size itself"),
        ("num-gpu-blocks", {"kv_cache_memory_bytes": 10**9}, "contradicts a search for num-gpu-blocks"),
        ("max-num-seqs", {"objective": "speed"}, "no figure 'speed'"),
        ("max-num-seqs", {"low": 2.5}, "--low must be a whole number"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(
    knob: str, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        search(GeneratedTraffic("alpaca", 10), knob, **more)


def test_a_rate_cannot_spread_what_all_comes_at_once() -> None:
    with pytest.raises(
        InputError, match="which no rate can spread; draw the times, as in --resample poisson"
    ):
        search(RecordedTraffic(trace(*[(0.0, 4, 4)] * 5), "none"), "rate", jobs=1)


def test_a_queue_cannot_be_judged_where_all_come_at_once() -> None:
    with pytest.raises(InputError, match="all requests arrive at once"):
        search(RecordedTraffic(trace(*[(0.0, 4, 4)] * 5), "none"), "num-gpu-blocks")
