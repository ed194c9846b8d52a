"""Prices of many steps by one line, against the same steps priced one by one."""

from __future__ import annotations

import pytest

from kvsim.config import RunConfig
from kvsim.cost import LinearCost, Step
from kvsim.policy import Span
from kvsim.result import Result
from kvsim.run import prepare_cost, prepare_policy, prepare_pool, simulate
from kvsim.traces.generate import generate

COSTS = (
    {"model": "llama-3.1-8b", "gpu": "h100-sxm"},
    {"model": "llama-3.1-8b", "gpu": "h100-sxm", "cost": "calibrated"},
    {"model": "llama-3.1-8b", "gpu": "rtx-pro-6000", "cost": "calibrated"},
    {"model": "llama-3.1-8b", "gpu": "h100-sxm", "cost": "linear:0.008,1e-5,5e-8"},
    {"model": "mistral-7b-v0.1", "gpu": "a100-40-sxm"},
    {"model": "gemma-3-27b", "gpu": "h100-sxm"},
)


def figures(result: Result) -> dict[str, object]:
    """Return the summary but for what only a second replay tells."""
    return {key: value for key, value in result.summary.items() if key != "batch_capacity"}


@pytest.mark.parametrize("policy", ["contiguous", "paged", "prefix", "sliding-window"])
@pytest.mark.parametrize("settings", COSTS, ids=lambda settings: "-".join(settings.values()))
def test_watched_and_unwatched_runs_have_the_same_figures(policy: str, settings: dict[str, str]) -> None:
    work = generate("chat", 60, rate=6.0, seed=3, turns=4)
    options = {"max_model_len": 16_384, "measure_capacity": False, **settings}

    unwatched = simulate(work, policy, **options)

    watched = simulate(work, policy, watch=lambda record: None, **options)
    assert figures(unwatched) == figures(watched)
    assert unwatched.requests.equals(watched.requests)
    assert unwatched.timeline.equals(watched.timeline)


@pytest.mark.parametrize("settings", COSTS[:2], ids=["roofline", "calibrated"])
@pytest.mark.parametrize("decodes", [1, 7, 64, 300])
def test_a_line_prices_to_the_last_bit(settings: dict[str, str], decodes: int) -> None:
    config = RunConfig().changed(**settings)
    policy = prepare_policy("paged", config)
    policy.reset(prepare_pool(None, policy, config))
    cost = prepare_cost(config, policy)
    assert policy.attention == (Span(None, 32),)

    context = decodes
    while context < 2_000_000:
        line = cost.decode_line(decodes, context)  # type: ignore[attr-defined]
        assert context <= line.until
        for at in {context, (context + min(line.until, 4_000_000)) // 2, min(line.until, 4_000_000)}:
            assert line.fixed + line.rate * at == cost.seconds(Step(decodes, at, decodes, (at,)))
        context = min(line.until, 4_000_000) + 1


def test_the_linear_model_is_a_line() -> None:
    cost = LinearCost(0.01, 1e-5, 3e-8)

    line = cost.decode_line(12, 5_000)

    assert line.fixed + line.rate * 5_000 == cost.seconds(Step(12, 5_000, 12, (5_000,)))
