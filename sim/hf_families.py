"""What transformers assumes where a config.json is silent, by `model_type`; facts, no behaviour.

`gated` is ours: whether the feed-forward network has three matrices. Families that are not listed are read
by the general rules (gated, untied) and marked unverified.
"""

from __future__ import annotations

from collections.abc import Mapping

_UNTIED: Mapping[str, object] = {"tie_word_embeddings": False}
_TIED: Mapping[str, object] = {"tie_word_embeddings": True}
_PLAIN_TIED: Mapping[str, object] = {"tie_word_embeddings": True, "gated": False}
_QWEN: Mapping[str, object] = {**_UNTIED, "use_sliding_window": False, "max_window_layers": 28}
_LLAMA: Mapping[str, object] = {
    **_UNTIED,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
}
_MISTRAL: Mapping[str, object] = {
    **_LLAMA,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
}

DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "llama": _LLAMA,
    "mistral": {**_MISTRAL, "sliding_window": 4096},
    "mixtral": {**_MISTRAL, "num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen2": _QWEN,
    "qwen2_moe": _QWEN,
    "qwen2_vl_text": _QWEN,
    "qwen2_5_vl_text": _QWEN,
    "qwen3": {**_QWEN, "head_dim": 128},
    "qwen3_moe": _QWEN,
    "gemma": {**_TIED, "head_dim": 256},
    "gemma2": {**_TIED, "head_dim": 256, "sliding_window": 4096, "sliding_window_pattern": 2},
    "gemma3_text": {
        **_TIED,
        "head_dim": 256,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
    },
    "llama4_text": {
        **_UNTIED,
        "head_dim": 128,
        "hidden_size": 5120,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "vocab_size": 202048,
        "max_position_embeddings": 131072,
        "num_local_experts": 16,
        "num_experts_per_tok": 1,
        "n_shared_experts": 1,
        "interleave_moe_layer_step": 1,
        "attention_chunk_size": 8192,
        "no_rope_layer_interval": 4,
    },
    "gpt_oss": {
        **_UNTIED,
        "head_dim": 64,
        "sliding_window": 128,
        "sliding_window_pattern": 2,
        "max_position_embeddings": 131072,
    },
    "phi3": _UNTIED,
    "cohere": {**_TIED, "max_position_embeddings": 8192},
    "cohere2": {**_TIED, "sliding_window": 4096, "sliding_window_pattern": 4},
    "deepseek_v2": _UNTIED,
    "deepseek_v3": _UNTIED,
    "opt": _PLAIN_TIED,
    "gpt2": _PLAIN_TIED,
    "bloom": _PLAIN_TIED,
    "mpt": _PLAIN_TIED,
    "gpt_bigcode": {**_PLAIN_TIED, "multi_query": True},
    "falcon": {**_PLAIN_TIED, "multi_query": True},
    "RefinedWebModel": {**_PLAIN_TIED, "multi_query": True},
    "RefinedWeb": _PLAIN_TIED,
    "starcoder2": _PLAIN_TIED,
    "gpt_neox": {**_UNTIED, "gated": False},
    "phi": {**_UNTIED, "gated": False},
}

REFUSED: Mapping[str, str] = {
    "is_encoder_decoder": "encoder-decoder models are not supported",
    "ssm_cfg": "state-space layers hold no KV per token",
    "state_size": "state-space layers hold no KV per token",
    "mamba_d_state": "state-space layers hold no KV per token",
    "layers_block_type": "layers of several kinds are not supported",
    "hybrid_override_pattern": "layers of several kinds are not supported",
    "linear_num_key_heads": "linear attention holds no KV per token",
    "attn_type_list": "linear attention holds no KV per token",
    "block_configs": "layers of different shapes are not supported",
    "cross_attention_layers": "cross-attention layers are not supported",
    "num_kv_shared_layers": "layers that share KV are not supported",
    "ffn_config": "this layout of fields is not supported",
}
"""Fields that mark a model this simulator would misjudge, and why."""
