"""Attention-output error of quantised KV, measured on made-up inputs: no statement about a model's answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from kvsim.errors import InputError
from kvsim.model import KV_BITS, KV_GROUPS

INPUTS = ("random", "outliers")
ROUNDED = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LARGEST_FP8 = 448.0
"""Of e4m3, which vLLM's `fp8` is."""
TINY = 2.0**-24
"""Least number of fp16 above 0: no scale is less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """How queries, keys and values are drawn.

    `random`: all independent and normal. `outliers`: in each head, `outlier_channels` of the keys are `outlier_scale`
    times as wide, and shifted by as much, the same for all tokens (keys of real models have such channels: KIVI, arXiv
    2402.02750, figure 2; KVQuant, arXiv 2401.18079); and one token in 64 has values five times as large.
    """

    tokens: int = 1024
    """Length of the cached sequence."""
    queries: int = 32
    """Queries a head, each attending to all tokens."""
    heads: int = 8
    """KV heads."""
    head_dim: int = 128
    """Elements of a head."""
    outlier_channels: int = 4
    """Of each head."""
    outlier_scale: float = 10.0
    """How many times as wide."""
    seeds: Sequence[int] = field(default_factory=lambda: range(5))
    """A draw for each."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be."""
        for name in ("tokens", "queries", "heads", "head_dim"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.outlier_channels <= self.head_dim:
            raise InputError(
                f"outlier_channels must be 0 to head_dim {self.head_dim}, got {self.outlier_channels}"
            )
        if not 1 <= self.outlier_scale < float("inf"):
            raise InputError(f"outlier_scale must be at least 1, got {self.outlier_scale}")
        if not self.seeds:
            raise InputError("seeds must be at least 1, got 0")


class KvError(NamedTuple):
    """What one way of keeping KV does to what attention returns."""

    dtype: str
    """As `--kv-cache-dtype` names it."""
    keys: str
    """What shares a scale among the keys: `tensor`, `token` (a head's channels) or `channel` (a run of tokens)."""
    bits: float
    """Bits an element of KV, scales included."""
    inputs: str
    """`random` or `outliers`."""
    mean: float
    """‖output − exact‖ / ‖exact‖ (Frobenius), mean over the draws."""
    worst: float
    """The largest of the draws."""


def measure_errors(inputs: Inputs | None = None, dtypes: Sequence[str] = tuple(KV_BITS)) -> Iterator[KvError]:
    """Quantise K and V, attend in float64, and compare with attention over what was not quantised."""
    given = inputs or Inputs()
    for dtype in dtypes:
        if dtype not in KV_BITS:
            raise InputError(f"KV dtype must be one of {', '.join(KV_BITS)}, got {dtype!r}")
    for kind in INPUTS:
        draws = [_draw(given, kind, seed) for seed in given.seeds]
        exact = [_attend(*draw) for draw in draws]
        for dtype in dtypes:
            for keys in _groupings(dtype):
                found = [
                    _distance(_attend(q, quantised(k, dtype, keys), quantised(v, dtype, "token")), whole)
                    for (q, k, v), whole in zip(draws, exact, strict=True)
                ]
                bits = bits_per_element(dtype, given.head_dim)
                yield KvError(dtype, keys, bits, kind, sum(found) / len(found), max(found))


def bits_per_element(dtype: str, head_dim: int) -> float:
    """Return the bits that an element takes with its share of the scale."""
    bits, scale = KV_BITS[dtype]
    return bits + 8 * scale / KV_GROUPS.get(dtype, head_dim)


def quantised(values: Tensor, dtype: str, keys: str = "token") -> Tensor:
    """Return what is read back of `values[heads, tokens, head_dim]`.

    Without groups: scale = largest |value| of a head of a token / largest level, levels symmetric about 0. With groups
    (KIVI): scale = (max − min)/(2^bits − 1) and zero point = min, over groups of a token's channels, or of a channel's
    tokens where `keys` is `channel`. Scales and zero points are rounded to fp16.
    """
    if dtype in ROUNDED:
        return values.to(ROUNDED[dtype]).to(values.dtype)
    if dtype == "fp8":
        scale = (values.abs().amax() / LARGEST_FP8).clamp_min(TINY)
        return (values / scale).to(torch.float8_e4m3fn).to(values.dtype) * scale
    bits = KV_BITS[dtype][0]
    if dtype not in KV_GROUPS:
        levels = 2 ** (bits - 1) - 1
        scale = _half(values.abs().amax(-1, keepdim=True) / levels).clamp_min(TINY)
        return (values / scale).round().clamp(-levels - 1, levels) * scale
    if keys == "channel":
        return _grouped(values.mT, bits, KV_GROUPS[dtype]).mT
    return _grouped(values, bits, KV_GROUPS[dtype])


def _grouped(values: Tensor, bits: int, group: int) -> Tensor:
    """Quantise runs of so many along the last axis; the last run may be shorter."""
    length = values.shape[-1]
    whole = length - length % group
    if whole == 0:
        return _with_zero_point(values, bits)
    found = _with_zero_point(values[..., :whole].reshape(*values.shape[:-1], -1, group), bits).flatten(-2)
    return found if whole == length else torch.cat([found, _with_zero_point(values[..., whole:], bits)], -1)


def _with_zero_point(values: Tensor, bits: int) -> Tensor:
    """Quantise along the last axis as one group."""
    low, high = values.aminmax(dim=-1, keepdim=True)
    zero, scale = _half(low), _half((high - low) / (2**bits - 1)).clamp_min(TINY)
    return ((values - zero) / scale).round().clamp(0, 2**bits - 1) * scale + zero


def _half(values: Tensor) -> Tensor:
    return values.to(torch.float16).to(values.dtype)


def _groupings(dtype: str) -> tuple[str, ...]:
    if dtype in KV_GROUPS:
        return "channel", "token"
    return ("token",) if KV_BITS[dtype][1] else ("tensor",)


def _draw(given: Inputs, kind: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(length: int) -> Tensor:
        shape = (given.heads, length, given.head_dim)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    query, key, value = normal(given.queries), normal(given.tokens), normal(given.tokens)
    if kind == "outliers":
        for head in range(given.heads):
            channels = torch.randperm(given.head_dim, generator=generator)[: given.outlier_channels]
            key[head, :, channels] = given.outlier_scale * (key[head, :, channels] + 1)
        value[:, torch.randperm(given.tokens, generator=generator)[: given.tokens // 64]] *= 5
    return query, key, value


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    weights = torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, -1)
    return weights @ value


def _distance(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())
