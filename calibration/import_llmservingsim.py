"""LLMServingSim 2's tables: vLLM's layers, mixed and unequal attention batches.

Times are microseconds of one layer on one GPU, mean of three forwards, eager. Every layer of a one-layer model runs in
turn, so weights and KV come from memory, not from the cache. Lengths are tokens already cached: the step's own come on
top. The tables hold at most one chunk of prompt a batch, of at most 2,048 tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from kvsim.calibration.gemm_shapes import gemm_shapes, heads_per_gpu
from kvsim.calibration.imported import NO_ALLREDUCE, Imported, with_gaps
from kvsim.calibration.llmservingsim_batches import read_batches
from kvsim.calibration.peak_gate import gate_points, peak_of
from kvsim.calibration.points import Op, Point
from kvsim.calibration.table_file import read_table
from kvsim.errors import InputError
from kvsim.gpu import find_gpu
from kvsim.model import Model

NAME = "llmservingsim"
NS_PER_US = 1e3
TABLES = ("attention", "skew", "dense", "per_sequence")
SOURCE = {
    "format": NAME,
    "origin": "LLMServingSim 2 layer tables, github.com/casys-kaist/LLMServingSim",
    "licence": "MIT, © CASYS Lab KAIST",
    "timing": "vLLM 0.19 layer by layer, eager, mean of 3 forwards",
}
GPUS = {
    "RTX4090": "rtx4090",
    "RTXPRO6000": "rtx-pro-6000",
    "H100": "h100-sxm",
    "A6000": "a6000",
    "L40S": "l40s",
}
"""The tables' name of a card, and ours."""
GEMMS = {"qkv_proj": "qkv", "o_proj": "o", "gate_up_proj": "gate_up", "down_proj": "down"}
ELEMENTWISE = {"layernorm": "norm", "rotary_emb": "rope", "act_fn": "activation"}
ONCE_A_STEP = {"embedding": "embedding", "final_layernorm": "final_norm"}
META = {
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "ffn": "intermediate_size",
    "vocab": "vocab_size",
}


def import_llmservingsim(
    folder: Path, model: Model, *, tensor_parallel_size: int = 1, gpu: str | None = None, seed: int = 0
) -> Imported:
    """Read the tables of one card, model and degree; `folder` may lie above them."""
    tables, card = _find(folder, tensor_parallel_size, gpu)
    warnings = _check_model(tables.parent / "meta.yaml", model, tables)
    if tensor_parallel_size > 1:
        warnings.append(NO_ALLREDUCE)
    heads = heads_per_gpu(model, tensor_parallel_size)
    batches, remarks = read_batches(tables, heads, NAME)
    points, warnings = [*batches], [*warnings, *remarks]
    points += _dense(tables / "dense.csv", model, tensor_parallel_size)
    points += _per_sequence(tables / "per_sequence.csv", model, tensor_parallel_size)
    return Imported.of(
        gate_points(points, peak_of(find_gpu(card)), repeats_in_cache=False),
        gpu=card,
        seed=seed,
        source=SOURCE | {"tables": sorted(path.name for path in tables.glob("*.csv") if path.stem in TABLES)},
        host=with_gaps({}),
        warnings=warnings,
    )


def _find(folder: Path, size: int, gpu: str | None) -> tuple[Path, str]:
    """Return the folder of the tables and our name of the card."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if gpu is not None:
        find_gpu(gpu)
    found = [folder] if (folder / "attention.csv").is_file() else _below(folder, size)
    named = {path: _card(path) for path in found}
    fitting = [path for path in found if gpu is None or named[path] in (gpu, None)]
    if not fitting:
        there = ", ".join(sorted(str(path.relative_to(folder)) for path in found)) or "none at all"
        raise InputError(
            f"{folder}: no tables of tp{size}{f' and {gpu}' if gpu else ''} below it; there are {there}"
        )
    if len(fitting) > 1:
        there = ", ".join(str(path.relative_to(folder)) for path in fitting)
        raise InputError(f"{folder}: several tables below it, give the folder of one: {there}")
    card = named[fitting[0]] or gpu
    if card is None:
        raise InputError(f"{fitting[0]}: which card is this? Name it with --gpu")
    return fitting[0], card


def _below(folder: Path, size: int) -> list[Path]:
    return sorted(path.parent for path in folder.rglob(f"tp{size}/attention.csv"))


def _card(tables: Path) -> str | None:
    return next((GPUS[part] for part in reversed(tables.absolute().parts) if part in GPUS), None)


def _check_model(meta: Path, model: Model, tables: Path) -> list[str]:
    """Refuse another model's tables.

    The file holds the shape of one GPU of its last degree.
    """
    if not meta.is_file():
        return [f"no meta.yaml beside {tables.name}: nothing says which model was timed"]
    text = meta.read_text("utf-8")
    degrees = re.search(r"^tp_degrees:\s*\[([\d, ]+)\]", text, re.MULTILINE)
    scale = int(degrees[1].split(",")[-1]) if degrees else 1
    for field, key in META.items():
        found = re.search(rf"^\s+{key}:\s*(\d+)\s*$", text, re.MULTILINE)
        if found and int(found[1]) * scale != getattr(model, field):
            raise InputError(
                f"{meta}: these are times of a model with {key} {int(found[1]) * scale}, "
                f"but {model.name} has {getattr(model, field)}"
            )
    return []


def _dense(path: Path, model: Model, size: int) -> Iterator[Point]:
    """Yield GEMMs and elementwise kernels by tokens."""
    frame = read_table(path, words=["layer"], counts=["tokens"], times=["time_us"])
    missing = [layer for layer in (*GEMMS, *ELEMENTWISE) if layer not in set(frame["layer"])]
    if missing:
        raise InputError(
            f"{path}: no rows of layer {missing[0]!r}; there are {', '.join(sorted(set(frame['layer'])))}"
        )
    shapes = gemm_shapes(model, size)
    for layer, tokens, time in zip(frame["layer"], frame["tokens"], frame["time_us"], strict=True):
        if layer in GEMMS:
            name = GEMMS[layer]
            yield _row(path, "gemm", name, tokens, time, *shapes[name])
        elif layer in ELEMENTWISE | ONCE_A_STEP:
            yield _row(path, "elementwise", (ELEMENTWISE | ONCE_A_STEP)[layer], tokens, time)


def _per_sequence(path: Path, model: Model, size: int) -> Iterator[Point]:
    """Yield LM head and sampler by sequences."""
    frame = read_table(path, words=["layer"], counts=["sequences"], times=["time_us"])
    if "lm_head" not in set(frame["layer"]):
        raise InputError(
            f"{path}: no rows of layer 'lm_head'; there are {', '.join(sorted(set(frame['layer'])))}"
        )
    for layer, rows, time in zip(frame["layer"], frame["sequences"], frame["time_us"], strict=True):
        if layer == "lm_head":
            yield _row(path, "lm_head", "lm_head", rows, time, *gemm_shapes(model, size)["lm_head"])
        elif layer == "sampler":
            yield _row(path, "sampler", "sampler", rows, time)


def _row(path: Path, op: Op, name: str, m: int, time: float, n: int = 0, k: int = 0) -> Point:
    if m < 1:
        raise InputError(f"{path}: {name} has a row of {m} tokens; at least 1")
    return Point(
        id=f"{name}-m{m}",
        set=NAME,
        op=op,
        name=name,
        ns=(round(time * NS_PER_US, 3),),
        m=m,
        n=n,
        k=k,
        mode="eager",
    )
