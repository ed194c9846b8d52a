"""`kvsim validate run`: replay what a real server was asked, and compare with what it measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from kvsim.cli.flags import NO_FLAGS, OUTPUT, POLICY, TRACE, ConfigFile, Flags, Json, settings
from kvsim.cli.trace_options import TraceOptions
from kvsim.cli.validate_run_settings import Arrivals, RecordOptions, fill_from_record

if TYPE_CHECKING:
    from kvsim.config import RunConfig
    from kvsim.measured import Measured
    from kvsim.measured_compare import Differences, Within
    from kvsim.result import Result
    from kvsim.traces.trace import Trace

Reading = Annotated[TraceOptions, Parameter(group=TRACE)]
AS_THE_FILE_SAYS = TraceOptions()

run = App(name="run", config=fill_from_record)


@run.default
def validate_run(
    trace: Annotated[Path, Parameter(group=TRACE)],
    /,
    *,
    record: RecordOptions,
    policy: Annotated[str | None, Parameter(group=POLICY)] = None,
    reading: Reading = AS_THE_FILE_SAYS,
    flags: Flags = NO_FLAGS,
    config: ConfigFile = None,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"), group=OUTPUT)] = None,
    json: Json = False,
) -> None:
    """Replay what a real server was asked, and say how far kvsim is from what it measured.

    Parameters
    ----------
    trace
        What the server was asked: a trace of any format, or the bench result itself.
    policy
        Policy; prefix unless given, or paged where the server had prefix caching off.
    output
        New folder for validation.json, differences.csv, requests.csv, over_time.csv and the plots.
    """
    del config
    _validate(trace, record, reading, policy, settings(flags), output, json)


def _validate(
    trace: Path,
    record: RecordOptions,
    reading: TraceOptions,
    policy: str | None,
    chosen: RunConfig,
    output: Path | None,
    as_json: bool,
) -> None:
    from kvsim.measured_bench import read_measured
    from kvsim.result import new_folder
    from kvsim.run import check_settings, simulate

    limits = record.limits()
    if output is not None:
        new_folder(output)
    name = policy or ("paged" if chosen.enable_prefix_caching is False else "prefix")
    check_settings(name, chosen)
    workload, found = matched(reading.load(trace), read_measured(record.measured), record.replay_arrivals)
    result = simulate(workload, name, chosen, measure_capacity=False)
    _report(found, result, chosen, limits, output, as_json)


def matched(trace: Trace, measured: Measured, arrivals: Arrivals = "measured") -> tuple[Trace, Measured]:
    """Return the trace as the server met it, and the measured requests in its order.

    Rows belong together in the order of the record, or else of arrival, if every prompt is as long in both. The numbers
    of output tokens are what the server generated.
    """
    import dataclasses

    import numpy as np

    from kvsim.errors import InputError
    from kvsim.traces.trace import select

    requests = measured.requests
    if len(trace) != len(requests):
        raise InputError(
            f"{trace.name} has {len(trace):,} requests, {measured.name} has answers to {len(requests):,}: "
            "the trace must be what was measured"
        )
    by_arrival = np.argsort(requests.arrival, kind="stable")
    orders = (np.arange(len(requests)), by_arrival)
    alike = (order for order in orders if np.array_equal(requests.prompt_tokens[order], trace.prompt_tokens))
    order = next(alike, None)
    if order is None:
        theirs = requests.prompt_tokens[by_arrival]
        row = int(np.flatnonzero(theirs != trace.prompt_tokens)[0])
        raise InputError(
            f"{trace.name} request {row + 1} has a prompt of {trace.prompt_tokens[row]:,} tokens, in {measured.name} "
            f"the one at its place has {theirs[row]:,}: the trace must be what was measured"
        )
    requests = requests.select(order)
    if arrivals == "measured":
        order = np.argsort(requests.arrival, kind="stable")
        requests, trace = requests.select(order), select(trace, order)
        trace = dataclasses.replace(trace, arrival=requests.arrival, session=None, parent=None, think=None)
    trace = dataclasses.replace(trace, output_tokens=requests.output_tokens)
    return trace, dataclasses.replace(measured, requests=requests)


def _report(
    measured: Measured, result: Result, config: RunConfig, limits: Within, output: Path | None, as_json: bool
) -> None:
    from kvsim.cli.print_json import print_json
    from kvsim.cli.validate_run_text import caption, differences_record, differences_text, save_differences
    from kvsim.measured_compare import compare_measured

    for note in measured.notes:
        print(f"{measured.name}: {note}", file=sys.stderr)
    if config.num_gpu_blocks_override is None and config.kv_cache_memory_bytes is None:
        print(
            "the KV pool is computed from GPU and model: give --num-gpu-blocks-override or --server-log",
            file=sys.stderr,
        )
    differences: Differences = compare_measured(measured, result, limits)
    line = caption(differences, result)
    record = differences_record(differences, result, limits, line)
    if as_json:
        print_json(record)
    else:
        print(differences_text(differences, line))
    if output is not None:
        save_differences(output, differences, record, line)
        print(f"Written to {output}", file=sys.stderr)
    if not differences.is_within:
        sys.exit(1)
