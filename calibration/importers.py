"""The formats of published kernel tables by name, and one way to read any of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from kvsim.calibration.imported import Imported
from kvsim.calibration.profile import Profile
from kvsim.errors import InputError, nearest
from kvsim.model import Model

FORMATS = ("aiconfigurator", "llmservingsim", "vidur")


def import_tables(
    format_name: str,
    folder: Path,
    model: Model,
    *,
    tensor_parallel_size: int = 1,
    gpu: str | None = None,
    backend: str | None = None,
    kv_cache_dtype: str = "auto",
    allreduce: Path | None = None,
    seed: int = 0,
) -> Imported:
    """Read one model's points from a folder of published tables.

    `backend` and `kv_cache_dtype` choose among AIConfigurator's tables; the other formats have one of each, and no
    all-reduces: `allreduce` is a folder of AIConfigurator's tables that lends those of the same card.
    """
    if format_name not in FORMATS:
        raise InputError(
            f"format must be one of {', '.join(FORMATS)}, got {format_name!r}{nearest(format_name, FORMATS)}"
        )
    if tensor_parallel_size < 1:
        raise InputError(f"tensor_parallel_size must be at least 1, got {tensor_parallel_size}")
    read: Callable[..., Imported]
    if format_name == "aiconfigurator":
        from kvsim.calibration.import_aiconfigurator import import_aiconfigurator

        read = partial(import_aiconfigurator, backend=backend or "vllm", kv_cache_dtype=kv_cache_dtype)
    else:
        _refuse_choices(format_name, model, backend, kv_cache_dtype)
        read = _single_backend(format_name)
    found = read(folder, model, tensor_parallel_size=tensor_parallel_size, gpu=gpu, seed=seed)
    return found if allreduce is None else _lent(found, format_name, allreduce, tensor_parallel_size, seed)


def build_profile(model: Model, found: Imported, tensor_parallel_size: int = 1, draws: int = 4) -> Profile:
    """Fit a profile to imported points; see `Profile.build` for `draws`."""
    return Profile.build(
        model,
        found.points,
        tensor_parallel_size=tensor_parallel_size,
        draws=draws,
        device=found.device,
        host=found.host,
        source=found.source,
        warnings=found.warnings,
    )


def _lent(found: Imported, format_name: str, lender: Path, size: int, seed: int) -> Imported:
    if format_name == "aiconfigurator" or size == 1:
        why = "one GPU needs none" if size == 1 else "aiconfigurator has its own"
        raise InputError(f"--allreduce lends all-reduces where tables lack them: {why}")
    from kvsim.calibration.allreduce_table import with_allreduces

    return with_allreduces(found, lender, size, seed)


def _refuse_choices(format_name: str, model: Model, backend: str | None, kv_cache_dtype: str) -> None:
    if backend is not None:
        raise InputError(f"tables of {format_name} are of one backend; it can't be chosen, got {backend!r}")
    if kv_cache_dtype not in ("auto", model.dtype):
        raise InputError(f"tables of {format_name} have KV in {model.dtype} only, got {kv_cache_dtype!r}")


def _single_backend(format_name: str) -> Callable[..., Imported]:
    if format_name == "vidur":
        from kvsim.calibration.import_vidur import import_vidur

        return import_vidur
    from kvsim.calibration.import_llmservingsim import import_llmservingsim

    return import_llmservingsim
