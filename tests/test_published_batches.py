"""Batch sizes and memory split of the vLLM paper (arXiv 2309.06180, Fig. 2 and 13): OPT-13B on one A100-40GB.

12 GiB of KV are 15,728 token slots. Step times are a published fit for this model on an A100-80 (DistServe's
simulator, linear in tokens and context), lengthened by the two cards' memory bandwidths (2039 / 1555). Shares are
means over the time in which requests wait, since the published runs are far beyond what these policies sustain.

Where buddy rounding is *internal* here, the paper counts it with external fragmentation ("external
fragmentation and others"): it gives Oracle, whose pieces are exact before rounding, 0 % and 36.6 %. So only the
sum of the two is compared for Pow2 and Oracle.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

from kvsim import simulate
from kvsim.ledger import Slots
from kvsim.traces.generate import generate

SLOTS = 12 * 2**30 // 819_200
SETTINGS: dict[str, Any] = {
    "model": "opt-13b",
    "gpu": "a100-40-sxm",
    "kv_cache_memory_bytes": 12 * 2**30,
    "max_model_len": 2048,
    "cost": "linear:0.0308,0.000184,7.8e-7",
}
POLICIES = {
    "max": "contiguous:placement=buddy",
    "pow2": "contiguous:reservation=pow2:placement=buddy",
    "oracle": "contiguous:reservation=oracle:placement=buddy",
    "paged": "paged",
}
TRACES = {"sharegpt": (1200, 2.0), "alpaca": (3000, 30.0)}


class Saturated(NamedTuple):
    """Means over the time in which requests wait."""

    batch: float
    shares: Slots
    """Percent of the pool."""
    batches: set[int]
    """Batch sizes seen."""
    external: set[int]
    """Slots of external fragmentation seen."""
    running_mean: float
    """Mean batch over the whole run."""


@cache
def saturated(name: str, policy: str) -> Saturated:
    """Replay a workload through one of the paper's four systems."""
    requests, rate = TRACES[name]
    steps: list[Any] = []
    work = generate(name, requests, rate=rate, seed=0)

    result = simulate(work, POLICIES[policy], watch=steps.append, measure_capacity=False, **SETTINGS)

    late = [step for step in steps if step.waiting]
    seconds = np.array([step.planned.end - step.planned.start for step in late])
    slots = np.array([step.slots for step in late])
    capacity = result.config["pool"]["slots"]
    shares = (
        Slots(*(100 * seconds @ slots / seconds.sum() / capacity).tolist()) if len(late) else Slots(*[0] * 6)
    )
    running = np.array([step.running for step in late])
    return Saturated(
        float(seconds @ running / seconds.sum()) if len(late) else 0.0,
        shares,
        set(running.tolist()),
        {step.slots.external for step in late},
        float(result.summary["running_mean"]),
    )


@pytest.mark.parametrize("name", TRACES)
def test_reservation_of_the_maximum_runs_seven_whatever_the_lengths(name: str) -> None:
    # P10 and P11: 7.00 in both figures; ⌊15,728 / 2,048⌋.
    found = saturated(name, "max")

    assert SLOTS == 15_728
    assert found.batches == {7}
    assert found.batch == pytest.approx(7.0, abs=1e-12)


@pytest.mark.parametrize("placement", ["first-fit", "best-fit", "buddy"])
def test_capacity_under_saturation_is_seven_for_every_placement(placement: str) -> None:
    work = generate("sharegpt", 40, rate=2.0, seed=0)

    summary = simulate(work, f"contiguous:placement={placement}", **SETTINGS).summary

    assert summary["batch_capacity"] == 7
    assert summary["batch_capacity_bound"] == SLOTS / 2048


@pytest.mark.parametrize("name", TRACES)
def test_external_share_of_max_is_what_seven_reservations_leave(name: str) -> None:
    # P6: 8.9 %.
    found = saturated(name, "max")

    assert found.external == {SLOTS - 7 * 2048}
    assert round(found.shares.external, 2) == 8.85
    assert found.shares.free == found.shares.reusable == 0


@pytest.mark.parametrize(
    ("policy", "live", "reserved", "rest"),
    [
        ("max", 20.4, 13.3, 57.3 + 8.9),
        ("pow2", 26.8, 17.9, 13.6 + 41.6),
        ("oracle", 38.2, 25.2, 0 + 36.6),
    ],
)
def test_memory_of_contiguous_systems_is_split_as_published(
    policy: str, live: float, reserved: float, rest: float
) -> None:
    # P6–P8, ± 3 percentage points.
    shares = saturated("sharegpt", policy).shares

    assert shares.live == pytest.approx(live, abs=3)
    assert shares.reserved == pytest.approx(reserved, abs=3)
    assert shares.internal + shares.external + shares.free == pytest.approx(rest, abs=3)
    assert shares.free == pytest.approx(0, abs=0.5)


def test_internal_fragmentation_of_max_is_as_published() -> None:
    assert saturated("sharegpt", "max").shares.internal == pytest.approx(57.3, abs=3)


def test_paged_memory_holds_tokens_almost_everywhere() -> None:
    # P9: 96.3 %; half a block of 16 for each of 30 requests is 1.45 %.
    shares = saturated("sharegpt", "paged").shares

    assert shares.live == pytest.approx(96.3, abs=3)
    assert shares.reserved + shares.internal == pytest.approx(100 * 30.42 * 7.5 / SLOTS, abs=0.5)
    assert shares.external == 0


@pytest.mark.parametrize(("policy", "published"), [("pow2", 9.81), ("oracle", 13.62)])
def test_batches_of_sharegpt_are_within_a_tenth_of_the_published(policy: str, published: float) -> None:
    # P10.
    assert saturated("sharegpt", policy).batch == pytest.approx(published, rel=0.1)


def test_paged_batch_of_sharegpt_is_within_a_tenth_over_the_run() -> None:
    """P10: 30.42 requests at 2 a second.

    This rate is at vLLM's knee (1.7 to 1.9 a second), so the published mean covers times without a queue: 30.42 / 2 /
    338 = 45 ms a token. While requests wait ours is a tenth higher, because the pool then holds 97 % live tokens
    and 456 of them a request, as in the other systems, where the paper's figures come to 498.
    """
    found = saturated("sharegpt", "paged")

    assert found.running_mean == pytest.approx(30.42, rel=0.1)
    assert 30.42 < found.batch < 1.15 * 30.42


@pytest.mark.parametrize(("policy", "published"), [("pow2", 43.24), ("oracle", 72.75)])
def test_batches_of_alpaca_are_within_a_quarter_below_the_published(policy: str, published: float) -> None:
    """P11: out of the ± 10 % band, for a known reason.

    The paper gives this set's means only (19.31 and 58.45 tokens); the batch goes by E[O²]/E[O], for which the
    generator's tail is an assumption. This draw has 139 tokens there; one of the same workload with 122 runs 42.7
    and 74.4 requests.
    """
    batch = saturated("alpaca", policy).batch

    assert 0.75 * published < batch < published


def test_paged_batch_of_alpaca_is_the_time_a_token_takes() -> None:
    """P11: 132.44 requests at 30 a second are 132.44 / 30 / 58.45 = 75.5 ms a token, not a full pool.

    With a step cost that comes to this time, the batch is the published one.
    """
    work = generate("alpaca", 4000, rate=30.0, seed=0)
    slower = SETTINGS | {"cost": "linear:0.036,0.000184,7.8e-7"}

    summary = simulate(work, "paged", measure_capacity=False, **slower).summary

    assert summary["mean_tpot_ms"] == pytest.approx(75.5, rel=0.05)
    assert summary["running_mean"] == pytest.approx(132.44, rel=0.15)


@pytest.mark.parametrize("name", TRACES)
def test_systems_rank_as_published(name: str) -> None:
    batches = [saturated(name, policy).batch for policy in ("max", "pow2", "oracle")]
    paged = saturated(name, "paged")

    assert [*batches, max(paged.batch, paged.running_mean)] == sorted(
        [*batches, max(paged.batch, paged.running_mean)]
    )


def test_same_live_tokens_a_request_in_every_system() -> None:
    # Derived from Fig. 2 and 13a: 458, 430 and 441 tokens.
    for policy in ("max", "pow2", "oracle", "paged"):
        found = saturated("sharegpt", policy)
        assert found.shares.live / 100 * SLOTS / found.batch == pytest.approx(450, rel=0.08)
