"""Model shapes: KV bytes, parameters, windows and layer groups."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.model import KV_BITS, Experts, LayerGroup, Model
from kvsim.policy import Span
from kvsim.zoo import find_model, model_names, pattern

# name, billions of parameters, bf16 GB, KV bytes per token: as printed in the published tables
ZOO = [
    ("opt-13b", "12.8", "25.7", 819200),
    ("opt-66b", "65.7", "131.4", 2359296),
    ("opt-175b", "174.6", "349.1", 4718592),
    ("llama-7b", "6.74", "13.5", 524288),
    ("llama-2-7b", "6.74", "13.5", 524288),
    ("llama-13b", "13.0", "26.0", 819200),
    ("llama-2-13b", "13.0", "26.0", 819200),
    ("llama-2-70b", "69.0", "138.0", 327680),
    ("codellama-34b", "33.7", "67.5", 196608),
    ("llama-3.1-8b", "8.03", "16.1", 131072),
    ("llama-3.1-70b", "70.6", "141.1", 327680),
    ("llama-3.1-405b", "405.9", "811.7", 516096),
    ("mistral-7b-v0.1", "7.24", "14.5", 131072),
    ("mixtral-8x7b", "46.7", "93.4", 131072),
    ("qwen2.5-7b", "7.62", "15.2", 57344),
    ("qwen2.5-72b", "72.7", "145.4", 327680),
    ("qwen3-0.6b", "0.60", "1.2", 114688),
    ("qwen3-8b", "8.19", "16.4", 147456),
    ("qwen3-14b", "14.8", "29.5", 163840),
    ("qwen3-32b", "32.8", "65.5", 262144),
    ("qwen3-30b-a3b", "30.5", "61.1", 98304),
    ("qwen3-235b-a22b", "235.1", "470.2", 192512),
    ("gemma-2-9b", "9.24", "18.5", 344064),
    ("gemma-2-27b", "27.2", "54.5", 376832),
    ("gemma-3-4b", "3.88", "7.8", 139264),
    ("gemma-3-12b", "11.8", "23.5", 393216),
    ("gemma-3-27b", "27.0", "54.0", 507904),
    ("gpt-oss-20b", "20.9", "41.8", 49152),
    ("gpt-oss-120b", "116.8", "233.6", 73728),
    ("llama-4-scout", "107.8", "215.5", 196608),
    ("llama-4-maverick", "400.7", "801.4", 196608),
    ("deepseek-v2", "235.7", "471", 69120),
    ("deepseek-v2-lite", "15.7", "31.4", 31104),
    ("deepseek-v3", "671.0", "1342", 70272),
    ("phi-3-mini-4k", "3.82", "7.6", 393216),
    ("phi-3-medium", "14.0", "27.9", 204800),
    ("falcon-7b", "6.92", "13.8", 8192),
    ("falcon-40b", "41.3", "82.6", 122880),
    ("starcoder-15b", "15.5", "30.9", 20480),
    ("yi-34b", "34.4", "68.8", 245760),
]
ACTIVE = [
    ("mixtral-8x7b", 12.9),
    ("qwen3-30b-a3b", 3.3),
    ("qwen3-235b-a22b", 22.1),
    ("gpt-oss-20b", 4.2),
    ("gpt-oss-120b", 5.7),
    ("llama-4-scout", 17.2),
    ("llama-4-maverick", 17.2),
    ("deepseek-v2", 21.4),
    ("deepseek-v2-lite", 2.7),
    ("deepseek-v3", 37.6),
]


def same_digits(value: float, printed: str) -> bool:
    """Compare to as many decimals as were printed, with room for the norms that we leave out."""
    last_digit = 10.0 ** -len(printed.partition(".")[2])
    return abs(value - float(printed)) <= 0.52 * last_digit


def tiny(**changes: object) -> Model:
    shape = {"layers": 2, "hidden": 16, "heads": 4, "kv_heads": 2, "head_dim": 4, "ffn": 32, "vocab": 10}
    return Model(name="tiny", max_position_embeddings=64, **{**shape, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "billions", "gigabytes", "token_bytes"), ZOO)
def test_a_built_in_model_has_its_published_size(
    name: str, billions: str, gigabytes: str, token_bytes: int
) -> None:
    model = find_model(name)

    assert same_digits(model.parameters / 1e9, billions)
    assert same_digits(replace(model, weight_dtype="bf16").weight_bytes / 1e9, gigabytes)
    assert model.kv_bytes_per_token() == token_bytes


@pytest.mark.parametrize(("name", "billions"), ACTIVE)
def test_a_token_meets_the_published_number_of_active_parameters(name: str, billions: float) -> None:
    assert find_model(name).active_parameters / 1e9 == pytest.approx(billions, rel=0.02)


def test_every_built_in_model_names_its_source() -> None:
    assert all(find_model(name).source for name in model_names())


@pytest.mark.parametrize(
    ("name", "gigabytes"), [("gpt-oss-20b", 13.8), ("gpt-oss-120b", 65), ("deepseek-v3", 671)]
)
def test_quantised_checkpoints_have_their_published_size(name: str, gigabytes: float) -> None:
    assert find_model(name).weight_bytes / 1e9 == pytest.approx(gigabytes, rel=0.01)


def test_weight_dtype_and_weight_bytes_can_be_given() -> None:
    assert find_model("qwen2.5-7b", weight_dtype="int4").weight_bytes / 2**30 == pytest.approx(5.2, abs=0.05)
    assert find_model("qwen2.5-7b", weight_bytes=5_680_000_000).weight_bytes == 5_680_000_000


@pytest.mark.parametrize(
    ("dtype", "token_bytes"),
    [
        ("fp32", 2 * 2 * 2 * 16),
        ("bf16", 64),
        ("fp8", 32),
        ("int8", 8 * (4 + 2)),
        ("int4", 8 * (2 + 2)),
        ("int2", 8 * (1 + 2)),
        ("int2-g32", 8 * (1 + 4)),
    ],
)
def test_kv_bytes_follow_the_dtype_and_its_scales(dtype: str, token_bytes: int) -> None:
    assert tiny().kv_bytes_per_token(dtype) == token_bytes


def test_int4_of_an_odd_head_rounds_up_to_whole_bytes() -> None:
    assert tiny(head_dim=5).kv_bytes_per_token("int4") == 8 * (3 + 2)


def test_the_latent_of_mla_has_one_scale_and_no_second_vector() -> None:
    model = find_model("deepseek-v3")

    assert model.kv_bytes_per_token("int8") == 61 * (576 + 2)
    assert model.kv_bytes_per_token("int4") == 61 * (288 + 2)


@pytest.mark.parametrize(("gpus", "token_bytes"), [(1, 64), (2, 32), (4, 32)])
def test_kv_heads_are_divided_over_gpus_and_repeated_when_too_few(gpus: int, token_bytes: int) -> None:
    assert tiny().kv_bytes_per_token(tensor_parallel_size=gpus) == token_bytes


def test_the_latent_of_mla_is_whole_on_every_gpu() -> None:
    assert find_model("deepseek-v3").kv_bytes_per_token(tensor_parallel_size=8) == 70272


@pytest.mark.parametrize(("name", "gpus"), [("falcon-7b", 2), ("llama-3.1-8b", 0), ("phi-3-medium", 4)])
def test_heads_that_do_not_divide_over_the_gpus_are_refused(name: str, gpus: int) -> None:
    with pytest.raises(InputError, match="tensor_parallel_size must divide"):
        find_model(name).kv_bytes_per_token(tensor_parallel_size=gpus)


def test_an_unknown_kv_dtype_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"one of auto, fp32, fp16, bf16, fp8, int8, int4, .*, got 'fp6'"):
        tiny().kv_bytes_per_token("fp6")


def test_a_typo_is_answered_with_the_nearest_model() -> None:
    with pytest.raises(InputError, match=r"unknown model 'lama-3.1-8b' \(did you mean 'llama-3.1-8b'"):
        find_model("lama-3.1-8b")


@pytest.mark.parametrize("changes", [{"weight_dtype": "fp6"}, {"weight_bytes": 0}])
def test_weights_that_cannot_be_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"weight (dtype|bytes) must be"):
        find_model("llama-3.1-8b", **changes)  # type: ignore[arg-type]


def test_windows_must_be_given_for_every_layer() -> None:
    with pytest.raises(InputError, match="3 windows for 2 layers"):
        tiny(windows=(None, 8, 8))


def test_spans_count_layers_by_window_in_the_order_of_their_first_layer() -> None:
    assert find_model("gemma-3-27b").spans == (Span(1024, 52), Span(None, 10))
    assert find_model("mistral-7b-v0.1").spans == (Span(4096, 32),)
    assert find_model("llama-3.1-8b").spans == (Span(None, 32),)


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("llama-3.1-8b", [LayerGroup(None, 32)]),
        ("mistral-7b-v0.1", [LayerGroup(4096, 32)]),
        ("gpt-oss-120b", [LayerGroup(128, 18), LayerGroup(None, 18)]),
        ("gemma-2-9b", [LayerGroup(4096, 21), LayerGroup(None, 21)]),
        ("gemma-3-12b", [*[LayerGroup(1024, 8)] * 5, LayerGroup(None, 8)]),
    ],
)
def test_groups_of_published_models(name: str, groups: list[LayerGroup]) -> None:
    assert list(find_model(name).layer_groups()) == groups


def test_a_model_that_starts_with_windows_has_its_full_group_last() -> None:
    model = tiny(layers=8, windows=pattern(8, 32, full_every=4))

    assert [group.window for group in model.layer_groups()] == [32, 32, 32, None]


@given(st.lists(st.sampled_from([None, 4, 9]), min_size=1, max_size=60))
def test_groups_are_of_one_size_and_hold_every_layer_once(windows: list[int | None]) -> None:
    groups = tiny(layers=len(windows), windows=tuple(windows)).layer_groups()

    held: Counter[int | None] = Counter()
    for group in groups:
        held[group.window] += group.layers
    assert held == Counter(windows)
    assert len({group.layers + group.padding for group in groups}) == 1
    assert all(group.layers >= 1 for group in groups)


@given(st.sampled_from(list(KV_BITS)), st.sampled_from([1, 2, 4]), st.sampled_from(model_names()))
def test_gpus_together_hold_at_least_the_whole_kv(dtype: str, gpus: int, name: str) -> None:
    model = find_model(name)
    if model.heads % gpus or (model.kv_heads % gpus and gpus % model.kv_heads):
        return

    whole, share = model.kv_bytes_per_token(dtype), model.kv_bytes_per_token(dtype, gpus)

    assert share <= whole <= share * gpus
    assert share % model.layers == 0


def test_experts_replace_the_ffn_except_in_dense_layers() -> None:
    dense = tiny()
    mixed = tiny(experts=Experts(total=4, active=2, ffn=8, shared_ffn=8, dense_layers=1))

    ffn = 3 * 16 * 32
    assert mixed.parameters - dense.parameters == -ffn + 16 * 4 + 3 * 16 * (4 * 8 + 8)
    assert mixed.parameters - mixed.active_parameters == 3 * 16 * 2 * 8
