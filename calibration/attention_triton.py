"""The default backend: our Triton kernel over pages, slots or shared pages alike."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from kvsim.calibration.case import Case, Layout
from kvsim.calibration.kv_pool import KvPool

if TYPE_CHECKING:
    import torch

MOST_SPLITS = 32
NO_WINDOW = 2**30
DECODE_REGISTERS = 168
"""A thread's in blocks of 16 rows: three blocks fill a multiprocessor. Left alone, ptxas aims at 128 and spills."""
PINNED_OPTIONS = {"enable_fp_fusion": True}
"""Compiler options whose default changes between Triton versions."""
_MOST_ROWS = 128
_WIDEST_HEAD = 256


class Tiling(NamedTuple):
    """How the kernel cuts its work; a change of one compiles a new variant."""

    block_m: int
    """Rows of a block: query tokens times heads of a group."""
    block_n: int
    """KV tokens of a tile."""
    warps: int
    ahead: int
    """Tiles that are on their way while one is worked on."""

    def stages(self, layout: Layout) -> int:
        """Return Triton's `num_stages` that keeps so many tiles ahead.

        A page number that is looked up in the loop takes as many stages as the tile that waits for it, a slot's
        number is known before the loop: 2·ahead + 1 and ahead + 1. With one number for both, contiguous KV would be
        loaded twice as far ahead as paged KV, and the difference taken for one of the layouts.
        """
        return self.ahead + 1 if layout == "contiguous" else 2 * self.ahead + 1


def tiling_of(case: Case, capability: tuple[int, int]) -> Tiling:
    """Return the tiling for a case: few rows and loads far ahead for decode, many rows for prefill.

    Chosen by compiling: no register is spilled on sm_80 to sm_120, and two decode blocks fit the shared memory of a
    multiprocessor (39 KiB each where it has 100 KiB, as on sm_86, 89 and 120; else 72 KiB). Where a product of tiles
    keeps its operands out of the registers (sm_90, sm_100), prefill tiles are twice as long.
    """
    rows = case.group * max(case.q)
    block_m = min(_MOST_ROWS, max(16, power_of_two(rows)))
    width = power_of_two(case.heads[2])
    wide = width > 128 or case.dtype == "fp32"
    long_tiles = 9 <= capability[0] < 12
    if wide and block_m >= 64:
        return Tiling(64, 32, 8, 1)
    if block_m >= 64:
        return Tiling(block_m, 64 if long_tiles or width <= 64 else 32, block_m // 16, 1)
    return Tiling(block_m, 32 if wide else 64, 4, 2 if long_tiles or capability == (8, 0) else 1)


def split_count(row_blocks: int, sequences: int, kv_heads: int, multiprocessors: int) -> int:
    """Return clamp(2·SMs / (row blocks · sequences · KV heads), 1, 32): two blocks a multiprocessor."""
    return max(1, min(MOST_SPLITS, 2 * multiprocessors // (row_blocks * sequences * kv_heads)))


class TritonAttention:
    """Launch `attend`, and `combine` when KV is split; one variant compiles in a second or two."""

    name = "triton"

    def __init__(
        self, *, multiprocessors: int | None = None, splits: int | None = None, tiling: Tiling | None = None
    ) -> None:
        """Take what the device and `split_count` would otherwise decide, for tests and tuning."""
        self.multiprocessors = multiprocessors
        self.splits = splits
        self.tiling = tiling

    def supports(self, case: Case, device: torch.device) -> str | None:
        """Refuse a missing triton, the CPU outside the interpreter, heads over 256, fp8 before sm_89."""
        import importlib.util

        import torch

        if importlib.util.find_spec("triton") is None:
            return "triton is not installed"
        if not runs_triton(device):
            return f"Triton runs on CUDA, not on {device.type}"
        if case.heads[2] > _WIDEST_HEAD:
            return f"heads wider than {_WIDEST_HEAD} do not fit its tiles"
        if case.layout == "contiguous" and case.page * case.heads[1] * case.heads[2] >= 2**31:
            return f"a slot of {case.page} tokens has more elements than int32 counts"
        if (
            device.type == "cuda"
            and case.kv_dtype == "fp8"
            and torch.cuda.get_device_capability(device) < (8, 9)
        ):
            return "fp8 needs compute capability 8.9"
        return None

    def prepare(self, pool: KvPool) -> Callable[[int], torch.Tensor]:
        """Allocate output and split buffers once, so that eager and captured calls do the same."""
        import torch

        case = pool.case
        tiling = self.tiling or tiling_of(case, _capability(pool.query.device))
        row_blocks = -(-max(case.q) * case.group // tiling.block_m)
        splits = self.splits or split_count(
            row_blocks, len(case.q), case.heads[1], self._multiprocessors(pool.query.device)
        )
        out = torch.empty_like(pool.query) if pool.out is None else pool.out
        parts = case.tokens * case.heads[0] * splits if splits > 1 else 1
        width = power_of_two(case.heads[2])
        part_out, part_max, part_sum = (
            torch.empty(size, dtype=torch.float32, device=out.device)
            for size in ((parts, width), parts, parts)
        )
        return _launcher(pool, tiling, row_blocks, splits, (out, part_out, part_max, part_sum))

    def _multiprocessors(self, device: torch.device) -> int:
        import torch

        if self.multiprocessors is not None:
            return self.multiprocessors
        return int(torch.cuda.get_device_properties(device).multi_processor_count)


def variant_of(case: Case, tiling: Tiling, *, is_split: bool) -> dict[str, int | None]:
    """Return the constants and compiler options of `attend` for a case: one compiled variant each."""
    heads, _, size = case.heads
    return {
        "HEADS": heads,
        "GROUP": case.group,
        "SIZE": size,
        "WIDTH": power_of_two(size),
        "PAGE": 0 if case.layout == "contiguous" else case.page,
        "BLOCK_M": tiling.block_m,
        "BLOCK_N": tiling.block_n,
        "SPLIT": is_split,
        "num_warps": tiling.warps,
        "num_stages": tiling.stages(case.layout),
        "maxnreg": DECODE_REGISTERS if tiling.block_m == 16 and case.kv_dtype == case.dtype else None,
        **PINNED_OPTIONS,
    }


def _launcher(
    pool: KvPool,
    tiling: Tiling,
    row_blocks: int,
    splits: int,
    buffers: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
) -> Callable[[int], torch.Tensor]:
    from kvsim.calibration.triton_kernels import attend, combine

    case, (heads, kv_heads, size) = pool.case, pool.case.heads
    out, *parts = buffers
    score_scale = pool.scale * math.log2(math.e) / math.sqrt(size)
    window = case.window or NO_WINDOW
    grid = (row_blocks, len(case.q) * kv_heads, splits)
    strides = (pool.query.stride(0), *pool.key.stride()[:3], pool.tables.stride(1))
    variant = variant_of(case, tiling, is_split=splits > 1)
    joined = {"SIZE": size, "WIDTH": power_of_two(size), "MOST_SPLITS": MOST_SPLITS, **PINNED_OPTIONS}
    tables = pool.tables.unbind(0)

    def call(location: int) -> torch.Tensor:
        attend[grid](
            pool.query, pool.key, pool.value, tables[location], pool.q_start, pool.kv_len, *buffers,
            score_scale, pool.scale, window, splits, *strides, **variant,
        )  # fmt: skip
        if splits > 1:
            combine[(case.tokens * heads,)](*parts, out, pool.scale, splits, **joined)
        return out

    return call


def runs_triton(device: torch.device) -> bool:
    """Tell whether Triton kernels run there: on CUDA, and anywhere in Triton's interpreter."""
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


def _capability(device: torch.device) -> tuple[int, int]:
    import torch

    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (8, 0)


def power_of_two(number: int) -> int:
    """Return the least power of two that is no smaller."""
    return 1 << (number - 1).bit_length()
