"""Matrices and heads that one GPU of a tensor-parallel group computes with."""

from __future__ import annotations

from typing import NamedTuple

from kvsim.errors import InputError
from kvsim.model import Model


class Gemm(NamedTuple):
    """A weight matrix of k × n elements on one GPU."""

    n: int
    k: int


def heads_per_gpu(model: Model, tensor_parallel_size: int) -> tuple[int, int, int]:
    """Return query heads, KV heads (at least one) and head size."""
    model.kv_bytes_per_token("auto", tensor_parallel_size)  # refuses sizes that do not divide the heads
    kv_heads = max(1, model.kv_heads // tensor_parallel_size)
    return model.heads // tensor_parallel_size, kv_heads, model.head_dim


def gemm_shapes(model: Model, tensor_parallel_size: int = 1) -> dict[str, Gemm]:
    """Return the matrices as vLLM splits them: qkv, o, gate_up, down and lm_head.

    Columns of qkv, gate_up and lm_head are divided over the GPUs, rows of o and down; gate_up is up alone
    where the FFN is not gated. Models with experts or latent attention have other matrices and are refused.
    """
    kinds = (("experts", model.experts), ("latent attention (MLA)", model.latent))
    others = " and ".join(kind for kind, found in kinds if found is not None)
    if others:
        raise InputError(
            f"model {model.name} has {others}: kernels are timed and imported of dense models with plain heads only; "
            "--cost roofline prices the others"
        )
    size = tensor_parallel_size
    heads, kv_heads, head_dim = heads_per_gpu(model, size)
    if model.ffn % size:
        raise InputError(
            f"tensor_parallel_size must divide the FFN width {model.ffn} of {model.name}, got {size}"
        )
    ffn = model.ffn // size
    return {
        "qkv": Gemm((heads + 2 * kv_heads) * head_dim, model.hidden),
        "o": Gemm(model.hidden, heads * head_dim),
        "gate_up": Gemm(ffn * (2 if model.gated else 1), model.hidden),
        "down": Gemm(model.hidden, ffn),
        "lm_head": Gemm(-(-model.vocab // size), model.hidden),
    }
