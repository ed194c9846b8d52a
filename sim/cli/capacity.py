"""`kvsim capacity`: how much KV cache fits, for one model on one GPU or a table of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kvsim.config import MemoryConfig

if TYPE_CHECKING:
    from kvsim.cli.capacity_report import Pair


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SizingOptions:
    """What a request and a block are."""

    block_size: int = 16
    """Tokens in a KV block."""
    max_model_len: int | None = None
    """Longest sequence in tokens, prompt and outputs; the model's own limit unless given."""
    max_num_batched_tokens: int = 8192
    """Most tokens in one step; sets the activation peak and what a windowed layer holds."""


DEFAULT_SIZING = SizingOptions()
DEFAULT_MEMORY = MemoryConfig()


def capacity(
    *,
    model: Annotated[
        str | None,
        Parameter(help="Built-in model or path to a Hugging Face config.json; commas between several."),
    ] = None,
    gpu: Annotated[str | None, Parameter(help="Built-in GPU; commas between several.")] = None,
    sizing: SizingOptions = DEFAULT_SIZING,
    memory: Annotated[MemoryConfig, Parameter(name="*")] = DEFAULT_MEMORY,
    show_list: Annotated[
        bool,
        Parameter(name="--list", negative=(), help="List the built-in models and GPUs with their sources."),
    ] = False,
    json: Annotated[bool, Parameter(negative=(), help="Print JSON instead of text.")] = False,
) -> None:
    """Print how much KV cache fits: bytes per token, pool size, requests at once.

    Without --model and --gpu it lists the built-in models and GPUs.
    """
    from kvsim.errors import InputError

    if show_list or (model is None and gpu is None):
        from kvsim.cli.hardware_list import print_known

        print_known(json)
        return
    from kvsim.cli.capacity_report import print_pairs

    if model is None or gpu is None:
        missing, given = ("--gpu", "--model") if gpu is None else ("--model", "--gpu")
        raise InputError(f"{missing} is missing beside {given}; without both, the known names are listed")
    gpus = _names(gpu, "--gpu")
    pairs = [_measure(left, right, sizing, memory) for left in _names(model, "--model") for right in gpus]
    if all(pair.capacity is None for pair in pairs):
        others = f" (none of the {len(pairs)} pairs fits)" if len(pairs) > 1 else ""
        raise InputError(f"{pairs[0].problem}{others}")
    print_pairs(pairs, json)


def _names(text: str, flag: str) -> list[str]:
    from kvsim.errors import InputError

    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise InputError(f"{flag} must be names with commas between, got {text!r}")
    return names


def _measure(model_name: str, gpu_name: str, sizing: SizingOptions, memory: MemoryConfig) -> Pair:
    """Size one pair; a pair that does not fit carries the reason, not figures."""
    from kvsim.capacity import capacity_of
    from kvsim.cli.capacity_report import Pair
    from kvsim.errors import InputError
    from kvsim.gpu import find_gpu
    from kvsim.memory import pool_bytes

    model, gpu = memory.load_model(model_name), find_gpu(gpu_name)
    budget = memory.budget(sizing.max_num_batched_tokens)
    dtype, size, block = memory.kv_cache_dtype, memory.tensor_parallel_size, sizing.block_size
    if block < 1:
        raise InputError(f"block_size must be at least 1, got {block}")
    try:
        pool = pool_bytes(model, gpu, size, budget, block_size=block, kv_cache_dtype=dtype)
    except InputError as error:
        return Pair(model, gpu, memory, None, str(error))
    figures = capacity_of(
        model,
        pool,
        kv_cache_dtype=dtype,
        tensor_parallel_size=size,
        block_size=block,
        max_model_len=sizing.max_model_len,
        budget=budget,
    )
    return Pair(model, gpu, memory, figures, "")
