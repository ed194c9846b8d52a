"""NVIDIA AIConfigurator's kernel tables: attention, GEMM and all-reduce.

Each row is the mean time of a framework's own kernel in a CUDA graph, on one GPU, for one layer. The timing does not
flush the L2 cache. There are no elementwise kernels among the tables: those points are computed from the bandwidth
and latency that the card's system.yaml assumes, and flagged `assumed`. Shapes that nobody timed are interpolated and
flagged so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from kvsim.calibration.aiconfigurator_files import NAME, NS_PER_MS, SOURCE, System, open_system
from kvsim.calibration.allreduce_table import allreduce_points
from kvsim.calibration.elementwise import elementwise_points
from kvsim.calibration.gemm_shapes import Gemm, gemm_shapes, heads_per_gpu
from kvsim.calibration.gemm_table import Curve, GemmTable
from kvsim.calibration.imported import Imported
from kvsim.calibration.peak_gate import gate_points
from kvsim.calibration.points import Point
from kvsim.calibration.table_file import optional_columns, read_table
from kvsim.errors import InputError
from kvsim.model import Model

DTYPES = {"fp16": "bfloat16", "bf16": "bfloat16", "fp8": "fp8"}
"""The tables' word for a dtype; 16-bit formats run at one speed."""
PAGE = 64
"""Tokens a page in the collector's vLLM runs."""
KEYS = ("batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim", "step")
GEMM_KEYS = ("m", "n", "k")


def import_aiconfigurator(
    folder: Path,
    model: Model,
    *,
    tensor_parallel_size: int = 1,
    gpu: str | None = None,
    backend: str = "vllm",
    kv_cache_dtype: str = "auto",
    seed: int = 0,
) -> Imported:
    """Read the rows that a model's shapes need.

    `folder` is one card's folder, or that of all cards with `gpu` naming one. `backend` is vllm, sglang or trtllm;
    the newest version of each table is taken.
    """
    system = open_system(folder, gpu, backend)
    kv_dtype = model.dtype if kv_cache_dtype == "auto" else kv_cache_dtype
    gemms, made = _gemms(system, model, tensor_parallel_size)
    points = [*_attention(system, model, tensor_parallel_size, _known_dtype(kv_dtype)), *gemms]
    points += elementwise_points(model, tensor_parallel_size, system.assumed, NAME)
    if tensor_parallel_size > 1:
        points += allreduce_points(system, tensor_parallel_size)
    return Imported.of(
        gate_points(points, system.peak, repeats_in_cache=True),
        gpu=system.gpu,
        seed=seed,
        source=SOURCE | {"tables": [str(path.relative_to(system.folder)) for path in system.read]},
        warnings=made,
    )


def _attention(system: System, model: Model, size: int, kv_dtype: str) -> Iterator[Point]:
    heads = heads_per_gpu(model, size)
    for window in dict.fromkeys(model.windows or (None,)):
        for phase in ("generation", "context"):
            path = system.table(f"{phase}_attention_perf")
            frame = _shaped(path, system.time_column(path), heads, window, kv_dtype)
            yield from _attention_points(frame, phase == "generation", heads, window, kv_dtype)


def _shaped(
    path: Path, time: str, heads: tuple[int, int, int], window: int | None, kv_dtype: str
) -> pd.DataFrame:
    """Return the rows of these heads, this window and dtype; one kernel for a shape."""
    windows = optional_columns(path, ["window_size"])
    frame = read_table(
        path,
        counts=[*KEYS, *windows],
        batches=["batch_size"],
        sizes=["batch_size", "isl"],
        times=[time],
        words=["kernel_source", "attn_dtype", "kv_cache_dtype"],
    ).rename(columns={time: "ms"})
    if not windows:
        frame["window_size"] = 0
    frame = frame[(frame["attn_dtype"] == "bfloat16") & (frame["kv_cache_dtype"] == DTYPES[kv_dtype])]
    if frame.empty:
        raise InputError(f"{path}: no bfloat16 attention over a KV cache of {kv_dtype}")
    same = frame[(frame[list(KEYS[2:5])] == list(heads)).all(axis=1)]
    if same.empty:
        raise InputError(f"{path}: no rows for {_words(heads)}; nearest: {_nearest_heads(frame, heads)}")
    found = same[same["window_size"] == (window or 0)]
    if found.empty:
        there = ", ".join(str(each) for each in sorted(set(same["window_size"])))
        raise InputError(f"{path}: no rows for a window of {window or 0} tokens; there are {there} (0: none)")
    shape = ["batch_size", "isl", "step"]
    usual = found["kernel_source"].map(found["kernel_source"].value_counts())
    ordered = found.assign(usual=-usual).sort_values([*shape, "usual", "kernel_source", "ms"])
    kernel = ordered.groupby(shape)["kernel_source"].transform("first")
    return ordered[ordered["kernel_source"] == kernel]


def _attention_points(
    frame: pd.DataFrame, decode: bool, heads: tuple[int, int, int], window: int | None, kv_dtype: str
) -> Iterator[Point]:
    """Yield a point a shape; repeated rows become its repeats."""
    suffix = f"-w{window}" if window else ""
    for (batch, new, step), (kernel, repeats) in _merged(frame).items():
        # In decode tables `step` tokens are cached; in prefill tables it is 0 and `isl` tokens are new.
        kv = step + new
        yield Point(
            id=f"{'decode' if decode else 'prefill'}-{batch}x{new}-kv{kv}{suffix}",
            set=NAME,
            op="attn_decode" if new == 1 else "attn_prefill",
            ns=repeats,
            q=(new,) * batch,
            kv=(kv,) * batch,
            heads=heads,
            page=PAGE,
            window=window,
            kv_dtype=kv_dtype,
            backend=kernel,
        )


def _merged(frame: pd.DataFrame) -> dict[tuple[int, int, int], tuple[str, tuple[float, ...]]]:
    """Return kernel and times in ns by batch, new tokens and cached tokens."""
    merged: dict[tuple[int, int, int], tuple[str, tuple[float, ...]]] = {}
    columns = [frame[name].tolist() for name in ("batch_size", "isl", "step", "kernel_source", "ms")]
    for batch, new, step, kernel, ms in zip(*columns, strict=True):
        _, before = merged.get((batch, new, step), (kernel, ()))
        merged[batch, new, step] = kernel, (*before, round(ms * NS_PER_MS, 3))
    return merged


def _gemms(system: System, model: Model, size: int) -> tuple[list[Point], list[str]]:
    """Return GEMM points, and a sentence on every shape that nobody timed."""
    shapes = gemm_shapes(model, size)
    path = system.table("gemm_perf")
    time = system.time_column(path)
    frame = read_table(path, counts=GEMM_KEYS, sizes=GEMM_KEYS, times=[time], words=["gemm_dtype"])
    dtype = _known_dtype(model.weight_dtype)
    rows = frame[frame["gemm_dtype"] == DTYPES[dtype]]
    if rows.empty:
        there = ", ".join(sorted(set(frame["gemm_dtype"])))
        raise InputError(f"{path}: no GEMMs of {dtype} weights; there are {there}")
    table = GemmTable(rows, time)
    points: list[Point] = []
    made: list[str] = []
    for name, shape in shapes.items():
        timed = table.find(shape)
        if timed.how:
            missed = (
                ""
                if timed.error is None
                else f"; the same way misses the nearest timed shape by {timed.error:.1%}"
            )
            made.append(f"{name} ({shape.n} × {shape.k}) was not timed: {timed.how}{missed}")
        points += _gemm_points(name, shape, timed.curve, bool(timed.how), dtype)
    return points, made


def _gemm_points(name: str, shape: Gemm, curve: Curve, made: bool, dtype: str) -> Iterator[Point]:
    for m, ms in sorted(curve.items()):
        yield Point(
            id=f"{name}-m{m}",
            set=NAME,
            op="lm_head" if name == "lm_head" else "gemm",
            name=name,
            ns=(round(ms * NS_PER_MS, 3),),
            m=m,
            n=shape.n,
            k=shape.k,
            dtype=dtype,
            flags=("interpolated",) if made else (),
        )


def _known_dtype(dtype: str) -> str:
    if dtype not in DTYPES:
        raise InputError(f"aiconfigurator's tables have dtypes {', '.join(DTYPES)}, not {dtype!r}")
    return dtype


def _nearest_heads(frame: pd.DataFrame, heads: tuple[int, int, int]) -> str:
    known = {tuple(int(each) for each in row) for row in frame[list(KEYS[2:5])].drop_duplicates().to_numpy()}
    ordered = sorted(
        known, key=lambda each: ([abs(a - b) for a, b in zip(each[::-1], heads[::-1], strict=True)], each)
    )
    return ", ".join(f"{a}/{b} of {c}" for a, b, c in ordered[:3])


def _words(heads: tuple[int, int, int]) -> str:
    return f"{heads[0]} query and {heads[1]} KV heads of {heads[2]}"
