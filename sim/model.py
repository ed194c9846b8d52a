"""What a model is to a KV cache: its shape, what a token costs in it, what its weights take."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from kvsim.errors import InputError
from kvsim.policy import Span

KV_BITS = {
    "fp32": (32, 0),
    "fp16": (16, 0),
    "bf16": (16, 0),
    "fp8": (8, 0),
    "int8": (8, 2),
    "int4": (4, 2),
    "int2": (2, 2),
    "int4-g64": (4, 4),
    "int4-g32": (4, 4),
    "int2-g64": (2, 4),
    "int2-g32": (2, 4),
}
"""By KV dtype: bits an element, and bytes of scale for each group of elements, once for K and once for V.

int8, int4 and int2 carry one fp16 scale per head per token for K and another for V (MLA: one for the latent);
those of KV_GROUPS an fp16 scale and an fp16 zero point for each group, as KIVI does (arXiv 2402.02750; the last
tokens, which it keeps in 16 bits, are not counted). fp8 has one scale a tensor, which costs no memory worth counting.
"""

KV_GROUPS = {"int4-g64": 64, "int4-g32": 32, "int2-g64": 64, "int2-g32": 32}
"""Elements that share a scale, where that is not a whole head of a token."""

WEIGHT_BITS = {
    "fp32": 32.0,
    "fp16": 16.0,
    "bf16": 16.0,
    "fp8": 8.0,
    "int8": 8.0,
    "int4": 4.15625,
    "mxfp4": 4.25,
}
"""Bits a weight. Quantised dtypes apply to the layers; embeddings stay at two bytes.

int4 is AWQ's and GPTQ's layout: an fp16 scale and a 4-bit zero point for 128 weights. mxfp4 has an 8-bit
scale for 32 weights and applies to the experts only, as in gpt-oss.
"""


class LatentAttention(NamedTuple):
    """Multi-head latent attention (MLA): one vector a token and layer for all heads."""

    kv_rank: int
    """Elements of the latent (kv_lora_rank)."""
    rope_dim: int
    """Elements of the shared rotary key (qk_rope_head_dim)."""
    nope_dim: int
    """Elements of a head's key without the rotary part."""
    value_dim: int
    """Elements of a head's value."""
    query_rank: int | None = None
    """Elements of the compressed query; None when queries are not compressed."""


class Experts(NamedTuple):
    """Mixture of experts in place of the feed-forward network."""

    total: int
    """Routed experts in a layer."""
    active: int
    """Routed experts that a token visits."""
    ffn: int
    """Width of one routed expert."""
    shared_ffn: int = 0
    """Width of all experts that every token visits, together."""
    dense_layers: int = 0
    """Layers that keep an ordinary feed-forward network."""


class LayerGroup(NamedTuple):
    """Layers that share a block table; `layers + padding` is equal in all groups."""

    window: int | None
    """Tokens attended to; None for all."""
    layers: int
    """Layers of the model in it."""
    padding: int = 0
    """Places for layers that do not exist, which take memory all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Shape of a decoder-only model, from `models.toml` or a Hugging Face config.json."""

    name: str
    """Built-in name, or that of the configuration file."""
    layers: int
    """Transformer layers."""
    hidden: int
    """Width of the residual stream."""
    heads: int
    """Query heads."""
    kv_heads: int
    """Key and value heads: equal to `heads` (MHA), fewer (GQA) or 1 (MQA)."""
    head_dim: int
    """Elements of a head."""
    ffn: int
    """Width of the feed-forward network in dense layers."""
    vocab: int
    """Rows of the token embedding."""
    max_position_embeddings: int
    """Longest sequence the model was made for, in tokens."""
    gated: bool = True
    """Whether the feed-forward network has three matrices (SwiGLU and kin) or two."""
    tied_embeddings: bool = False
    """Whether input and output embeddings are one matrix."""
    dtype: str = "bf16"
    """What it computes in, and what KV is kept in under `auto`."""
    weight_dtype: str = "bf16"
    """What the weights are kept in."""
    known_weight_bytes: int | None = None
    """Bytes of the weights where they are known better than by count times size."""
    windows: tuple[int | None, ...] = ()
    """Window of each layer, None for full attention; empty when all layers are full."""
    latent: LatentAttention | None = None
    """Set for MLA."""
    experts: Experts | None = None
    """Set for mixture of experts."""
    source: str = ""
    """Where the figures come from."""
    verified: bool = True
    """Whether they were seen in a configuration or two independent listings."""

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be."""
        if self.windows and len(self.windows) != self.layers:
            raise InputError(f"model {self.name}: {len(self.windows)} windows for {self.layers} layers")
        if self.weight_dtype not in WEIGHT_BITS:
            raise InputError(
                f"model {self.name}: weight dtype must be one of {', '.join(WEIGHT_BITS)}, "
                f"got {self.weight_dtype!r}"
            )

    @property
    def spans(self) -> tuple[Span, ...]:
        """Count the layers by window, in the order in which the layers first show them."""
        counted = Counter(self.windows or (None,) * self.layers)
        return tuple(Span(window, count) for window, count in counted.items())

    def layer_groups(self) -> tuple[LayerGroup, ...]:
        """Split the layers into the groups that vLLM gives block tables of their own."""
        return layer_groups(self.spans)

    @property
    def kv_elements_per_token(self) -> int:
        """Numbers kept a token: 2·layers·KV heads·head size; MLA layers·(rank + rope)."""
        if self.latent is not None:
            return self.layers * (self.latent.kv_rank + self.latent.rope_dim)
        return 2 * self.layers * self.kv_heads * self.head_dim

    def kv_bytes_per_token(self, kv_dtype: str = "auto", tensor_parallel_size: int = 1) -> int:
        """Return the bytes one token takes on each GPU, over all layers.

        Scales are included (see KV_BITS). KV heads are divided over the GPUs, and repeated when there are
        fewer of them than GPUs; the latent of MLA is whole on every GPU.
        """
        dtype = self._checked_dtype(kv_dtype)
        bits, scale = KV_BITS[dtype]
        self._check_parallel(tensor_parallel_size)
        if self.latent is not None:
            vectors, elements = 1, self.latent.kv_rank + self.latent.rope_dim
        else:
            vectors, elements = 2 * max(1, self.kv_heads // tensor_parallel_size), self.head_dim
        scales = -(-elements // KV_GROUPS.get(dtype, elements)) * scale
        return self.layers * vectors * (-(-elements * bits // 8) + scales)

    @property
    def embedding_parameters(self) -> int:
        """Count token embeddings and output head, once if tied; no learned positions."""
        return self.vocab * self.hidden * (1 if self.tied_embeddings else 2)

    @property
    def parameters(self) -> int:
        """Count the weights in all matrices; no norms, biases or learned positions."""
        return self._count(self.experts.total if self.experts else 0)

    @property
    def active_parameters(self) -> int:
        """Count the weights that one token meets, embeddings included."""
        return self._count(self.experts.active if self.experts else 0)

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of all weights, over all GPUs."""
        if self.known_weight_bytes is not None:
            return self.known_weight_bytes
        bits = WEIGHT_BITS[self.weight_dtype]
        in_layers = self.parameters - self.embedding_parameters
        if self.weight_dtype == "mxfp4":
            in_layers = self._expert_parameters(self.experts.total if self.experts else 0)
        return int((in_layers * bits + (self.parameters - in_layers) * max(16.0, bits)) / 8)

    def _count(self, experts: int) -> int:
        dense = self.experts.dense_layers if self.experts else self.layers
        ffn = dense * self._matrices * self.hidden * self.ffn + self._expert_parameters(experts)
        if self.experts:
            sparse = self.layers - dense
            ffn += sparse * self.hidden * (self.experts.total + self._matrices * self.experts.shared_ffn)
        return self.embedding_parameters + self.layers * self._attention_parameters + ffn

    def _expert_parameters(self, experts: int) -> int:
        if self.experts is None:
            return 0
        sparse = self.layers - self.experts.dense_layers
        return sparse * experts * self._matrices * self.hidden * self.experts.ffn

    @property
    def _matrices(self) -> int:
        return 3 if self.gated else 2

    @property
    def _attention_parameters(self) -> int:
        if self.latent is None:
            return 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        latent = self.latent
        query_out = self.heads * (latent.nope_dim + latent.rope_dim)
        rank = latent.query_rank
        query = self.hidden * query_out if rank is None else rank * (self.hidden + query_out)
        down = self.hidden * (latent.kv_rank + latent.rope_dim)
        up = latent.kv_rank * self.heads * (latent.nope_dim + latent.value_dim)
        return query + down + up + self.heads * latent.value_dim * self.hidden

    def _checked_dtype(self, kv_dtype: str) -> str:
        name = self.dtype if kv_dtype == "auto" else kv_dtype
        if name not in KV_BITS:
            raise InputError(f"KV cache dtype must be one of auto, {', '.join(KV_BITS)}, got {kv_dtype!r}")
        return name

    def _check_parallel(self, size: int) -> None:
        if size < 1 or self.heads % size:
            raise InputError(
                f"tensor_parallel_size must divide the {self.heads} query heads of {self.name}, got {size}"
            )
        if self.kv_heads % size and size % self.kv_heads:
            raise InputError(
                f"tensor_parallel_size must divide the {self.kv_heads} KV heads of {self.name} or be a "
                f"multiple of them, got {size}"
            )


def layer_groups(spans: tuple[Span, ...]) -> tuple[LayerGroup, ...]:
    """Split layers, counted by window, into groups with block tables of their own as vLLM does (rule H6).

    With n the fewest and m the most layers of a kind, groups have n layers, or m where m < 1.25·n (padding the
    smaller kind then costs less); a kind's last group is padded. Kinds keep their order, that of their first
    layer, so a model that starts with windows (Gemma-3, gpt-oss) has its full group last; it is the order in
    which blocks are taken and freed.
    """
    counts = [span.weight for span in spans]
    fewest, most = min(counts), max(counts)
    size = most if most < 1.25 * fewest else fewest
    groups: list[LayerGroup] = []
    for window, layers in spans:
        for start in range(0, layers, size):
            held = min(size, layers - start)
            groups.append(LayerGroup(window, held, size - held))
    return tuple(groups)
