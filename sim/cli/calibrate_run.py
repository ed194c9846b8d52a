"""`kvsim calibrate run`: time the kernels of a model on the device at hand, and write their profile."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from kvsim.calibration.bench import TorchBench
    from kvsim.calibration.grid import Planned
    from kvsim.calibration.measured_device import Device
    from kvsim.calibration.partial_file import PartialFile
    from kvsim.calibration.session import Outcome, Session
    from kvsim.model import Model

CPU_LONGEST_NS = 5e6
"""Time spent on a point on the CPU, where nothing is measured that counts."""


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
    smoke: Annotated[bool, Parameter(negative=())] = False
    """Time a tiny grid, to try the machinery out."""
    resume: Annotated[bool, Parameter(negative=())] = False
    """Go on from what an interrupted calibration has left beside the profile."""


DEFAULT = RunOptions()


def run_calibration(
    *,
    model: Annotated[str, Parameter(help="Built-in model or path to a Hugging Face config.json.")],
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Profile to write, as JSON.")],
    options: RunOptions = DEFAULT,
) -> None:
    """Time the kernels of a model on this machine's GPU, fit them, and write the profile.

    Each kernel must pass a numeric check before it is timed. Ctrl-C keeps what was measured for --resume. Exits with
    3 when there is no such device, and with 4 when a kernel computes something else than attention.
    """
    from kvsim.calibration.measured_device import NoDeviceError, pick_device
    from kvsim.calibration.numeric_check import BackendRefusedError

    _check(options, output)
    shape = _model(model, options)
    try:
        device = pick_device(options.device)
        _calibrate(shape, device, output, options)
    except NoDeviceError as error:
        _end(str(error), 3)
    except BackendRefusedError as error:
        _end(" ".join(str(error).split()), 4)


def _calibrate(model: Model, device: Device, output: Path, options: RunOptions) -> None:
    from kvsim.calibration.measured_device import device_record, known_peak, measure_ceilings
    from kvsim.calibration.partial_file import PartialFile
    from kvsim.calibration.session import Session
    from kvsim.calibration.timer import LEAST_REPEATS, CpuTimer, CudaTimer
    from kvsim.cli.calibrate_progress import shown_progress

    start = time.monotonic()
    is_cuda = device.type == "cuda"
    bench, grid = _bench(model, device, options, smoke=options.smoke or not is_cuda)
    partial = PartialFile(output)
    partial.start(_about(model, options, device_record(device)), options.resume)
    timer = CudaTimer(device) if is_cuda else CpuTimer(longest_ns=CPU_LONGEST_NS)
    ceilings = measure_ceilings(device, timer, model.dtype, options.smoke or not is_cuda)
    with shown_progress() as report:
        session = Session(
            bench=bench, timer=timer, grid=grid, partial=partial, seed=options.seed, report=report,
            budget=options.budget - (time.monotonic() - start), peak=known_peak(device, ceilings),
            repeats=LEAST_REPEATS if is_cuda else 3,
        )  # fmt: skip
        outcome = _interruptible(session)
    for note, count in bench.notes.items():
        outcome = replace(outcome, warnings=(*outcome.warnings, f"{note} ({count} times)"))
    record = {"device": device_record(device), "ceilings": ceilings, "wall": time.monotonic() - start}
    _write(model, output, options, outcome, record, partial)


def _bench(
    model: Model, device: Device, options: RunOptions, smoke: bool
) -> tuple[TorchBench, list[Planned]]:
    from kvsim.calibration.bench import TorchBench, extent_of
    from kvsim.calibration.grid import make_grid
    from kvsim.calibration.measured_device import free_bytes, l2_bytes

    kv_dtype = model.dtype if options.kv_cache_dtype == "auto" else options.kv_cache_dtype
    extent = extent_of(
        model, tensor_parallel_size=options.tensor_parallel_size, kv_dtype=kv_dtype,
        block_size=options.block_size, smoke=smoke, free_bytes=free_bytes(device),
    )  # fmt: skip
    bench = TorchBench(
        model, device=device, extent=extent, backend=_backend(options.backend, device), seed=options.seed,
        tensor_parallel_size=options.tensor_parallel_size, l2_bytes=l2_bytes(device),
    )  # fmt: skip
    return bench, make_grid(extent, options.seed)


def _interruptible(session: Session) -> Outcome:
    try:
        return session.run()
    except KeyboardInterrupt:
        kept = len(session.partial.points)
        _end(f"interrupted; {kept} points are kept in {session.partial.path}: go on with --resume", 130)
        raise


def _write(
    model: Model,
    output: Path,
    options: RunOptions,
    outcome: Outcome,
    record: dict[str, object],
    partial: PartialFile,
) -> None:
    """Fit and save; without a kernel that every step needs, keep the points and say how to go on."""
    from kvsim import __version__
    from kvsim.calibration.grid import GRID
    from kvsim.calibration.measured_device import software_record
    from kvsim.calibration.profile import Profile
    from kvsim.errors import InputError

    device = record["device"]
    is_representative = isinstance(device, dict) and device["type"] == "cuda" and not options.smoke
    note = () if is_representative else (f"not representative: a tiny grid{_where(device)}",)
    warnings = (*outcome.warnings, *note)
    tool = {"version": __version__, "grid": GRID, "seed": options.seed, "budget": options.budget}
    try:
        profile = Profile.build(
            model, outcome.points, tensor_parallel_size=options.tensor_parallel_size, seed=options.seed,
            draws=1,
            representative=is_representative, device=device, software=software_record(),
            ceilings=record["ceilings"], sentinels=outcome.sentinels, warnings=warnings,
            tool={**tool, "argv": sys.argv[1:], "wall_s": round(float(str(record["wall"])), 1)},
            source={"origin": "measured by `kvsim calibrate run` on the user's own device"},
        )  # fmt: skip
    except InputError as error:
        raise InputError(
            f"{error}; {len(outcome.points)} points are kept in {partial.path}: go on with --resume and more --budget"
        ) from error
    profile.save(output)
    partial.delete()
    _say(output, outcome, warnings, float(str(record["wall"])))


def _say(output: Path, outcome: Outcome, warnings: tuple[str, ...], wall: float) -> None:
    for warning in warnings:
        print(f"kvsim: {warning}", file=sys.stderr)
    print(f"{output}: {len(outcome.points)} points in {wall:.0f} s", file=sys.stderr)


def _where(device: object) -> str:
    return " on the CPU" if isinstance(device, dict) and device["type"] == "cpu" else ""


def _model(name: str, options: RunOptions) -> Model:
    """Return the model in the dtype that is timed; quantised weights are not."""
    from kvsim.calibration.case import DTYPES
    from kvsim.errors import InputError
    from kvsim.zoo import find_model

    if options.dtype is not None and options.dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, got {options.dtype!r}")
    found = find_model(name, options.dtype)
    if found.weight_dtype not in DTYPES:
        raise InputError(
            f"weights of {found.name} are {found.weight_dtype}, whose products are not timed; --dtype may be one of "
            f"{', '.join(DTYPES)}"
        )
    return replace(found, dtype=options.dtype or found.dtype)


def _check(options: RunOptions, output: Path) -> None:
    from kvsim.errors import InputError

    if not 0 < options.budget < 1e6:
        raise InputError(f"budget must be seconds above 0, got {options.budget:g}")
    if options.seed < 0:
        raise InputError(f"seed must be ≥ 0, got {options.seed}")
    if options.block_size not in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        raise InputError(f"block size must be a power of two from 1 to 256, got {options.block_size}")
    if not output.absolute().parent.is_dir():
        raise InputError(f"output {str(output)!r}: there is no such folder")


def _about(model: Model, options: RunOptions, device: dict[str, object]) -> dict[str, object]:
    """Return what must agree for a calibration to go on."""
    from kvsim.calibration.grid import GRID

    wanted = ("tensor_parallel_size", "kv_cache_dtype", "block_size", "backend", "seed", "smoke")
    shape = [model.layers, model.hidden, model.heads, model.kv_heads, model.head_dim, model.ffn, model.vocab]
    about: dict[str, object] = {"grid": GRID, "model": model.name, "shape": shape, "dtype": model.dtype}
    about |= {name: getattr(options, name) for name in wanted}
    return about | {"device": device["name"]}


def _backend(name: str, device: Device) -> str:
    """Return the backend's full name: `sdpa` is the one of torch's that is fastest on the device."""
    if name != "sdpa":
        return name
    from kvsim.calibration.measured_device import is_hopper

    return "sdpa-cudnn" if is_hopper(device) else "sdpa-flash"


def _end(message: str, code: int) -> None:
    print(f"kvsim: {message}", file=sys.stderr)
    sys.exit(code)
