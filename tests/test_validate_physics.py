"""What holds whatever the numbers: the table's rows, and the same as properties of random steps and runs.

M/D/1, Lindley's recursion and Little's law on random traces are in test_queueing.py and test_engine_laws.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import assert_as_documented, rows_of
from small_runs import prepare, trace

from kvsim.cost import CostModel, LinearCost, Step
from kvsim.cost_error import ScaledCost
from kvsim.gpu import find_gpu
from kvsim.policy import Span
from kvsim.roofline import Efficiency, RooflineCost
from kvsim.validate_table import Check
from kvsim.zoo import find_model

ROWS = rows_of("profile_bound", "roofline_bound", "profile_error", "decode_cost", "roofline_scaling", "chunked_prefill",
               "littles_law", "slower")  # fmt: skip
MODEL, GPU = find_model("llama-3.1-8b"), find_gpu("h100-sxm")
SPANS = (Span(None, MODEL.layers),)
BARE = Efficiency(
    weight_bandwidth=1, kv_bandwidth=1, gemm=1, prefill_attention=1, attention_seconds=0, sequence_seconds=0
)


@pytest.mark.parametrize("check", ROWS.values(), ids=ROWS)
def test_law_holds_as_the_table_says(check: Check) -> None:
    assert_as_documented(check)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    decodes, prefills = draw(st.integers(1, 256)), draw(st.integers(0, 8))
    context = decodes * draw(st.integers(1, 20_000))
    tokens = prefills * draw(st.integers(1, 2000))
    cached = prefills * draw(st.integers(0, 20_000))
    area = tokens * (cached + tokens)
    return Step(
        decodes + tokens,
        context + cached + tokens,
        decodes,
        (context,),
        prefills,
        tokens,
        (cached + tokens,),
        (area,),
    )


def bound(**changes: Any) -> CostModel:
    return RooflineCost(MODEL, replace(GPU, **changes), SPANS, efficiency=BARE)


@given(steps())
def test_no_step_beats_the_bound_of_its_card(step: Step) -> None:
    assert RooflineCost(MODEL, GPU, SPANS).seconds(step) >= bound().seconds(step)


@given(steps())
def test_a_card_twice_as_good_in_everything_halves_every_step(step: Step) -> None:
    twice = bound(bandwidth=2 * GPU.bandwidth, bf16_flops=2 * GPU.bf16_flops)

    assert twice.seconds(step) == pytest.approx(bound().seconds(step) / 2, rel=1e-12)


@given(steps())
def test_twice_the_bandwidth_halves_at_most(step: Step) -> None:
    wide = bound(bandwidth=2 * GPU.bandwidth).seconds(step)

    assert bound().seconds(step) / 2 * (1 - 1e-12) <= wide <= bound().seconds(step)


@given(steps())
def test_twice_the_bandwidth_halves_the_time_to_read_kv(step: Step) -> None:
    def reading(cost: CostModel) -> float:
        return cost.seconds(step) - cost.seconds(step._replace(decode_context=(0,)))

    assert reading(bound(bandwidth=2 * GPU.bandwidth)) == pytest.approx(
        reading(bound()) / 2, rel=1e-6, abs=1e-15
    )


@settings(max_examples=30)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 40), st.integers(1, 30), st.integers(1, 20)), min_size=1, max_size=15
    ),
    blocks=st.integers(14, 40),
    power=st.integers(-3, 3),
)
def test_a_slower_machine_with_slower_traffic_makes_the_same_run(
    rows: list[tuple[int, int, int]], blocks: int, power: int
) -> None:
    # A power of two, so that every time is multiplied without rounding.
    factor, cost = 2.0**power, LinearCost(0.5, 0.125, 0.0625)
    plain = prepare(trace(*sorted((float(at), *rest) for at, *rest in rows)), blocks=blocks, cost=cost)  # type: ignore[misc]
    slow = prepare(
        trace(*sorted((factor * at, *rest) for at, *rest in rows)),  # type: ignore[misc]
        blocks=blocks,
        cost=ScaledCost(cost, factor),
    )

    plain.run()
    slow.run()

    assert list(slow.outcomes.finish) == [factor * end for end in plain.outcomes.finish]
    assert list(slow.outcomes.preemptions) == list(plain.outcomes.preemptions)
