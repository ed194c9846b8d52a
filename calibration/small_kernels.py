"""Norm, rotary embedding, activation, KV write and an empty kernel as calls: Triton on CUDA, torch elsewhere.

Each function allocates its output and returns a call that takes a location, launches the kernel and returns the output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kvsim.calibration.attention_triton import PINNED_OPTIONS, power_of_two, runs_triton
from kvsim.calibration.kv_store import KvStore

if TYPE_CHECKING:
    import torch

Call = Callable[[int], "torch.Tensor"]

EPSILON = 1e-5
"""What a norm adds to the mean square, as in Llama."""
ROPE_BASE = 500_000.0
"""Llama-3's; no choice of it changes the time."""
_BLOCK = 1024


def add_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    total: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> Call:
    """Return x + residual, normalised: RMSNorm with the residual's addition, whose sum is stored too.

    The sum goes to `total`, which may be `residual`, and the result to `out`; both are allocated unless given.
    """
    import torch

    size = x.shape[1]
    total, out = (torch.empty_like(x) if given is None else given for given in (total, out))

    def by_triton(_: int) -> torch.Tensor:
        from kvsim.calibration.triton_ops import add_norm as kernel

        kernel[(len(x),)](
            x,
            residual,
            weight,
            total,
            out,
            EPSILON,
            SIZE=size,
            WIDTH=power_of_two(size),
            num_warps=8,
            **PINNED_OPTIONS,
        )
        return out

    def by_torch(_: int) -> torch.Tensor:
        torch.add(x, residual, out=total)
        return out.copy_(torch.nn.functional.rms_norm(total, (size,), weight, EPSILON))

    return by_triton if runs_triton(x.device) else by_torch


def rope(x: torch.Tensor, position: torch.Tensor, most: int, keys: torch.Tensor | None = None) -> Call:
    """Return x [tokens, heads, size], both halves of each head turned by position / base^(2i/size).

    With `keys` [tokens, KV heads, size] the last of the heads go there, and only the others are returned.
    """
    import torch

    _, heads, size = x.shape
    half = size // 2
    frequency = ROPE_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = torch.arange(most, device=x.device, dtype=torch.float32)[:, None] * frequency
    cosine, sine = angle.cos(), angle.sin()
    queries = heads if keys is None else heads - keys.shape[1]
    out = x.new_empty((len(x), queries, size))

    def by_triton(_: int) -> torch.Tensor:
        from kvsim.calibration.triton_ops import rope as kernel

        widths = {"HEADS_WIDTH": power_of_two(heads), "HALF_WIDTH": power_of_two(half)}
        kernel[(len(x),)](
            x, cosine, sine, position, out, out if keys is None else keys, x.stride(0),
            HEADS=heads, QUERY_HEADS=queries, HALF=half, **widths, **PINNED_OPTIONS,
        )  # fmt: skip
        return out

    def by_torch(_: int) -> torch.Tensor:
        c, s = cosine[position, None], sine[position, None]
        low, high = x[..., :half].float(), x[..., half:].float()
        turned = torch.cat((low * c - high * s, high * c + low * s), dim=-1)
        if keys is not None:
            keys.copy_(turned[:, queries:])
        return out.copy_(turned[:, :queries])

    return by_triton if runs_triton(x.device) else by_torch


def silu_mul(x: torch.Tensor) -> Call:
    """Return silu(gate) · up of rows that hold gate and up side by side."""
    import torch

    size = x.shape[1] // 2
    out = x.new_empty((len(x), size))

    def by_triton(_: int) -> torch.Tensor:
        from kvsim.calibration.triton_ops import silu_mul as kernel

        kernel[(len(x), -(-size // _BLOCK))](x, out, SIZE=size, BLOCK=_BLOCK, **PINNED_OPTIONS)
        return out

    def by_torch(_: int) -> torch.Tensor:
        return torch.mul(torch.nn.functional.silu(x[:, :size]), x[:, size:], out=out)

    return by_triton if runs_triton(x.device) else by_torch


def gelu(x: torch.Tensor) -> Call:
    """Return gelu(x), the activation of models without a gate; one torch kernel everywhere."""
    import torch

    out = torch.empty_like(x)
    return lambda _: torch.ops.aten.gelu.out(x, out=out)


def kv_write(key: torch.Tensor, value: torch.Tensor, places: torch.Tensor, store: KvStore) -> Call:
    """Scatter the tokens' keys and values to the slots `places[i mod len]` of the store; returns its keys."""
    size = key[0].numel()

    def by_triton(location: int) -> torch.Tensor:
        from kvsim.calibration.triton_ops import kv_write as kernel

        slots = places[location % len(places)]
        kernel[(len(key),)](
            key, value, slots, store.key, store.value, 1 / store.scale, key.stride(0), value.stride(0),
            SIZE=size, WIDTH=power_of_two(size), IS_WHOLE=store.kv_dtype == "int8", **PINNED_OPTIONS,
        )  # fmt: skip
        return store.key

    def by_torch(location: int) -> torch.Tensor:
        store.write(places[location % len(places)], key, value)
        return store.key

    return by_triton if runs_triton(key.device) else by_torch


def nothing(device: torch.device) -> Call:
    """Launch a kernel of one empty block; off CUDA, torch's smallest operator."""
    import torch

    out = torch.zeros(1, device=device)

    def by_triton(_: int) -> torch.Tensor:
        from kvsim.calibration.triton_ops import nothing as kernel

        kernel[(1,)](out, **PINNED_OPTIONS)
        return out

    return by_triton if runs_triton(device) else lambda _: out.add_(0)
