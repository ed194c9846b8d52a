"""torch's scaled_dot_product_attention with one backend pinned, for prompts whose keys and values are dense."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from kvsim.calibration.case import Case
from kvsim.calibration.kv_pool import KvPool
from kvsim.calibration.kv_store import torch_dtype

if TYPE_CHECKING:
    import torch


class _Operands(NamedTuple):
    """One launch: [sequences, heads, tokens, head size] each."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    cached: int
    """Tokens before the first query."""


class SdpaAttention:
    """Whole prompts in any layout, and a cached prefix in contiguous slots.

    A whole prompt attends to the keys and values that the step has just computed, before they are scattered into
    pages, so they are copied out of the pool beforehand. A cached prefix can only be read where it lies densely, in
    its slot; flash attention aligns its causal mask bottom right then, where `is_causal` would align it top left.
    Prompts of equal length are one launch, others one each.
    """

    def __init__(self, kernel: Literal["flash", "cudnn"]) -> None:
        """Pin this backend of torch's."""
        self.name = f"sdpa-{kernel}"
        self._kernel = kernel

    def supports(self, case: Case, device: torch.device) -> str | None:
        """Refuse windows, KV in another dtype, cached prefixes in pages or under cuDNN."""
        whole = case.q == case.kv
        if case.window is not None:
            return "scaled_dot_product_attention has no window"
        if case.kv_dtype != case.dtype:
            return f"it does not read {case.kv_dtype} KV with {case.dtype} queries"
        if not whole and case.layout != "contiguous":
            return "it cannot read a cached prefix out of pages"
        if self._kernel == "cudnn" and not whole:
            return "its causal mask is aligned top left"
        if device.type == "cuda" and case.dtype == "fp32":
            return f"{self._kernel} attention has no fp32 kernel"
        if device.type != "cuda" and self._kernel == "cudnn":
            return "cuDNN needs CUDA"
        return None

    def prepare(self, pool: KvPool) -> Callable[[int], list[torch.Tensor]]:
        """Lay out the operands of every location."""
        launches = [_launches(pool, location) for location in range(pool.locations)]
        pinned = self._pinned

        def call(location: int) -> list[torch.Tensor]:
            with pinned():
                return [rows for operands in launches[location] for rows in _attend(operands)]

        return call

    def over_prompts(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: tuple[int, ...]
    ) -> Callable[[], list[torch.Tensor]]:
        """Return a call over whole prompts, one after another in these rows, whenever the rows are filled.

        Rows are [tokens, heads, head size]; prompts of equal length are one launch.
        """
        launches, pinned = _fresh(query, key, value, lengths), self._pinned

        def call() -> list[torch.Tensor]:
            with pinned():
                return [rows for operands in launches for rows in _attend(operands)]

        return call

    def _pinned(self) -> Any:  # Any: torch's context manager is a private type
        from torch.nn.attention import SDPBackend, sdpa_kernel

        chosen = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
        return sdpa_kernel([chosen[self._kernel]])


def _launches(pool: KvPool, location: int) -> list[_Operands]:
    case = pool.case
    if case.q == case.kv and len(set(case.q)) == 1:
        import torch

        singles = [_dense(pool, location, index) for index in range(len(case.q))]
        query, key, value = (
            torch.cat(parts) for parts in zip(*(single[:3] for single in singles), strict=True)
        )
        return [_Operands(query, key, value, 0)]
    where = _dense if case.q == case.kv else _in_slot
    return [where(pool, location, index) for index in range(len(case.q))]


def _fresh(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: tuple[int, ...]
) -> list[_Operands]:
    """View rows as operands, without copying them."""
    import torch

    three = (query, key, value)
    if len(set(lengths)) == 1:
        shapes = ((len(lengths), lengths[0], *rows.shape[1:]) for rows in three)
        q, k, v = (rows.view(shape).transpose(1, 2) for rows, shape in zip(three, shapes, strict=True))
        return [_Operands(q, k, v, 0)]
    found = []
    for parts in zip(*(torch.split_with_sizes(rows, lengths) for rows in three), strict=True):
        q, k, v = (part.transpose(0, 1).unsqueeze(0) for part in parts)
        found.append(_Operands(q, k, v, 0))
    return found


def _dense(pool: KvPool, location: int, index: int) -> _Operands:
    key, value = pool.dense(location, index, torch_dtype(pool.case.dtype))
    return _operands(pool, index, key, value)


def _in_slot(pool: KvPool, location: int, index: int) -> _Operands:
    slot, length = int(pool.tables[location, index, 0]), pool.case.kv[index]
    return _operands(pool, index, pool.key[slot, :length], pool.value[slot, :length])


def _operands(pool: KvPool, index: int, key: torch.Tensor, value: torch.Tensor) -> _Operands:
    query = pool.query[pool.rows(index)]
    first, second, third = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value))
    return _Operands(first, second, third, len(key) - len(query))


def _attend(operands: _Operands) -> list[torch.Tensor]:
    """Return the output rows of each sequence, [q, heads, head size], without copying them."""
    import torch
    from torch.nn.attention.bias import causal_lower_right

    query, key, value, cached = operands
    bias = causal_lower_right(query.shape[2], key.shape[2]) if cached else None
    output = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, is_causal=not cached, enable_gqa=query.shape[1] != key.shape[1]
    )
    return list(output.transpose(1, 2).unbind(0))
