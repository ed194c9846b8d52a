"""What `kvsim capacity` prints: a listing, a table, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from kvsim.capacity import Capacity
from kvsim.config import MemoryConfig
from kvsim.gpu import Gpu
from kvsim.model import KV_BITS, KV_GROUPS, Model

if TYPE_CHECKING:
    from rich.table import Table

PIPE_WIDTH = 200
"""Columns of a table that goes into a file or pipe."""


class Pair(NamedTuple):
    """One model on one GPU, and what came of it."""

    model: Model
    gpu: Gpu
    memory: MemoryConfig
    capacity: Capacity | None
    """None when it does not fit."""
    problem: str
    """Why it does not fit; empty when it does."""


class Figure(NamedTuple):
    """One number of the report."""

    key: str
    """Name in JSON."""
    title: str
    """Name in the listing."""
    value: float
    """In bytes, tokens, blocks or requests."""
    text: str
    """With its unit, for people."""
    basis: str
    """computed (from the model's shape), reported (by a driver or log) or assumed."""


def print_pairs(pairs: Sequence[Pair], as_json: bool) -> None:
    """Print one pair as a listing, several as a table, any number as JSON."""
    if as_json:
        print(json.dumps({"pairs": [_record(pair) for pair in pairs]}, indent=2))
    elif len(pairs) == 1:
        print("\n".join(_listing(pairs[0])))
    else:
        show(_table(pairs))


def figures(pair: Pair) -> list[Figure]:
    """Return every number of a pair that fits, with what it rests on."""
    held = pair.capacity
    if held is None:
        return []
    budget = pair.memory
    decreed = budget.kv_cache_memory_bytes is not None or budget.num_gpu_blocks_override is not None
    pool = "computed" if decreed else "assumed"
    weights = -(-pair.model.weight_bytes // budget.tensor_parallel_size)
    memory = "reported" if pair.gpu.memory_reported else "assumed"
    length, times = held.max_model_len, held.max_concurrency
    rows = [
        Figure("kv_bytes_per_token", "KV per token", held.token_bytes, f"{held.token_bytes:,} B", "computed"),
        Figure("kv_bytes_per_block", f"KV per block of {held.block_size} tokens", held.block_bytes,
               _bytes(held.block_bytes), "computed"),
        Figure("kv_bytes_per_request", f"KV per request of {length:,} tokens", held.request_bytes,
               _bytes(held.request_bytes), "computed"),
        Figure("weight_bytes", f"weights ({pair.model.weight_dtype})", weights, _bytes(weights), "computed"),
        Figure("gpu_memory_bytes", "memory of the GPU", pair.gpu.memory_bytes, _bytes(pair.gpu.memory_bytes),
               memory),
        Figure("kv_bytes", "pool", held.kv_bytes, _bytes(held.kv_bytes), pool),
        Figure("num_blocks", "pool in blocks", held.num_blocks, f"{held.num_blocks:,}", pool),
        Figure("pool_tokens", "pool in tokens", held.pool_tokens, f"{held.pool_tokens:,}", pool),
        Figure("max_concurrency", "requests of that length at once", times, f"{times:.2f}", pool),
    ]  # fmt: skip
    return rows + _grouped_figures(held, pool)


def _grouped_figures(held: Capacity, pool: str) -> list[Figure]:
    grouped = held.grouped
    if grouped is None:
        return []
    size = grouped.groups[0].layers + grouped.groups[0].padding
    count, times = grouped.num_blocks, grouped.max_concurrency
    return [
        Figure("layer_groups", "layer groups", len(grouped.groups), f"{len(grouped.groups)} of {size} layers",
               "computed"),
        Figure("grouped_block_bytes", "KV per block of a group", grouped.block_bytes,
               _bytes(grouped.block_bytes), "computed"),
        Figure("grouped_request_blocks", "blocks per request, all groups", grouped.request_blocks,
               f"{grouped.request_blocks:,}", "computed"),
        Figure("grouped_num_blocks", "pool in blocks of a group", count, f"{count:,}", pool),
        Figure("grouped_max_concurrency", "requests at once, with layer groups", times, f"{times:.2f}", pool),
    ]  # fmt: skip


def _record(pair: Pair) -> dict[str, object]:
    rows = figures(pair)
    head: dict[str, object] = {
        "model": pair.model.name,
        "gpu": pair.gpu.name,
        "tensor_parallel_size": pair.memory.tensor_parallel_size,
        "kv_cache_dtype": _dtype(pair),
        "fits": pair.capacity is not None,
    }
    if pair.capacity is None:
        return head | {"problem": pair.problem}
    head |= {"block_size": pair.capacity.block_size, "max_model_len": pair.capacity.max_model_len}
    head |= {row.key: row.value for row in rows}
    return head | {"basis": {row.key: row.basis for row in rows}, "notes": _notes([pair])}


def _listing(pair: Pair) -> list[str]:
    rows = figures(pair)
    title, text = max(len(row.title) for row in rows), max(len(row.text) for row in rows)
    lines = [f"  {row.title:<{title}}  {row.text:>{text}}  {row.basis}" for row in rows]
    size = pair.memory.tensor_parallel_size
    place = f"{size} × {pair.gpu.name}, each GPU:" if size > 1 else f"{pair.gpu.name}:"
    return [f"{pair.model.name}, KV in {_dtype(pair)}, on {place}", *lines, *_notes([pair])]


def _table(pairs: Sequence[Pair]) -> Table:
    from rich.table import Table

    size = pairs[0].memory.tensor_parallel_size
    table = Table(caption="\n".join(_notes(pairs)), caption_justify="left", title_justify="left")
    table.title = f"KV cache of each GPU, tensor parallel {size}; KV sizes computed"
    heads = (
        "KV/token",
        "KV/block",
        "KV/request",
        "pool",
        "blocks",
        "tokens",
        "at once",
        "with groups",
        "pool is",
    )
    table.add_column("model", overflow="fold")
    table.add_column("GPU", overflow="fold")
    for head in heads:
        table.add_column(head, justify="right")
    for pair in pairs:
        found = {row.key: row for row in figures(pair)}
        keys = ("kv_bytes_per_token", "kv_bytes_per_block", "kv_bytes_per_request", "kv_bytes", "num_blocks",
                "pool_tokens", "max_concurrency", "grouped_max_concurrency")  # fmt: skip
        cells = [found[key].text if key in found else "–" for key in keys]
        last = found["kv_bytes"].basis if found else "does not fit"
        table.add_row(pair.model.name, pair.gpu.name, *cells, last)
    return table


def _notes(pairs: Sequence[Pair]) -> list[str]:
    """Say, once each, what the figures of these pairs rest on."""
    notes: dict[str, None] = {}
    for pair in pairs:
        if pair.problem:
            notes[pair.problem] = None
        for kind, one in (("model", pair.model), ("GPU", pair.gpu)):
            if not one.verified:
                notes[f"{kind} {one.name} is unverified: {one.source}"] = None
        if pair.capacity is None:
            continue
        dtype = _dtype(pair)
        if dtype in KV_GROUPS:
            notes[
                f"{dtype} counts a 2-byte scale and a 2-byte zero point for each {KV_GROUPS[dtype]} elements"
            ] = None
        elif KV_BITS[dtype][1]:
            notes[f"{dtype} counts a 2-byte scale for each head of each token, for K and for V"] = None
        if any(row.key == "kv_bytes" and row.basis == "assumed" for row in figures(pair)):
            notes["assumed pools rest on an estimated activation peak and 0.25 GiB of runtime memory"] = None
        best = (
            pair.capacity.grouped.max_concurrency if pair.capacity.grouped else pair.capacity.max_concurrency
        )
        if best < 1:
            notes[f"{pair.model.name} on {pair.gpu.name} cannot hold one request of "
                  f"{pair.capacity.max_model_len:,} tokens: vLLM would refuse to start"] = None  # fmt: skip
    return list(notes)


def _dtype(pair: Pair) -> str:
    return pair.model.dtype if pair.memory.kv_cache_dtype == "auto" else pair.memory.kv_cache_dtype


def show(*parts: Table) -> None:
    """Print tables on stdout, at the terminal's width or a fixed one for files."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    for part in parts:
        console.print(part)


def _bytes(size: int) -> str:
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:,.2f} {name}"
    return f"{size:,} B"
