"""FlashInfer's paged kernels, when the package is installed: what some serving engines run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kvsim.calibration.case import Case
from kvsim.calibration.kv_pool import KvPool
from kvsim.calibration.kv_store import torch_dtype

if TYPE_CHECKING:
    import torch

HEAD_SIZES = (64, 128, 256)
"""Head sizes that its kernels are written for."""
WORKSPACE_BYTES = 128 << 20
"""Scratch for split KV, of the size its documentation uses; calls run one after another and share it."""
_TENSOR_CORE_GROUP = 4


class FlashInferAttention:
    """The batch decode wrapper when every query is single, else the batch prefill wrapper.

    Each location is planned ahead on the host, as an engine does once a step, so a call is the kernel alone.
    """

    name = "flashinfer"

    def supports(self, case: Case, device: torch.device) -> str | None:
        """Refuse what its prebuilt wrappers do not take."""
        import importlib.util

        if importlib.util.find_spec("flashinfer") is None:
            return "flashinfer is not installed"
        if device.type != "cuda":
            return "flashinfer needs CUDA"
        if case.dtype == "fp32" or case.kv_dtype != case.dtype:
            return f"no {case.dtype} kernel for {case.kv_dtype} KV is wrapped here"
        if case.heads[2] not in HEAD_SIZES:
            return f"head size must be one of {', '.join(map(str, HEAD_SIZES))}"
        return None

    def prepare(self, pool: KvPool) -> Callable[[int], torch.Tensor]:
        """Plan every location and allocate the output."""
        import torch

        workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=pool.query.device)
        planned = [plan(pool, location, workspace) for location in range(pool.locations)]
        out = torch.empty_like(pool.query) if pool.out is None else pool.out

        def call(location: int) -> torch.Tensor:
            planned[location].run(pool.query, (pool.key, pool.value), out=out)
            return out

        return call


def page_lists(pool: KvPool, location: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return where each sequence's pages start, all pages in one list, and the tokens in each last page."""
    import torch

    case = pool.case
    counts = [-(-length // case.page) for length in case.kv]
    pages = [pool.tables[location, index, :count] for index, count in enumerate(counts)]
    starts = torch.tensor([0, *counts], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    last = [length - (count - 1) * case.page for length, count in zip(case.kv, counts, strict=True)]
    device = pool.tables.device
    return starts.to(device), torch.cat(pages), torch.tensor(last, dtype=torch.int32, device=device)


def plan(pool: KvPool, location: int, workspace: torch.Tensor) -> Any:  # Any: flashinfer may be absent
    """Return a wrapper that is ready to run one location."""
    import flashinfer

    case = pool.case
    heads, kv_heads, size = case.heads
    options: dict[str, object] = {
        "window_left": -1 if case.window is None else case.window - 1,
        "q_data_type": torch_dtype(case.dtype),
        "kv_data_type": torch_dtype(case.kv_dtype),
    }
    lists = page_lists(pool, location)
    if case.op == "attn_decode":
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            workspace, "NHD", use_tensor_cores=case.group >= _TENSOR_CORE_GROUP
        )
        wrapper.plan(*lists, heads, kv_heads, size, case.page, **options)
    else:
        wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
        wrapper.plan(pool.q_start, *lists, heads, kv_heads, size, case.page, causal=True, **options)
    return wrapper
