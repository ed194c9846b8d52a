"""Pool arithmetic: bytes left for KV, blocks, tokens, requests at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.capacity import (
    blocks_in,
    blocks_of,
    capacity_of,
    held_blocks,
    paging_waste,
    request_blocks,
    reservation_bound,
    reservation_waste,
    uniform_paging_waste,
    windowed_blocks,
)
from kvsim.errors import InputError
from kvsim.gpu import GIB, MIB, find_gpu
from kvsim.memory import MemoryBudget, activation_peak, pool_bytes
from kvsim.model import LayerGroup
from kvsim.zoo import find_model, model_names

MANIFEST = Path(__file__).resolve().parents[2] / "shared" / "oracle" / "manifest.json"
LLAMA = find_model("llama-3.1-8b")
A100 = find_gpu("a100-80-sxm")


def test_pool_is_what_weights_activations_and_runtime_leave() -> None:
    budget = MemoryBudget(non_torch_bytes=GIB, activation_bytes=2 * GIB)

    pool = pool_bytes(LLAMA, A100, budget=budget)

    assert pool == int(A100.memory_bytes * 0.9) - LLAMA.weight_bytes - 3 * GIB


def test_tensor_parallel_gpus_share_the_weights() -> None:
    budget = MemoryBudget(non_torch_bytes=0, activation_bytes=0)

    one, two = (pool_bytes(LLAMA, A100, gpus, budget) for gpus in (1, 2))

    assert two - one == LLAMA.weight_bytes // 2


def test_bytes_by_decree_are_taken_as_given() -> None:
    assert pool_bytes(LLAMA, A100, budget=MemoryBudget(kv_cache_memory_bytes=GIB)) == GIB


def test_blocks_by_decree_are_turned_into_bytes_of_whole_blocks() -> None:
    budget = MemoryBudget(num_gpu_blocks_override=100)

    pool = pool_bytes(LLAMA, A100, budget=budget, block_size=32, kv_cache_dtype="fp8")

    assert pool == 100 * 32 * 65536
    assert capacity_of(LLAMA, pool, block_size=32, kv_cache_dtype="fp8", budget=budget).num_blocks == 100


def test_weights_larger_than_the_memory_are_an_error_with_the_numbers() -> None:
    with pytest.raises(InputError, match=r"weights take 131\.41 GiB of the 79\.25 GiB each GPU has"):
        pool_bytes(find_model("llama-3.1-70b"), A100)


@pytest.mark.parametrize("decree", [{"kv_cache_memory_bytes": GIB}, {"num_gpu_blocks_override": 10}])
def test_weights_must_fit_even_when_the_pool_is_given(decree: dict[str, int]) -> None:
    with pytest.raises(InputError, match="they do not fit"):
        pool_bytes(find_model("llama-3.1-70b"), A100, budget=MemoryBudget(**decree))  # type: ignore[arg-type]


def test_kv_bytes_beyond_the_memory_are_an_error_with_the_numbers() -> None:
    with pytest.raises(InputError, match=r"asks for 70\.00 GiB more, which does not fit"):
        pool_bytes(LLAMA, A100, budget=MemoryBudget(kv_cache_memory_bytes=70 * GIB))


def test_no_memory_left_is_an_error_with_the_numbers() -> None:
    with pytest.raises(InputError, match=r"nothing is left for KV of the 15\.85 GiB that .*0\.2 allows"):
        pool_bytes(LLAMA, A100, budget=MemoryBudget(gpu_memory_utilization=0.2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpu_memory_utilization": 0.0}, "above 0 and at most 1, got 0.0"),
        ({"gpu_memory_utilization": 1.5}, "above 0 and at most 1, got 1.5"),
        ({"kv_cache_memory_bytes": 0}, "kv_cache_memory_bytes must be at least 1, got 0"),
        ({"num_gpu_blocks_override": -1}, "num_gpu_blocks_override must be at least 1, got -1"),
        ({"kv_cache_memory_bytes": 1, "num_gpu_blocks_override": 1}, "not both"),
    ],
)
def test_budgets_that_cannot_be_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MemoryBudget(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"block_size": 0}, {"max_model_len": 0}])
def test_sizes_below_one_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(InputError, match="must be at least 1, got 0"):
        capacity_of(LLAMA, GIB, **changes)  # type: ignore[arg-type]


def test_a_request_takes_whole_blocks() -> None:
    held = capacity_of(LLAMA, GIB, max_model_len=100)

    assert held.block_bytes == 2 * MIB
    assert held.request_bytes == 7 * 2 * MIB
    assert (held.num_blocks, held.pool_tokens, held.max_concurrency) == (512, 8192, 81.92)


def test_the_longest_sequence_is_the_models_own_unless_given() -> None:
    assert capacity_of(LLAMA, GIB).max_model_len == 131072


@given(st.sampled_from(model_names()), st.integers(10**6, 10**11), st.sampled_from([1, 16, 64]))
def test_blocks_fill_the_pool_but_for_less_than_one(name: str, kv_bytes: int, block_size: int) -> None:
    held = capacity_of(find_model(name), kv_bytes, block_size=block_size)

    assert 0 <= kv_bytes - held.num_blocks * held.block_bytes < held.block_bytes
    if held.grouped is not None:
        assert 0 <= kv_bytes - held.grouped.num_blocks * held.grouped.block_bytes < held.grouped.block_bytes


def test_a_model_without_windows_has_no_grouped_pool() -> None:
    assert capacity_of(LLAMA, GIB).grouped is None


def test_layer_groups_hold_more_long_requests_than_uniform_paging() -> None:
    held = capacity_of(find_model("gemma-3-27b"), 20 * GIB, max_model_len=131072)

    assert held.grouped is not None
    assert held.grouped.block_bytes == 10 * 2 * 16 * 128 * 2 * 16
    assert held.grouped.request_blocks == 8192 + 6 * windowed_blocks(1024, 131072, 16, 8192)
    assert held.grouped.max_concurrency > 4 * held.max_concurrency


def test_blocks_by_decree_count_in_both_layouts() -> None:
    budget = MemoryBudget(num_gpu_blocks_override=4001)

    held = capacity_of(find_model("gpt-oss-20b"), GIB, budget=budget)

    assert held.grouped is not None
    assert held.num_blocks == held.grouped.num_blocks == 4001


def test_a_windowed_group_is_planned_with_one_chunk_in_flight() -> None:
    assert windowed_blocks(64, 1024, 16, 1024) == 65
    assert windowed_blocks(64, 10**6, 16, 1024) == 69
    groups = (LayerGroup(None, 1), LayerGroup(64, 1))
    assert request_blocks(groups, 1024, 16, 1024) == 64 + 65


@pytest.mark.shared
def test_planned_blocks_are_those_vllm_asks_for_at_start() -> None:
    if not MANIFEST.is_file():
        pytest.skip("the golden logs of ../shared/oracle are not here")
    for name, case in json.loads(MANIFEST.read_text())["cases"].items():
        config = case["config"]
        step = config["max_num_batched_tokens"] * (2 if config["async_scheduling"] else 1)
        asked = [
            request_blocks(
                [LayerGroup(group.get("window"), 1)],
                config["max_model_len"],
                group.get("block_size", config["block_size"]),
                step,
            )
            for group in config["groups"]
        ]
        assert sum(asked) == case["summary"]["info"]["startup_blocks_needed"], name


@given(st.integers(0, 500), st.integers(1, 40), st.integers(1, 200))
def test_a_windowed_group_holds_just_the_blocks_the_next_token_sees(
    tokens: int, block_size: int, window: int
) -> None:
    first_seen = max(0, tokens - window + 1)
    seen = {token // block_size for token in range(first_seen, tokens)}
    if window == 1 and tokens % block_size:
        seen.add(tokens // block_size)

    assert held_blocks([LayerGroup(window, 1)], tokens, block_size) == len(seen)


@given(st.integers(1, 10**6), st.integers(1, 512))
def test_blocks_round_up_and_pools_round_down(tokens: int, block_size: int) -> None:
    blocks = blocks_of(tokens, block_size)

    assert (blocks - 1) * block_size < tokens <= blocks * block_size
    assert blocks_in(tokens, 1, block_size) == tokens // block_size


def test_uniform_paging_wastes_nothing_up_to_the_window() -> None:
    gemma = find_model("gemma-3-27b")

    assert uniform_paging_waste(gemma, 1024) == 0
    assert uniform_paging_waste(LLAMA, 10**6) == 0
    assert uniform_paging_waste(gemma, 2048) == pytest.approx(52 / 62 / 2)


def test_layers_of_unequal_need_waste_the_rest() -> None:
    assert paging_waste([(1, 10), (1, 0)], 10) == 0.5


def test_reservations_leave_a_rest_that_nobody_gets() -> None:
    assert reservation_bound(100, 30) == (3, pytest.approx(0.1))
    assert reservation_bound(20, 30) == (0, 1.0)
    assert reservation_waste(3, 30) == 0.9


def test_activations_follow_start_up_logs() -> None:
    assert activation_peak(LLAMA, 20_000) / GIB == pytest.approx(2.07, abs=0.015)
    assert activation_peak(LLAMA, 29_000) / GIB == pytest.approx(2.99, abs=0.015)
    assert activation_peak(find_model("qwen2.5-7b"), 8192) / GIB == pytest.approx(1.04, abs=0.015)


def test_activations_of_experts_follow_those_a_token_visits() -> None:
    mixtral, deepseek = find_model("mixtral-8x7b"), find_model("deepseek-v3")

    assert activation_peak(mixtral, 1) == 6 * (2 * 14336 + 4096)
    assert activation_peak(deepseek, 1) == 6 * (18432 + 7168)
    assert activation_peak(LLAMA, 1, tensor_parallel_size=2) == 6 * (7168 + 4096)


@pytest.mark.parametrize(
    ("gpu", "step", "tokens"),
    [("a100-40-sxm", 2048, 163_168), ("a6000", 2048, 221_824), ("h100-nvl", 8192, 545_456)],
)
def test_assumed_pools_come_within_four_percent_of_start_up_logs(gpu: str, step: int, tokens: int) -> None:
    pool = pool_bytes(LLAMA, find_gpu(gpu), budget=MemoryBudget(max_num_batched_tokens=step))

    assert capacity_of(LLAMA, pool).pool_tokens == pytest.approx(tokens, rel=0.04)
