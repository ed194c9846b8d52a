"""Reading a model's shape from a Hugging Face config.json."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from kvsim.errors import InputError
from kvsim.hf_config import parse_config, read_config
from kvsim.model import Experts, Model
from kvsim.policy import Span
from kvsim.window import Chunk
from kvsim.zoo import find_model

Config = dict[str, object]

LLAMA: Config = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
# Published configurations, each cut to the fields that matter and with the spellings of its family.
PUBLISHED: dict[str, Config] = {
    "llama-3.1-8b": LLAMA,
    "opt-13b": {
        "model_type": "opt", "num_hidden_layers": 40, "hidden_size": 5120, "num_attention_heads": 40,
        "ffn_dim": 20480, "vocab_size": 50272, "max_position_embeddings": 2048, "torch_dtype": "float16",
        "word_embed_proj_dim": 5120,
    },
    "falcon-7b": {
        "model_type": "falcon", "num_hidden_layers": 32, "hidden_size": 4544, "num_attention_heads": 71,
        "num_kv_heads": 71, "multi_query": True, "new_decoder_architecture": False, "vocab_size": 65024,
        "torch_dtype": "bfloat16",
    },
    "falcon-40b": {
        "model_type": "falcon", "num_hidden_layers": 60, "hidden_size": 8192, "num_attention_heads": 128,
        "num_kv_heads": 8, "multi_query": True, "new_decoder_architecture": True, "vocab_size": 65024,
        "torch_dtype": "bfloat16",
    },
    "starcoder-15b": {
        "model_type": "gpt_bigcode", "n_layer": 40, "n_embd": 6144, "n_head": 48, "n_inner": 24576,
        "multi_query": True, "vocab_size": 49152, "n_positions": 8192, "torch_dtype": "bfloat16",
    },
    "mistral-7b-v0.1": {
        "model_type": "mistral", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000, "sliding_window": 4096,
        "max_position_embeddings": 32768, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    },
    "mixtral-8x7b": {
        "model_type": "mixtral", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000, "sliding_window": None,
        "num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 32768,
        "torch_dtype": "bfloat16",
    },
    "qwen2.5-7b": {
        "model_type": "qwen2", "num_hidden_layers": 28, "hidden_size": 3584, "num_attention_heads": 28,
        "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "sliding_window": 131072,
        "use_sliding_window": False, "max_window_layers": 28, "max_position_embeddings": 32768,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    },
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe", "num_hidden_layers": 48, "hidden_size": 2048, "num_attention_heads": 32,
        "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144, "moe_intermediate_size": 768,
        "num_experts": 128, "num_experts_per_tok": 8, "decoder_sparse_step": 1, "mlp_only_layers": [],
        "vocab_size": 151936, "max_position_embeddings": 40960, "sliding_window": None,
        "use_sliding_window": False, "torch_dtype": "bfloat16",
    },
    "qwen3-0.6b": {
        "model_type": "qwen3", "num_hidden_layers": 28, "hidden_size": 1024, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072, "vocab_size": 151936,
        "max_position_embeddings": 40960, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    },
    "gemma-2-9b": {
        "model_type": "gemma2", "num_hidden_layers": 42, "hidden_size": 3584, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 256, "intermediate_size": 14336, "vocab_size": 256000,
        "sliding_window": 4096, "max_position_embeddings": 8192, "torch_dtype": "bfloat16",
    },
    "gemma-3-4b": {
        "model_type": "gemma3", "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 1152},
        "text_config": {
            "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
            "num_hidden_layers": 34, "sliding_window": 1024,
        },
    },
    "gpt-oss-20b": {
        "model_type": "gpt_oss", "num_hidden_layers": 24, "hidden_size": 2880, "num_attention_heads": 64,
        "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880, "vocab_size": 201088,
        "num_local_experts": 32, "experts_per_token": 4, "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 12, "tie_word_embeddings": False,
        "max_position_embeddings": 131072, "quantization_config": {"quant_method": "mxfp4"},
    },
    "phi-3-mini-4k": {
        "model_type": "phi3", "num_hidden_layers": 32, "hidden_size": 3072, "num_attention_heads": 32,
        "num_key_value_heads": 32, "intermediate_size": 8192, "vocab_size": 32064, "sliding_window": 2047,
        "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
    },
    "deepseek-v2-lite": {
        "model_type": "deepseek_v2", "num_hidden_layers": 27, "hidden_size": 2048, "num_attention_heads": 16,
        "num_key_value_heads": 16, "kv_lora_rank": 512, "q_lora_rank": None, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "intermediate_size": 10944, "moe_intermediate_size": 1408,
        "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2, "first_k_dense_replace": 1,
        "moe_layer_freq": 1, "vocab_size": 102400, "max_position_embeddings": 163840,
        "torch_dtype": "bfloat16",
    },
    "deepseek-v3": {
        "model_type": "deepseek_v3", "num_hidden_layers": 61, "hidden_size": 7168, "num_attention_heads": 128,
        "num_key_value_heads": 128, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "intermediate_size": 18432, "moe_intermediate_size": 2048,
        "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1, "first_k_dense_replace": 3,
        "moe_layer_freq": 1, "vocab_size": 129280, "max_position_embeddings": 163840,
        "torch_dtype": "bfloat16", "quantization_config": {"quant_method": "fp8", "fmt": "e4m3"},
    },
    "command-r-35b": {
        "model_type": "cohere", "num_hidden_layers": 40, "hidden_size": 8192, "num_attention_heads": 64,
        "num_key_value_heads": 64, "intermediate_size": 22528, "vocab_size": 256000,
        "max_position_embeddings": 131072, "torch_dtype": "float16",
    },
    "yi-34b": {
        "model_type": "llama", "num_hidden_layers": 60, "hidden_size": 7168, "num_attention_heads": 56,
        "num_key_value_heads": 8, "intermediate_size": 20480, "vocab_size": 64000,
        "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
    },
}  # fmt: skip


def parsed(**changes: object) -> Model:
    return parse_config({**LLAMA, **changes}, "changed")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_gives_the_built_in_model(name: str) -> None:
    read, known = parse_config(PUBLISHED[name], name), find_model(name)

    for field in fields(Model):
        if field.name not in ("source", "verified"):
            assert getattr(read, field.name) == getattr(known, field.name), field.name


@pytest.mark.parametrize(
    ("config", "kv_heads"),
    [
        ({"model_type": "RefinedWeb", "n_layer": 60, "hidden_size": 8192, "n_head": 128, "n_head_kv": 8}, 8),
        ({"model_type": "RefinedWebModel", "n_layer": 32, "hidden_size": 4544, "n_head": 71}, 1),
        ({"model_type": "gpt_bigcode", "n_layer": 2, "n_embd": 64, "n_head": 4, "multi_query": False}, 4),
        ({"model_type": "chatglm", "num_layers": 28, "hidden_size": 4096, "num_attention_heads": 32,
          "multi_query_attention": True, "multi_query_group_num": 2, "kv_channels": 128}, 2),
        ({"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12}, 12),
    ],
)  # fmt: skip
def test_kv_heads_under_older_names(config: Config, kv_heads: int) -> None:
    assert parse_config({"vocab_size": 100, **config}, "old").kv_heads == kv_heads


def test_llava_with_an_almost_empty_text_config_is_llama_7b() -> None:
    config: Config = {"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 32064}}

    assert parse_config(config, "llava").kv_bytes_per_token() == 524288


def test_mistral_v02_switches_the_window_off_with_null() -> None:
    assert parsed(model_type="mistral", sliding_window=None).windows == ()
    assert set(parsed(model_type="mistral").windows) == {4096}


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"model_type": "cohere2"}, [4096, 4096, 4096, None, 4096]),
        ({"sliding_window": 8, "sliding_window_pattern": 3}, [8, 8, None, 8, 8]),
        ({"sliding_window": 8, "sliding_window_pattern": "LLG"}, [8, 8, None, 8, 8]),
        ({"sliding_window": [None, 8, 8, 8]}, [None, 8, 8, 8, None]),
        ({"interleaved_sliding_window": [None, 8], "sliding_window": None}, [None, 8, None, 8, None]),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
         [None, None, 8, 8, 8]),
        ({"sliding_window": 8, "layer_types": ["full_attention", *["sliding_attention"] * 31]},
         [None, 8, 8, 8, 8]),
    ],
)  # fmt: skip
def test_window_patterns(changes: Config, start: list[int | None]) -> None:
    assert list(parsed(**changes).windows[:5]) == start


def test_layer_types_that_are_all_full_leave_no_windows() -> None:
    assert parsed(layer_types=["full_attention"] * 32).windows == ()


def llama_4(**changes: object) -> Model:
    """Return Llama-4-Maverick's text configuration, cut to eight layers."""
    given = {"model_type": "llama4_text", "num_hidden_layers": 8, "num_local_experts": 128}
    return parse_config({"model_type": "llama4", "text_config": {**given, **changes}}, "m")


def test_llama_4_attends_to_chunks_and_every_fourth_layer_to_everything() -> None:
    assert llama_4().windows == (Chunk(8192), Chunk(8192), Chunk(8192), None) * 2
    assert llama_4(no_rope_layers=[1, 0] * 4, attention_chunk_size=64).windows == (Chunk(64), None) * 4
    assert llama_4(no_rope_layers=[]).spans == (Span(Chunk(8192), 6), Span(None, 2))
    assert llama_4(attention_chunk_size=None).windows == ()


def test_llama_4_names_its_chunked_layers() -> None:
    kinds = ["full_attention", "chunked_attention"] * 4

    assert llama_4(layer_types=kinds).windows == (None, Chunk(8192)) * 4


def test_llama_4_has_a_shared_expert_and_wider_dense_layers_between() -> None:
    model = llama_4(interleave_moe_layer_step=2)

    assert model.experts == Experts(total=128, active=1, ffn=8192, shared_ffn=8192, dense_layers=4)
    assert model.ffn == 16384


def test_a_wrong_head_dim_is_not_derived_when_the_file_gives_one() -> None:
    assert parsed(head_dim=64).head_dim == 64
    assert parsed(head_dim=None).head_dim == 128


def test_a_qwen_moe_counts_its_shared_expert_and_dense_layers() -> None:
    model = parsed(
        model_type="qwen2_moe", num_experts=60, num_experts_per_tok=4, moe_intermediate_size=1408,
        shared_expert_intermediate_size=5632, decoder_sparse_step=2, mlp_only_layers=[1],
    )  # fmt: skip

    assert model.experts is not None
    assert (model.experts.shared_ffn, model.experts.dense_layers) == (5632, 17)


@pytest.mark.parametrize(
    ("quantised", "dtype"),
    [
        ({"quant_method": "awq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4"),
        ({"quant_method": "compressed-tensors",
          "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}}}, "fp8"),
    ],
)  # fmt: skip
def test_quantised_weights_are_recognised(quantised: Config, dtype: str) -> None:
    assert parsed(quantization_config=quantised).weight_dtype == dtype


def test_unknown_quantisation_needs_the_weights_to_be_given(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LLAMA, "quantization_config": {"quant_method": "hqq"}}))

    with pytest.raises(InputError, match=r"'hqq' is not known; .*--weight-bytes"):
        find_model(str(path))
    assert find_model(str(path), weight_bytes=10**9).weight_bytes == 10**9


def test_a_float32_file_is_served_in_two_bytes() -> None:
    assert parsed(torch_dtype="float32").kv_bytes_per_token() == 131072


def test_a_model_is_named_after_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))

    assert read_config(folder).name == read_config(folder / "config.json").name == "my-llama"


def test_an_unlisted_family_is_read_by_the_general_rules_and_unverified() -> None:
    model = parsed(model_type="brand_new")

    assert not model.verified
    assert "brand_new" in model.source


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": "many"}, "num_hidden_layers must be a whole number of at least 1, got 'many'"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a whole number of at least 1, got True"),
        ({"num_key_value_heads": 5}, "5 KV heads do not divide 32 attention heads"),
        ({"num_attention_heads": 48, "num_key_value_heads": 8}, "no head_dim, and hidden_size 4096"),
        ({"torch_dtype": "float8"}, "torch_dtype must be one of bfloat16, float16, float32, got 'float8'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false, got 1"),
        ({"layer_types": ["full_attention"]}, "must list one kind for each of the 32 layers"),
        ({"layer_types": ["linear_attention"] * 32}, r"layer_types\[0\] must be full_attention, sliding"),
        ({"layer_types": ["sliding_attention"] * 32}, "but no sliding_window is on"),
        ({"sliding_window": [0]}, "must list widths of at least 1 or null"),
        (
            {"attention_chunk_size": 8192},
            "no layer_types, no_rope_layers or no_rope_layer_interval says of which",
        ),
        (
            {"attention_chunk_size": 64, "no_rope_layers": [1]},
            "no_rope_layers must have one entry for each of the 32",
        ),
        ({"mamba_d_state": 16}, "state-space layers hold no KV per token"),
        ({"is_encoder_decoder": True}, "encoder-decoder models are not supported"),
        ({"num_kv_shared_layers": 20}, "layers that share KV are not supported"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(changes: Config, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parsed(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"])
def test_a_missing_field_is_named_with_its_other_spellings(field: str) -> None:
    config = {name: value for name, value in PUBLISHED["phi-3-mini-4k"].items() if name != field}

    with pytest.raises(InputError, match=rf"config: has no {field}( \(nor |$)"):
        parse_config(config, "gap")


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_file_that_is_no_json_object_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)

    with pytest.raises(InputError, match=r"config\.json"):
        read_config(path)


def test_a_missing_file_is_refused_with_its_name() -> None:
    with pytest.raises(InputError, match=r"model configuration 'no/such/config\.json' does not exist"):
        find_model("no/such/config.json")


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe{")

    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_config(path)
