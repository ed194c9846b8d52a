"""`kvsim trace`: look at traces, convert, generate and download them."""

from __future__ import annotations

import json as json_text
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from kvsim.cli.trace_options import TraceOptions
from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.traces.fetch import Progress
    from kvsim.traces.stats import Stats

trace = App(name="trace", help="Look at request traces, convert, generate and download them.")

Json = Annotated[bool, Parameter(negative=(), help="Print one JSON object instead of text.")]
Output = Annotated[Path, Parameter(name=["--output", "-o"], help="File to write: .parquet or .jsonl.")]


@trace.command
def stats(
    file: Annotated[Path, Parameter(help="Trace file, or folder of them, in any format kvsim reads.")],
    /,
    *,
    hit_curve: Annotated[
        str | None, Parameter(help="LRU capacities in blocks to count hits at, as in 1000,10000.")
    ] = None,
    json: Json = False,
    options: TraceOptions = TraceOptions(),  # noqa: B008  frozen, so one for all calls is fine
) -> None:
    """Print counts, lengths, arrival rate and burstiness, and prefix reuse of a trace.

    Hit rates are those of a cache without limit, by tokens, by blocks, and by full blocks; --hit-curve adds
    the hits of one LRU cache at given capacities.
    """
    from kvsim.cli.trace_text import stats_text
    from kvsim.traces.stats import stats as measure

    capacities = _capacities(hit_curve)
    found = measure(options.load(file), capacities)
    if capacities and found.reuse is None:
        raise InputError(f"--hit-curve needs block ids, and {file} has none")
    print(json_text.dumps(_stats_object(found)) if json else stats_text(found))


@trace.command
def convert(
    file: Annotated[Path, Parameter(help="Trace file, or folder of them, in any format kvsim reads.")],
    /,
    *,
    output: Output,
    options: TraceOptions = TraceOptions(),  # noqa: B008
) -> None:
    """Write a trace, read and transformed by the flags below, in kvsim's own format."""
    from kvsim.traces.write import write_trace

    converted = options.load(file)
    write_trace(converted, output)
    print(f"{output}: {converted.describe()}", file=sys.stderr)


@trace.command
def generate(
    name: Annotated[str | None, Parameter(help="Workload; without one, list them.")] = None,
    /,
    *,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="File to write: .parquet or .jsonl.")
    ] = None,
    requests: Annotated[int, Parameter(help="Number of requests.")] = 1000,
    rate: Annotated[float, Parameter(help="Mean arrivals a second: sessions for chat and agent.")] = 1.0,
    arrival: Annotated[
        str, Parameter(help="Arrival process: poisson, gamma:CV, uniform or onoff:ON_S,OFF_S.")
    ] = "poisson",
    seed: Annotated[int, Parameter(help="Seed; the same flags give the same trace.")] = 0,
    list_: Annotated[bool, Parameter(name="--list", negative=(), help="List the workloads.")] = False,
    json: Json = False,
) -> None:
    """Draw a trace of a named workload, or list the workloads with their moments.

    Moments are in tokens a request: the mean of what is drawn, its median, its standard deviation (std),
    and the mean weighted by output tokens.
    """
    from kvsim.traces.generate import generate as draw
    from kvsim.traces.write import write_trace

    if name is None or list_:
        _list_workloads(json)
        return
    if output is None:
        raise InputError(f"generate {name} needs a file to write: -o FILE.parquet or -o FILE.jsonl")
    drawn = draw(name, requests, rate, seed, arrival)
    write_trace(drawn, output)
    print(f"{output}: {drawn.describe()}", file=sys.stderr)


@trace.command
def fetch(
    name: Annotated[str | None, Parameter(help="Trace; without one, list them.")] = None,
    /,
    *,
    to: Annotated[Path, Parameter(help="Folder to put it in.")] = Path(),
    base_url: Annotated[
        str | None,
        Parameter(help="Mirror to take it from, in place of https://raw.githubusercontent.com."),
    ] = None,
    list_: Annotated[bool, Parameter(name="--list", negative=(), help="List the traces.")] = False,
    json: Json = False,
) -> None:
    """Download a known public trace and check its sha256, or list them.

    A download that broke off is continued by the same command. KVSIM_FETCH_BASE_URL does what --base-url does.
    """
    from kvsim.traces.fetch import fetch as download
    from kvsim.traces.fetch import known

    if name is None or list_:
        _list_known(json)
        return
    path = download(name, to, base_url, _progress(name))
    entry = known()[name]
    print(f"{name}: {entry.licence}, {entry.cite}; sha256 as expected", file=sys.stderr)
    print(json_text.dumps({"name": name, "path": str(path), "bytes": entry.bytes}) if json else path)


def _capacities(text: str | None) -> list[int]:
    try:
        return [] if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--hit-curve must be whole numbers of blocks like 1000,10000, got {text!r}"
        ) from None


def _stats_object(found: Stats) -> dict[str, object]:
    from dataclasses import asdict

    figures = asdict(found)
    if found.reuse is not None:
        for rate in ("token_hit_rate", "block_hit_rate", "full_block_hit_rate", "top_tenth_share"):
            figures["reuse"][rate] = getattr(found.reuse, rate)
    return figures


def _list_workloads(json: bool) -> None:
    from kvsim.traces.workloads import workloads

    if json:
        listed = {
            w.name: {"about": w.about, "source": w.source, "moments": w.moments} for w in workloads().values()
        }
        print(json_text.dumps(listed))
        return
    for workload in workloads().values():
        print(f"{workload.name}\n    {workload.about}\n    {workload.summary()}\n    {workload.source}")


def _list_known(json: bool) -> None:
    from dataclasses import asdict

    from kvsim.traces.fetch import known

    if json:
        print(json_text.dumps({e.name: {**asdict(e), "address": e.address()} for e in known().values()}))
        return
    for entry in known().values():
        size = f"{entry.bytes / 1e6:.1f} MB"
        print(
            f"{entry.name}\n    {entry.about}\n    {size}, {entry.licence}, {entry.cite}\n    {entry.address()}"
        )


def _progress(name: str) -> Progress | None:
    """Keep one line on stderr up to date; say nothing where nobody watches."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, size: int) -> None:
        end = "\n" if done >= size else ""
        print(f"\r{name}: {done / 1e6:.1f} of {size / 1e6:.1f} MB", end=end, file=sys.stderr, flush=True)

    return show
