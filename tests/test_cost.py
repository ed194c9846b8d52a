"""What a step costs: linear and roofline models, and specifications that cannot be read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim import InputError, simulate
from kvsim.cost import LinearCost, Step, parse_linear
from kvsim.gpu import find_gpu
from kvsim.policy import Span
from kvsim.roofline import Efficiency, RooflineCost
from kvsim.traces.generate import generate
from kvsim.zoo import find_model

BARE = Efficiency(attention_seconds=0.0, sequence_seconds=0.0)
"""No fixed time a kernel, so that terms can be told apart."""


def roofline(
    model: str = "llama-3.1-8b", gpu: str = "h100-sxm", efficiency: Efficiency | None = None
) -> RooflineCost:
    """Return a model's cost with its own attention spans."""
    found = find_model(model)
    return RooflineCost(found, find_gpu(gpu), found.spans, efficiency=efficiency)


def decode(sequences: int, length: int) -> Step:
    """Return a step of so many decodes of one length, all of full attention."""
    return Step(sequences, sequences * length, sequences, (sequences * length,))


def prefill(tokens: int) -> Step:
    """Return a step of one prompt."""
    area = (tokens * (tokens + 1) // 2,)
    return Step(tokens, tokens, 0, (0,), 1, tokens, (tokens,), area)


@given(st.floats(1e-9, 10), st.floats(0, 1), st.floats(0, 1), st.integers(0, 9999), st.integers(0, 10**6))
def test_linear_cost_is_a_line_in_tokens_and_context(
    a: float, b: float, c: float, tokens: int, context: int
) -> None:
    step = Step(tokens, context, 0, ())

    assert LinearCost(a, b, c).seconds(step) == a + b * tokens + c * context


def test_linear_cost_is_read_as_it_is_labelled() -> None:
    cost = parse_linear("linear:0.01, 1e-4,0")

    assert (cost.a, cost.b, cost.c) == (0.01, 1e-4, 0)
    assert cost.label == "linear:0.01,0.0001,0 (assumed)"


@pytest.mark.parametrize("text", ["linear:1,2", "linear:", "linear:1,2,3,4", "linear:a,b,c", "linear"])
def test_linear_cost_that_cannot_be_read_shows_what_was_given(text: str) -> None:
    with pytest.raises(InputError, match="needs three numbers of seconds, got '"):
        parse_linear(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("linear:-1,0,0", "A must be seconds ≥ 0, got -1"),
        ("linear:1,nan,0", "B must be seconds ≥ 0, got nan"),
        ("linear:1,0,inf", "C must be seconds ≥ 0, got inf"),
        ("linear:0,0,1", "A and B must not both be 0"),
    ],
)
def test_linear_cost_of_impossible_seconds_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_linear(text)


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        ("rooflin", "cost must be roofline, roofline:GPU or linear:A,B,C, got 'rooflin'"),
        ("", "cost must be roofline"),
        ("roofline:h1000", "h1000.*h100"),
        ("linear:1;2;3", "three numbers"),
    ],
)
def test_unknown_cost_is_one_clear_line(cost: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        simulate(generate("alpaca", 3, rate=1.0), cost=cost)
    assert "\n" not in str(caught.value)


def test_roofline_says_that_it_is_assumed() -> None:
    assert roofline().label.startswith("roofline:h100-sxm (assumed")


steps = st.builds(
    lambda decodes, length, tokens: Step(
        decodes + tokens,
        decodes * length + tokens,
        decodes,
        (decodes * length,),
        1 if tokens else 0,
        tokens,
        (tokens,),
        (tokens * (tokens + 1) // 2,),
    ),
    st.integers(1, 256),
    st.integers(1, 100_000),
    st.integers(0, 8192),
)


@given(
    steps,
    st.sampled_from(["tokens", "decodes", "decode_context", "prefill_context", "prefill_area"]),
    st.integers(1, 10**6),
)
def test_more_of_anything_never_takes_less_time(step: Step, name: str, more: int) -> None:
    value = getattr(step, name)
    larger = step._replace(**{name: value + more if isinstance(value, int) else (value[0] + more,)})

    assert roofline().seconds(larger) >= roofline().seconds(step) > 0


@given(st.integers(1, 512), st.integers(1, 100_000))
def test_twice_the_bandwidth_halves_the_time_of_reading_kv(sequences: int, length: int) -> None:
    model, gpu = find_model("llama-3.1-8b"), find_gpu("h100-sxm")

    def reading(bandwidth: float) -> float:
        cost = RooflineCost(model, replace(gpu, bandwidth=bandwidth), model.spans, efficiency=BARE)
        return cost.seconds(decode(sequences, length)) - cost.seconds(decode(sequences, 0))

    assert reading(2 * gpu.bandwidth) == pytest.approx(reading(gpu.bandwidth) / 2, rel=1e-6)


def test_kv_is_read_at_the_share_of_the_bandwidth_that_kernels_reach() -> None:
    # 131,072 bytes a token at 0.85 · 3.35 TB/s.
    gpu = find_gpu("h100-sxm")
    cost = roofline(efficiency=BARE)

    slope = (cost.seconds(decode(1, 100_000)) - cost.seconds(decode(1, 0))) / 100_000

    assert slope == pytest.approx(131_072 / (0.85 * gpu.bandwidth))


def test_slope_of_decode_in_context_is_near_the_one_measured() -> None:
    # P83: Llama-3.1-8B, H100, batch 1: 4.37e-5 ms a token of context and 6.44 ms beside (vLLM 0.19.1, FA3).
    cost = roofline()

    slope = (cost.seconds(decode(1, 100_000)) - cost.seconds(decode(1, 0))) / 100_000

    assert slope == pytest.approx(4.37e-8, rel=0.15)
    assert cost.seconds(decode(1, 256)) == pytest.approx(6.45e-3, rel=0.3)


@given(st.integers(1, 8191))
def test_long_prompts_are_bound_by_compute_and_short_ones_by_the_weights(tokens: int) -> None:
    # Doubling a prompt takes at most four times as long (attention), and one token as long as reading the weights.
    cost = roofline(efficiency=BARE)

    assert (
        cost.seconds(prefill(tokens)) < cost.seconds(prefill(2 * tokens)) < 4 * cost.seconds(prefill(tokens))
    )


def test_mixture_of_experts_reads_fewer_weights_in_a_small_batch() -> None:
    mixtral = roofline("mixtral-8x7b", efficiency=BARE)

    # 2 of 8 experts are active for one token; 64 tokens touch nearly all.
    one, many = mixtral.seconds(decode(1, 0)), mixtral.seconds(decode(64, 0))
    assert 0.2 < one / many < 0.4
    dense = roofline("llama-3.1-70b", gpu="h200-sxm", efficiency=BARE)
    assert dense.seconds(decode(1, 0)) == pytest.approx(dense.seconds(decode(8, 0)), rel=0.01)


def test_windows_lower_the_attention_term_only() -> None:
    model, gpu = find_model("llama-3.1-8b"), find_gpu("h100-sxm")
    full = RooflineCost(model, gpu, (Span(None, 32),))
    half = RooflineCost(model, gpu, (Span(None, 16), Span(1024, 16)))

    long = Step(8, 8 * 32_768, 8, (8 * 32_768,))
    windowed = long._replace(decode_context=(8 * 32_768, 8 * 1024))
    short = Step(8, 8 * 1024, 8, (8 * 1024,))

    attention = full.seconds(long) - full.seconds(short)
    assert half.seconds(windowed) - full.seconds(short) == pytest.approx(attention / 2)
    assert half.seconds(short._replace(decode_context=(8 * 1024,) * 2)) == pytest.approx(full.seconds(short))


def test_sliding_window_policy_makes_long_decodes_cheaper() -> None:
    work = generate("long-documents", 4, rate=1.0, seed=1)

    times = {
        name: simulate(work, name, measure_capacity=False).summary["mean_tpot_ms"]
        for name in ("paged", "sliding-window:window=1024")
    }

    assert times["sliding-window:window=1024"] < times["paged"]


def test_two_cards_share_weights_and_kv() -> None:
    model, gpu = find_model("llama-3.1-8b"), find_gpu("h100-sxm")
    one = RooflineCost(model, gpu, model.spans, efficiency=BARE)
    two = RooflineCost(model, gpu, model.spans, tensor_parallel_size=2, efficiency=BARE)

    assert two.seconds(decode(16, 4096)) == pytest.approx(one.seconds(decode(16, 4096)) / 2)


def test_quantised_kv_is_read_in_half_the_time() -> None:
    model, gpu = find_model("llama-3.1-8b"), find_gpu("h100-sxm")
    fp16 = RooflineCost(model, gpu, model.spans, efficiency=BARE)
    fp8 = RooflineCost(model, gpu, model.spans, kv_cache_dtype="fp8", efficiency=BARE)

    def reading(cost: RooflineCost) -> float:
        return cost.seconds(decode(16, 4096)) - cost.seconds(decode(16, 0))

    assert reading(fp8) == pytest.approx(reading(fp16) / 2)
