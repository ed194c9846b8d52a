"""Run the Triton kernels in Triton's interpreter and print their errors as JSON; started by test_triton_kernels.

The interpreter is chosen when triton is imported, so this needs a process of its own. Products of bf16 tiles are wrong
there, so everything is fp32.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

os.environ["TRITON_INTERPRET"] = "1"

import torch

from kvsim.calibration import small_kernels
from kvsim.calibration.attention_triton import Tiling, TritonAttention
from kvsim.calibration.case import Case
from kvsim.calibration.kv_store import KvStore
from kvsim.calibration.numeric_check import error_on

CPU = torch.device("cpu")
SMALL = Tiling(16, 16, 4, 1)

ATTENTION: dict[str, tuple[int | None, Case]] = {
    "pages of 16, four splits": (4, Case(q=(1, 1, 1), kv=(70, 1, 33), heads=(8, 2, 32), dtype="fp32")),
    "pages of 1, no group": (2, Case(q=(1, 1), kv=(17, 40), heads=(2, 2, 32), page=1, dtype="fp32")),
    "pages of 32, tiles within one": (
        3,
        Case(q=(1, 1), kv=(97, 20), heads=(4, 2, 32), page=32, dtype="fp32"),
    ),
    "pages of 24": (1, Case(q=(1, 5), kv=(50, 49), heads=(4, 2, 32), page=24, dtype="fp32")),
    "slots": (2, Case(q=(1, 1), kv=(70, 3), heads=(4, 2, 32), page=90, layout="contiguous", dtype="fp32")),
    "shared pages": (
        2,
        Case(
            q=(1, 3, 1), kv=(40, 50, 33), heads=(4, 2, 32), layout="shared", prefix=32, groups=2, dtype="fp32"
        ),
    ),
    "window, splits that see nothing": (
        5,
        Case(q=(1, 1), kv=(99, 9), heads=(4, 2, 32), window=20, dtype="fp32"),
    ),
    "chunk behind a prefix": (1, Case(q=(33,), kv=(75,), heads=(4, 2, 32), dtype="fp32")),
    "windowed chunk of an odd head": (1, Case(q=(20,), kv=(45,), heads=(2, 1, 24), window=11, dtype="fp32")),
    "mixed, split": (3, Case(q=(1, 9, 9), kv=(40, 30, 9), heads=(4, 1, 32), dtype="fp32")),
    "twelve heads to one": (2, Case(q=(1, 1), kv=(30, 45), heads=(12, 1, 32), dtype="fp32")),
    "int8 KV": (2, Case(q=(1, 1), kv=(30, 45), heads=(4, 2, 32), dtype="fp32", kv_dtype="int8")),
    "fp8 KV": (1, Case(q=(1, 1), kv=(30, 45), heads=(4, 2, 32), dtype="fp32", kv_dtype="fp8")),
    "the device's own tiling": (None, Case(q=(20,), kv=(70,), heads=(4, 1, 32), dtype="fp32")),
}


def attention_errors() -> dict[str, float]:
    """Return the largest relative error of each case."""
    errors = {}
    for seed, (name, (splits, case)) in enumerate(ATTENTION.items()):
        tiling = None if splits is None else SMALL
        backend = TritonAttention(multiprocessors=8, splits=splits, tiling=tiling)
        errors[name] = error_on(backend, case, CPU, seed)
    return errors


def op_errors() -> dict[str, float]:
    """Return the largest difference of each small kernel from torch's."""
    torch.manual_seed(0)
    x, residual, weight = torch.randn(3, 40), torch.randn(3, 40), torch.randn(40)
    position = torch.tensor([0, 5, 63])
    heads = torch.randn(3, 5, 12)
    calls: dict[str, Callable[[], torch.Tensor]] = {
        "norm": lambda: small_kernels.add_norm(x, residual, weight)(0).clone(),
        "rope": lambda: small_kernels.rope(heads, position, 64)(0).clone(),
        "norm in place": lambda: in_place(x, residual, weight),
        "rope with keys apart": lambda: apart(heads, position),
        "activation": lambda: small_kernels.silu_mul(x)(0).clone(),
        "kv_write": lambda: scattered("fp32"),
        "kv_write int8": lambda: scattered("int8"),
        "launch": lambda: small_kernels.nothing(CPU)(0),
    }
    return {name: difference(call) for name, call in calls.items()}


def in_place(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    total, out = residual.clone(), torch.empty_like(x)
    small_kernels.add_norm(x, total, weight, total, out)(0)
    return torch.cat([total, out])


def apart(heads: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    wide = torch.cat([heads, heads], 1).view(3, 120)[:, :60].view(3, 5, 12)
    keys = torch.empty(3, 2, 12)
    return torch.cat([small_kernels.rope(wide, position, 64, keys)(0), keys], 1)


def scattered(kv_dtype: str) -> torch.Tensor:
    store = KvStore(tokens=9, kv_heads=2, head_size=6, kv_dtype=kv_dtype, device=CPU, seed=0)
    numbers = torch.Generator().manual_seed(1)
    key, value = torch.randn(3, 2, 6, generator=numbers), torch.randn(3, 2, 6, generator=numbers)
    value = torch.cat([value, value], 1)[:, :2]  # rows that do not lie side by side
    small_kernels.kv_write(key, value, torch.tensor([[8, 0, 4], [1, 2, 3]]), store)(3)
    return torch.cat([store.key.float(), store.value.float()])


def difference(call: Callable[[], torch.Tensor]) -> float:
    by_triton = call()
    os.environ["TRITON_INTERPRET"] = "0"
    by_torch = call()
    os.environ["TRITON_INTERPRET"] = "1"
    return float((by_triton - by_torch).abs().max())


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({"attention": attention_errors, "ops": op_errors}[sys.argv[1]]()))
