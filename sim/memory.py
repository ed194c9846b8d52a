"""How many bytes of a GPU are left for KV after weights, activations and the runtime."""

from __future__ import annotations

from dataclasses import dataclass

from kvsim.errors import InputError
from kvsim.gpu import GIB, MIB, Gpu
from kvsim.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget:
    """What may be taken of a GPU's memory, and what is taken before the KV cache."""

    gpu_memory_utilization: float = 0.9
    """Share of the GPU's total memory that the server may use, as vLLM counts it."""
    kv_cache_memory_bytes: int | None = None
    """Bytes for KV by decree; the utilization is then not looked at."""
    num_gpu_blocks_override: int | None = None
    """Blocks by decree; bytes are then not looked at."""
    max_num_batched_tokens: int = 8192
    """Most tokens in one step, which sets the activation peak."""
    non_torch_bytes: int = 256 * MIB
    """Memory of CUDA, NCCL and kernels. Assumed: start-up logs show 0.06 to 0.35 GiB."""
    activation_bytes: int | None = None
    """Peak of intermediate results; None for the estimate of `activation_peak`."""

    def __post_init__(self) -> None:
        """Refuse figures that cannot be."""
        if not 0 < self.gpu_memory_utilization <= 1:
            raise InputError(
                f"gpu_memory_utilization must be above 0 and at most 1, got {self.gpu_memory_utilization}"
            )
        for name in ("kv_cache_memory_bytes", "num_gpu_blocks_override", "max_num_batched_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if self.kv_cache_memory_bytes is not None and self.num_gpu_blocks_override is not None:
            raise InputError("give kv_cache_memory_bytes or num_gpu_blocks_override, not both")


def activation_peak(model: Model, max_num_batched_tokens: int, tensor_parallel_size: int = 1) -> int:
    """Estimate the peak of intermediate results: 6·tokens·(FFN/TP + hidden) bytes.

    Three two-byte buffers of the FFN's width and three of the hidden size for each token of the largest
    step; the width is the widest one token meets. Assumed: start-up logs of Llama-3.1-8B (2.07 and 2.99 GiB
    at 20,000 and 29,000 tokens) and Qwen2.5-7B (1.04 GiB at 8192) follow it, small models with a large
    vocabulary need more.
    """
    width = model.ffn if model.experts is None or model.experts.dense_layers else 0
    if model.experts is not None:
        width = max(width, model.experts.active * model.experts.ffn + model.experts.shared_ffn)
    return 6 * max_num_batched_tokens * (-(-width // tensor_parallel_size) + model.hidden)


def pool_bytes(
    model: Model,
    gpu: Gpu,
    tensor_parallel_size: int = 1,
    budget: MemoryBudget | None = None,
    *,
    block_size: int = 16,
    kv_cache_dtype: str = "auto",
) -> int:
    """Return the bytes each GPU keeps for KV.

    total·utilization − weights − non-torch − activation peak, unless the budget says bytes or blocks.
    Weights are divided evenly over the GPUs. What does not fit is an error with the figures, never a
    clamp. Block size and dtype matter only to a pool given in blocks.
    """
    budget = budget or MemoryBudget()
    token_bytes = model.kv_bytes_per_token(kv_cache_dtype, tensor_parallel_size)
    taken = _weights_taken(model, gpu, tensor_parallel_size)
    if budget.num_gpu_blocks_override is not None:
        return budget.num_gpu_blocks_override * block_size * token_bytes
    if budget.kv_cache_memory_bytes is not None:
        if taken + budget.kv_cache_memory_bytes > gpu.memory_bytes:
            raise InputError(
                f"{_taken(model, gpu, tensor_parallel_size)}; kv_cache_memory_bytes asks for "
                f"{_gib(budget.kv_cache_memory_bytes)} more, which does not fit"
            )
        return budget.kv_cache_memory_bytes
    return _left_for_kv(model, gpu, tensor_parallel_size, budget, taken)


def _weights_taken(model: Model, gpu: Gpu, tensor_parallel_size: int) -> int:
    taken = -(-model.weight_bytes // tensor_parallel_size)
    if taken > gpu.memory_bytes:
        raise InputError(
            f"{_taken(model, gpu, tensor_parallel_size)}; they do not fit, use more GPUs or a smaller weight dtype"
        )
    return taken


def _left_for_kv(
    model: Model, gpu: Gpu, tensor_parallel_size: int, budget: MemoryBudget, weights: int
) -> int:
    activation = budget.activation_bytes
    if activation is None:
        activation = activation_peak(model, budget.max_num_batched_tokens, tensor_parallel_size)
    allowed = int(gpu.memory_bytes * budget.gpu_memory_utilization)
    left = allowed - weights - budget.non_torch_bytes - activation
    if left <= 0:
        raise InputError(
            f"{_taken(model, gpu, tensor_parallel_size)}: nothing is left for KV of the {_gib(allowed)} that "
            f"gpu_memory_utilization {budget.gpu_memory_utilization} allows (activations {_gib(activation)}, "
            f"runtime {_gib(budget.non_torch_bytes)})"
        )
    return left


def _taken(model: Model, gpu: Gpu, tensor_parallel_size: int) -> str:
    weights = model.weight_bytes / tensor_parallel_size
    return (
        f"{model.name} ({model.weight_dtype}) on {tensor_parallel_size} × {gpu.name}: weights take "
        f"{_gib(weights)} of the {_gib(gpu.memory_bytes)} each GPU has"
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"
