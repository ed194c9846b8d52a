"""Vidur's profiling tables: operators of one layer, and host time between steps.

Times are milliseconds on the GPU, of five repetitions; their resolution is 0.001 ms in most files, so short operators
carry a rounding error: points of which half a unit is above 2 % are flagged `rounded`. Attention is a batch of equal
lengths, or one chunk of prompt on cached tokens, in a loop of its own, so what fits the L2 cache is warm. The LM head
is not in the tables: its points are those of the up projection in proportion to the columns, flagged `interpolated`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from kvsim.calibration.gemm_shapes import Gemm, gemm_shapes, heads_per_gpu
from kvsim.calibration.imported import Imported
from kvsim.calibration.peak_gate import gate_points, peak_of
from kvsim.calibration.points import Op, Point
from kvsim.calibration.table_file import read_table
from kvsim.calibration.vidur_host import host_times
from kvsim.errors import InputError
from kvsim.gpu import find_gpu
from kvsim.model import Model

NAME = "vidur"
NS_PER_MS = 1e6
SOURCE = {
    "format": NAME,
    "origin": "Vidur profiling tables, github.com/microsoft/vidur",
    "licence": "MIT, © Microsoft Corporation",
    "timing": "torch profiler, 5 runs, L2 not flushed, resolution 1 µs",
}
RESOLUTION_NS = 1000.0
PAGE = 16
GPUS = {"a100": "a100-80-sxm", "h100": "h100-sxm"}
"""The tables' name of a card, and ours."""
GEMMS = {"attn_pre_proj": "qkv", "attn_post_proj": "o", "mlp_up_proj": "gate_up", "mlp_down_proj": "down"}
ELEMENTWISE = {"input_layernorm": "norm", "attn_rope": "rope", "mlp_act": "activation"}
STATISTICS = ("min", "median", "max")
SHAPE = {"n_head": "heads", "n_kv_head": "kv_heads", "n_embd": "hidden", "n_expanded_embd": "ffn"}
DEGREE = "num_tensor_parallel_workers"


def import_vidur(
    folder: Path, model: Model, *, tensor_parallel_size: int = 1, gpu: str | None = None, seed: int = 0
) -> Imported:
    """Read the tables of a card's and model's folder.

    They are `mlp.csv` and one `attention*.csv` in it, and `cpu_overheads*.csv` in it or above.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    card = gpu or next((GPUS[part] for part in reversed(folder.absolute().parts) if part in GPUS), None)
    if card is None:
        raise InputError(f"{folder}: which card is this? Name it with --gpu")
    peak = peak_of(find_gpu(card))
    attention, mlp = _attention_file(folder), folder / "mlp.csv"
    points = [
        *_layers(mlp, model, tensor_parallel_size),
        *_attention(attention, model, tensor_parallel_size),
    ]
    host = host_times(folder, model.name, tensor_parallel_size)
    warnings = ["the LM head was not timed: in proportion to the up projection"]
    if tensor_parallel_size > 1:
        warnings.append("the tables have no all-reduce: steps of several GPUs come out too short")
    return Imported.of(
        gate_points(points, peak, repeats_in_cache=True),
        gpu=card,
        seed=seed,
        source=SOURCE | {"tables": [mlp.name, attention.name, *host.tables]},
        host=host.host,
        warnings=[*warnings, *host.warnings],
    )


def _attention_file(folder: Path) -> Path:
    found = sorted(folder.glob("attention*.csv"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InputError(f"{folder}: needs one attention*.csv, there are {names}")
    return found[0]


def _layers(path: Path, model: Model, size: int) -> Iterator[Point]:
    """Yield GEMMs, elementwise kernels, and an LM head in place of the missing one."""
    shapes = gemm_shapes(model, size)
    for op, name in (GEMMS | ELEMENTWISE).items():
        for tokens, *repeats in _rows(path, op, ["num_tokens"], SHAPE, model, size):
            yield _point(name, int(tokens), repeats, shapes.get(name))
            if name == "gate_up":
                yield _lm_head(int(tokens), repeats, shapes)


def _attention(path: Path, model: Model, size: int) -> Iterator[Point]:
    """Yield decodes and prefills, and the KV write where it was timed apart."""
    heads = heads_per_gpu(model, size)
    shape = {"n_q_head": "heads", "n_kv_head": "kv_heads", "n_embd": "hidden"}
    keys = ["batch_size", "prefill_chunk_size", "kv_cache_size"]
    for op, is_prefill in (("attn_decode", False), ("attn_prefill", True)):
        for batch, chunk, cached, *repeats in _rows(path, op, keys, shape, model, size, is_prefill):
            new = int(chunk) if is_prefill else 1
            yield Point(
                id=f"{op}-{int(batch)}x{new}-kv{int(cached) + new}",
                set=NAME,
                op="attn_prefill" if is_prefill else "attn_decode",
                ns=tuple(repeats),
                q=(new,) * int(batch),
                kv=(int(cached) + new,) * int(batch),
                heads=heads,
                page=PAGE,
                mode="eager",
                flags=_rounded(repeats),
            )


def _rows(
    path: Path,
    op: str,
    keys: list[str],
    shape: dict[str, str],
    model: Model,
    size: int,
    is_prefill: bool | None = None,
) -> list[list[float]]:
    """Return the keys and the least, median and greatest ns of an operator.

    Rows of this model and degree count; rows with the same keys become one, by the median of each.
    """
    numbers = [*keys, *shape, DEGREE]

    def fitting(frame: pd.DataFrame) -> pd.Series:
        kept = frame[DEGREE] == size
        for column, field in shape.items():
            kept &= frame[column] == getattr(model, field)
        if is_prefill is not None:
            kept &= frame["is_prefill"].astype(str).str.lower() == str(is_prefill).lower()
        if not kept.any():
            raise InputError(
                f"{path}: no rows {_wanted(model, shape, size, is_prefill)}; {_there(frame, shape)}"
            )
        return kept

    times = [f"time_stats.{op}.{name}" for name in STATISTICS]
    words = [] if is_prefill is None else ["is_prefill"]
    frame = read_table(path, counts=numbers, times=times, words=words, keep=fitting)
    merged = frame.groupby(keys, sort=True)[times].median() * NS_PER_MS
    rows: list[list[float]] = merged.round(3).reset_index().to_numpy(dtype=float).tolist()
    return rows


def _wanted(model: Model, shape: dict[str, str], size: int, is_prefill: bool | None) -> str:
    kind = "" if is_prefill is None else "of prefill " if is_prefill else "of decode "
    figures = ", ".join(f"{column} {getattr(model, field)}" for column, field in shape.items())
    return f"{kind}with {figures} and {DEGREE} {size}"


def _there(frame: pd.DataFrame, shape: dict[str, str]) -> str:
    columns = [*shape, DEGREE]
    rows = frame[columns].drop_duplicates().head(4).to_numpy().tolist()
    return "there are " + "; ".join(
        ", ".join(f"{c} {v}" for c, v in zip(columns, row, strict=True)) for row in rows
    )


def _point(name: str, tokens: int, repeats: list[float], shape: Gemm | None) -> Point:
    kind: Op = "gemm" if shape else "elementwise"
    n, k = shape or (0, 0)
    return Point(
        id=f"{name}-m{tokens}",
        set=NAME,
        op=kind,
        name=name,
        ns=tuple(repeats),
        m=tokens,
        n=n,
        k=k,
        mode="eager",
        flags=_rounded(repeats),
    )


def _lm_head(tokens: int, repeats: list[float], shapes: dict[str, Gemm]) -> Point:
    head = shapes["lm_head"]
    scale = head.n / shapes["gate_up"].n
    return Point(
        id=f"lm_head-m{tokens}",
        set=NAME,
        op="lm_head",
        name="lm_head",
        ns=tuple(round(time * scale, 3) for time in repeats),
        m=tokens,
        n=head.n,
        k=head.k,
        mode="eager",
        flags=("interpolated",),
    )


def _rounded(repeats: list[float]) -> tuple[str, ...]:
    """Flag what half a unit of the last digit changes by more than 2 %.

    Files with finer times are left alone.
    """
    coarse = all(abs(time / RESOLUTION_NS - round(time / RESOLUTION_NS)) < 1e-6 for time in repeats)
    return ("rounded",) if coarse and 0.02 * repeats[1] < RESOLUTION_NS / 2 else ()
