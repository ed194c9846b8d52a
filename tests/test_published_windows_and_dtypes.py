"""Published figures of hybrid allocators and of quantised KV, against simulated runs; closed forms lie elsewhere."""

from __future__ import annotations

import pytest
from small_runs import run, trace

from kvsim import simulate
from kvsim.cost import Step
from kvsim.gpu import find_gpu
from kvsim.policies.paged import PagedPolicy
from kvsim.policies.sliding_window import SlidingWindowPolicy
from kvsim.policy import Pool, Span
from kvsim.roofline import RooflineCost
from kvsim.saturation import batch_capacity
from kvsim.scheduler import Limits
from kvsim.traces import Trace
from kvsim.traces.generate import generate
from kvsim.window import Chunk
from kvsim.zoo import find_model


@pytest.mark.parametrize(
    ("waste", "length", "spans"),
    [
        (0.25, 8192, (Span(4096, 1), Span(None, 1))),
        (0.5625, 131_072, (Span(32_768, 3), Span(None, 1))),
    ],
    ids=["gemma-2", "ministral"],
)
def test_p68_uniform_paging_wastes_what_windows_no_longer_reach(
    waste: float, length: int, spans: tuple[Span, ...]
) -> None:
    limits = {"max_model_len": length + 2, "max_num_batched_tokens": length}
    work = trace((0.0, length, 2))

    found = {
        name: run(work, f"{name}:block_size=1", blocks=5 * length, pool={"spans": spans}, **limits)
        for name in ("paged", "sliding-window")
    }

    last = {name: each.steps[-1].slots for name, each in found.items()}
    assert last["paged"].internal / (last["paged"].live + last["paged"].internal) == pytest.approx(
        waste, abs=1e-4
    )
    assert last["sliding-window"].internal == 0


def test_p72_padding_is_what_a_hybrid_pool_loses() -> None:
    # gpt-oss-120b with eagle3: 19 full and 18 windowed layers in groups of 19, one place of 38 is padding.
    policy = SlidingWindowPolicy(block_size=16)
    policy.reset(
        Pool(kv_bytes=37 * 16 * 1000, token_bytes=37, max_model_len=16, spans=(Span(128, 18), Span(None, 19)))
    )

    assert policy.num_blocks == 37 * 1000 // 19
    assert 1 - policy.num_blocks * 18.5 / (37 * 1000) == pytest.approx(1 / 38, abs=0.001)


def saturated(model: str, gpu: str, work: Trace, policy: str, gpus: int = 1, longest: int = 131_072) -> float:
    """Return requests a second when all requests are there from the start."""
    return float(
        simulate(
            work,
            policy,
            model=model,
            gpu=gpu,
            tensor_parallel_size=gpus,
            max_model_len=longest,
            measure_capacity=False,
        ).summary["request_throughput"]
    )


def papers(count: int, outputs: int) -> Trace:
    """Return prompts of 30,000 to 90,000 tokens, all sent at once."""
    return trace(*[(0.0, int(600 * (50 + row * 37 % 100)), outputs) for row in range(count)])


@pytest.mark.parametrize(
    ("model", "gpus", "count", "outputs", "published"),
    [("gemma-3-12b", 1, 40, 150, 0.25 / 0.18), ("llama-4-scout", 8, 100, 2000, 1.16 / 0.67)],
)
def test_p74_a_hybrid_allocator_serves_more_of_a_hybrid_model(
    model: str, gpus: int, count: int, outputs: int, published: float
) -> None:
    # In trend: the artifact's lengths are not ours. With 150 outputs Scout's time goes into prompts, and memory is no
    # limit; with 2,000 it is.
    work = papers(count, outputs)

    gain = saturated(model, "h100-sxm", work, "sliding-window", gpus) / saturated(
        model, "h100-sxm", work, "paged", gpus
    )

    assert 1.2 < gain < 1.1 * published


def test_p74_full_attention_is_the_control_and_shows_no_difference() -> None:
    work = generate("azure-conv", 100, rate=20.0, seed=0)
    model, kinds = find_model("llama-3.1-8b"), '[{"type":"full"}]'
    pool = Pool(
        kv_bytes=2 * 10**9, token_bytes=model.kv_bytes_per_token(), max_model_len=8192, spans=model.spans
    )

    paged, hybrid = PagedPolicy(), SlidingWindowPolicy(kv_groups=kinds)

    assert saturated(
        "llama-3.1-8b", "h100-sxm", work, f"sliding-window:kv_groups={kinds}", longest=8192
    ) == saturated("llama-3.1-8b", "h100-sxm", work, "paged", longest=8192)
    limits = Limits(max_model_len=8192)
    assert batch_capacity(work, paged, pool, limits) == batch_capacity(work, hybrid, pool, limits)


def test_p75_scout_holds_sequences_four_times_as_long() -> None:
    # 13M and 52M tokens on 8 H100 in the paper's table; the ratio is what its lengths can be held to.
    scout = find_model("llama-4-scout")
    pool = Pool(
        kv_bytes=50 * 10**9,
        token_bytes=scout.kv_bytes_per_token(tensor_parallel_size=8),
        max_model_len=10**8,
        max_num_batched_tokens=8192,
        spans=scout.spans,
    )
    longest = {}
    for policy in (PagedPolicy(), SlidingWindowPolicy()):
        policy.reset(pool)
        fits = [tokens for tokens in range(10**6, 10**7, 10**4) if policy.refuses(tokens) is None]
        longest[policy.name] = fits[-1]

    assert scout.spans[0].window == Chunk(8192)
    assert longest["sliding-window"] / longest["paged"] == pytest.approx(4.0, rel=0.02)


def decode_slope(model: str, gpu: str, dtype: str) -> tuple[float, float]:
    """Return milliseconds at no context, and those a token of context adds beyond every window."""
    found = find_model(model)
    cost = RooflineCost(found, find_gpu(gpu), found.spans, kv_cache_dtype=dtype)

    def ms(context: int) -> float:
        reads = tuple(min(context, span.window or context) for span in found.spans)
        return 1e3 * cost.seconds(Step(1, context, 1, reads))

    return ms(0), (ms(100_000) - ms(1000)) / 99_000


@pytest.mark.parametrize(
    ("model", "gpu", "dtype", "published", "within"),
    [
        ("llama-3.1-8b", "h100-sxm", "bf16", 4.37e-5, 0.1),
        ("llama-3.1-8b", "h100-sxm", "fp8", 2.37e-5, 0.1),
        ("llama-3.1-8b", "b200", "bf16", 1.80e-5, 0.15),
        ("llama-3.1-8b", "b200", "fp8", 9.72e-6, 0.15),
        ("gpt-oss-20b", "h100-sxm", "bf16", 8.94e-6, 0.1),
        # Measured at 80 % of bf16: small heads do not profit from half the bytes as a roofline says.
        ("gpt-oss-20b", "h100-sxm", "fp8", 7.14e-6, 0.45),
    ],
)
def test_p83_slope_of_decode_in_context_by_kv_dtype(
    model: str, gpu: str, dtype: str, published: float, within: float
) -> None:
    assert decode_slope(model, gpu, dtype)[1] == pytest.approx(published, rel=within)


def test_p83_the_kv_dtype_moves_the_slope_and_not_the_intercept() -> None:
    kept = ("fp32", "bf16", "fp8", "int4-g32", "int2-g32")
    found = {dtype: decode_slope("llama-3.1-8b", "h100-sxm", dtype) for dtype in kept}

    assert len({intercept for intercept, _ in found.values()}) == 1
    bytes_read = [found[dtype][1] / found["bf16"][1] * 16 for dtype in kept]
    assert bytes_read == pytest.approx([32, 16, 8, 5, 3])


def test_p78_six_bits_of_latent_take_a_fifteenth_of_deepseek_67b() -> None:
    latent, dense = find_model("deepseek-v2"), find_model("deepseek-67b")

    eight, four = (
        1 - latent.kv_bytes_per_token(dtype) / dense.kv_bytes_per_token() for dtype in ("fp8", "int4")
    )

    # −93.3 % was published for six bits on average.
    assert eight < 0.933 < four


def test_p79_kv_of_70b_by_dtype() -> None:
    llama = find_model("llama-2-70b")
    kib = {
        dtype: llama.kv_bytes_per_token(dtype) / 2**10
        for dtype in ("fp32", "fp16", "fp8", "int8", "int2-g32")
    }

    assert kib == {"fp32": 640, "fp16": 320, "fp8": 160, "int8": 160 * 130 / 128, "int2-g32": 60}
