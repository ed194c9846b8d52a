"""Read a model's shape from a Hugging Face config.json.

Fields that a file leaves out get the defaults of its `model_type` in transformers. Models whose memory is
not a KV cache of tokens by layers (state-space and linear attention, encoders, shared KV) are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from kvsim.errors import InputError
from kvsim.hf_families import DEFAULTS, REFUSED
from kvsim.hf_layers import Fields, read_experts, read_windows
from kvsim.model import LatentAttention, Model

DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp16"}
"""torch's names to ours; a float32 file is served in fp16, as vLLM's `auto` does."""
CARRIED = ("torch_dtype", "dtype", "quantization_config", "tie_word_embeddings")
"""Fields that a multimodal file may hold beside its text_config."""


def read_config(path: Path, weights_given: bool = False) -> Model:
    """Read the config.json at `path`, or in the folder `path`.

    The model is named after the folder. With `weights_given` the file's quantisation is not looked at.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"model configuration {str(file)!r} does not exist") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"model configuration {str(file)!r} cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{file}: expected a JSON object with a model's configuration")
    named = file.resolve().parent.name if file.name == "config.json" else file.stem
    return parse_config(config, named or "model", str(file), weights_given)


def parse_config(
    config: Mapping[str, object], name: str, place: str = "config", weights_given: bool = False
) -> Model:
    """Turn a configuration into a Model called `name`; errors name `place`."""
    given = _text_part(config)
    family = str(given.get("model_type", "")) or "unknown"
    found = Fields(given, DEFAULTS.get(family, {}), place)
    _refuse(found)
    layers = found.whole("num_hidden_layers", "n_layer", "num_layers", "n_layers")
    hidden = found.whole("hidden_size", "n_embd", "d_model")
    heads = found.whole("num_attention_heads", "n_head", "n_heads", "num_heads")
    return Model(
        name=name,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=_kv_heads(found, heads),
        head_dim=_head_dim(found, hidden, heads),
        ffn=_ffn(found, hidden),
        vocab=found.whole("vocab_size", "padded_vocab_size"),
        max_position_embeddings=found.whole(
            "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", default=2048
        ),
        gated=found.flag("gated", True),
        tied_embeddings=found.flag("tie_word_embeddings", False),
        dtype=_dtype(found),
        weight_dtype=_dtype(found) if weights_given else _weight_dtype(found),
        windows=read_windows(found, layers),
        latent=_latent(found),
        experts=read_experts(found, layers),
        source=f"{place} (model_type {family})",
        verified=family in DEFAULTS,
    )


def _text_part(config: Mapping[str, object]) -> dict[str, object]:
    for part in ("text_config", "llm_config", "language_config"):
        text = config.get(part)
        if isinstance(text, Mapping):
            return {**{field: config[field] for field in CARRIED if field in config}, **text}
    return dict(config)


def _refuse(found: Fields) -> None:
    for field, reason in REFUSED.items():
        if found.get(field) not in (None, False, 0, []):
            raise InputError(f"{found.place}: {field} is set: {reason}")


def _kv_heads(found: Fields, heads: int) -> int:
    """Falcon and StarCoder say `multi_query`; their count of KV heads then is void."""
    if found.flag("multi_query_attention", False):
        return found.whole("multi_query_group_num", default=1)
    if found.flag("multi_query", False) and not found.flag("new_decoder_architecture", False):
        return 1
    kv_heads = found.whole("num_key_value_heads", "num_kv_heads", "n_head_kv", "kv_n_heads", default=heads)
    if heads % kv_heads:
        raise InputError(f"{found.place}: {kv_heads} KV heads do not divide {heads} attention heads")
    return kv_heads


def _head_dim(found: Fields, hidden: int, heads: int) -> int:
    if found.get("qk_nope_head_dim") is not None:
        return found.whole("qk_nope_head_dim") + found.whole("qk_rope_head_dim")
    if found.get("head_dim", "kv_channels", "attention_head_dim") is not None:
        return found.whole("head_dim", "kv_channels", "attention_head_dim")
    if hidden % heads:
        raise InputError(
            f"{found.place}: no head_dim, and hidden_size {hidden} is not divisible by {heads} heads"
        )
    return hidden // heads


def _ffn(found: Fields, hidden: int) -> int:
    return found.whole(
        "intermediate_size_mlp", "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "ffw_hidden_size",
        default=4 * hidden,
    )  # fmt: skip


def _latent(found: Fields) -> LatentAttention | None:
    if found.get("kv_lora_rank") is None:
        return None
    query_rank = None if found.get("q_lora_rank") is None else found.whole("q_lora_rank")
    return LatentAttention(
        kv_rank=found.whole("kv_lora_rank"),
        rope_dim=found.whole("qk_rope_head_dim"),
        nope_dim=found.whole("qk_nope_head_dim"),
        value_dim=found.whole("v_head_dim"),
        query_rank=query_rank,
    )


def _dtype(found: Fields) -> str:
    name = str(found.get("torch_dtype", "dtype") or "bfloat16").removeprefix("torch.")
    if name not in DTYPES:
        raise InputError(f"{found.place}: torch_dtype must be one of {', '.join(DTYPES)}, got {name!r}")
    return DTYPES[name]


def _weight_dtype(found: Fields) -> str:
    quantised = found.get("quantization_config")
    if not isinstance(quantised, Mapping):
        return _dtype(found)
    method = str(quantised.get("quant_method", "")).lower()
    bits = _weight_bits(quantised)
    if method in ("fp8", "fbgemm_fp8", "mxfp4"):
        return "fp8" if method != "mxfp4" else method
    if bits == (8, "float"):
        return "fp8"
    if bits is not None and bits[0] in (4, 8) and bits[1] == "int":
        return f"int{bits[0]}"
    raise InputError(
        f"{found.place}: quantization_config with quant_method {method!r} is not known; say what the weights "
        "take with --weight-dtype or --weight-bytes"
    )


def _weight_bits(quantised: Mapping[str, object]) -> tuple[int, str] | None:
    """Find bits and kind where GPTQ, AWQ and compressed-tensors put them."""
    bits = quantised.get("bits", quantised.get("w_bit"))
    if isinstance(bits, int):
        return bits, "int"
    for flag, width in (("load_in_4bit", 4), ("load_in_8bit", 8)):
        if quantised.get(flag) is True:
            return width, "int"
    groups = quantised.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping) and isinstance(weights.get("num_bits"), int):
            return weights["num_bits"], str(weights.get("type", "int"))
    return None
