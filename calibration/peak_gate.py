"""Refuse times that no card could reach: above its bandwidth or FLOP rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from kvsim.calibration.points import Point
from kvsim.gpu import Gpu
from kvsim.model import KV_BITS, WEIGHT_BITS

CLOCK_HEADROOM = 1.1
"""Cards may clock above the boost clock that a datasheet's FLOP rate is for; memory clocks don't move."""


class Peak(NamedTuple):
    """What a card can do at best."""

    bandwidth: float
    """Bytes a second to and from memory."""
    flops: float
    """Dense bf16 operations a second."""
    l2_bytes: int = 0
    """Last-level cache; 0 where unknown."""


def peak_of(gpu: Gpu) -> Peak:
    """Return a GPU's peaks of the datasheet."""
    return Peak(gpu.bandwidth, gpu.bf16_flops, gpu.l2_bytes or 0)


MEMORY_BOUND = {"attn_decode": "attention", "gemm": "weights", "lm_head": "weights"}
"""Operations that read what earlier steps or the checkpoint left in memory, and which of them read alike.

A prompt's own keys and values were written by the same step, so its attention may well find them in the cache.
"""


def gate_points(points: Sequence[Point], peak: Peak, *, repeats_in_cache: bool) -> list[Point]:
    """Flag what is above the peak or came out of the cache.

    What would mislead a fit is `rejected` besides:

    above-peak     more bytes or operations a second than the card's peak; rejected unless it is operations
                   within the CLOCK_HEADROOM
    l2-warm        all it reads fits the last-level cache and the table's timing did not flush it
                   (`repeats_in_cache`); a serving step finds it cold, since the weights of the other
                   matrices pass through between two calls
    above-cold     l2-warm, and more bytes a second than any like call that does not fit the cache; rejected
    """
    flagged = [_flagged(point, peak, repeats_in_cache) for point in points]
    best: dict[str, float] = {}
    for point in flagged:
        if point.cold and "rejected" not in point.flags and point.op in MEMORY_BOUND:
            kind = MEMORY_BOUND[point.op]
            best[kind] = max(best.get(kind, 0.0), bytes_read(point) / point.seconds)
    return [
        replace(point, flags=(*point.flags, "above-cold", "rejected"))
        if _beats_cold(point, best, peak)
        else point
        for point in flagged
    ]


def _beats_cold(point: Point, best: dict[str, float], peak: Peak) -> bool:
    if point.cold or "rejected" in point.flags or point.op not in MEMORY_BOUND:
        return False
    return bytes_read(point) / point.seconds > best.get(MEMORY_BOUND[point.op], peak.bandwidth)


def bytes_read(point: Point) -> float:
    """Return what a call must move at least.

    That is its KV once, or both factors and the product of a GEMM.
    """
    if point.kv:
        bits, scale = KV_BITS[point.kv_dtype]
        window = point.window or max(point.kv)
        tokens = sum(min(kv, window + q - 1) for q, kv in zip(point.q, point.kv, strict=True))
        return tokens * 2 * point.heads[1] * (point.heads[2] * bits / 8 + scale)
    if point.n and point.k:
        weights = point.n * point.k * WEIGHT_BITS[point.dtype] / 8
        return weights + 2 * point.m * (point.n + point.k)
    return 0.0


def operations(point: Point) -> float:
    """Return multiplications and additions.

    2·m·n·k of a GEMM, 4 · heads · head size · Σ attended tokens of attention.
    """
    if point.kv:
        window = point.window or max(point.kv)
        area = sum(attended(q, kv, window) for q, kv in zip(point.q, point.kv, strict=True))
        return 4.0 * point.heads[0] * point.heads[2] * area
    return 2.0 * point.m * point.n * point.k


def attended(q: int, kv: int, window: int) -> int:
    """Sum over the last q of kv tokens how many tokens each attends to.

    Those are itself and the ones before, at most `window`. The first `rising` queries see fewer than the window, each
    one more than its predecessor.
    """
    first = kv - q + 1
    rising = max(0, min(q, window - first))
    return rising * first + rising * (rising - 1) // 2 + (q - rising) * min(window, max(first, window))


def _flagged(point: Point, peak: Peak, repeats_in_cache: bool) -> Point:
    flags = list(point.flags)
    moved, fastest = bytes_read(point), peak.flops * (2 if point.dtype == "fp8" else 1)
    warm = repeats_in_cache and 0 < moved <= peak.l2_bytes
    if warm:
        flags.append("l2-warm")
    bandwidth, rate = moved / point.seconds, operations(point) / point.seconds
    if bandwidth > peak.bandwidth or rate > fastest:
        flags.append("above-peak")
    if bandwidth > peak.bandwidth or rate > CLOCK_HEADROOM * fastest:
        flags.append("rejected")
    return replace(point, flags=tuple(flags), cold=not warm)
