"""A GPU whose cost is known: points timed on it, with or without noise, for the small model of the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from small_tables import SMALL

from kvsim.calibration.features import chunks_of, decodes_of
from kvsim.calibration.gemm_shapes import gemm_shapes, heads_per_gpu
from kvsim.calibration.points import Point
from kvsim.calibration.profile import Profile
from kvsim.calibration.roofline_fit import padded

HEADS = heads_per_gpu(SMALL, 1)
ROWS = (1, 2, 4, 6, *(round(8 * 2 ** (step / 3)) for step in range(28)))
COUNTS = (1, 2, 4, 8, 16, 32, 64)
LENGTHS = (16, 64, 256, 1024, 4096)
CHUNKS = (16, 32, 64, 128, 256, 512, 1024, 2048)


def decode_seconds(point: Point) -> float:
    count, context, _ = decodes_of(point)
    return 10e-6 + 0.2e-6 * count + 1e-9 * context


def prefill_seconds(point: Point) -> float:
    chunks = chunks_of(point)
    return 9e-6 + 8e-9 * chunks.tokens + 4e-11 * chunks.area + 2e-9 * chunks.context


def fused_seconds(point: Point) -> float:
    """Return what one kernel for both takes: more than the two alone."""
    return 1.5 * (prefill_seconds(point) + decode_seconds(point))


def gemm_seconds(n: int, k: int, rows: int) -> float:
    memory, compute = 2 * n * k / 1e10, 2 * n * k * padded(rows) / 1e12
    return float(3e-6 + (memory**3 + compute**3) ** (1 / 3))


def attention(op: str, q: Sequence[int], kv: Sequence[int], **changed: Any) -> Point:
    seconds = {"attn_decode": decode_seconds, "attn_prefill": prefill_seconds, "attn_mixed": fused_seconds}
    name = f"{op}-{'.'.join(map(str, q))}-{'.'.join(map(str, kv))}" + "".join(map(str, changed.values()))
    point = Point(
        id=name, set="X", op=op, ns=(1.0,), q=tuple(q), kv=tuple(kv), heads=HEADS, page=16, **changed
    )  # type: ignore[arg-type]
    return replace(point, ns=(seconds[op](point) * 1e9,))


def decodes(**changed: Any) -> list[Point]:
    return [attention("attn_decode", (1,) * n, (kv,) * n, **changed) for n in COUNTS for kv in LENGTHS]


def chunks(cached: Sequence[int] = (0, 128, 1024)) -> list[Point]:
    return [attention("attn_prefill", (q,), (q + before,)) for q in CHUNKS for before in cached]


def mixed() -> list[Point]:
    pairs = [(q, n, kv) for q in CHUNKS[::2] for n in COUNTS[::2] for kv in LENGTHS]
    return [attention("attn_mixed", (q, *(1,) * n), (q, *(kv,) * n)) for q, n, kv in pairs]


def sized(op: str, name: str, rows: int, seconds: float, **changed: Any) -> Point:
    return Point(id=f"{op}-{name}-{rows}", set="X", op=op, name=name, m=rows, ns=(seconds * 1e9,), **changed)  # type: ignore[arg-type]


def others() -> list[Point]:
    """Return matrix products, elementwise kernels, LM head and sampler."""
    found = []
    for name, (n, k) in gemm_shapes(SMALL).items():
        op = "lm_head" if name == "lm_head" else "gemm"
        found += [sized(op, name, rows, gemm_seconds(n, k, rows), n=n, k=k) for rows in ROWS]
    for name in ("norm", "rope", "activation"):
        found += [sized("elementwise", name, rows, 2e-6 + 5e-9 * rows) for rows in ROWS]
    return found + [sized("sampler", "", rows, 20e-6 + 1e-7 * rows) for rows in ROWS]


def every_point() -> list[Point]:
    return [*decodes(), *chunks(), *others()]


def noisy(points: Sequence[Point], spread: float, seed: int = 0) -> list[Point]:
    generator = np.random.default_rng(seed)
    return [
        replace(point, ns=tuple(point.ns[0] * np.exp(generator.normal(0, spread, 9)))) for point in points
    ]


def profile(points: Sequence[Point] | None = None, **changed: Any) -> Profile:
    device = {"type": "cuda", "name": "Synthetic GPU", "gpu": "synthetic"}
    given = every_point() if points is None else points
    return Profile.build(SMALL, given, **{"device": device, "draws": 1} | changed)
