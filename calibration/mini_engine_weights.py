"""Random weights in a model's shapes, for all layers or for a few sets that layers take in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kvsim.calibration.gemm_shapes import gemm_shapes
from kvsim.calibration.kv_store import torch_dtype
from kvsim.model import Model

if TYPE_CHECKING:
    import torch

COLD = 5
"""How many times the L2 cache has to pass by between two uses of a weight for it to be cold."""


class LayerWeights(NamedTuple):
    """One layer: matrices are [n, k], used transposed."""

    norm: torch.Tensor
    """Before attention, [hidden]."""
    qkv: torch.Tensor
    o: torch.Tensor
    ffn_norm: torch.Tensor
    """Before the feed-forward network, [hidden]."""
    gate_up: torch.Tensor
    down: torch.Tensor


def layer_bytes(model: Model) -> int:
    """Return the bytes of one layer's matrices."""
    element = torch_dtype(model.dtype).itemsize
    return element * sum(n * k for name, (n, k) in gemm_shapes(model).items() if name != "lm_head")


def outer_bytes(model: Model) -> int:
    """Return the bytes of the embedding and the LM head."""
    shape = gemm_shapes(model)["lm_head"]
    return (1 if model.tied_embeddings else 2) * torch_dtype(model.dtype).itemsize * shape.n * shape.k


def sets_that_fit(model: Model, free_bytes: int) -> int:
    """Return how many sets of layer weights take at most half of the free memory, from 1 to all layers."""
    left = free_bytes // 2 - outer_bytes(model)
    return max(1, min(model.layers, left // layer_bytes(model)))


def is_cold(model: Model, sets: int, l2_bytes: int) -> bool:
    """Tell whether a weight has left the L2 cache by the time it is read again."""
    rounds = sets * layer_bytes(model) + (outer_bytes(model) if sets >= model.layers else 0)
    return l2_bytes > 0 and rounds >= COLD * l2_bytes


class Weights:
    """Embedding, layers and LM head, drawn so that every product's output stays near 1."""

    def __init__(self, model: Model, *, device: torch.device, sets: int, seed: int) -> None:
        """Draw `sets` sets of layer weights; layer i has set i mod `sets`."""
        import torch

        self.model, self.device = model, device
        self._generator = torch.Generator(device=device).manual_seed(seed)
        shapes = gemm_shapes(model)
        rows = shapes["lm_head"].n
        self.embedding = self._drawn(rows, model.hidden)
        self.head = self.embedding if model.tied_embeddings else self._matrix(rows, model.hidden)
        self.final_norm = self._gain(model.hidden)
        matrices = {name: shape for name, shape in shapes.items() if name != "lm_head"}
        self._sets = [
            LayerWeights(
                norm=self._gain(model.hidden),
                ffn_norm=self._gain(model.hidden),
                **{name: self._matrix(n, k) for name, (n, k) in matrices.items()},
            )
            for _ in range(sets)
        ]

    def layer(self, number: int) -> LayerWeights:
        """Return the weights of a layer."""
        return self._sets[number % len(self._sets)]

    def _matrix(self, n: int, k: int) -> torch.Tensor:
        return self._drawn(n, k).mul_(k**-0.5)

    def _gain(self, size: int) -> torch.Tensor:
        return self._drawn(size).mul_(0.1).add_(1)

    def _drawn(self, *shape: int) -> torch.Tensor:
        import torch

        empty = torch.empty(shape, dtype=torch_dtype(self.model.dtype), device=self.device)
        return empty.normal_(generator=self._generator)
