"""A server's settings, from what it or its record says, as fields of `RunConfig`."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from kvsim.config import RunConfig
from kvsim.errors import InputError
from kvsim.zoo import model_names

ASYNC_SINCE = (0, 14)
"""vLLM schedules asynchronously unless told otherwise since its release 0.14.0 (its release notes)."""
SUFFIXES = ("", "-instruct", "-chat", "-it", "-hf", "-instruct-hf", "-chat-hf")
"""What checkpoints append to the name of a model without changing its shape."""
KV_DTYPES = {
    "auto": "auto",
    "fp8": "fp8",
    "fp8_e4m3": "fp8",
    "fp8_e5m2": "fp8",
    "bfloat16": "bf16",
    "float16": "fp16",
}
NOT_ONES_OWN = ("model", "kv_cache_dtype", "vllm_version", "gpu", "cost", "goodput")
"""Fields that are read apart, or that mean something else in a server."""

POOL_TOKENS = re.compile(r"GPU KV cache size:\s*([\d,]+)\s*tokens")
POOL_BLOCKS = re.compile(r"(?:# (?:GPU|cuda) blocks:|num_gpu_blocks(?: is)?:?)\s*([\d,]+)", re.IGNORECASE)
STEP_TOKENS = re.compile(r"max_num_batched_tokens\s*=\s*(\d+)")
ARGUMENTS = re.compile(r"non-default args:\s*(\{.*\})")
VERSION = re.compile(r"(?:vLLM API server version|LLM engine \(v|vLLM version)\s*v?(\d+\.\d+[\w.]*)")


def engine_settings(
    stated: Mapping[str, object], version: str, source: str
) -> tuple[dict[str, object], list[str]]:
    """Return the fields of `RunConfig` among an engine's arguments, and what could not be taken over."""
    notes: list[str] = []
    defaults = {field.name: field.default for field in dataclasses.fields(RunConfig)}
    found: dict[str, object] = {
        name: value
        for name, value in stated.items()
        if name in defaults and name not in NOT_ONES_OWN and isinstance(value, bool | int | float | str)
    }
    replicas = stated.get("data_parallel_size")
    if isinstance(replicas, int) and replicas > 1:
        raise InputError(f"{source}: data_parallel_size is {replicas}; runs of one replica can be replayed")
    blocks = stated.get("num_gpu_blocks")
    if isinstance(blocks, int) and not isinstance(blocks, bool) and blocks > 1:
        found["num_gpu_blocks_override"] = blocks
    if "num_gpu_blocks_override" in found:
        found.pop("kv_cache_memory_bytes", None)
    kv_dtype = stated.get("kv_cache_dtype")
    if kv_dtype is not None and str(kv_dtype) not in KV_DTYPES:
        notes.append(f"{source}: KV cache dtype {kv_dtype!r} is not known here; give --kv-cache-dtype")
    elif kv_dtype is not None:
        found["kv_cache_dtype"] = KV_DTYPES[str(kv_dtype)]
    model = stated.get("model")
    if model is not None:
        known = known_model(str(model))
        if known is None:
            notes.append(f"{source}: model {model!r} has no name here; give --model")
        else:
            found["model"] = known
    asynchronous = is_async(version)
    if asynchronous is not None:
        found.setdefault("async_scheduling", asynchronous)
    return found, notes


def known_model(name: str) -> str | None:
    """Return our name of a Hugging Face checkpoint; None for one that is not built in."""
    short = name.rstrip("/").rsplit("/", 1)[-1].lower()
    for suffix in SUFFIXES:
        if short.endswith(suffix) and short.removesuffix(suffix) in model_names():
            return short.removesuffix(suffix)
    return None


def is_async(version: str) -> bool | None:
    """Tell whether a vLLM of this version schedules asynchronously by default; None of an unknown one."""
    match = re.match(r"v?(\d+)\.(\d+)", version)
    return None if match is None else (int(match[1]), int(match[2])) >= ASYNC_SINCE


def read_server_log(path: Path, block_size: int = 16) -> tuple[dict[str, object], list[str]]:
    """Return what the log of a vLLM server says of its settings, and of its KV pool.

    Looked for: the lines with `non-default args`, `max_num_batched_tokens=`, `GPU KV cache size: N tokens` or a number
    of GPU blocks, and the version.
    """
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    arguments = _arguments(text, path)
    match = VERSION.search(text)
    found, notes = engine_settings(arguments, match[1] if match else "", path.name)
    if "max_num_batched_tokens" not in found and (step := STEP_TOKENS.search(text)):
        found["max_num_batched_tokens"] = int(step[1])
    given = found.get("block_size")
    size = given if isinstance(given, int) else block_size
    if tokens := POOL_TOKENS.search(text):
        # The log counts the tokens of all blocks, vLLM's null block among them.
        found["num_gpu_blocks_override"] = int(tokens[1].replace(",", "")) // size
    elif blocks := POOL_BLOCKS.search(text):
        found["num_gpu_blocks_override"] = int(blocks[1].replace(",", ""))
    if not found:
        raise InputError(
            f"{path}: no line of a vLLM server's start-up in it, as 'GPU KV cache size: 478,000 tokens' or "
            "'non-default args'"
        )
    if "num_gpu_blocks_override" in found:
        found.pop("kv_cache_memory_bytes", None)
    else:
        notes.append(f"{path.name}: says nothing of the KV pool's size")
    return found, notes


def _arguments(text: str, path: Path) -> dict[str, object]:
    match = ARGUMENTS.search(text)
    if match is None:
        return {}
    try:
        value = ast.literal_eval(match[1])
    except (ValueError, SyntaxError):
        # Arguments may hold objects whose text is no literal; numbers and names can be told all the same.
        pairs = re.findall(r"'(\w+)':\s*('[^']*'|\d+\.?\d*|True|False|None)(?=[,}])", match[1])
        value = {name: ast.literal_eval(literal) for name, literal in pairs}
    if not isinstance(value, dict):
        raise InputError(f"{path}: non-default args is not a dict")
    named = {str(name): content for name, content in value.items()}
    named.setdefault("model", named.pop("model_tag", None))
    return named
