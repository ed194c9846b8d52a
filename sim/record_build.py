"""vLLM's configuration objects for a recording: a one-layer model that is never loaded, and its groups.

vLLM's modules are imported by name, inside functions; to type checkers they are `Any`.
"""

from __future__ import annotations

import inspect
import json
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from kvsim.errors import InputError
from kvsim.manifest import CaseConfig, Row

MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "num_hidden_layers": 1,
    "vocab_size": 64,
    "torch_dtype": "float16",
}
"""A decoder for text: the scheduler asks the model for nothing but its kind and its longest sequence."""

WITHOUT_IT = {
    "max_num_active_seqs": None,
    "long_prefill_token_threshold_adaptive": False,
    "scheduler_reserve_full_isl": False,
    "watermark": 0.0,
    "prefix_cache_retention_interval": None,
}
"""How a vLLM that does not know a setting yet behaves."""


def engine_config(config: CaseConfig, version: str) -> Any:
    """Return the `VllmConfig` of a recording."""
    vllm = import_module("vllm.config")
    scheduler = _scheduler_settings(config)
    cache = {
        # As vLLM's engine does once it knows the groups.
        "block_size": min(block_sizes(config)),
        "enable_prefix_caching": config.enable_prefix_caching,
        "prefix_caching_hash_algo": config.prefix_caching_hash_algo,
        "prefix_cache_retention_interval": config.prefix_cache_retention_interval,
    }
    made = vllm.VllmConfig(
        model_config=_model_config(vllm, config.max_model_len),
        scheduler_config=_made(
            vllm.SchedulerConfig,
            {**scheduler, "max_model_len": config.max_model_len, "is_encoder_decoder": False},
            version,
        ),
        cache_config=_made(vllm.CacheConfig, cache, version),
        # A vLLM built for GPUs looks for one otherwise.
        device_config=vllm.DeviceConfig(device="cpu"),
    )
    # Platforms change settings for the sake of their kernels, which do not run here.
    _insist(made.scheduler_config, scheduler)
    _insist(made.cache_config, {**cache, "num_gpu_blocks": config.num_blocks})
    return made


def kv_cache_config(config: CaseConfig, version: str) -> Any:
    """Return the `KVCacheConfig`: one pool, and a group of one layer for each group of the configuration."""
    interface = import_module("vllm.v1.kv_cache_interface")
    half = import_module("torch").float16
    groups: list[Any] = []
    for number, (group, block_size) in enumerate(zip(config.groups, block_sizes(config), strict=True)):
        settings = {"block_size": block_size, "num_kv_heads": 1, "head_size": 64, "dtype": half}
        if group["type"] == "full":
            spec = interface.FullAttentionSpec(**settings)
        else:
            spec = interface.SlidingWindowSpec(**settings, sliding_window=group["window"])
        groups.append(interface.KVCacheGroupSpec([f"layers.{number}.attn"], spec))
    settings = {
        "num_blocks": config.num_blocks,
        "kv_cache_tensors": [],
        "kv_cache_groups": groups,
        "prefix_cache_retention_interval": config.prefix_cache_retention_interval,
    }
    return _made(interface.KVCacheConfig, settings, version)


def block_sizes(config: CaseConfig) -> list[int]:
    """Return the block size of each group: its own, or the common one."""
    return [group.get("block_size", config.block_size) for group in config.groups]


def _scheduler_settings(config: CaseConfig) -> Row:
    return {
        "max_num_seqs": config.max_num_seqs,
        "max_num_active_seqs": config.max_num_active_seqs,
        "max_num_batched_tokens": config.max_num_batched_tokens,
        "enable_chunked_prefill": config.enable_chunked_prefill,
        "long_prefill_token_threshold": config.long_prefill_token_threshold,
        "long_prefill_token_threshold_adaptive": config.long_prefill_token_threshold_adaptive,
        "scheduler_reserve_full_isl": config.scheduler_reserve_full_isl,
        "watermark": config.watermark,
        "policy": config.policy,
        "async_scheduling": config.async_scheduling,
    }


def _model_config(vllm: Any, max_model_len: int) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps({**MODEL, "max_position_embeddings": max_model_len})
        (Path(folder) / "config.json").write_text(text)
        return vllm.ModelConfig(
            model=folder,
            tokenizer=folder,
            skip_tokenizer_init=True,
            max_model_len=max_model_len,
            dtype="float16",
            seed=0,
        )


def _made(cls: Any, settings: Row, version: str) -> Any:
    """Construct a vLLM object, leaving out settings that this vLLM lacks and behaves like already."""
    known = inspect.signature(cls).parameters
    for name, value in settings.items():
        if name not in known and (name not in WITHOUT_IT or WITHOUT_IT[name] != value):
            raise InputError(f"vLLM {version} has no setting {name}; it cannot be {value!r}")
    return cls(**{name: value for name, value in settings.items() if name in known})


def _insist(target: Any, settings: Row) -> None:
    for name, value in settings.items():
        if hasattr(target, name) and getattr(target, name) != value:
            setattr(target, name, value)
