"""How much KV a pool holds: blocks, tokens and requests at once, in closed form.

All bytes are those of one GPU; under tensor parallelism every GPU of the group holds the same share.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from kvsim.errors import InputError
from kvsim.memory import MemoryBudget
from kvsim.model import LayerGroup, Model
from kvsim.window import Chunk, first_seen, seen


class GroupedCapacity(NamedTuple):
    """What a pool holds when each layer group has block tables of its own.

    That is vLLM's hybrid cache.
    """

    groups: tuple[LayerGroup, ...]
    """The groups, in block-taking order."""
    block_bytes: int
    """Bytes of a block: one group's layers, padding included."""
    num_blocks: int
    """Blocks in the pool, vLLM's null block included."""
    request_blocks: int
    """Most blocks that one request of max_model_len holds, over all groups."""

    @property
    def max_concurrency(self) -> float:
        """Requests of max_model_len that fit at once."""
        return self.num_blocks / self.request_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What one model's KV takes on one GPU, and how much of it fits."""

    kv_bytes: int
    """Bytes for KV on each GPU."""
    token_bytes: int
    """KV bytes of a token."""
    block_size: int
    """Tokens in a block."""
    max_model_len: int
    """Longest sequence, in tokens."""
    num_blocks: int
    """Blocks of uniform paging, where a block holds its tokens in all layers."""
    grouped: GroupedCapacity | None = None
    """The same pool with layer groups; None for a model without windows."""

    @property
    def block_bytes(self) -> int:
        """Bytes of a block under uniform paging."""
        return self.block_size * self.token_bytes

    @property
    def request_bytes(self) -> int:
        """Bytes of a request of max_model_len under uniform paging, in whole blocks."""
        return blocks_of(self.max_model_len, self.block_size) * self.block_bytes

    @property
    def pool_tokens(self) -> int:
        """Tokens the pool holds under uniform paging."""
        return self.num_blocks * self.block_size

    @property
    def max_concurrency(self) -> float:
        """Requests of max_model_len that fit at once, as vLLM's log prints it."""
        return self.pool_tokens / self.max_model_len


def blocks_of(tokens: int, block_size: int) -> int:
    """Return ⌈tokens / block_size⌉."""
    return -(-tokens // block_size)


def blocks_in(kv_bytes: int, token_bytes: int, block_size: int) -> int:
    """Return how many blocks so many bytes hold: ⌊bytes / (block·bytes per token)⌋."""
    return kv_bytes // (block_size * token_bytes)


def windowed_blocks(window: int, max_model_len: int, block_size: int, max_num_batched_tokens: int) -> int:
    """Return the most blocks a request takes in a windowed group.

    ⌈min(W−1+B, L)/block⌉ + 1, which is what vLLM plans with, B being the largest step: a chunk is
    written before the window moves on. Chunked local attention begins anew at a block's start: ⌈min(C+B, L)/block⌉.
    """
    if isinstance(window, Chunk):
        return blocks_of(min(window + max_num_batched_tokens, max_model_len), block_size)
    return blocks_of(min(window - 1 + max_num_batched_tokens, max_model_len), block_size) + 1


def held_blocks(groups: Iterable[LayerGroup], tokens: int, block_size: int) -> int:
    """Return the blocks a sequence holds between steps, summed over the groups.

    ⌈tokens/block⌉ less, in a windowed group, the ⌊(tokens − W + 1)/block⌋ that the next token cannot see.
    """
    return sum(
        blocks_of(tokens, block_size) - first_seen(tokens, group.window) // block_size for group in groups
    )


def request_blocks(
    groups: Iterable[LayerGroup], max_model_len: int, block_size: int, max_num_batched_tokens: int
) -> int:
    """Return the most blocks one request of max_model_len takes, over all groups."""
    return sum(
        blocks_of(max_model_len, block_size)
        if group.window is None
        else windowed_blocks(group.window, max_model_len, block_size, max_num_batched_tokens)
        for group in groups
    )


def capacity_of(
    model: Model,
    kv_bytes: int,
    *,
    kv_cache_dtype: str = "auto",
    tensor_parallel_size: int = 1,
    block_size: int = 16,
    max_model_len: int | None = None,
    budget: MemoryBudget | None = None,
) -> Capacity:
    """Divide so many KV bytes a GPU into blocks.

    `max_model_len` is the model's own unless given.
    """
    budget = budget or MemoryBudget()
    longest = model.max_position_embeddings if max_model_len is None else max_model_len
    for name, value in (("block_size", block_size), ("max_model_len", longest)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    token_bytes = model.kv_bytes_per_token(kv_cache_dtype, tensor_parallel_size)
    decreed = budget.num_gpu_blocks_override
    grouped = None
    if model.windows:
        groups = model.layer_groups()
        page = block_size * (groups[0].layers + groups[0].padding) * (token_bytes // model.layers)
        needed = request_blocks(groups, longest, block_size, budget.max_num_batched_tokens)
        grouped = GroupedCapacity(groups, page, decreed or kv_bytes // page, needed)
    return Capacity(
        kv_bytes=kv_bytes,
        token_bytes=token_bytes,
        block_size=block_size,
        max_model_len=longest,
        num_blocks=decreed or blocks_in(kv_bytes, token_bytes, block_size),
        grouped=grouped,
    )


def paging_waste(needed: Iterable[tuple[int, int]], length: int) -> float:
    """Return the share that uniform paging wastes on rows of (layers, tokens needed).

    1 − Σ layers·tokens / (Σ layers·length), since every layer keeps `length` tokens.
    """
    rows = list(needed)
    return 1 - sum(layers * tokens for layers, tokens in rows) / (length * sum(layers for layers, _ in rows))


def uniform_paging_waste(model: Model, length: int) -> float:
    """Return the share of a sequence's KV that no layer will read again.

    Windowed layers keep all `length` tokens under uniform paging and read the last window of them.
    """
    return paging_waste(
        ((layers, seen(length, 1, window)) for window, layers in model.spans),
        length,
    )


def reservation_waste(used: int, reserved: int) -> float:
    """Return the share of a reservation that is never filled: 1 − used/reserved."""
    return 1 - used / reserved


def reservation_bound(pool_tokens: int, reserved: int) -> tuple[int, float]:
    """Return how many equal reservations fit, and the share of the pool left over."""
    count = pool_tokens // reserved
    return count, 1 - count * reserved / pool_tokens
