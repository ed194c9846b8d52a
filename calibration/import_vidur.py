"""Vidur's profiling tables: operators of one layer, and host time between steps.

Times are milliseconds on the GPU, of five repetitions; their resolution is 0.001 ms in most files, so short operators
carry a rounding error: points of which half a unit is above 2 % are flagged `rounded`. Attention is a batch of equal
lengths, or one chunk of prompt on cached tokens, in a loop of its own, so what fits the L2 cache is warm. The LM head
is not in the tables: its points are those of the up projection in proportion to the columns, flagged `interpolated`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from kvsim.calibration.gemm_shapes import Gemm, gemm_shapes, heads_per_gpu
from kvsim.calibration.imported import NO_ALLREDUCE, Imported, with_gaps
from kvsim.calibration.peak_gate import gate_points, peak_of
from kvsim.calibration.points import Op, Point
from kvsim.calibration.vidur_host import host_times
from kvsim.calibration.vidur_rows import VidurTable
from kvsim.errors import InputError
from kvsim.gpu import find_gpu
from kvsim.model import Model

NAME = "vidur"
SOURCE = {
    "format": NAME,
    "origin": "Vidur profiling tables, github.com/microsoft/vidur",
    "licence": "MIT, © Microsoft Corporation",
    "timing": "torch profiler, 5 runs, L2 not flushed, resolution 1 µs in most files",
}
RESOLUTION_NS = 1000.0
PAGE = 16
GPUS = {"a100": "a100-80-sxm", "h100": "h100-sxm", "a40": "a40", "a30": "a30"}
"""The tables' name of a card, and ours."""
GEMMS = {"attn_pre_proj": "qkv", "attn_post_proj": "o", "mlp_up_proj": "gate_up", "mlp_down_proj": "down"}
ELEMENTWISE = {"input_layernorm": "norm", "attn_rope": "rope", "mlp_act": "activation"}
SHAPE = {"n_head": "heads", "n_kv_head": "kv_heads", "n_embd": "hidden", "n_expanded_embd": "ffn"}
HEADS = {"n_q_head": "heads", "n_kv_head": "kv_heads", "n_embd": "hidden"}
BATCH = ("batch_size", "prefill_chunk_size", "kv_cache_size")
KV_WRITE = "attn_kv_cache_save"


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
    layers = VidurTable(mlp, SHAPE, model, tensor_parallel_size)
    batches = VidurTable(attention, HEADS, model, tensor_parallel_size)
    points = [
        *_layers(layers, gemm_shapes(model, tensor_parallel_size)),
        *_attention(batches, heads_per_gpu(model, tensor_parallel_size)),
        *_kv_writes(batches),
    ]
    host = host_times(folder, model.name, tensor_parallel_size)
    warnings = ["the LM head was not timed: in proportion to the up projection"]
    if tensor_parallel_size > 1:
        warnings.append(NO_ALLREDUCE)
    return Imported.of(
        gate_points(points, peak, repeats_in_cache=True),
        gpu=card,
        seed=seed,
        source=SOURCE | {"tables": [mlp.name, attention.name, *host.tables]},
        host=with_gaps(host.host),
        warnings=[*warnings, *host.warnings, *layers.untimed, *batches.untimed],
    )


def _attention_file(folder: Path) -> Path:
    found = sorted(folder.glob("attention*.csv"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InputError(f"{folder}: needs one attention*.csv, there are {names}")
    return found[0]


def _layers(table: VidurTable, shapes: dict[str, Gemm]) -> Iterator[Point]:
    """Yield GEMMs, elementwise kernels, and an LM head in place of the missing one."""
    for op, name in (GEMMS | ELEMENTWISE).items():
        for tokens, *repeats in table.rows(op, ["num_tokens"]):
            yield _point(name, int(tokens), repeats, shapes.get(name))
            if name == "gate_up":
                yield _lm_head(int(tokens), repeats, shapes)


def _attention(table: VidurTable, heads: tuple[int, int, int]) -> Iterator[Point]:
    """Yield decodes and prefills."""
    for op, is_prefill in (("attn_decode", False), ("attn_prefill", True)):
        for batch, chunk, cached, *repeats in table.rows(op, BATCH, is_prefill):
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


def _kv_writes(table: VidurTable) -> Iterator[Point]:
    """Yield the write of new keys and values where it was timed apart; what is cached does not matter to it."""
    if not table.has(KV_WRITE):
        return
    times: dict[int, list[float]] = {}
    for is_prefill in (False, True):
        for batch, chunk, _, *repeats in table.rows(KV_WRITE, BATCH, is_prefill):
            times.setdefault(int(chunk if is_prefill else batch), []).append(repeats[1])
    for tokens, found in sorted(times.items()):
        ns = (min(found), float(median(found)), max(found))
        yield Point(
            id=f"kv_write-m{tokens}", set=NAME, op="kv_write", ns=ns, m=tokens, mode="eager", flags=_rounded([*ns])
        )  # fmt: skip


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
