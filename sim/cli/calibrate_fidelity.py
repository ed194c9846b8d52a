"""`kvsim calibrate fidelity`: execute what the simulator schedules, and compare with what a profile predicts."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kvsim.cli.flags import OUTPUT, TRACE, Json
from kvsim.cli.trace_options import TraceOptions

if TYPE_CHECKING:
    from kvsim.calibration.fidelity import FidelitySession, Outcome, Planned
    from kvsim.cli.calibrate_fidelity_setup import Setup

CPU_LONGEST_NS = 5e6
"""Time spent on a step on the CPU, where nothing is measured that counts."""

Reading = Annotated[TraceOptions, Parameter(group=TRACE)]
AS_THE_FILE_SAYS = TraceOptions()
OUTPUT_HELP = "New folder for fidelity.json, steps.csv and the plot, predicted.png."
Output = Annotated[Path | None, Parameter(name=["--output", "-o"], group=OUTPUT, help=OUTPUT_HELP)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class FidelityOptions:
    """What is executed, on what, and for how long."""

    model: str | None = None
    """Built-in model or path to a config.json, for windows and context; by the profile's model name unless given."""
    layers: int | None = None
    """Layers to execute, the model's first; predictions are for as many. All unless given, 2 on the CPU."""
    weight_sets: int | None = None
    """Sets of layer weights that layers take in turn, so that a large model fits; what half the memory holds
    unless given."""
    layouts: str = "contiguous,paged,prefix,windowed"
    """Memory layouts, with commas; windowed is left out for a model without windows."""
    pages: str | None = None
    """Page sizes of the paged layout, with commas; those that the profile timed unless given."""
    backend: str = "auto"
    """Attention kernel where it takes the case: auto, triton, sdpa-cudnn, sdpa-flash, flashinfer, flex or reference."""
    kv_cache_dtype: str = "auto"
    """KV cache dtype: auto (the model's), bf16, fp16, fp8 or int8."""
    device: str = "auto"
    """auto, cuda, cuda:N or cpu."""
    max_model_len: int | None = None
    """Longest sequence, and so the size of a contiguous slot, in tokens; 8192 or the model's own unless given, 256
    on the CPU."""
    max_num_seqs: int | None = None
    """Most requests running at once; 256 unless given, 8 on the CPU."""
    max_num_batched_tokens: int | None = None
    """Most tokens of a step; 2048 unless given, 96 on the CPU."""
    kv_tokens: int | None = None
    """Tokens in the KV pool; what fits six tenths of the memory left unless given."""
    steps: int = 24
    """Most steps of each kind to execute in each layout, evenly spaced over the run."""
    budget: float = 180.0
    """Seconds for numeric checks and steps; layouts and kinds take turns, so the end leaves some of each."""
    decode_gate: float | None = None
    """Largest MAPE of decode steps, in percent; 3 unless given, none on the CPU."""
    total_gate: float | None = None
    """Largest error of a run's total time, in percent, in any layout; 2 unless given, none on the CPU."""


DEFAULT = FidelityOptions()


def run_fidelity(
    profile: Annotated[str, Parameter(help="File, or name of a profile that comes with kvsim.")],
    trace: Annotated[
        Path | None, Parameter(group=TRACE, help="Trace to simulate; a small drawn one unless given.")
    ] = None,
    /,
    *,
    options: FidelityOptions = DEFAULT,
    reading: Reading = AS_THE_FILE_SAYS,
    output: Output = None,
    json: Json = False,
) -> None:
    """Execute steps that the simulator schedules with real layers on this machine, and compare with a profile.

    Nothing is timed before the engine's numbers agree with a float64 reference. Ctrl-C keeps what was measured.
    """
    from kvsim.calibration.measured_device import NoDeviceError, pick_device
    from kvsim.calibration.numeric_check import BackendRefusedError
    from kvsim.cli.calibrate_fidelity_choice import choose
    from kvsim.cli.calibrate_fidelity_setup import prepare
    from kvsim.result import new_folder

    _check(options, reading.seed)
    if output is not None:
        new_folder(output)
    try:
        device = pick_device(options.device)
        setup = prepare(choose(profile, trace, options, reading, device), options, device, reading.seed)
        outcome = _execute(setup, options, reading.seed)
    except NoDeviceError as error:
        _end(str(error), 3)
    except BackendRefusedError as error:
        _end(" ".join(str(error).split()), 4)
    else:
        _report(setup, outcome, options, output, json)


def _execute(setup: Setup, options: FidelityOptions, seed: int) -> Outcome:
    from kvsim.calibration.measured_device import one_thread
    from kvsim.calibration.timer import CpuTimer, CudaTimer
    from kvsim.cli.calibrate_fidelity_choice import other_kernels
    from kvsim.cli.calibrate_progress import shown_progress

    is_cuda = setup.device.type == "cuda"
    with one_thread(setup.device), shown_progress() as report:
        planned = setup.plan()
        outcome = _session(
            setup,
            planned,
            timer=CudaTimer(setup.device, setup.sensors.read)
            if is_cuda
            else CpuTimer(longest_ns=CPU_LONGEST_NS),
            repeats=5 if is_cuda else 3,
            budget=options.budget,
            seed=seed,
            report=report,
        ).run()
    notes = [f"{note} ({count} times)" for note, count in setup.executor.notes.items()]
    other = other_kernels(setup.profile, outcome.steps)
    return replace(outcome, warnings=(*setup.warnings, *outcome.warnings, *notes, *other))


def _session(setup: Setup, planned: list[Planned], **settings: object) -> FidelitySession:
    from kvsim.calibration.fidelity import FidelitySession

    return FidelitySession(executor=setup.executor, planned=planned, **settings)  # type: ignore[arg-type]


def _report(
    setup: Setup, outcome: Outcome, options: FidelityOptions, output: Path | None, as_json: bool
) -> None:
    """Print the comparison, write the folder, and end with what the gates say."""
    from kvsim.calibration.fidelity_record import fidelity_record, step_rows
    from kvsim.cli.calibrate_fidelity_text import caption, fidelity_text, save_fidelity
    from kvsim.cli.print_json import print_json

    for warning in outcome.warnings:
        print(f"kvsim: {warning}", file=sys.stderr)
    if not outcome.steps:
        if outcome.is_interrupted:
            _end("interrupted before the first step", 130)
        _end("no step was executed: raise --budget", 1)
    failures = _failures(setup, outcome, options)
    record = fidelity_record(outcome, setup.about, failures, representative=setup.is_representative)
    line = caption(record)
    if as_json:
        print_json(record)
    else:
        print(fidelity_text(outcome, line, representative=setup.is_representative))
    if output is not None:
        save_fidelity(output, record, step_rows(outcome.steps), line)
        print(f"Written to {output}", file=sys.stderr)
    if outcome.is_interrupted:
        kept = "" if output is None else f", kept in {output}"
        count = f"{len(outcome.steps)} of {len(outcome.steps) + outcome.remaining} steps"
        _end(f"interrupted after {count}{kept}", 130)
    if failures:
        _end("; ".join(failures), 5)


def _failures(setup: Setup, outcome: Outcome, options: FidelityOptions) -> list[str]:
    """Return what is further off than the gates allow; on the CPU only gates that were given count."""
    from kvsim.calibration.fidelity_errors import gate_failures

    is_cuda = setup.device.type == "cuda"
    decode = options.decode_gate if options.decode_gate is not None else (3.0 if is_cuda else None)
    total = options.total_gate if options.total_gate is not None else (2.0 if is_cuda else None)
    return gate_failures(outcome.steps, decode=decode, total=total)


def _check(options: FidelityOptions, seed: int) -> None:
    from kvsim.errors import InputError

    if not 0 < options.budget < 1e6:
        raise InputError(f"budget must be seconds above 0, got {options.budget:g}")
    if seed < 0:
        raise InputError(f"seed must be ≥ 0, got {seed}")
    names = ("layers", "weight_sets", "max_model_len", "max_num_seqs", "max_num_batched_tokens")
    for name in (*names, "kv_tokens", "steps"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"{name.replace('_', ' ')} must be ≥ 1, got {value}")
    for name in ("decode_gate", "total_gate"):
        value = getattr(options, name)
        if value is not None and not value >= 0:
            raise InputError(f"{name.replace('_', ' ')} must be percent ≥ 0, got {value:g}")


def _end(message: str, code: int) -> None:
    print(f"kvsim: {message}", file=sys.stderr)
    sys.exit(code)
