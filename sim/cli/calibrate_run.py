"""`kvsim calibrate run`: time the kernels of a model on the device at hand, and write their profile."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from cyclopts import Parameter

from kvsim.cli.calibrate_options import (
    RunOptions,
    about_run,
    backend_name,
    check_options,
    model_to_time,
    trace_of,
)

if TYPE_CHECKING:
    from kvsim.calibration.bench import TorchBench
    from kvsim.calibration.grid import Planned
    from kvsim.calibration.measured_device import Device
    from kvsim.calibration.partial_file import PartialFile
    from kvsim.calibration.session import Outcome, Session
    from kvsim.model import Model
    from kvsim.traces.trace import Trace

CPU_LONGEST_NS = 5e6
"""Time spent on a point on the CPU, where nothing is measured that counts."""
NO_SENSORS = "clocks could not be read: what was timed at a slow one cannot be told (nvidia-ml-py reads them)"
DEFAULT = RunOptions()


class Setting(NamedTuple):
    """What was timed, on what, and of whose lengths."""

    device: dict[str, object]
    ceilings: dict[str, object]
    trace: Trace | None
    wall: float
    """Seconds that it took."""


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

    check_options(options, output)
    shape, trace = model_to_time(model, options), trace_of(options)
    try:
        device = pick_device(options.device)
        _calibrate(shape, device, output, options, trace)
    except NoDeviceError as error:
        _end(str(error), 3)
    except BackendRefusedError as error:
        _end(" ".join(str(error).split()), 4)


def _calibrate(model: Model, device: Device, output: Path, options: RunOptions, trace: Trace | None) -> None:
    from kvsim.calibration.measured_device import device_record, known_peak, measure_ceilings, one_thread
    from kvsim.calibration.partial_file import PartialFile
    from kvsim.calibration.readings import sensors_of
    from kvsim.calibration.session import Session
    from kvsim.calibration.timer import LEAST_REPEATS, CpuTimer, CudaTimer
    from kvsim.cli.calibrate_progress import shown_progress

    start = time.monotonic()
    is_cuda = device.type == "cuda"
    bench, grid = _bench(model, device, options, options.smoke or not is_cuda, trace)
    sensors = sensors_of(device)
    timer = CudaTimer(device, sensors.read) if is_cuda else CpuTimer(longest_ns=CPU_LONGEST_NS)
    with one_thread(device), shown_progress() as report:
        found = device_record(device) | sensors.facts
        partial = PartialFile(output)
        partial.start(about_run(model, options, found, trace), options.resume)
        ceilings = measure_ceilings(device, timer, model.dtype, options.smoke or not is_cuda)
        session = Session(
            bench=bench, timer=timer, grid=grid, partial=partial, seed=options.seed, report=report,
            budget=options.budget - (time.monotonic() - start), peak=known_peak(device, ceilings),
            repeats=LEAST_REPEATS if is_cuda else 3,
        )  # fmt: skip
        outcome = _interruptible(session)
    notes = [f"{note} ({count} times)" for note, count in bench.notes.items()]
    if is_cuda:
        found["sensors"] = sensors.name
        notes += [] if sensors.name else [NO_SENSORS]
    outcome = replace(outcome, warnings=(*outcome.warnings, *notes))
    setting = Setting(found, ceilings, trace, time.monotonic() - start)
    _write(model, output, options, outcome, setting, partial)


def _bench(
    model: Model, device: Device, options: RunOptions, smoke: bool, trace: Trace | None
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
        model, device=device, extent=extent, backend=backend_name(options.backend, device), seed=options.seed,
        tensor_parallel_size=options.tensor_parallel_size, l2_bytes=l2_bytes(device),
    )  # fmt: skip
    return bench, make_grid(extent, options.seed, trace)


def _interruptible(session: Session) -> Outcome:
    try:
        return session.run()
    except KeyboardInterrupt:
        kept = len(session.partial.points)
        _end(f"interrupted; {kept} points are kept in {session.partial.path}: go on with --resume", 130)
        raise


def _write(
    model: Model, output: Path, options: RunOptions, outcome: Outcome, setting: Setting, partial: PartialFile
) -> None:
    """Fit and save; without a kernel that every step needs, keep the points and say how to go on."""
    from kvsim import __version__
    from kvsim.calibration.grid import GRID
    from kvsim.calibration.measured_device import software_record
    from kvsim.calibration.profile import Profile
    from kvsim.errors import InputError

    is_cpu = setting.device["type"] == "cpu"
    where = " on one thread of the CPU" if is_cpu else ""
    note = (f"not representative: a tiny grid{where}",) if is_cpu or options.smoke else ()
    warnings = (*outcome.warnings, *note)
    tool = {"version": __version__, "grid": GRID, "seed": options.seed, "budget": options.budget}
    try:
        profile = Profile.build(
            model, outcome.points, tensor_parallel_size=options.tensor_parallel_size, seed=options.seed,
            draws=1, representative=not note, device=setting.device, software=software_record(),
            ceilings=setting.ceilings, sentinels=outcome.sentinels, warnings=warnings,
            tool={**tool, "argv": sys.argv[1:], "wall_s": round(setting.wall, 1)}, source=_source(setting.trace),
        )  # fmt: skip
    except InputError as error:
        raise InputError(
            f"{error}; {len(outcome.points)} points are kept in {partial.path}: go on with --resume and more --budget"
        ) from error
    profile.save(output)
    partial.delete()
    for warning in warnings:
        print(f"kvsim: {warning}", file=sys.stderr)
    print(f"{output}: {len(outcome.points)} points in {setting.wall:.0f} s", file=sys.stderr)


def _source(trace: Trace | None) -> dict[str, object]:
    """Say who measured, and whose lengths the drawn batches have."""
    source: dict[str, object] = {"origin": "measured by `kvsim calibrate run` on the user's own device"}
    if trace is None:
        return source | {"lengths": "drawn; of no trace"}
    digest = trace.sha256()
    words = f"of requests of {trace.name} ({len(trace):,} requests, sha256 {digest[:8]})"
    named = {"name": trace.name, "requests": len(trace), "sha256": digest}
    return source | {"lengths": words, "trace": named}


def _end(message: str, code: int) -> None:
    print(f"kvsim: {message}", file=sys.stderr)
    sys.exit(code)
