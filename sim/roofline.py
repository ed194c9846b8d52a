"""Step cost from a datasheet: what the model moves and computes against what the GPU can, assumed."""

from __future__ import annotations

from dataclasses import dataclass

from kvsim.cost import Line, Step
from kvsim.errors import InputError
from kvsim.gpu import Gpu
from kvsim.model import Model
from kvsim.policy import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """Shares of the datasheet's rates that real kernels reach.

    One set for all cards, from fits to published kernel tables of H100, H200, A100, B200 and L40S (NVIDIA
    aiconfigurator): weights are read at 0.69 to 0.77 of the bandwidth, KV at 0.77 to 0.90, large GEMMs reach
    0.63 to 0.85 of the FLOP rate, prefill attention 0.55 to 0.68; an attention kernel takes 9 to 17 µs plus 0.05
    to 0.15 µs a sequence, per layer. A bare datasheet (all ones) is 35 to 42 % too fast.
    """

    weight_bandwidth: float = 0.72
    kv_bandwidth: float = 0.85
    gemm: float = 0.75
    prefill_attention: float = 0.6
    attention_seconds: float = 11e-6
    sequence_seconds: float = 0.15e-6
    blend: float = 3.0
    """p in (memory^p + compute^p)^(1/p)."""


class RooflineCost:
    """GEMMs by a smooth roofline, attention by KV bytes read or FLOPs, summed over the layers.

        GEMM      = (memory^p + compute^p)^(1/p), memory = touched weight bytes / bandwidth,
                    compute = 2 · active parameters · tokens / FLOP rate
        decode    = Σ spans layers·(t0 + s·n) + KV bytes read / bandwidth
        prefill   = Σ spans layers·t0 + 4 · heads · head size · area / FLOP rate + KV bytes read / bandwidth

    All-reduces and host time are left out.
    """

    def __init__(
        self,
        model: Model,
        gpu: Gpu,
        spans: tuple[Span, ...],
        *,
        kv_cache_dtype: str = "auto",
        tensor_parallel_size: int = 1,
        efficiency: Efficiency | None = None,
    ) -> None:
        """`spans` are the layers by the window they attend to, as in `Policy.attention`."""
        rate = gpu.fp8_flops if model.weight_dtype == "fp8" and gpu.fp8_flops else gpu.bf16_flops
        if rate is None:
            raise InputError(f"roofline: the table has no dense bf16 rate for {gpu.name}")
        self._efficiency = e = efficiency or Efficiency()
        layers = sum(span.weight for span in spans)
        token_bytes = model.kv_bytes_per_token(kv_cache_dtype, tensor_parallel_size) / model.layers
        scale = model.layers / layers
        self._sees_all = [span.window for span in spans] == [None]
        self._layers = tuple(span.weight * scale for span in spans)
        self._per_context = tuple(
            count * token_bytes / (e.kv_bandwidth * gpu.bandwidth) for count in self._layers
        )
        width = model.heads * _score_width(model) / tensor_parallel_size
        self._per_area = tuple(count * 2 * width / (e.prefill_attention * rate) for count in self._layers)
        self._model_layers = model.layers
        active = (model.active_parameters - model.embedding_parameters) / tensor_parallel_size
        self._weights = _WeightTraffic(model, tensor_parallel_size, e.weight_bandwidth * gpu.bandwidth)
        self._per_token = 2 * active / (e.gemm * rate)
        self._name = f"roofline:{gpu.name}"

    @property
    def label(self) -> str:
        """Say that this is an assumption."""
        return f"{self._name} (assumed: datasheet rates times typical efficiencies)"

    def decode_line(self, decodes: int, context: int) -> Line | None:
        """Return the line for so many decodes; None where some layer has a window."""
        del context
        if not self._sees_all:
            return None
        nothing = Step(decodes, 0, decodes, (0,))
        return Line(self.seconds(nothing), self._per_context[0], 1 << 62)

    def seconds(self, step: Step) -> float:
        """Return GEMM time plus attention time."""
        e = self._efficiency
        memory = self._weights.seconds(step.tokens)
        compute = self._per_token * step.tokens
        time: float = (memory**e.blend + compute**e.blend) ** (1 / e.blend)
        if step.decodes:
            time += self._model_layers * (e.attention_seconds + e.sequence_seconds * step.decodes)
            for each, context in zip(self._per_context, step.decode_context, strict=True):
                time += each * context
        if step.prefills:
            time += self._model_layers * e.attention_seconds
            for each, context in zip(self._per_context, step.prefill_context, strict=True):
                time += each * context
            for each, area in zip(self._per_area, step.prefill_area, strict=True):
                time += each * area
        return time


class _WeightTraffic:
    """Weight bytes a step reads: all of a dense model, of experts those that some token was sent to."""

    def __init__(self, model: Model, tensor_parallel_size: int, bytes_per_second: float) -> None:
        per_parameter = model.weight_bytes / model.parameters
        lookup = 0 if model.tied_embeddings else model.vocab * model.hidden
        whole = (model.parameters - lookup) * per_parameter / tensor_parallel_size / bytes_per_second
        self._experts = model.experts
        if model.experts is None:
            self._always, self._routed = whole, 0.0
        else:
            share = 1 - model.experts.active / model.experts.total
            self._routed = (model.parameters - model.active_parameters) / share * per_parameter
            self._routed /= tensor_parallel_size * bytes_per_second
            self._always = whole - self._routed

    def seconds(self, tokens: int) -> float:
        """Return the time to read them once; tokens choose experts independently."""
        if self._experts is None:
            return self._always
        missed = (1 - self._experts.active / self._experts.total) ** tokens
        return self._always + self._routed * (1 - missed)


def _score_width(model: Model) -> float:
    """Return FLOPs / 2 per head, query and key: q·k and p·v."""
    if model.latent is not None:
        return model.latent.nope_dim + model.latent.rope_dim + model.latent.value_dim
    return 2 * model.head_dim
