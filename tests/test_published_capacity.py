"""Published memory arithmetic: papers, start-up logs and worked examples, to their printed digits."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest

from kvsim.capacity import (
    blocks_in,
    capacity_of,
    held_blocks,
    paging_waste,
    reservation_bound,
    reservation_waste,
    uniform_paging_waste,
)
from kvsim.gpu import GB, GIB, MIB, find_gpu
from kvsim.memory import MemoryBudget, activation_peak, pool_bytes
from kvsim.model import LayerGroup, Model
from kvsim.zoo import find_model, pattern

HALF_DIGIT = 0.005 * GIB
"""A log that prints two decimals of a GiB may be off by this."""


def shaped(windows: tuple[int | None, ...], kv_heads: int = 1, head_dim: int = 1) -> Model:
    return Model(
        name="shaped", layers=len(windows), hidden=8, heads=kv_heads, kv_heads=kv_heads, head_dim=head_dim,
        ffn=8, vocab=8, max_position_embeddings=10**8, windows=windows,
    )  # fmt: skip


# vLLM / PagedAttention, SOSP 2023 (arXiv 2309.06180)


def test_llama_2_7b_at_2048_tokens_is_exactly_one_gib() -> None:
    assert capacity_of(find_model("llama-2-7b"), GIB, max_model_len=2048).request_bytes == GIB


def test_a_2048_token_reservation_that_uses_51_wastes_97_and_a_half_percent() -> None:
    assert reservation_waste(51, 2048) == pytest.approx(0.975, abs=0.0005)


def test_p1_opt_13b_keeps_800_kib_a_token() -> None:
    token_bytes = find_model("opt-13b").kv_bytes_per_token()

    assert token_bytes == 819_200
    assert token_bytes * 2048 == pytest.approx(1.6 * GIB, rel=0.03)


@pytest.mark.parametrize(
    ("name", "gibibytes", "slots"),
    [("opt-13b", 12, 15_728), ("opt-175b", 264, 60_074), ("opt-66b", 21, 9_557)],
    ids=["P2", "P3", "P4"],
)
def test_p2_to_p4_slots_of_table_1(name: str, gibibytes: int, slots: int) -> None:
    assert gibibytes * GIB // find_model(name).kv_bytes_per_token() == slots


def test_p4_published_slots_are_within_two_percent() -> None:
    assert 21 * GIB // find_model("opt-66b").kv_bytes_per_token() == pytest.approx(9_700, rel=0.02)


def test_p5_memory_split_of_a_13b_model_on_40_gb() -> None:
    box = find_gpu("a100-40-sxm").memory_gb * GB
    weights, kv = find_model("opt-13b").weight_bytes / box, 12 * GIB / box

    assert weights == pytest.approx(0.65, abs=0.02)
    assert kv > 0.30
    assert 0 < 1 - weights - kv < 0.05


def test_p6_p10_p11_seven_reservations_fit_and_leave_8_85_percent() -> None:
    fit, external = reservation_bound(12 * GIB // find_model("opt-13b").kv_bytes_per_token(), 2048)

    assert fit == 7
    assert external == pytest.approx(0.0885, abs=0.00005)


# vAttention: tokens in a page of one layer's K, and the size of a virtual tensor


@pytest.mark.parametrize(
    ("name", "gpus", "page", "tokens"),
    [("llama-3-8b", 2, 64 * 2**10, 64), ("llama-3-8b", 2, 2 * MIB, 2048), ("yi-34b", 2, 64 * 2**10, 64)],
)
def test_p37_tokens_in_a_page_group(name: str, gpus: int, page: int, tokens: int) -> None:
    model = find_model(name)
    one_layer_k = model.kv_bytes_per_token(tensor_parallel_size=gpus) // (2 * model.layers)

    assert page // one_layer_k == tokens


def test_p38_virtual_memory_of_yi_34b() -> None:
    yi = find_model("yi-34b")
    tensor = 200_000 * yi.kv_bytes_per_token(tensor_parallel_size=2) // (2 * yi.layers)

    assert tensor == pytest.approx(200 * MIB, rel=0.03)
    assert 2 * yi.layers == 120
    assert 500 * tensor * 120 == pytest.approx(12e12, rel=0.03)


# Hybrid models


@pytest.mark.parametrize(
    ("model", "length", "waste"),
    [
        (find_model("gemma-2-9b"), 8192, 0.25),
        (shaped((None, 32768, 32768, 32768) * 9), 131072, 0.5625),
    ],
    ids=["Gemma-2", "Ministral-8B"],
)
def test_p68_waste_of_uniform_paging(model: Model, length: int, waste: float) -> None:
    assert uniform_paging_waste(model, length) == waste


def test_p68_waste_on_a_model_with_cross_attention() -> None:
    assert paging_waste([(32, 43), (8, 6193)], 43 + 6193) == pytest.approx(0.796, abs=0.0005)


def test_p69_the_hybrid_cache_holds_eleven_blocks() -> None:
    model = shaped(pattern(30, 32, full_every=3))
    groups = model.layer_groups()

    assert [(group.window, group.layers) for group in groups] == [(32, 10), (32, 10), (None, 10)]
    assert held_blocks(groups, 112, 16) == 7 + 2 + 2


def test_p70_gemma_3_27b_makes_seven_groups_of_ten() -> None:
    groups = find_model("gemma-3-27b").layer_groups()

    assert sorted(groups, key=lambda group: (group.window or 0, -group.layers)) == [
        LayerGroup(None, 10),
        *[LayerGroup(1024, 10)] * 5,
        LayerGroup(1024, 2, padding=8),
    ]


def test_p71_only_the_last_window_less_one_tokens_must_be_there_for_the_next() -> None:
    assert held_blocks([LayerGroup(4, 1)], 14, 1) == 3


def test_p72_nearly_equal_kinds_are_padded_to_the_larger() -> None:
    groups = shaped((*(128, None) * 18, None)).layer_groups()

    assert groups == (LayerGroup(128, 18, padding=1), LayerGroup(None, 19))
    assert groups[0].padding / 18 == pytest.approx(0.0556, abs=0.00005)


def test_p72_the_smaller_kind_as_size_would_have_padded_seventeen() -> None:
    padding = -19 % 18

    assert padding == 17
    assert padding / 19 == pytest.approx(0.8947, abs=0.00005)


@pytest.mark.parametrize(("uniform", "hybrid"), [(13, 52), (37, 147)])
def test_p75_llama_4_scout_reaches_four_times_the_length(uniform: int, hybrid: int) -> None:
    scout = shaped(pattern(48, 8192, full_every=4))
    (window, windowed), (_, full) = scout.spans
    slots = uniform * 10**6 * scout.layers

    longest = (slots - windowed * (window or 0)) / full

    assert longest / (uniform * 10**6) == pytest.approx(hybrid / uniform, rel=0.01)
    assert longest * (1 - uniform_paging_waste(scout, int(longest))) == pytest.approx(uniform * 10**6)


def test_p77_a_rolling_buffer_is_eight_times_smaller_at_32k() -> None:
    mistral = find_model("mistral-7b-v0.1")

    assert 1 / (1 - uniform_paging_waste(mistral, 32768)) == 8
    assert sum(span.weight * (span.window or 0) for span in mistral.spans) == 131_072


def test_p78_deepseek_v2_keeps_93_3_percent_less() -> None:
    v2 = find_model("deepseek-v2").kv_elements_per_token
    dense = find_model("deepseek-67b").kv_elements_per_token

    assert (v2, dense) == (34_560, 194_560)
    assert 1 - v2 * 6 / (dense * 16) == pytest.approx(0.933, abs=0.0005)
    assert 1 - v2 / dense == pytest.approx(0.822, abs=0.0005)


def test_p79_grouped_queries_keep_an_eighth() -> None:
    llama = find_model("llama-2-70b")
    all_heads = shaped((None,) * 80, kv_heads=64, head_dim=128)

    assert llama.kv_bytes_per_token() == 320 * 2**10
    assert all_heads.kv_bytes_per_token() == 8 * llama.kv_bytes_per_token()


@pytest.mark.parametrize(
    ("name", "mebibytes"),
    [
        ("mixtral-8x7b", 256),
        ("llama-3-8b", 256),
        ("llama-3-70b", 640),
        ("qwen1.5-32b", 512),
        ("yi-34b", 480),
        ("command-r-35b", 2560),
    ],
)
def test_p80_kv_of_2048_tokens(name: str, mebibytes: int) -> None:
    assert find_model(name).kv_bytes_per_token("fp16") * 2048 == mebibytes * MIB


# vLLM start-up logs


class Log(NamedTuple):
    """What one log prints."""

    model: str
    gibibytes: float
    tokens: int
    max_model_len: int = 0
    concurrency: str = ""
    gpus: int = 1


LOGS = {
    "L1": Log("llama-3.1-8b", 3.81, 1_952 * 16, 20_000, "1.56"),
    "L2": Log("llama-3.1-8b", 2.89, 23_648, 29_000, "0.82"),
    "L4": Log("qwen2.5-7b", 8.0, 149_712, 32_768, "4.57"),
    "L5": Log("qwen2.5-7b", 4.36, 5_102 * 16, 8_192, "9.96"),
    "L7": Log("llama-3.1-8b", 19.92, 163_168),
    "L9": Log("gpt-oss-120b", 5.38, 78_384),
    "L11": Log("qwen3-30b-a3b", 23.74, 1_037_152, 32_768, "31.65", gpus=4),
    "L13": Log("phi-3-medium", 2.18, 715 * 16, 2_048, "5.59"),
    "L14": Log("qwen2.5-0.5b", 34.81, 190_100 * 16, 32_768, "92.82"),
    "L15": Log("qwen2.5-1.5b", 0.56, 20_992),
    "L17": Log("llama-3.1-8b", 102.56, 840_160, 32_768, "25.64"),
    "L20": Log("llama-3.1-8b", 53.97, 442_160, 131_072, "3.37"),
    "L21": Log("llama-3-8b", 54.28, 27_793 * 16),
    "L25": Log("qwen3-235b-a22b", 16.47, 367_404, gpus=4),
}


@pytest.mark.parametrize("log", LOGS.values(), ids=LOGS)
def test_logged_gib_give_the_logged_tokens(log: Log) -> None:
    model, block = find_model(log.model), 1 if log.tokens % 16 else 16

    def tokens(kv_bytes: float) -> int:
        held = capacity_of(model, int(kv_bytes), block_size=block, tensor_parallel_size=log.gpus)
        return held.pool_tokens

    logged = log.gibibytes * GIB
    assert tokens(logged - HALF_DIGIT) <= log.tokens <= tokens(logged + HALF_DIGIT)


@pytest.mark.parametrize("log", [log for log in LOGS.values() if log.concurrency])
def test_logged_tokens_give_the_logged_concurrency(log: Log) -> None:
    model = find_model(log.model)
    pool = log.tokens * model.kv_bytes_per_token(tensor_parallel_size=log.gpus)

    held = capacity_of(model, pool, tensor_parallel_size=log.gpus, max_model_len=log.max_model_len)

    assert held.pool_tokens == log.tokens
    assert f"{held.max_concurrency:.2f}" == log.concurrency


@pytest.mark.parametrize(
    ("total", "utilization", "weights", "runtime", "activation", "left"),
    [
        (23.58, 0.90, 14.99, 0.35, 17.06 - 14.99, 3.81),
        (23.58, 0.90, 14.99, 0.35, 17.98 - 14.99, 2.89),
        (15.99, 0.90, 5.29, 0.06, 1.04, 8.00),
        (23.67, 0.90, 15.51, 0.28, 1.16, 4.36),
        (79.25, 0.15, 8.51, 0.26, 0.94, 2.18),
    ],
    ids=["L1", "L2", "L4", "L5", "L13"],
)
def test_logged_memory_splits_leave_the_logged_kv(
    total: float, utilization: float, weights: float, runtime: float, activation: float, left: float
) -> None:
    gpu = replace(find_gpu("rtx3090"), memory_bytes=int(total * GIB))
    budget = MemoryBudget(
        gpu_memory_utilization=utilization,
        non_torch_bytes=int(runtime * GIB),
        activation_bytes=int(activation * GIB),
    )

    pool = pool_bytes(find_model("llama-3.1-8b", weight_bytes=int(weights * GIB)), gpu, budget=budget)

    assert pool / GIB == pytest.approx(left, abs=0.02)


def test_l1_starts_and_l2_is_refused_on_a_3090_by_our_own_estimate() -> None:
    model, gpu = find_model("llama-3.1-8b"), find_gpu("rtx3090")

    def concurrency(length: int) -> float:
        budget = MemoryBudget(max_num_batched_tokens=length, non_torch_bytes=int(0.35 * GIB))
        return capacity_of(model, pool_bytes(model, gpu, budget=budget), max_model_len=length).max_concurrency

    assert activation_peak(model, 20_000) < activation_peak(model, 29_000)
    assert concurrency(20_000) == pytest.approx(1.56, abs=0.03)
    assert concurrency(29_000) == pytest.approx(0.82, abs=0.03)


def test_l18_blocks_tokens_and_concurrency_of_a_small_model() -> None:
    held = capacity_of(
        find_model("qwen2.5-0.5b"),
        1,
        max_model_len=2048,
        budget=MemoryBudget(num_gpu_blocks_override=127_626),
    )

    assert held.pool_tokens == 2_042_016
    assert f"{held.max_concurrency:.2f}" == "997.08"


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("qwen2.5-7b", 4_681), ("phi-3-medium", 1_310), ("llama-3-8b", 2_048), ("llama-2-7b", 512)],
    ids=["L5", "L13", "L19 and L21", "L19 LLaVA-1.5-7B"],
)
def test_cpu_blocks_of_four_gib_of_swap(name: str, blocks: int) -> None:
    assert blocks_in(4 * GIB, find_model(name).kv_bytes_per_token(), 16) == blocks


def test_l23_half_the_length_is_twice_the_requests() -> None:
    llama = find_model("llama-3.1-8b")
    pool = round(3.53 * 8192) * llama.kv_bytes_per_token()

    long, short = (capacity_of(llama, pool, max_model_len=length).max_concurrency for length in (8192, 4096))

    assert f"{long:.2f}" == "3.53"
    assert short == 2 * long == pytest.approx(7, abs=0.1)


@pytest.mark.parametrize(
    ("name", "gpus", "block", "mebibytes"),
    [
        ("llama-3.1-8b", 1, 16, 2),
        ("llama-3.1-70b", 4, 16, 1.25),
        ("llama-3.2-1b", 1, 16, 0.5),
        ("mistral-7b-v0.1", 1, 16, 2),
        ("mistral-small-24b", 1, 16, 2.5),
        ("qwen2.5-3b", 1, 16, 0.56),
        ("qwen2.5-7b", 1, 16, 0.87),
        ("qwen2.5-1.5b", 1, 16, 0.44),
        ("qwen3-0.6b", 1, 16, 1.75),
        ("qwen3-1.7b", 1, 16, 1.75),
        ("qwen3-4b", 1, 16, 2.25),
        ("qwen3-32b", 2, 16, 2),
        ("qwen2.5-32b", 2, 16, 2),
        ("deepseek-v2-lite", 1, 64, 1.9),
    ],
)
def test_l29_bytes_of_a_block(name: str, gpus: int, block: int, mebibytes: float) -> None:
    held = capacity_of(find_model(name), GIB, tensor_parallel_size=gpus, block_size=block)

    assert held.block_bytes / MIB == pytest.approx(mebibytes, abs=0.0051)


@pytest.mark.parametrize(
    ("name", "gpus", "tokens"),
    [
        ("opt-13b", 1, 66_144),
        ("opt-13b", 2, 163_008),
        ("opt-13b", 4, 356_736),
        ("opt-13b", 8, 744_208),
        ("opt-66b", 2, 11_600),
        ("opt-66b", 4, 78_496),
        ("opt-66b", 8, 212_304),
        ("opt-175b", 8, 59_520),
        ("opt-175b", 64, 992_400),
    ],
)
def test_l31_capacity_table_of_the_distserve_simulator(name: str, gpus: int, tokens: int) -> None:
    model = find_model(name)
    learned_positions = 2_050 * model.hidden
    on_every_gpu = 2 * (model.embedding_parameters + learned_positions)
    in_layers = 2 * (model.parameters - model.embedding_parameters)

    left = 0.93 * 80 * GIB - on_every_gpu - in_layers / gpus

    assert left / (model.kv_bytes_per_token() / gpus) == pytest.approx(tokens, rel=0.0007)
