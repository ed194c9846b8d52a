"""`kvsim calibrate import`: a profile from kernel tables that others published."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Which of the tables' rows are wanted."""

    tensor_parallel_size: Annotated[int, Parameter(name=["--tensor-parallel-size", "--tp"])] = 1
    """GPUs that share a layer."""
    gpu: str | None = None
    """Built-in GPU that was timed; by the folder's name unless given."""
    backend: str | None = None
    """Whose kernels, of aiconfigurator: vllm, sglang or trtllm; vllm unless given."""
    kv_cache_dtype: str = "auto"
    """KV cache dtype, of aiconfigurator: auto (the model's) or fp8."""
    weight_dtype: str | None = None
    """Weight dtype, of aiconfigurator: bf16 or fp8; the model's unless given."""
    allreduce: Path | None = None
    """Folder of aiconfigurator tables that lend their all-reduces to llmservingsim or vidur, which have none."""
    seed: int = 0
    """Seed that draws the points kept from the fit."""


DEFAULT = ImportOptions()


def import_profile(
    format_name: Annotated[str, Parameter(help="aiconfigurator, llmservingsim or vidur.")],
    folder: Annotated[Path, Parameter(help="Folder of the tables: one card's, or of all cards with --gpu.")],
    /,
    *,
    model: Annotated[str, Parameter(help="Built-in model or path to a Hugging Face config.json.")],
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Profile to write, as JSON.")],
    options: ImportOptions = DEFAULT,
) -> None:
    """Fit a profile to published kernel tables and write it.

    The profile says that it was imported, not measured by this project, and carries the tables' licence, the
    error on points kept from the fit, and the points themselves, so that `kvsim calibrate check` can repeat it.
    """
    from kvsim.calibration.importers import build_profile, import_tables
    from kvsim.zoo import find_model

    shape = find_model(model, options.weight_dtype)
    found = import_tables(
        format_name,
        folder,
        shape,
        tensor_parallel_size=options.tensor_parallel_size,
        gpu=options.gpu,
        backend=options.backend,
        kv_cache_dtype=options.kv_cache_dtype,
        allreduce=options.allreduce,
        seed=options.seed,
    )
    build_profile(shape, found, options.tensor_parallel_size).save(output)
    for warning in found.warnings:
        print(f"kvsim: {warning}", file=sys.stderr)
    print(f"{output}: {len(found.points)} points, {found.source['statement']}", file=sys.stderr)
