"""How a pool is cut into blocks."""

from __future__ import annotations

from typing import NamedTuple

from kvsim.errors import InputError
from kvsim.policies.groups import Group
from kvsim.policy import Span


class Layout(NamedTuple):
    """How a pool is cut into blocks."""

    groups: tuple[Group, ...]
    spans: tuple[Span, ...]
    """Slots a token takes."""
    attention: tuple[Span, ...]
    """Layers by the span they attend to."""
    block_slots: int
    """Slots of one block."""
    block_bytes: int
    """Bytes of one block."""


def most_blocks(group: Group, step_tokens: int, max_model_len: int) -> int:
    """Return the most blocks one sequence needs at once (rule W6; full attention: all of max_model_len)."""
    if group.window is None:
        return -(-max_model_len // group.block_size)
    if group.is_chunked:
        # As vLLM counts; one more where a chunk may begin inside a block.
        held = -(-min(group.window + step_tokens, max_model_len) // group.block_size)
        return held + (group.window % group.block_size > 0)
    seen = min(group.window - 1 + step_tokens, max_model_len)
    return -(-seen // group.block_size) + 1 + group.kept


def check_blocks(block_size: int, watermark: float) -> None:
    """Refuse what no block policy can work with."""
    if block_size < 1:
        raise InputError(f"block_size must be at least 1 token, got {block_size}")
    if not 0 <= watermark < 1:
        raise InputError(f"watermark must be in [0, 1), got {watermark}")
