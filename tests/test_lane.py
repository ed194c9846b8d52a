"""The common course of events takes the fast lane; where somebody may be preempted, the planner takes over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_runs import trace

from kvsim.planner import Planner
from kvsim.result import Result
from kvsim.run import simulate

SETTINGS: dict[str, Any] = {
    "cost": "linear:0.008,1e-5,5e-8",
    "max_model_len": 4096,
    "max_num_batched_tokens": 512,
    "measure_capacity": False,
}


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list that grows by the time of every step that the planner is asked for."""
    times: list[float] = []
    plan = Planner.plan

    def noted(planner: Planner, now: float) -> Any:
        times.append(now)
        return plan(planner, now)

    monkeypatch.setattr(Planner, "plan", noted)
    return times


def replay(policy: str, blocks: int, **more: Any) -> Result:
    rng = np.random.default_rng(3)
    rows = [(at / 4, int(rng.integers(1, 900)), int(rng.integers(1, 120))) for at in range(80)]
    return simulate(trace(*rows), policy, num_gpu_blocks_override=blocks, **SETTINGS | more)


@pytest.mark.parametrize("policy", ["paged", "prefix"])
def test_a_step_is_planned_only_when_there_is_nothing_to_run(policy: str, planned: list[float]) -> None:
    result = replay(policy, 2000)

    left_alone = result.requests["finish_s"].cummax()[:-1] < result.requests["arrival_s"][1:].to_numpy()
    assert len(planned) == 1 + left_alone.sum()
    assert result.summary["steps"] > 1000


def test_short_memory_is_the_planners(planned: list[float]) -> None:
    result = replay("paged", 90)

    assert result.summary["preemptions"] > 0
    assert len(planned) < result.summary["steps"] / 2


@pytest.mark.parametrize(
    "other",
    [
        {"scheduling_policy": "priority"},
        {"long_prefill_token_threshold": 64},
        {"scheduler": "static"},
        {"async_scheduling": True},
    ],
    ids=lambda other: next(iter(other)),
)
def test_other_orders_and_rules_are_planned(other: dict[str, Any], planned: list[float]) -> None:
    replay("paged", 2000, **other)

    assert len(planned) >= 80


def test_whoever_waits_for_an_answer_is_sent_when_it_is_out(planned: list[float]) -> None:
    work = trace((0.0, 40, 5), (0.0, 30, 4), parent=[-1, 0], think=[0.0, 0.0])

    result = simulate(work, "paged", num_gpu_blocks_override=100, **SETTINGS)

    assert result.requests["arrival_s"][1] == result.requests["finish_s"][0]
    assert len(planned) <= 2
