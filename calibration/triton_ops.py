"""The small kernels of a step in Triton, fused as serving engines fuse them.

Imported only when used, since it needs triton. Elements of a row lie side by side, and so do rows unless a stride is
given; capitals are compile-time constants.
"""
# ruff: noqa: N803 (capitals are how Triton code tells constants from values)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def nothing(out: tl.tensor) -> None:
    """Do nothing: what is left is the launch."""


@triton.jit  # type: ignore[untyped-decorator]
def add_norm(
    x: tl.tensor, residual: tl.tensor, weight: tl.tensor, total: tl.tensor, out: tl.tensor,
    epsilon: tl.tensor, SIZE: tl.constexpr, WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    """Store total = x + residual and out = total / rms(total) · weight. Grid: (tokens)."""
    column = tl.arange(0, WIDTH)
    inside = column < SIZE
    place = tl.program_id(0).to(tl.int64) * SIZE + column
    summed = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    summed += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(total + place, summed.to(total.dtype.element_ty), mask=inside)
    scale = tl.rsqrt(tl.sum(summed * summed, 0) / SIZE + epsilon)
    factor = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, (summed * scale * factor).to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def rope(
    x: tl.tensor, cosine: tl.tensor, sine: tl.tensor, position: tl.tensor, out: tl.tensor, keys: tl.tensor,
    row_stride: tl.tensor, HEADS: tl.constexpr, QUERY_HEADS: tl.constexpr,
    HEADS_WIDTH: tl.constexpr, HALF: tl.constexpr, HALF_WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    """Turn the two halves of each head by the angles of the token's position. Grid: (tokens).

    The first QUERY_HEADS heads of a row go to `out`, the others to `keys`.
    """
    token = tl.program_id(0).to(tl.int64)
    head, d = tl.arange(0, HEADS_WIDTH), tl.arange(0, HALF_WIDTH)
    inside = (head < HEADS)[:, None] & (d < HALF)[None, :]
    place = token * row_stride + head[:, None] * (2 * HALF) + d[None, :]
    angle = tl.load(position + token) * HALF + d
    c = tl.load(cosine + angle, mask=d < HALF, other=0.0)[None, :]
    s = tl.load(sine + angle, mask=d < HALF, other=0.0)[None, :]
    low = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(x + place + HALF, mask=inside, other=0.0).to(tl.float32)
    first, second = low * c - high * s, high * c + low * s
    is_query = (head < QUERY_HEADS)[:, None]
    to = (token * QUERY_HEADS + head)[:, None] * (2 * HALF) + d[None, :]
    tl.store(out + to, first.to(out.dtype.element_ty), mask=inside & is_query)
    tl.store(out + to + HALF, second.to(out.dtype.element_ty), mask=inside & is_query)
    if QUERY_HEADS < HEADS:
        to = (token * (HEADS - QUERY_HEADS) + head - QUERY_HEADS)[:, None] * (2 * HALF) + d[None, :]
        is_key = inside & (head >= QUERY_HEADS)[:, None]
        tl.store(keys + to, first.to(keys.dtype.element_ty), mask=is_key)
        tl.store(keys + to + HALF, second.to(keys.dtype.element_ty), mask=is_key)


@triton.jit  # type: ignore[untyped-decorator]
def silu_mul(x: tl.tensor, out: tl.tensor, SIZE: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """Store silu(first half) · second half of each row of 2 · SIZE. Grid: (tokens, blocks of a row)."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < SIZE
    gate = tl.load(x + token * 2 * SIZE + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + token * 2 * SIZE + SIZE + column, mask=inside, other=0.0).to(tl.float32)
    result = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + token * SIZE + column, result.to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def kv_write(
    key: tl.tensor, value: tl.tensor, slots: tl.tensor, key_pool: tl.tensor, value_pool: tl.tensor,
    inverse_scale: tl.tensor, key_stride: tl.tensor, value_stride: tl.tensor,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, IS_WHOLE: tl.constexpr,
) -> None:  # fmt: skip
    """Scatter each token's key and value, SIZE numbers each, to its slot of the pool. Grid: (tokens)."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token).to(tl.int64)
    column = tl.arange(0, WIDTH)
    inside = column < SIZE
    k = tl.load(key + token * key_stride + column, mask=inside, other=0.0).to(tl.float32) * inverse_scale
    v = tl.load(value + token * value_stride + column, mask=inside, other=0.0).to(tl.float32) * inverse_scale
    if IS_WHOLE:  # int8: to the nearest whole number, within its range
        k = tl.floor(tl.minimum(tl.maximum(k, -127.0), 127.0) + 0.5)
        v = tl.floor(tl.minimum(tl.maximum(v, -127.0), 127.0) + 0.5)
    tl.store(key_pool + slot * SIZE + column, k.to(key_pool.dtype.element_ty), mask=inside)
    tl.store(value_pool + slot * SIZE + column, v.to(value_pool.dtype.element_ty), mask=inside)
