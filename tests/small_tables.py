"""Made-up kernel tables in the layouts of the importers, for a model small enough to write down."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kvsim.model import Model

SMALL = Model(
    name="small",
    layers=4,
    hidden=256,
    heads=8,
    kv_heads=2,
    head_dim=32,
    ffn=512,
    vocab=1000,
    max_position_embeddings=4096,
)
"""Matrices (n × k): qkv 384 × 256, o 256 × 256, gate_up 1024 × 256, down 256 × 512, lm_head 1000 × 256."""

Row = Mapping[str, object]


def write_csv(path: Path, rows: Sequence[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def attention_row(batch: int, new: int, step: int, ms: float, **changed: object) -> Row:
    """Return a row of AIConfigurator's attention tables."""
    row = {
        "kernel_source": "flash",
        "batch_size": batch,
        "isl": new,
        "num_heads": 8,
        "num_key_value_heads": 2,
    }
    row |= {"head_dim": 32, "attn_dtype": "bfloat16", "kv_cache_dtype": "bfloat16", "step": step}
    return row | {"window_size": 0, "latency_ms": ms} | changed


def gemm_row(m: int, n: int, k: int, ms: float, **changed: object) -> Row:
    return {
        "kernel_source": "linear",
        "gemm_dtype": "bfloat16",
        "m": m,
        "n": n,
        "k": k,
        "latency_ms": ms,
    } | changed


def aiconfigurator_tables(
    folder: Path,
    *,
    decode: Iterable[Row] | None = None,
    prefill: Iterable[Row] | None = None,
    gemm: Iterable[Row] | None = None,
    prefix: str = "vllm-0.1.0_",
) -> Path:
    """Write the three tables that a model on one GPU needs; every shape of SMALL is timed."""
    shapes = [(384, 256), (256, 256), (1024, 256), (256, 512), (1000, 256)]
    tables = {
        "generation_attention_perf": decode
        or [attention_row(b, 1, kv - 1, 0.01 + b * kv * 1e-6) for b in (1, 2, 4, 8) for kv in (16, 64, 256)],
        "context_attention_perf": prefill
        or [attention_row(b, q, 0, 0.02 + b * q * q * 1e-7) for b in (1, 2, 4) for q in (1, 16, 64, 256)],
        "gemm_perf": gemm
        or [gemm_row(m, n, k, 0.005 + m * 1e-5) for m in (1, 2, 4, 8, 64, 512) for n, k in shapes],
    }
    for stem, rows in tables.items():
        write_csv(folder / f"{prefix}{stem}.csv", list(rows))
    return folder


def llmservingsim_tables(folder: Path, *, heads: int = 8) -> Path:
    """Write the tables of one degree and the meta.yaml above them; returns the folder of the tables."""
    tables = folder / "RTX4090" / "org" / "small" / "bf16" / "tp1"
    keys = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")
    batches = [(0, 0, n, kv, 9 + n * kv / 1000) for n in (1, 2, 4, 8) for kv in (16, 64, 256)]
    batches += [(q, kv, 0, 0, 12 + q * (q + kv) / 1000) for q in (16, 64, 256) for kv in (0, 64)]
    batches += [(q, 0, n, 64, 15 + q + n) for q in (16, 64) for n in (1, 4)]
    write_csv(tables / "attention.csv", [dict(zip(keys, row, strict=True)) for row in batches])
    skew = {
        "n": 4,
        "nb": 1,
        "pc": 0,
        "kp": 0,
        "kvs": 16,
        "kv_big": 64,
        "kv_mean": 28,
        "t_mean_us": 9.112,
        "t_skew_us": 11.0,
    }
    write_csv(tables / "skew.csv", [skew, skew | {"pc": 32, "kp": 8, "t_skew_us": 22.0}])
    layers = (
        "qkv_proj",
        "o_proj",
        "gate_up_proj",
        "down_proj",
        "layernorm",
        "rotary_emb",
        "act_fn",
        "embedding",
    )
    dense = [
        {"layer": each, "tokens": m, "time_us": 3 + m / 50} for each in layers for m in (1, 2, 4, 8, 64, 512)
    ]
    write_csv(tables / "dense.csv", dense)
    ends = [
        {"layer": each, "sequences": m, "time_us": 5 + m / 10}
        for each in ("lm_head", "sampler")
        for m in (1, 4, 16)
    ]
    write_csv(tables / "per_sequence.csv", ends)
    shape = {
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "intermediate_size": 512,
        "vocab_size": 1000,
    }
    lines = ["tp_degrees: [1]", "hf_overrides:", *(f"    {key}: {value}" for key, value in shape.items())]
    (tables.parent / "meta.yaml").write_text("\n".join(lines), encoding="utf-8")
    return tables


def vidur_row(operators: Mapping[str, float], **keys: object) -> Row:
    """Return a row with min, median and max of each operator, in ms."""
    row: dict[str, object] = {}
    for name, ms in operators.items():
        row |= {f"time_stats.{name}.{each}": ms for each in ("min", "median", "max")}
    return row | keys


def vidur_tables(folder: Path) -> Path:
    """Write mlp.csv, attention.csv and cpu_overheads.csv; returns the folder of the first two."""
    tables = folder / "a100" / "org" / "small"
    names = (
        "attn_pre_proj",
        "attn_post_proj",
        "mlp_up_proj",
        "mlp_down_proj",
        "input_layernorm",
        "attn_rope",
        "mlp_act",
    )
    shape = {
        "n_head": 8,
        "n_kv_head": 2,
        "n_embd": 256,
        "n_expanded_embd": 512,
        "num_tensor_parallel_workers": 1,
    }
    mlp = [
        vidur_row(dict.fromkeys(names, 0.01 + m * 1e-5), num_tokens=m, **shape) for m in (1, 2, 8, 64, 512)
    ]
    write_csv(tables / "mlp.csv", mlp)
    heads = {"n_q_head": 8, "n_kv_head": 2, "n_embd": 256, "num_tensor_parallel_workers": 1}
    decode = [
        vidur_row(
            {"attn_decode": 0.015 + n * kv * 1e-6},
            batch_size=n,
            prefill_chunk_size=0,
            kv_cache_size=kv,
            is_prefill=False,
        )
        for n in (1, 2, 4, 8)
        for kv in (32, 64, 128)
    ]
    prefill = [
        vidur_row(
            {"attn_prefill": 0.02 + q * 1e-5},
            batch_size=1,
            prefill_chunk_size=q,
            kv_cache_size=kv,
            is_prefill=True,
        )
        for q in (64, 128, 256)
        for kv in (0, 64)
    ]
    write_csv(tables / "attention.csv", [{**row, **heads} for row in (*decode, *prefill)])
    host = {"model_name": "other", "tensor_parallel_degree": 1, "schedule_mean": 0.2}
    host |= {"prepare_inputs_e2e_mean": 0.2, "process_model_outputs_mean": 0.3}
    write_csv(
        folder / "a100" / "cpu_overheads.csv",
        [{"batch_size": n, **host, "process_model_outputs_mean": n / 40} for n in (8, 16)],
    )
    return tables


def change_cell(path: Path, row: int, column: str, value: object) -> None:
    """Rewrite one cell of a CSV; rows count from 1."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows: list[dict[str, object]] = [dict(each) for each in csv.DictReader(stream)]
    rows[row - 1][column] = value
    write_csv(path, rows)


def drop_column(path: Path, column: str) -> None:
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [
            {name: value for name, value in row.items() if name != column} for row in csv.DictReader(stream)
        ]
    write_csv(path, rows)


def config_json(folder: Path) -> Path:
    """Write SMALL as a Hugging Face config.json."""
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": 4,
        "hidden_size": 256,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "intermediate_size": 512,
        "vocab_size": 1000,
        "max_position_embeddings": 4096,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder / "config.json"
