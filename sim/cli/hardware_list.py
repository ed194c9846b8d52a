"""What `kvsim capacity --list` prints: the built-in models and GPUs with their sources."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvsim.cli.capacity_report import show
from kvsim.gpu import GIB, MIB, Gpu, find_gpu, gpu_names
from kvsim.model import Model
from kvsim.zoo import find_model, model_names

if TYPE_CHECKING:
    from rich.table import Table


def print_known(as_json: bool) -> None:
    """Print the built-in models and GPUs with their sources."""
    models, gpus = [find_model(name) for name in model_names()], [find_gpu(name) for name in gpu_names()]
    if as_json:
        rows = {"models": [_model_record(one) for one in models], "gpus": [_gpu_record(one) for one in gpus]}
        print(json.dumps(rows, indent=2))
        return
    show(_records_table("models (computed from the shapes)", [_model_record(one) for one in models]))
    show(_records_table("GPUs (datasheet figures, dense rates)", [_gpu_record(one) for one in gpus]))


def _model_record(model: Model) -> dict[str, object]:
    return {
        "model": model.name,
        "layers": model.layers,
        "kv_heads": model.kv_heads if model.latent is None else "MLA",
        "head_dim": model.head_dim if model.latent is None else model.latent.kv_rank + model.latent.rope_dim,
        "windows": ", ".join(f"{layers} × {window}" for window, layers in model.spans if window) or "–",
        "parameters_b": round(model.parameters / 1e9, 2),
        "weights_gb": round(model.weight_bytes / 1e9, 1),
        "weight_dtype": model.weight_dtype,
        "kv_bytes_per_token": model.kv_bytes_per_token(),
        "max_model_len": model.max_position_embeddings,
        "verified": model.verified,
        "source": model.source,
    }


def _gpu_record(gpu: Gpu) -> dict[str, object]:
    return {
        "gpu": gpu.name,
        "memory_gib": round(gpu.memory_bytes / GIB, 2),
        "memory_source": gpu.memory_source,
        "bandwidth_gb_s": round(gpu.bandwidth / 1e9),
        "dense_bf16_tflops": round(gpu.bf16_flops / 1e12, 1),
        "dense_fp8_tflops": None if gpu.fp8_flops is None else round(gpu.fp8_flops / 1e12, 1),
        "sms": gpu.sms,
        "l2_mib": None if gpu.l2_bytes is None else gpu.l2_bytes // MIB,
        "verified": gpu.verified,
        "source": gpu.source,
    }


def _records_table(title: str, records: Sequence[dict[str, object]]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name, value in records[0].items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        table.add_column(name.replace("_", " "), justify="right" if number else "left", overflow="fold")
    for record in records:
        table.add_row(*(_cell(value) for value in record.values()))
    return table


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
