"""Elementwise kernels where no table has them: bytes moved at an assumed rate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kvsim.calibration.gemm_shapes import heads_per_gpu
from kvsim.calibration.points import Op, Point
from kvsim.model import Model

TOKENS = tuple(2**power for power in range(16))


class Assumed(NamedTuple):
    """How fast elementwise kernels are taken to be."""

    bandwidth: float
    """Bytes a second."""
    seconds: float
    """Of a call that moves nothing."""


def elementwise_points(model: Model, size: int, assumed: Assumed, origin: str) -> Iterator[Point]:
    """Yield points flagged `assumed`: time = seconds + bytes / bandwidth.

    Bytes a token at two each: a norm with its residual reads and writes two rows of the hidden width, rotary
    embedding reads and writes queries and keys, a gated activation reads two rows of the FFN width and writes one, the
    KV write reads and writes keys and values.
    """
    heads, kv_heads, head_dim = heads_per_gpu(model, size)
    moved: dict[tuple[Op, str], int] = {
        ("elementwise", "norm"): 4 * model.hidden,
        ("elementwise", "rope"): 2 * (heads + kv_heads) * head_dim,
        ("elementwise", "activation"): (3 if model.gated else 2) * model.ffn // size,
        ("kv_write", "kv_write"): 4 * kv_heads * head_dim,
    }
    for (op, name), elements in moved.items():
        for tokens in TOKENS:
            seconds = assumed.seconds + 2 * elements * tokens / assumed.bandwidth
            yield Point(
                id=f"{name}-m{tokens}",
                set=origin,
                op=op,
                name=name,
                ns=(round(seconds * 1e9, 3),),
                m=tokens,
                flags=("assumed",),
            )
