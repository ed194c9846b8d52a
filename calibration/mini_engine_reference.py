"""The same model as its definition, in float64, one whole text at a time: what the mini engine is compared with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from kvsim.calibration.mini_engine_weights import Weights
from kvsim.calibration.small_kernels import EPSILON, ROPE_BASE

if TYPE_CHECKING:
    import torch

_HEAD_ROWS = 1 << 13


def reference_logits(weights: Weights, ids: np.ndarray) -> torch.Tensor:
    """Return [tokens, vocabulary] float64 logits of a text, without cache, pages, chunks or padding."""
    import torch

    model = weights.model
    windows = model.windows or (None,) * model.layers
    stream = weights.embedding[torch.from_numpy(ids).to(weights.device)].double()
    for number, window in enumerate(windows):
        layer = weights.layer(number)
        mixed = _attention(_norm(stream, layer.norm) @ layer.qkv.double().t(), weights, window)
        stream = stream + mixed @ layer.o.double().t()
        wide = _norm(stream, layer.ffn_norm) @ layer.gate_up.double().t()
        if model.gated:
            gate, up = wide.chunk(2, dim=-1)
            wide = torch.nn.functional.silu(gate) * up
        else:
            wide = torch.nn.functional.gelu(wide)
        stream = stream + wide @ layer.down.double().t()
    last = _norm(stream, weights.final_norm)
    # A head in float64, whole, may take more memory than there is.
    parts = (weights.head[start : start + _HEAD_ROWS] for start in range(0, len(weights.head), _HEAD_ROWS))
    return torch.cat([last @ part.double().t() for part in parts], dim=-1)


def _norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + EPSILON).sqrt() * weight.double()


def _attention(qkv: torch.Tensor, weights: Weights, window: int | None) -> torch.Tensor:
    import torch

    model, tokens = weights.model, len(qkv)
    heads, kv_heads, size = model.heads, model.kv_heads, model.head_dim
    widths = [heads * size, kv_heads * size, kv_heads * size]
    query, key, value = (part.view(tokens, -1, size) for part in torch.split_with_sizes(qkv, widths, -1))
    group = heads // kv_heads
    query = _turned(query).view(tokens, kv_heads, group, size)
    score = torch.einsum("qhgd,khd->hgqk", query, _turned(key)) / math.sqrt(size)
    position = torch.arange(tokens, device=qkv.device)
    distance = position[:, None] - position
    seen = (distance >= 0) & (distance < (window or tokens))
    weight = score.masked_fill(~seen, -math.inf).softmax(-1)
    return torch.einsum("hgqk,khd->qhgd", weight, value).reshape(tokens, heads * size)


def _turned(x: torch.Tensor) -> torch.Tensor:
    """Turn both halves of each head by position / base^(2i/size)."""
    import torch

    half = x.shape[-1] // 2
    frequency = ROPE_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angle = torch.arange(len(x), device=x.device, dtype=torch.float64)[:, None, None] * frequency
    low, high = x[..., :half], x[..., half:]
    c, s = angle.cos(), angle.sin()
    return torch.cat((low * c - high * s, high * c + low * s), dim=-1)
