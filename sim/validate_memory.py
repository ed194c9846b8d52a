"""Measures of memory in closed form: what the rows of `published.toml` about bytes, blocks and waste ask for.

Every measure takes a row's parameters and returns figures by name. A window of 0 in a table stands for full attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from kvsim.capacity import (
    blocks_in,
    capacity_of,
    held_blocks,
    paging_waste,
    reservation_bound,
    reservation_waste,
    uniform_paging_waste,
)
from kvsim.gpu import GIB, MIB, find_gpu
from kvsim.memory import MemoryBudget, pool_bytes
from kvsim.model import LayerGroup, Model
from kvsim.validate_table import Interval, Value
from kvsim.zoo import find_model

Figures = dict[str, Value | Interval]
PRINTED_GIB = 0.005
"""Half of the last digit of GiB with two decimals."""


def kv_bytes(*, model: str, gpus: int = 1, tokens: int = 1, kv_cache_dtype: str = "auto") -> Figures:
    """Return KV `bytes` of tokens on each GPU, its `elements`, and how many times as many `all_heads` would take."""
    found = find_model(model)
    size = found.kv_bytes_per_token(kv_cache_dtype, gpus)
    every = replace(found, kv_heads=found.heads).kv_bytes_per_token(kv_cache_dtype, gpus)
    return {"bytes": tokens * size, "elements": found.kv_elements_per_token, "all_heads": every / size}


def kv_saving(*, model: str, than: str, bits: float = 16, than_bits: float = 16) -> Figures:
    """Return the share of KV that one model `saves` against another, at so many bits an element."""
    small, large = (find_model(name).kv_elements_per_token for name in (model, than))
    return {"saved": 1 - small * bits / (large * than_bits)}


def pool(*, model: str, gib: float, rounding: float = PRINTED_GIB, gpus: int = 1, block: int = 16) -> Figures:
    """Return the `tokens` and `blocks` of a pool of so many GiB a GPU, which are rounded to ± `rounding`."""
    found = find_model(model)
    counts = [
        capacity_of(found, int(size * GIB), block_size=block, tensor_parallel_size=gpus).num_blocks
        for size in (gib - rounding, gib, gib + rounding)
    ]
    return {"blocks": Interval(*counts), "tokens": Interval(*(count * block for count in counts))}


def concurrency(*, model: str, tokens: int, max_model_len: int, gpus: int = 1) -> Figures:
    """Return how many requests of `max_model_len` a pool of so many tokens holds, as vLLM's log prints it."""
    found = find_model(model)
    size = tokens * found.kv_bytes_per_token(tensor_parallel_size=gpus)
    held = capacity_of(found, size, tensor_parallel_size=gpus, max_model_len=max_model_len)
    return {"requests": held.max_concurrency}


def blocks_by_decree(*, model: str, blocks: int, max_model_len: int) -> Figures:
    """Return `tokens` and `requests` at once of a pool of so many blocks."""
    budget = MemoryBudget(num_gpu_blocks_override=blocks)
    held = capacity_of(find_model(model), 1, max_model_len=max_model_len, budget=budget)
    return {"tokens": held.pool_tokens, "requests": held.max_concurrency}


def cpu_blocks(*, model: str, gib: float, block: int = 16) -> Figures:
    """Return the `blocks` that so many GiB of swap hold."""
    return {"blocks": blocks_in(int(gib * GIB), find_model(model).kv_bytes_per_token(), block)}


def block_bytes(*, model: str, gpus: int = 1, block: int = 16) -> Figures:
    """Return the `mib` of one block on each GPU."""
    held = capacity_of(find_model(model), GIB, tensor_parallel_size=gpus, block_size=block)
    return {"mib": held.block_bytes / MIB}


def memory_split(
    *, total: float, utilization: float, weights: float, runtime: float, activation: float
) -> Figures:
    """Return the `gib` left for KV of a start-up log's other figures, each rounded to two decimals."""
    gpu = replace(find_gpu("rtx3090"), memory_bytes=int(total * GIB))
    budget = MemoryBudget(
        gpu_memory_utilization=utilization,
        non_torch_bytes=int(runtime * GIB),
        activation_bytes=int(activation * GIB),
    )
    left = pool_bytes(find_model("llama-3.1-8b", weight_bytes=int(weights * GIB)), gpu, budget=budget) / GIB
    spare = PRINTED_GIB * (utilization + 3)
    return {"gib": Interval(left - spare, left, left + spare)}


def estimated_pool(
    *, model: str, gpu: str, max_model_len: int, steps_of: int = 8192, runtime: float = 0.25
) -> Figures:
    """Return `tokens` and `requests` at once that our own estimate of weights and activations leaves room for."""
    found = find_model(model)
    budget = MemoryBudget(max_num_batched_tokens=steps_of, non_torch_bytes=int(runtime * GIB))
    held = capacity_of(found, pool_bytes(found, find_gpu(gpu), budget=budget), max_model_len=max_model_len)
    return {"tokens": held.pool_tokens, "requests": held.max_concurrency}


def weight_share(*, model: str, gpu: str, kv_gib: float) -> Figures:
    """Return the shares of a GPU's memory that `weights` and `kv` take."""
    total = find_gpu(gpu).memory_gb * 1e9
    return {"weights": find_model(model).weight_bytes / total, "kv": kv_gib * GIB / total}


def reservation(*, reserved: int, used: int = 0, model: str = "opt-13b", gib: float = 12) -> Figures:
    """Return how many equal reservations `fit`, the `external` share left, and what one leaves `unused`.

    `wasted` is the unused share.
    """
    fit, external = reservation_bound(int(gib * GIB) // find_model(model).kv_bytes_per_token(), reserved)
    wasted = reservation_waste(used, reserved)
    return {"fit": fit, "external": external, "unused": reserved - used, "wasted": wasted}


def page_group(*, model: str, gpus: int = 1, page_kib: int) -> Figures:
    """Return the `tokens` in a page of one layer's K (vAttention): page bytes / bytes of a token in that tensor."""
    found = find_model(model)
    return {
        "tokens": page_kib
        * 1024
        // (found.kv_bytes_per_token(tensor_parallel_size=gpus) // (2 * found.layers))
    }


def virtual_memory(*, model: str, gpus: int, tokens: int, requests: int) -> Figures:
    """Return the `megabytes` of one request's virtual tensor, the number of `tensors`, and the `terabytes` of all."""
    found = find_model(model)
    tensors = 2 * found.layers
    tensor = tokens * found.kv_bytes_per_token(tensor_parallel_size=gpus) // tensors
    return {"megabytes": tensor / 1e6, "tensors": tensors, "terabytes": requests * tensor * tensors / 1e12}


def uniform_waste(
    *, length: int, model: str = "", windows: Sequence[Any] = (), rows: Sequence[Any] = ()
) -> Figures:
    """Return the share `wasted` by keeping all tokens in all layers, and how many times as `large` as needed that is.

    `rows` are [layers, tokens needed] where windows do not say it. `reach` is Σ layers · window.
    """
    if rows:
        wasted, reach = paging_waste([(layers, needed) for layers, needed in rows], length), 0
    else:
        found = _model(model, windows)
        wasted = uniform_paging_waste(found, length)
        reach = sum(span.weight * (span.window or 0) for span in found.spans)
    return {"wasted": wasted, "large": 1 / (1 - wasted), "reach": reach}


def layer_groups(*, model: str = "", windows: Sequence[Any] = ()) -> Figures:
    """Return the KV `groups` of a model in words, and the largest share of `padding` in one."""
    groups = _model(model, windows).layer_groups()
    words = sorted(_group_words(group) for group in groups)
    return {"groups": tuple(words), "padding": max(group.padding / group.layers for group in groups)}


def padding_to(*, layers: int, group: int) -> Figures:
    """Return the layers `padded` when so many are cut into groups of a size, and their `share`."""
    padded = -layers % group
    return {"padded": padded, "share": padded / layers}


def hybrid_blocks(*, windows: Sequence[Any], tokens: int, block: int) -> Figures:
    """Return the `blocks` that a sequence holds over all layer groups."""
    return {"blocks": held_blocks(_model("", windows).layer_groups(), tokens, block)}


def window_blocks(*, window: int, tokens: int, block: int) -> Figures:
    """Return the `blocks` of one windowed group that must be there for the next token."""
    return {"blocks": held_blocks([LayerGroup(window, 1)], tokens, block)}


def longest_sequence(*, windows: Sequence[Any], tokens: int) -> Figures:
    """Return how many `times` longer a sequence fits with windowed KV given back; the pool holds `tokens` without."""
    found = _model("", windows)
    slots = tokens * found.layers
    windowed = sum(span.weight * span.window for span in found.spans if span.window is not None)
    full = sum(span.weight for span in found.spans if span.window is None)
    return {"times": (slots - windowed) / full / tokens}


def distserve_tokens(*, model: str, gpus: int) -> Figures:
    """Return the `tokens` of DistServe's simulator: (0.93·80 GiB − 2h·(vocabulary + 2,050) − weights/n) / (KV/n)."""
    found = find_model(model)
    on_every_gpu = 2 * (found.embedding_parameters + 2_050 * found.hidden)
    in_layers = 2 * (found.parameters - found.embedding_parameters)
    left = 0.93 * 80 * GIB - on_every_gpu - in_layers / gpus
    return {"tokens": left / (found.kv_bytes_per_token() / gpus)}


def in_flight(*, rate: float, seconds: float, servers: int = 1) -> Figures:
    """Return Little's `requests` in a server: rate · time in system / servers."""
    return {"requests": rate * seconds / servers}


def closed_loop(*, users: int, tokens_per_second: float, outputs: int) -> Figures:
    """Return the `seconds` a request takes when so many users keep a server busy: N / X."""
    return {"seconds": users / (tokens_per_second / outputs)}


def _model(name: str, windows: Iterable[Any]) -> Model:  # Any: [times, [windows]] from TOML
    """Return a built-in model, or one of one-byte layers with these windows."""
    if name:
        return find_model(name)
    each = tuple(window or None for times, pattern in windows for _ in range(times) for window in pattern)
    return Model(
        name="layers", layers=len(each), hidden=8, heads=1, kv_heads=1, head_dim=1, ffn=8, vocab=8,
        max_position_embeddings=10**8, windows=each,
    )  # fmt: skip


def _group_words(group: LayerGroup) -> str:
    span = "full" if group.window is None else f"window {group.window}"
    padding = f" + {group.padding} padding" if group.padding else ""
    return f"{group.layers} × {span}{padding}"
