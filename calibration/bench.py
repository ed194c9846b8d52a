"""Makes planned points ready to be called on a device: picks and checks kernels, places KV, draws weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from kvsim.calibration.backends import AttentionBackend, Chooser, profiled_kernels
from kvsim.calibration.case import Case
from kvsim.calibration.gemm_shapes import heads_per_gpu
from kvsim.calibration.grid import Extent, Planned
from kvsim.calibration.kv_pool import place
from kvsim.calibration.kv_store import KvStore, cold_locations
from kvsim.calibration.ops import ModelOps, OpName
from kvsim.calibration.points import Point
from kvsim.errors import InputError
from kvsim.model import Model
from kvsim.policy import Span

if TYPE_CHECKING:
    import torch

MOST_CALLS = 512
"""Of one replay; a small point that would need more to leave the cache says that it was warm."""
WARM_CALLS = 16
"""Of kernels that read nothing cold."""
MOST_POOL_BYTES = 16 << 30
SMOKE_POOL_BYTES = 64 << 20


class Ready(NamedTuple):
    """A point that only lacks its times."""

    point: Point
    call: Callable[[int], object]
    calls: int
    """Places to go round."""
    eager: bool = False


class Bench(Protocol):
    """A device with kernels on it, real or made up."""

    def check(self, planned: Planned) -> None:
        """Check its kernel against the definition, once a kind; raises BackendRefusedError when none is right."""

    def prepare(self, planned: Planned) -> Ready:
        """Allocate and draw what the call needs."""


class TorchBench:
    """One model's kernels on one device."""

    def __init__(
        self, model: Model, *, device: torch.device, extent: Extent, backend: str = "auto",
        tensor_parallel_size: int = 1, l2_bytes: int = 0, seed: int = 0,
    ) -> None:  # fmt: skip
        """Use `backend` where it supports the case, else the best there is."""
        self._device, self._extent, self._seed = device, extent, seed
        self._l2_bytes = l2_bytes
        self._asked = None if backend == "auto" else Chooser(device, backend, seed=seed)
        self._best = Chooser(device, seed=seed)
        self._store: KvStore | None = None
        self._kernels: dict[object, tuple[str, ...]] = {}
        self.notes: dict[str, int] = {}
        """What the profile must say: kernels refused, and points that the asked one does not support."""
        self._ops = ModelOps(
            model, device=device, dtype=extent.dtype, kv_dtype=extent.kv_dtype, l2_bytes=l2_bytes,
            tensor_parallel_size=tensor_parallel_size, kv_tokens=min(extent.pool_tokens, 1 << 17), seed=seed,
        )  # fmt: skip

    def check(self, planned: Planned) -> None:
        """Check the attention kernel of this kind of case; other kernels are torch's own or tested beside ours."""
        if planned.case is not None:
            for case in _launched(planned):
                self._choose(case)

    def prepare(self, planned: Planned) -> Ready:
        """Return attention over as many places as keep the cache cold, or the named kernel."""
        return self._operation(planned) if planned.case is None else self._attention(planned, planned.case)

    def _attention(self, planned: Planned, case: Case) -> Ready:
        store = self._pool()
        wanted = cold_locations(case.unique_kv_bytes, self._l2_bytes, least=8 if self._l2_bytes else 2)
        locations = min(wanted, store.locations(case), MOST_CALLS)
        pool = place(case, store, locations, self._seed + sum(case.kv))
        parts = [pool.take(picked) for picked in _picked(planned)] if planned.two_launches else [pool]
        chosen = [self._choose(part.case) for part in parts]
        calls = [backend.prepare(part) for (backend, _), part in zip(chosen, parts, strict=True)]
        backend = "+".join(dict.fromkeys(each.name for each, _ in chosen))
        point = replace(
            case_point(planned, case),
            backend=backend,
            cold=(locations - 1) * case.unique_kv_bytes >= self._l2_bytes > 0,
            rel_err=max(error for _, error in chosen),
            kernels=self._seen(lambda: calls[0](0), (backend, case.op, case.page, case.window)),
        )
        if len(calls) == 1:
            return Ready(point, calls[0], locations)
        return Ready(point, lambda index: [call(index) for call in calls], locations)

    def _operation(self, planned: Planned) -> Ready:
        made = self._ops.build(cast(OpName, planned.name), planned.m)
        is_launch = made.op == "launch"
        point = Point(
            id=planned.id, set=planned.set, op=made.op, ns=(), name="kernel" if is_launch else made.name,
            m=made.m, n=made.n, k=made.k, dtype=self._extent.dtype, kv_dtype=self._extent.kv_dtype,
            backend="torch", held_out=planned.held_out, cold=made.locations > 1 and self._l2_bytes > 0,
            kernels=self._seen(lambda: made.call(0), planned.name),
        )  # fmt: skip
        calls = min(made.locations, MOST_CALLS) if made.locations > 1 else WARM_CALLS
        if self._l2_bytes == 0:
            calls = min(calls, 2)
        return Ready(point, made.call, calls, is_launch)

    def _choose(self, case: Case) -> tuple[AttentionBackend, float]:
        """Return the backend asked for and its error, or the best one when it does not support the case."""
        if self._asked is not None:
            try:
                asked = self._asked(case)
                return asked.backend, asked.error
            except InputError as error:
                self._note(f"{str(error).partition(' (')[2].rstrip(')')}; timed with another kernel")
        found = self._best(case)
        for line in found.refused:
            self._note(line)
        return found.backend, found.error

    def _note(self, line: str) -> None:
        self.notes[line] = self.notes.get(line, 0) + 1

    def _pool(self) -> KvStore:
        if self._store is None:
            _, kv_heads, size = self._extent.heads
            self._store = KvStore(
                tokens=self._extent.pool_tokens, kv_heads=kv_heads, head_size=size,
                kv_dtype=self._extent.kv_dtype, device=self._device, seed=self._seed,
            )  # fmt: skip
        return self._store

    def _seen(self, call: Callable[[], object], key: object) -> tuple[str, ...]:
        """Return the names of the kernels that run, looked at once a kind."""
        if key not in self._kernels:
            self._kernels[key] = profiled_kernels(call, self._device)
        return self._kernels[key]


def case_point(planned: Planned, case: Case) -> Point:
    """Return the point of a case without its times."""
    followers = max(0, len(case.kv) - case.groups)
    return Point(
        id=planned.id, set=planned.set, op=case.op, ns=(), q=case.q, kv=case.kv, heads=case.heads,
        layout=case.layout, page=None if case.layout == "contiguous" else case.page, window=case.window,
        shared_tokens=case.prefix * followers, dtype=case.dtype, kv_dtype=case.kv_dtype,
        held_out=planned.held_out, flags=("two-launches", "rejected") if planned.two_launches else (),
    )  # fmt: skip


def _picked(planned: Planned) -> list[tuple[int, ...]]:
    """Return which sequences the chunk kernel and the decode kernel take."""
    assert planned.case is not None
    q = planned.case.q
    return [
        tuple(index for index, count in enumerate(q) if (count == 1) == is_decode)
        for is_decode in (False, True)
    ]


def _launched(planned: Planned) -> list[Case]:
    assert planned.case is not None
    if not planned.two_launches:
        return [planned.case]
    return [planned.case.take(picked) for picked in _picked(planned)]


def extent_of(
    model: Model, *, tensor_parallel_size: int, kv_dtype: str, block_size: int, smoke: bool, free_bytes: int
) -> Extent:
    """Return what bounds the grid: four tenths of the free memory hold KV, 16 GiB at most."""
    heads = heads_per_gpu(model, tensor_parallel_size)
    probe = Case(q=(1,), kv=(1,), heads=heads, page=block_size, dtype=model.dtype, kv_dtype=kv_dtype)
    most = SMOKE_POOL_BYTES if smoke else min(MOST_POOL_BYTES, int(0.4 * free_bytes))
    tokens = most // probe.token_bytes
    if smoke:
        tokens = min(tokens, 16384)
    return Extent(
        heads=heads, pool_tokens=tokens, longest=model.max_position_embeddings, dtype=model.dtype,
        kv_dtype=probe.kv_dtype, page=block_size, windows=model_windows(model.spans), smoke=smoke,
    )  # fmt: skip


def model_windows(spans: tuple[Span, ...]) -> tuple[int, ...]:
    """Return the distinct windows of a model's layers."""
    return tuple(sorted({span.window for span in spans if span.window is not None}))
