"""From how many decodes on an attention kernel leaves the KV of a sequence and head to one thread block.

Fewer are split over the GPU, so that it matters little how unequal they are. From there on a long sequence's blocks end
after the others', and the launch with them.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvsim.calibration.points import Point

FLASH_ATTENTION_2 = "FlashAttention 2"
TRITON = "triton"


def unsplit_from(points: Sequence[Point], multiprocessors: int | None) -> int | None:
    """Return the least number of decodes that are not split; None where kernel or GPU are not known."""
    backends = {point.backend for point in points}
    if multiprocessors is None or len(backends) != 1 or not points[0].heads:
        return None
    backend, kv_heads = backends.pop(), points[0].heads[1]
    if backend.endswith(FLASH_ATTENTION_2):
        return _flash_attention(kv_heads, multiprocessors)
    # As `split_count` in attention_triton.py, where a decode is one block of rows.
    return multiprocessors // kv_heads + 1 if backend == TRITON else None


def _flash_attention(kv_heads: int, multiprocessors: int) -> int:
    """Return where `num_splits_heuristic` of FlashAttention 2 (csrc/flash_attn/flash_api.cpp) gives one split.

    It does for sequences · KV heads ≥ 0.8 · 2 · multiprocessors; the query heads of one KV head share a block.
    """
    return -(-8 * 2 * multiprocessors // (10 * kv_heads))
