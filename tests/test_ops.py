"""The other kernels of a step: shapes, rotation and refusals, on the CPU."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from kvsim.errors import InputError
from kvsim.model import Model

torch: Any = pytest.importorskip("torch")

from kvsim.calibration import small_kernels  # noqa: E402
from kvsim.calibration.ops import ModelOps, OpName  # noqa: E402

TINY = Model(
    name="tiny", layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, ffn=96, vocab=200,
    max_position_embeddings=128,
)  # fmt: skip


def ops(**changes: Any) -> ModelOps:  # Any: whichever argument a test changes
    settings = {"dtype": "fp32", "l2_bytes": 30_000, "kv_tokens": 64, **changes}
    return ModelOps(TINY, device=torch.device("cpu"), **settings)


@pytest.mark.parametrize("name", get_args(OpName))
def test_every_kernel_runs_at_every_place(name: OpName) -> None:
    made = ops().build(name, 3)

    results = [made.call(index) for index in range(made.locations + 1)]
    assert all(bool(result.isfinite().all()) for result in results)
    assert made.m == 3


@pytest.mark.parametrize(
    ("name", "n", "k"),
    [("qkv", 64, 64), ("o", 64, 32), ("gate_up", 96, 64), ("down", 64, 48), ("lm_head", 100, 64)],
)
def test_products_have_the_shapes_of_one_gpu(name: OpName, n: int, k: int) -> None:
    made = ops(tensor_parallel_size=2).build(name, 5)

    assert (made.m, made.n, made.k) == (5, n, k)
    assert made.call(0).shape == (5, n)
    assert made.flops == 2 * 5 * n * k
    assert made.memory_bytes == 4 * n * k


def test_weights_rotate_so_that_none_is_found_in_the_cache() -> None:
    made = ops().build("qkv", 2)
    outputs = [made.call(index).clone() for index in range(made.locations)]

    assert made.locations * made.memory_bytes >= 5 * 30_000
    assert all(not outputs[0].equal(other) for other in outputs[1:])


def test_weights_are_shared_by_sizes_until_forgotten() -> None:
    model_ops = ops()
    before = model_ops._rotated("qkv", 128, 64)[0]

    model_ops.build("qkv", 7)
    assert model_ops._rotated("qkv", 128, 64)[0] is before
    model_ops.forget("qkv")
    assert model_ops._rotated("qkv", 128, 64)[0] is not before


def test_a_norm_adds_the_residual_first() -> None:
    x, residual, weight = torch.randn(3, 8), torch.randn(3, 8), torch.randn(8)
    total = x + residual

    wanted = total / (total.pow(2).mean(-1, keepdim=True) + small_kernels.EPSILON).sqrt() * weight
    assert torch.allclose(small_kernels.add_norm(x, residual, weight)(0), wanted, atol=1e-6)


def test_rotary_embedding_keeps_lengths_and_shifts_together() -> None:
    q, k = torch.randn(1, 1, 16), torch.randn(1, 1, 16)

    def product(at: int, other: int) -> float:
        turned = [small_kernels.rope(x, torch.tensor([p]), 64)(0) for x, p in ((q, at), (k, other))]
        return float((turned[0] * turned[1]).sum())

    assert product(7, 3) == pytest.approx(product(44, 40), abs=1e-4)
    assert product(0, 0) == pytest.approx(float((q * k).sum()), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "m", "message"),
    [
        ("qvk", 1, r"op must be one of qkv, .*, got 'qvk' \(did you mean"),
        ("norm", 0, "op norm: m must be ≥ 1 row, got 0"),
        ("kv_write", 65, "op kv_write: m must be at most the pool's 64 tokens, got 65"),
    ],
)
def test_a_kernel_that_cannot_be_is_refused(name: Any, m: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ops().build(name, m)
