"""FlexAttention, uncompiled: an independent second opinion on what attention should return, not a kernel to time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from kvsim.calibration.case import Case
from kvsim.calibration.kv_pool import KvPool
from kvsim.calibration.kv_store import torch_dtype

if TYPE_CHECKING:
    import torch


class FlexAttention:
    """torch's mask-programmable attention on each sequence, gathered; any case whose KV converts to its dtype."""

    name = "flex"

    def supports(self, case: Case, device: torch.device) -> str | None:
        """Take everything: quantised KV is converted beforehand."""
        return None

    def prepare(self, pool: KvPool) -> Callable[[int], list[torch.Tensor]]:
        """Return a call that gathers and attends, one sequence after another."""

        def call(location: int) -> list[torch.Tensor]:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
                return [_sequence(pool, location, index) for index in range(len(pool.case.q))]

        return call


def _sequence(pool: KvPool, location: int, index: int) -> torch.Tensor:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    case = pool.case
    count, length = case.q[index], case.kv[index]
    window = case.window or length

    def is_seen(batch: torch.Tensor, head: torch.Tensor, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        own = q + (length - count)
        return (kv <= own) & (kv > own - window)

    key, value = pool.dense(location, index, torch_dtype(case.dtype))
    q, k, v = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (pool.query[pool.rows(index)], key, value))
    mask = create_block_mask(is_seen, None, None, count, length, device=str(q.device))
    output: torch.Tensor = flex_attention(q, k, v, block_mask=mask, enable_gqa=case.group > 1)
    return output[0].transpose(0, 1)
