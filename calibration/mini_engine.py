"""A mini engine: the layers of a model with random weights, executing steps that the simulator scheduled.

It schedules nothing and has no tokenizer, no weights worth having and no batching of its own; what it runs are the
kernels that a profile is fitted to, in the order of a step, over a real block pool.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kvsim.calibration import small_kernels
from kvsim.calibration.cost import CAPTURED
from kvsim.calibration.fidelity_steps import ScheduledStep
from kvsim.calibration.mini_engine_attention import Choose, Rows, StepAttention
from kvsim.calibration.mini_engine_memory import EngineMemory
from kvsim.calibration.mini_engine_weights import Weights

if TYPE_CHECKING:
    import torch


class Prepared(NamedTuple):
    """A step that only lacks its execution."""

    run: Callable[[int], torch.Tensor]
    """Executes it, whatever the argument, and returns `sampled`; allocates nothing that outlives the call."""
    logits: torch.Tensor
    """[sequences, vocabulary], of each sequence's last token in the step."""
    sampled: torch.Tensor
    """[sequences] int64: the likeliest next token."""
    rows: int
    """Tokens that products compute, padding included."""
    is_captured: bool
    """Whether an engine would replay it as a CUDA graph."""
    backends: tuple[str, ...]
    """Attention kernels."""


class _Buffers:
    """What flows between the kernels of a step; each kernel overwrites its own at every layer."""

    def __init__(self, weights: Weights, rows: int, tokens: int, kv_shape: tuple[int, ...]) -> None:
        import torch

        model, layer = weights.model, weights.layer(0)
        kv_heads, size = kv_shape
        turned = model.heads + kv_heads

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=weights.embedding.dtype, device=weights.device)

        self.x, self.nothing, self.stream, self.normed = (zeros(rows, model.hidden) for _ in range(4))
        self.qkv, self.gate_up = zeros(rows, len(layer.qkv)), zeros(rows, len(layer.gate_up))
        self.key, self.attended = zeros(rows, kv_heads, size), zeros(rows, model.heads * size)
        self.heads = self.qkv[:, : turned * size].view(rows, turned, size)
        """Queries and keys of `qkv`, before they are turned."""
        self.value = self.qkv[:, turned * size :].view(rows, kv_heads, size)[:tokens]
        self.out = self.attended.view(rows, model.heads, size)[:tokens]


class MiniEngine:
    """Executes steps over one memory layout; engines of several layouts can share weights and store."""

    def __init__(
        self, weights: Weights, memory: EngineMemory, choose: Choose, *, most_positions: int, fuses: bool
    ) -> None:  # fmt: skip
        """`most_positions` bounds a sequence; `fuses`: one attention launch for prompts and decodes together."""
        self.weights, self.memory = weights, memory
        self._choose, self._most, self._fuses = choose, most_positions, fuses

    def prepare(self, step: ScheduledStep, ids: np.ndarray) -> Prepared:
        """Allocate and plan a step that computes these token ids, in the order of its sequences."""
        import torch

        weights, memory = self.weights, self.memory
        model, device, tokens = weights.model, weights.device, step.tokens
        rows, is_captured = padded_rows(tokens)
        buffers = _Buffers(weights, rows, tokens, tuple(memory.store.key.shape[1:]))
        position = torch.zeros(rows, dtype=torch.int64, device=device)
        position[:tokens] = torch.from_numpy(_positions(step)).to(device)
        query_of = small_kernels.rope(buffers.heads, position, self._most, buffers.key)
        query = query_of(0)[:tokens]  # every call fills the same tensor
        live = Rows(query, buffers.key[:tokens], buffers.value, buffers.out)
        attention = StepAttention(
            step, live, memory=memory, choose=self._choose, dtype=model.dtype, fuses=self._fuses
        )
        write = small_kernels.kv_write(live.key, live.value, memory.slots(step), memory.store)
        calls = [*self._embed(buffers, ids), *self._layers(buffers, query_of, write, attention)]
        head, logits, sampled = self._head(buffers, step)
        calls += head

        def run(_: int) -> torch.Tensor:
            for call in calls:
                call()
            return sampled

        return Prepared(run, logits, sampled, rows, is_captured, tuple(sorted(attention.backends)))

    def _embed(self, buffers: _Buffers, ids: np.ndarray) -> list[Callable[[], object]]:
        import torch

        padded = torch.zeros(len(buffers.x), dtype=torch.int64, device=self.weights.device)
        padded[: len(ids)] = torch.from_numpy(ids).to(self.weights.device)
        return [partial(torch.index_select, self.weights.embedding, 0, padded, out=buffers.x)]

    def _layers(
        self, buffers: _Buffers, rope: small_kernels.Call, write: small_kernels.Call, attention: StepAttention
    ) -> list[Callable[[], object]]:  # fmt: skip
        """Return the kernels of all layers; `x` holds what a layer's halves add to the residual stream."""
        import torch

        weights, x, normed = self.weights, buffers.x, buffers.normed
        is_gated = weights.model.gated
        activate = (small_kernels.silu_mul if is_gated else small_kernels.gelu)(buffers.gate_up)
        active = activate(0)  # every call fills the same tensor
        calls: list[Callable[[], object]] = []
        for number in range(weights.model.layers):
            layer = weights.layer(number)
            before = buffers.stream if number else buffers.nothing
            calls += [
                _norm(x, before, layer.norm, buffers),
                partial(torch.mm, normed, layer.qkv.t(), out=buffers.qkv),
                partial(rope, 0),
                partial(write, number),
                partial(attention, number),
                partial(torch.mm, buffers.attended, layer.o.t(), out=x),
                _norm(x, buffers.stream, layer.ffn_norm, buffers),
                partial(torch.mm, normed, layer.gate_up.t(), out=buffers.gate_up),
                partial(activate, 0),
                partial(torch.mm, active, layer.down.t(), out=x),
            ]
        return [*calls, _norm(x, buffers.stream, weights.final_norm, buffers)]

    def _head(
        self, buffers: _Buffers, step: ScheduledStep
    ) -> tuple[list[Callable[[], object]], torch.Tensor, torch.Tensor]:
        """Return the kernels from the last norm to the sampled tokens, with logits and tokens."""
        import torch

        weights, count = self.weights, len(step.sequences)
        logits = buffers.x.new_empty((count, len(weights.head)))
        sampled = torch.zeros(count, dtype=torch.int64, device=weights.device)
        calls: list[Callable[[], object]] = []
        if step.tokens == count:
            last = buffers.normed[:count]
        else:
            ends = np.cumsum([each.tokens for each in step.sequences]) - 1
            place = torch.from_numpy(ends).to(weights.device)
            last = buffers.normed.new_empty((count, buffers.normed.shape[1]))
            calls.append(partial(torch.index_select, buffers.normed, 0, place, out=last))
        calls.append(partial(torch.mm, last, weights.head.t(), out=logits))
        calls.append(partial(torch.argmax, logits, dim=-1, out=sampled))
        return calls, logits, sampled


def padded_rows(tokens: int) -> tuple[int, bool]:
    """Return the rows that products compute, and whether the step is one that engines capture as a graph."""
    if tokens > CAPTURED[-1]:
        return tokens, False
    return next(size for size in CAPTURED if size >= tokens), True


def _norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, buffers: _Buffers
) -> Callable[[], object]:
    return partial(small_kernels.add_norm(x, residual, weight, buffers.stream, buffers.normed), 0)


def _positions(step: ScheduledStep) -> np.ndarray:
    return np.concatenate([np.arange(each.length - each.tokens, each.length) for each in step.sequences])
