"""Attention of one step in every layer: by the backends that were timed, over the live pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kvsim.calibration.attention_sdpa import SdpaAttention
from kvsim.calibration.backends import Chosen
from kvsim.calibration.case import Case
from kvsim.calibration.fidelity_steps import ScheduledStep
from kvsim.calibration.kv_pool import KvPool
from kvsim.calibration.mini_engine_memory import EngineMemory

if TYPE_CHECKING:
    import torch

Choose = Callable[[Case], Chosen]
"""Picks the kernel for a case, once it has proved itself."""


class Rows(NamedTuple):
    """What a layer computes for the tokens of a step, [tokens, heads, head size] each."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    out: torch.Tensor
    """Where attention's output goes."""

    def take(self, rows: slice) -> Rows:
        """Return some of the tokens."""
        return Rows(*(each[rows] for each in self))


class StepAttention:
    """Call it with a layer's number once that layer's queries are computed and its KV is written."""

    def __init__(
        self, step: ScheduledStep, rows: Rows, *, memory: EngineMemory, choose: Choose, dtype: str, fuses: bool
    ) -> None:  # fmt: skip
        """Choose kernels and plan them; `fuses` says whether decodes and prompts share a launch."""
        self.backends: set[str] = set()
        """Names of the kernels."""
        self._step, self._memory, self._choose, self._dtype = step, memory, choose, dtype
        places = memory.layout.places
        self._calls: list[list[Callable[[], None]]] = [[] for _ in places]
        count, decodes = len(step.sequences), step.decodes
        parts = [slice(0, count)]
        if not fuses and 0 < decodes < count:
            parts = [slice(0, decodes), slice(decodes, count)]
        for window in dict.fromkeys(place.window for place in places):
            layers = [layer for layer, place in enumerate(places) if place.window == window]
            for part in parts:
                start = sum(each.tokens for each in step.sequences[: part.start])
                end = start + sum(each.tokens for each in step.sequences[part])
                self._plan(part, rows.take(slice(start, end)), window, layers)

    def __call__(self, layer: int) -> None:
        """Attend in this layer."""
        for call in self._calls[layer]:
            call()

    def _plan(self, part: slice, rows: Rows, window: int | None, layers: list[int]) -> None:
        pool = self._pool(part, rows, window, layers)
        backend = self._choose(pool.case).backend
        self.backends.add(backend.name)
        if isinstance(backend, SdpaAttention) and pool.case.q == pool.case.kv:
            # It reads the keys and values that the step has just computed, before they are in pages.
            fresh = backend.over_prompts(rows.query, rows.key, rows.value, pool.case.q)
            for layer in layers:
                self._calls[layer].append(_into(rows.out, pool.case.q, fresh))
            return
        call = backend.prepare(pool)
        for location, layer in enumerate(layers):
            self._calls[layer].append(_into(rows.out, pool.case.q, _at(call, location)))

    def _pool(self, part: slice, rows: Rows, window: int | None, layers: list[int]) -> KvPool:
        """Return the layers of a step as locations of one pool."""
        import torch

        memory, sequences = self._memory, self._step.sequences[part]
        q = tuple(each.tokens for each in sequences)
        kv = tuple(each.length for each in sequences)
        store, device = memory.store, memory.key.device
        heads = (rows.query.shape[1], *store.key.shape[1:])
        starts = np.concatenate(([0], np.cumsum(q))).astype(np.int32)
        return KvPool(
            case=Case(
                q=q, kv=kv, heads=heads, page=memory.layout.page, window=window, layout=memory.layout.layout,
                dtype=self._dtype, kv_dtype=store.kv_dtype,
            ),
            query=rows.query, key=memory.key, value=memory.value, scale=store.scale,
            tables=memory.tables(self._step, part, layers),
            q_start=torch.from_numpy(starts).to(device),
            kv_len=torch.tensor(kv, dtype=torch.int32, device=device), out=rows.out,
        )  # fmt: skip


def _at(call: Callable[[int], object], location: int) -> Callable[[], object]:
    return lambda: call(location)


def _into(out: torch.Tensor, q: tuple[int, ...], call: Callable[[], object]) -> Callable[[], None]:
    """Return a call whose result is in `out`: copied where the backend has outputs of its own."""

    import torch

    rows_of = torch.split_with_sizes(out, q)

    def attend() -> None:
        found = call()
        if found is out:
            return
        if isinstance(found, list):
            for rows, part in zip(rows_of, found, strict=True):
                rows.copy_(part)
        else:
            out.copy_(found)  # type: ignore[arg-type]

    return attend
