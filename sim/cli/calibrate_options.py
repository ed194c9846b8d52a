"""What `kvsim calibrate run` is asked for, checked before anything is timed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from kvsim.calibration.measured_device import Device
    from kvsim.model import Model
    from kvsim.traces.trace import Trace


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is timed, on what, and for how long."""

    tensor_parallel_size: Annotated[int, Parameter(name=["--tensor-parallel-size", "--tp"])] = 1
    """GPUs that share a layer; one GPU's part of it is timed."""
    dtype: str | None = None
    """Dtype of weights and activations: bf16, fp16 or fp32; the model's unless given."""
    kv_cache_dtype: str = "auto"
    """KV cache dtype: auto (the same), bf16, fp16, fp8 or int8."""
    block_size: int = 16
    """Tokens a page, of all points but those that compare page sizes."""
    backend: str = "auto"
    """Attention kernel: auto, triton, sdpa, sdpa-cudnn, sdpa-flash, flashinfer, flex or reference."""
    device: str = "auto"
    """auto, cuda, cuda:N or cpu."""
    budget: float = 300.0
    """Seconds; points that do not fit are left out, the least needed first, and named."""
    seed: int = 0
    """Seed of lengths, data and order."""
    trace: Path | None = None
    """Trace file or folder whose requests give the lengths of decodes and prompts; drawn unless given."""
    format: str | None = None
    """Format of --trace; told by its content when not given."""
    columns: str | None = None
    """Names of the columns of a generic --trace, as in arrival=ts,prompt=in,output=out."""
    smoke: Annotated[bool, Parameter(negative=())] = False
    """Time a tiny grid, to try the machinery out."""
    resume: Annotated[bool, Parameter(negative=())] = False
    """Go on from what an interrupted calibration has left beside the profile."""


def model_to_time(name: str, options: RunOptions) -> Model:
    """Return the model in the dtype that is timed; quantised weights are not."""
    from kvsim.calibration.case import DTYPES
    from kvsim.calibration.gemm_shapes import gemm_shapes
    from kvsim.errors import InputError
    from kvsim.zoo import find_model

    if options.dtype is not None and options.dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, got {options.dtype!r}")
    found = find_model(name, options.dtype)
    gemm_shapes(found)  # refuses experts and latent attention
    if found.weight_dtype not in DTYPES:
        raise InputError(
            f"weights of {found.name} are {found.weight_dtype}, whose products are not timed; --dtype may be one of "
            f"{', '.join(DTYPES)}"
        )
    return replace(found, dtype=options.dtype or found.dtype)


def check_options(options: RunOptions, output: Path) -> None:
    """Raise InputError for what cannot be, before anything is timed."""
    from kvsim.errors import InputError

    if not 0 < options.budget < 1e6:
        raise InputError(f"budget must be seconds above 0, got {options.budget:g}")
    if options.seed < 0:
        raise InputError(f"seed must be ≥ 0, got {options.seed}")
    if options.block_size not in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        raise InputError(f"block size must be a power of two from 1 to 256, got {options.block_size}")
    if not output.absolute().parent.is_dir():
        raise InputError(f"output {str(output)!r}: there is no such folder")


def trace_of(options: RunOptions) -> Trace | None:
    """Read the trace that lengths are taken from."""
    from kvsim.cli.trace_options import TraceOptions
    from kvsim.errors import InputError

    if options.trace is not None:
        return TraceOptions(format=options.format, columns=options.columns).load(options.trace)
    for name in ("format", "columns"):
        if getattr(options, name) is not None:
            raise InputError(f"--{name} says how to read a trace; --trace names none")
    return None


def about_run(
    model: Model, options: RunOptions, device: dict[str, object], trace: Trace | None
) -> dict[str, object]:
    """Return what must agree for a calibration to go on."""
    from kvsim.calibration.grid import GRID

    wanted = ("tensor_parallel_size", "kv_cache_dtype", "block_size", "backend", "seed", "smoke")
    shape = [model.layers, model.hidden, model.heads, model.kv_heads, model.head_dim, model.ffn, model.vocab]
    about: dict[str, object] = {"grid": GRID, "model": model.name, "shape": shape, "dtype": model.dtype}
    about |= {name: getattr(options, name) for name in wanted}
    return about | {"device": device["name"], "trace": None if trace is None else trace.sha256()}


def backend_name(name: str, device: Device) -> str:
    """Return the backend's full name: `sdpa` is the one of torch's that is fastest on the device."""
    if name != "sdpa":
        return name
    from kvsim.calibration.measured_device import is_hopper

    return "sdpa-cudnn" if is_hopper(device) else "sdpa-flash"
