"""Attention as its definition, in float64, one sequence at a time: what every kernel is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from kvsim.calibration.case import Case
from kvsim.calibration.kv_pool import KvPool

if TYPE_CHECKING:
    import torch


class ReferenceAttention:
    """Gather the pages and compute softmax(q·k / √d)·v with an explicit mask; any case, any device, slow."""

    name = "reference"

    def supports(self, case: Case, device: torch.device) -> str | None:
        """Take everything."""
        return None

    def prepare(self, pool: KvPool) -> Callable[[int], torch.Tensor]:
        """Return a call that computes one location in float64."""
        return lambda location: attend_in_float64(pool, location)


def attend_in_float64(pool: KvPool, location: int) -> torch.Tensor:
    """Return [Σ q, query heads, head size] in float64."""
    import torch

    outputs = [_sequence(pool, location, index) for index in range(len(pool.case.q))]
    return torch.cat(outputs)


def _sequence(pool: KvPool, location: int, index: int) -> torch.Tensor:
    import torch

    case = pool.case
    heads, kv_heads, size = case.heads
    key, value = pool.dense(location, index, torch.float64)
    query = pool.query[pool.rows(index)].double().view(-1, kv_heads, heads // kv_heads, size)
    score = torch.einsum("qhgd,khd->hgqk", query, key) / math.sqrt(size)
    position = torch.arange(case.kv[index], device=key.device)
    own = position[-case.q[index] :, None]
    distance = own - position
    seen = (distance >= 0) & (distance < (case.window or case.kv[index]))
    weight = score.masked_fill(~seen, -math.inf).softmax(-1)
    return torch.einsum("hgqk,khd->qhgd", weight, value).reshape(-1, heads, size)
