"""The longest decode: kept by the engine, fitted where kernels do not split it, priced in steps and stretches alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import synthetic_device as device
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tables import SMALL
from tight_runs import Case, cases, run_watched, simulation_of

from kvsim.calibration.cost import ProfileCost
from kvsim.calibration.features import decodes_of
from kvsim.calibration.kv_splits import unsplit_from
from kvsim.calibration.points import Point
from kvsim.calibration.profile import Profile
from kvsim.calibration.profile_file import profile_to_json, read_profile, shipped_profiles
from kvsim.cost import Line, LinearCost, Step
from kvsim.cost_error import ScaledCost
from kvsim.plan import Plan
from kvsim.policy import Span

RATE = 2e-8
"""Seconds a token that the longest has beyond the mean, on the device of these tests."""
PROFILES = ("rtx-pro-6000/llama-3.1-8b", "rtx4090/llama-3.1-8b")


class LateCost(LinearCost):
    """A line in the sums, and what the longest decode has beyond the others; times are exact in any order."""

    reads_longest = True

    def __init__(self) -> None:
        super().__init__(2.0**-3, 2.0**-7, 2.0**-10)

    def seconds(self, step: Step) -> float:
        lack = 0 if step.prefills else step.decodes * step.decode_longest - step.context
        return super().seconds(step) + 2.0**-12 * lack

    def decode_line(self, decodes: int, context: int, longest: int = 0) -> Line:
        line = super().decode_line(decodes, context)
        return line._replace(fixed=line.fixed + 2.0**-12 * (decodes * longest - context))


def uneven(op: str = "attn_decode") -> list[Point]:
    """Return timed batches with one sequence of 16 times the length of the others, by a kernel that splits from 8."""
    chunk = (64,) if op == "attn_mixed" else ()
    points = []
    for count in device.COUNTS[1:]:
        for length in device.LENGTHS:
            kv = (*chunk, 16 * length, *(length,) * (count - 1))
            point = device.attention(op, chunk + (1,) * count, kv)
            late = RATE * decodes_of(point).lack / count if count >= 8 else 0.0
            points.append(replace(point, ns=(point.ns[0] + 1e9 * late,)))
    return points


def profile(extra: list[Point]) -> Profile:
    """Return a profile of a device whose kernel splits up to 7 decodes, as FlashAttention 2 does."""
    points = [
        replace(point, backend="FlashAttention 2") if point.op == "attn_decode" else point
        for point in [*device.every_point(), *extra]
    ]
    return device.profile(points, device={"type": "cuda", "name": "Synthetic GPU", "sms": 10})


UNEVEN = profile(uneven())


@settings(max_examples=150)
@given(cases())
def test_a_step_knows_its_longest_decode(case: Case) -> None:
    simulation = simulation_of(case, LateCost())
    replica, told = simulation.replica, simulation.replica.account.step

    def checked(plan: Plan, shared: int) -> Step:
        work, stalled = told(plan, shared), plan.stalled_rows()
        decoding = (job for row, job in replica.batch.running.items() if job.decoding and row not in stalled)
        assert work.decode_longest == max(map(replica.batch.length, decoding), default=0)
        return work

    replica.account.step = checked  # type: ignore[method-assign]
    simulation.run()


@settings(max_examples=150)
@given(cases())
def test_stretches_price_the_longest_as_planned_steps_do(case: Case) -> None:
    unwatched, watched = simulation_of(case, LateCost()), simulation_of(case, LateCost())

    unwatched.run()

    run_watched(watched)
    for column in ("first_token", "finish"):
        assert getattr(unwatched.outcomes, column).tobytes() == getattr(watched.outcomes, column).tobytes()


def test_a_scaled_cost_asks_for_the_longest_if_its_model_does() -> None:
    scaled = ScaledCost(LateCost(), 2.0)
    step = Step(4, 100, 4, (100,), decode_longest=40)

    line = scaled.decode_line(4, 100, 40)

    assert not ScaledCost(LinearCost(1, 0, 0), 2.0).reads_longest
    assert scaled.reads_longest
    assert line is not None
    assert scaled.seconds(step) == 2 * LateCost().seconds(step) == line.fixed + line.rate * 100


def test_kernels_split_decodes_as_their_sources_say() -> None:
    """vLLM 0.19's tables show it: 32 decodes are split on an RTX PRO 6000, not on a 4090."""
    point = replace(device.attention("attn_decode", (1,), (16,)), heads=(32, 8, 128))
    flash, triton = (replace(point, backend=name) for name in ("vLLM 0.19 FlashAttention 2", "triton"))

    assert [unsplit_from([flash], sms) for sms in (188, 128, 108)] == [38, 26, 22]
    assert unsplit_from([triton], 132) == 17
    assert unsplit_from([flash], None) is None
    assert unsplit_from([flash, triton], 132) is None
    assert unsplit_from([point], 132) is None


def test_what_the_longest_costs_is_recovered_where_nothing_is_split() -> None:
    found = UNEVEN.fits.attention[
        next(kind for kind in UNEVEN.fits.attention if kind.op == "attn_decode")
    ].fit

    assert found.unsplit_from == 8  # type: ignore[union-attr]
    assert found.affine.coefficients[-1] == pytest.approx(RATE, rel=0.02)
    assert found.at(16, 16_000, 5_000) - found.at(16, 16_000) == pytest.approx(4_000 * RATE, rel=0.02)  # type: ignore[union-attr, call-arg, arg-type]
    assert found.at(4, 4_000, 2_000) == found.at(4, 4_000)  # type: ignore[union-attr, call-arg, arg-type]


def test_batches_of_equal_length_say_nothing_of_the_longest() -> None:
    even = profile([])

    assert all(
        fitted.fit.affine.coefficients[-1] == 0
        for kind, fitted in even.fits.attention.items()
        if kind.op != "attn_prefill"
    )
    assert not ProfileCost(even, (Span(None, SMALL.layers),), page=16).reads_longest


def test_a_graph_launches_as_many_sequences_as_it_was_captured_with() -> None:
    cost = ProfileCost(UNEVEN, (Span(None, SMALL.layers),), page=16)
    eager = ProfileCost(UNEVEN, (Span(None, SMALL.layers),), page=16, pads=False)

    def late(model: ProfileCost, count: int) -> float:
        even = Step(count, 1000 * count, count, (1000 * count,))
        return model.seconds(even._replace(decode_longest=3000)) - model.seconds(even)

    assert late(cost, 5) == pytest.approx(2000 * RATE * SMALL.layers, rel=0.02)
    assert late(eager, 5) == late(cost, 4) == 0


def test_a_fused_step_waits_for_its_longest_sequence_too() -> None:
    cost = ProfileCost(
        profile([*device.mixed(), *uneven("attn_mixed")]), (Span(None, SMALL.layers),), page=16
    )
    chunk = (1, 64, (64,), (2080,))
    mixed = Step(68, 4064, 4, (4000,), *chunk)

    assert cost.seconds(mixed._replace(decode_longest=3000)) >= cost.seconds(mixed)
    assert cost.reads_longest


def test_the_fit_of_a_file_without_the_longest_prices_by_sums(tmp_path: Path) -> None:
    import json

    record = profile_to_json(replace(UNEVEN, points=()))
    for fit in record["fits"]["attention"]:
        fit.get("coefficients", {}).pop("longest", None)
        fit.pop("unsplit_from", None)
    (tmp_path / "old.json").write_text(json.dumps(record))
    old = read_profile(tmp_path / "old.json")
    again = read_profile(UNEVEN.save(tmp_path / "new.json", with_points=False))

    assert not ProfileCost(old, (Span(None, SMALL.layers),), page=16).reads_longest
    assert profile_to_json(again) == profile_to_json(replace(UNEVEN, points=()))


@pytest.mark.parametrize("name", PROFILES)
@settings(max_examples=60)
@given(
    count=st.integers(1, 256),
    length=st.integers(1, 20_000),
    beyond=st.integers(0, 20_000),
    more=st.integers(1, 1000),
)
def test_a_longer_sequence_never_makes_a_step_faster(
    name: str, count: int, length: int, beyond: int, more: int
) -> None:
    cost, rounding = COSTS[name], 1 + 1e-6
    context, longest = count * length + beyond, length + beyond

    def seconds(count: int, context: int, longest: int) -> float:
        return cost.seconds(Step(count, context, count, (context,), decode_longest=longest))

    now = seconds(count, context, longest)
    assert now <= seconds(count, context + more, longest + more) * rounding
    assert now <= seconds(count + 1, context + more, max(longest, more)) * rounding
    if context + more <= count * longest:
        assert now <= seconds(count, context + more, longest) * rounding


COSTS = {
    name: ProfileCost(read_profile(shipped_profiles()[name]), (Span(None, 1),), page=16) for name in PROFILES
}
