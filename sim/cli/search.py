"""`kvsim search`: the highest rate, the smallest pool or the best setting under latency limits."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Group, Parameter

from kvsim.cli.flags import NO_FLAGS, OUTPUT, POLICY, TRACE, ConfigFile, Flags, Json, fill_from_file, settings
from kvsim.cli.run import AS_THE_FILE_SAYS, Reading
from kvsim.cli.trace_options import TraceOptions
from kvsim.search_options import SearchOptions

if TYPE_CHECKING:
    from kvsim.config import RunConfig
    from kvsim.search_point import Traffic
    from kvsim.search_result import Search

Knob = Literal[
    "rate",
    "num-gpu-blocks",
    "kv-cache-memory-bytes",
    "gpu-memory-utilization",
    "max-num-seqs",
    "max-num-batched-tokens",
    "block-size",
]
SEARCH = Group("Search", sort_key=0)
Resampling = Literal["gamma", "poisson", "sessions", "none"]
GENERATED = 2000
"""Requests of a generated workload unless told otherwise: enough for most queues to show whether they grow."""

Asked = Annotated[SearchOptions, Parameter(name="*", group=SEARCH)]
AS_USUAL = SearchOptions()

search = App(name="search", config=fill_from_file)


@search.default
def search_knob(
    knob: Annotated[Knob, Parameter(group=SEARCH)],
    trace: Annotated[str, Parameter(group=TRACE)],
    /,
    *,
    asked: Asked = AS_USUAL,
    resample: Annotated[Resampling | None, Parameter(group=TRACE)] = None,
    requests: Annotated[int | None, Parameter(group=TRACE)] = None,
    policy: Annotated[str, Parameter(group=POLICY)] = "paged",
    reading: Reading = AS_THE_FILE_SAYS,
    flags: Flags = NO_FLAGS,
    config: ConfigFile = None,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"), group=OUTPUT)] = None,
    jobs: Annotated[int | None, Parameter(name=("--jobs", "-j"), group=OUTPUT)] = None,
    json: Json = False,
) -> None:
    """Find the highest request rate, the smallest pool or the best setting under latency limits.

    Parameters
    ----------
    knob
        What to find: the highest rate (session starts in closed loop); the smallest num-gpu-blocks,
        kv-cache-memory-bytes or gpu-memory-utilization; the best max-num-seqs, max-num-batched-tokens or block-size.
    trace
        Trace file, folder of session files, or a workload that `kvsim trace generate --list` names.
    resample
        What a draw of a trace file redraws: gamma (gaps with the trace's own burstiness; the default), poisson,
        sessions (with replacement), none (the trace as it is). A generated workload is drawn anew altogether.
    requests
        Requests of a generated workload; 2,000 unless given.
    policy
        Policy with parameters, as in paged:block_size=32; `kvsim policies` lists them.
    output
        Folder for curve, runs, answer and plot. Finished runs are kept, and not run again by the same command.
    jobs
        Runs at once; all CPUs unless given, one for up to 500 requests.
    """
    del config
    traffic = _traffic(trace, reading, requests, resample)
    found = _find(traffic, knob, policy, asked, settings(flags), reading.seed, output, jobs)
    _report(found, output, json)
    if not found.found:
        sys.exit(1)


def _find(
    traffic: Traffic,
    knob: str,
    policy: str,
    asked: SearchOptions,
    chosen: RunConfig,
    seed: int,
    output: Path | None,
    jobs: int | None,
) -> Search:
    from kvsim.cli.search_progress import shown_progress
    from kvsim.search import search as find

    if asked.seeds is not None and asked.seeds > 1 and not traffic.varies:
        print(f"{traffic.name}: draws do not differ ({traffic.about}), so one is enough", file=sys.stderr)
    options = dataclasses.asdict(asked)
    with shown_progress() as progress:
        return find(
            traffic,
            knob,
            policy,
            chosen,
            first_seed=seed,
            folder=output,
            jobs=jobs,
            progress=progress,
            **options,
        )


def _traffic(trace: str, reading: TraceOptions, requests: int | None, resample: str | None) -> Traffic:
    """Return a trace file's traffic, or a workload's of that name where there is no such file."""
    from kvsim.errors import InputError, nearest
    from kvsim.traces.redraw import GeneratedTraffic, RecordedTraffic
    from kvsim.traces.workloads import workloads

    if Path(trace).exists():
        if requests is not None:
            raise InputError("--requests goes with a generated workload; --head cuts a trace file")
        return RecordedTraffic(reading.load(Path(trace)), resample or "gamma")
    if trace not in workloads():
        raise InputError(
            f"{trace!r} is neither a file nor a workload{nearest(trace, workloads())}; known: {', '.join(workloads())}"
        )
    changed = [name for name in TraceOptions.__slots__ if name not in ("rate", "arrival", "seed")]
    for name in changed:
        if getattr(reading, name) != getattr(AS_THE_FILE_SAYS, name):
            raise InputError(f"--{name.replace('_', '-')} goes with a trace file, not with workload {trace}")
    if resample is not None:
        raise InputError(f"--resample goes with a trace file; workload {trace} is drawn anew altogether")
    if requests is not None and requests < 1:
        raise InputError(f"--requests must be at least 1, got {requests}")
    arrival = "poisson" if reading.arrival == "trace" else reading.arrival
    return GeneratedTraffic(trace, requests or GENERATED, arrival, reading.rate)


def _report(found: Search, output: Path | None, as_json: bool) -> None:
    from kvsim.cli.print_json import print_json
    from kvsim.cli.search_text import caption, print_search
    from kvsim.reports.search import save_search_curve

    line = caption(found)
    if output is not None:
        found.save(output, lambda folder: save_search_curve(folder, found.curve, caption=line))
    if as_json:
        print_json(found.record() | {"curve": found.curve.to_dict("records")})
    else:
        print_search(found, line)
        for note in found.notes:
            print(f"kvsim: {note}", file=sys.stderr)
    if output is not None:
        there = (
            f"; {found.remembered:,} of {len(found.outcomes):,} runs were there" if found.remembered else ""
        )
        print(
            f"Written to {output}: curve.csv, search.json, search.png, runs.parquet{there}", file=sys.stderr
        )
