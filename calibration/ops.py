"""The kernels of a step besides attention, in a model's own shapes, ready to be called and timed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from kvsim.calibration import small_kernels
from kvsim.calibration.gemm_shapes import gemm_shapes, heads_per_gpu
from kvsim.calibration.kv_store import KvStore, cold_locations, torch_dtype
from kvsim.calibration.points import Op
from kvsim.errors import InputError, nearest
from kvsim.model import Model

if TYPE_CHECKING:
    import torch

OpName = Literal[
    "qkv", "o", "gate_up", "down", "lm_head",
    "norm", "rope", "activation", "embedding", "final_norm", "kv_write", "sampler", "launch",
]  # fmt: skip


class TimedOp(NamedTuple):
    """One kernel at one size; `op`, `name`, `m`, `n` and `k` are those of its `Point`."""

    op: Op
    name: str
    m: int
    """Tokens; rows that sample for lm_head and sampler."""
    n: int
    k: int
    memory_bytes: int
    """Least bytes that a cold call moves to and from memory: weights or scattered rows once, activations not."""
    flops: int
    """2·m·n·k of a product, else 0."""
    locations: int
    """Places of weights or KV that successive calls go round; on a full round 5 · L2 of other data pass by."""
    call: Callable[[int], torch.Tensor]
    """`call(i)` launches the kernel once at place i mod `locations` and allocates nothing on CUDA."""


class ModelOps:
    """Makes a model's kernels on one device; weights are drawn once a name and kept until `forget`.

    What is cold when serving is rotated: weight matrices, rows of the embedding, places of the KV write. What the
    previous kernel has just written is not: activations and logits. `norm` is fused with the residual's addition, as
    engines do it, and `final_norm` is the same kernel once a step; there is no separate residual kernel.
    """

    def __init__(
        self, model: Model, *, device: torch.device, dtype: str = "bf16", kv_dtype: str = "", l2_bytes: int,
        tensor_parallel_size: int = 1, kv_tokens: int = 1 << 17, seed: int = 0,
    ) -> None:  # fmt: skip
        """Take one GPU's share of the model; `kv_tokens` is the size of the pool that the KV write scatters into."""
        import torch

        self._shapes = gemm_shapes(model, tensor_parallel_size)
        self._heads = heads_per_gpu(model, tensor_parallel_size)
        self._model = model
        self._ffn = self._shapes["down"].k
        self._device, self._dtype, self._kv_dtype = device, dtype, kv_dtype or dtype
        self._l2_bytes, self._kv_tokens, self._seed = l2_bytes, kv_tokens, seed
        self._generator = torch.Generator(device=device).manual_seed(seed)
        self._weights: dict[str, list[torch.Tensor]] = {}
        self._store: KvStore | None = None

    def build(self, name: OpName, m: int) -> TimedOp:
        """Allocate the activations of `m` rows and return the kernel."""
        if m < 1:
            raise InputError(f"op {name}: m must be ≥ 1 row, got {m}")
        if name in self._shapes:
            return self._gemm(name, m)
        makers: dict[str, Callable[[int], TimedOp]] = {
            "norm": partial(self._norm, "norm"),
            "final_norm": partial(self._norm, "final_norm"),
            "rope": self._rope,
            "activation": self._activation,
            "embedding": self._embedding,
            "kv_write": self._kv_write,
            "sampler": self._sampler,
            "launch": self._launch,
        }
        if name not in makers:
            known = [*self._shapes, *makers]
            raise InputError(f"op must be one of {', '.join(known)}, got {name!r}{nearest(name, known)}")
        return makers[name](m)

    def forget(self, name: str) -> None:
        """Free the weights of one kernel, or the KV pool of `kv_write`."""
        self._weights.pop(name, None)
        if name == "kv_write":
            self._store = None

    def _gemm(self, name: str, m: int) -> TimedOp:
        import torch

        n, k = self._shapes[name]
        weights = self._rotated(name, n, k)
        x, out = self._drawn(m, k), self._drawn(m, n)
        transposed = [weight.t() for weight in weights]

        def call(location: int) -> torch.Tensor:
            return torch.mm(x, transposed[location % len(transposed)], out=out)

        op: Op = "lm_head" if name == "lm_head" else "gemm"
        return TimedOp(op, name, m, n, k, n * k * x.element_size(), 2 * m * n * k, len(weights), call)

    def _norm(self, name: str, m: int) -> TimedOp:
        hidden = self._model.hidden
        x, residual, weight = self._drawn(m, hidden), self._drawn(m, hidden), self._drawn(hidden)
        return self._elementwise(name, m, small_kernels.add_norm(x, residual, weight))

    def _rope(self, m: int) -> TimedOp:
        import torch

        heads, kv_heads, size = self._heads
        most = self._model.max_position_embeddings
        position = torch.randint(most, (m,), generator=self._generator, device=self._device)
        turned = small_kernels.rope(self._drawn(m, heads + kv_heads, size), position, most)
        return self._elementwise("rope", m, turned)

    def _activation(self, m: int) -> TimedOp:
        if not self._model.gated:
            return self._elementwise("activation", m, small_kernels.gelu(self._drawn(m, self._ffn)))
        return self._elementwise("activation", m, small_kernels.silu_mul(self._drawn(m, 2 * self._ffn)))

    def _embedding(self, m: int) -> TimedOp:
        import torch

        hidden = self._model.hidden
        table = self._kept("embedding", lambda: [self._drawn(self._shapes["lm_head"].n, hidden)])[0]
        row_bytes = m * hidden * table.element_size()
        locations = cold_locations(row_bytes, self._l2_bytes)
        ids = torch.randint(len(table), (locations, m), generator=self._generator, device=self._device)
        out = self._drawn(m, hidden)

        def call(location: int) -> torch.Tensor:
            return torch.index_select(table, 0, ids[location % locations], out=out)

        return TimedOp("elementwise", "embedding", m, 0, 0, row_bytes, 0, locations, call)

    def _kv_write(self, m: int) -> TimedOp:
        import torch

        _, kv_heads, size = self._heads
        if m > self._kv_tokens:
            raise InputError(f"op kv_write: m must be at most the pool's {self._kv_tokens} tokens, got {m}")
        if self._store is None:
            self._store = KvStore(
                tokens=self._kv_tokens, kv_heads=kv_heads, head_size=size, kv_dtype=self._kv_dtype,
                device=self._device, seed=self._seed,
            )  # fmt: skip
        order = torch.randperm(self._kv_tokens, generator=self._generator, device=self._device)
        places = order[: self._kv_tokens // m * m].view(-1, m)
        key, value = (self._drawn(m, kv_heads, size) for _ in range(2))
        call = small_kernels.kv_write(key, value, places, self._store)
        moved = 2 * m * kv_heads * size * self._store.key.element_size()
        return TimedOp("kv_write", "kv_write", m, 0, 0, moved, 0, len(places), call)

    def _sampler(self, m: int) -> TimedOp:
        import torch

        logits = self._drawn(m, self._shapes["lm_head"].n)
        out = torch.empty(m, dtype=torch.int64, device=self._device)
        return TimedOp(
            "sampler", "sampler", m, 0, 0, 0, 0, 1, lambda _: torch.argmax(logits, dim=-1, out=out)
        )

    def _launch(self, m: int) -> TimedOp:
        return TimedOp("launch", "empty", m, 0, 0, 0, 0, 1, small_kernels.nothing(self._device))

    def _elementwise(self, name: str, m: int, call: Callable[[int], torch.Tensor]) -> TimedOp:
        return TimedOp("elementwise", name, m, 0, 0, 0, 0, 1, call)

    def _rotated(self, name: str, n: int, k: int) -> list[torch.Tensor]:
        """Return copies of a weight [n, k], drawn apart; enough that a read comes 5 · L2 after the last of it."""
        element = torch_dtype(self._dtype).itemsize
        copies = cold_locations(n * k * element, self._l2_bytes, least=2)
        scale = k**-0.5  # keeps outputs near 1, so that none overflows
        return self._kept(name, lambda: [self._drawn(n, k).mul_(scale) for _ in range(copies)])

    def _kept(self, name: str, draw: Callable[[], list[torch.Tensor]]) -> list[torch.Tensor]:
        if name not in self._weights:
            self._weights[name] = draw()
        return self._weights[name]

    def _drawn(self, *shape: int) -> torch.Tensor:
        import torch

        empty = torch.empty(shape, dtype=torch_dtype(self._dtype), device=self._device)
        return empty.normal_(generator=self._generator)
