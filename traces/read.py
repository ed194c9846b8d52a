"""Read a trace: tell its format, read it, draw arrivals where it has none, check and sort."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kvsim.errors import InputError, nearest
from kvsim.request import FloatColumn, IntColumn
from kvsim.traces import (
    azure,
    bailian,
    burstgpt,
    generic,
    kv_cache_tester,
    llmservingsim,
    mooncake,
    own_parquet,
    request_rows,
    servegen,
    splitwise,
    vidur,
    vllm_bench,
)
from kvsim.traces.reader import Format, Found, Options
from kvsim.traces.source import Head, Source, shown
from kvsim.traces.trace import Trace

FORMATS: tuple[Format, ...] = (
    own_parquet.FORMAT,
    request_rows.FORMAT,
    azure.FORMAT,
    splitwise.FORMAT,
    burstgpt.FORMAT,
    vidur.FORMAT,
    vidur.LENGTHS_FORMAT,
    bailian.FORMAT,
    mooncake.FORMAT,
    llmservingsim.FORMAT,
    vllm_bench.FORMAT,
    servegen.FORMAT,
    kv_cache_tester.FORMAT,
    *generic.FORMATS,
)
"""Every format, tried in this order when none is named."""


def read_trace(
    path: str | Path,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    hash_block_tokens: int | None = None,
    rate: float | None = None,
    arrival: str = "trace",
    seed: int = 0,
) -> Trace:
    """Read a file or folder as a checked trace, sorted by arrival; its `notes` say what was changed.

    The format is told by content unless named. `columns` maps arrival, prompt, output, priority, session
    and samples to a table's own names. `hash_block_tokens` is what one hash id stands for, where the file
    does not say. `arrival` is `trace` for the file's own times, or a process to draw them from (see
    `kvsim.traces.arrivals`) at `rate` requests a second (in closed loop: sessions a second). A file
    without times and no `rate` has everything arrive at t = 0. Raises InputError.
    """
    source = Source(Path(path))
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise InputError(f"rate must be a positive number of requests a second, got {rate}")
    if hash_block_tokens is not None and hash_block_tokens < 1:
        raise InputError(f"hash_block_tokens must be at least 1, got {hash_block_tokens}")
    options = Options(columns or {}, hash_block_tokens, rate, seed)
    found = _format(source, format, options).read(source, options)
    return _timed(found, rate, arrival, seed).checked(found.origin)


def format_names() -> list[str]:
    """Return the names `read_trace` takes as `format`."""
    return [known.name for known in FORMATS]


def _format(source: Source, name: str | None, options: Options) -> Format:
    head = source.head()
    if name is not None:
        found = next((known for known in FORMATS if known.name == name), None)
        if found is None:
            raise InputError(
                f"unknown trace format {name!r}{nearest(name, format_names())}; known: {', '.join(format_names())}"
            )
    elif options.columns:
        found = generic.by_kind(head.kind)
    else:
        found = next((known for known in FORMATS if known.matches(head)), None)
    if found is None:
        raise _unknown(source, head)
    if options.hash_block_tokens is not None and found is not request_rows.FORMAT:
        raise InputError(
            f"{source.name}: --hash-block-tokens goes with JSONL rows of hash_ids, not with {found.name}"
        )
    if options.columns and found not in generic.FORMATS:
        raise InputError(
            f"{source.name}: --columns goes with a csv, jsonl or parquet table, not with {found.name}"
        )
    return found


def _unknown(source: Source, head: Head) -> InputError:
    if head.kind == "folder":
        return InputError(
            f"{source.path}: no traces in this folder (looked for *.json, *.json.gz, chunk-*-trace.csv)"
        )
    return InputError(
        f"{source.name}: not a trace format that is known ({head.kind} with {shown(sorted(head.keys))}); name the "
        f"columns with --columns arrival=…,prompt=…,output=… or the format with --format: "
        f"{', '.join(format_names())}"
    )


def _timed(found: Found, rate: float | None, arrival: str, seed: int) -> Trace:
    """Return the trace with its own arrivals, drawn ones, or all at 0, as the user and the file say."""
    trace = found.trace
    if arrival == "trace" and found.has_arrivals:
        if rate is not None and not found.rate_used:
            raise InputError(
                f"{trace.name}: has arrival times of its own; a rate needs an arrival process too "
                "(--arrival poisson), or use --scale-rate"
            )
        return trace
    if not len(trace):
        return trace
    drawn = rate if rate is not None else _own_rate(found)
    if drawn is None and arrival == "trace":
        what = "sessions start" if trace.parent is not None else "requests arrive"
        note = f"the file has no arrival times and no rate was given: all {what} at t = 0"
        return dataclasses.replace(trace, notes=(*trace.notes, note))
    if drawn is None:
        raise InputError(f"{trace.name}: arrival process {arrival!r} needs a rate; the file has none")
    process = found.process if arrival == "trace" else arrival
    what = "session starts" if trace.parent is not None else "arrivals"
    note = f"{what} drawn: {process} at {drawn:.6g}/s, seed {seed}"
    return dataclasses.replace(trace, arrival=_drawn(trace, process, drawn, seed), notes=(*trace.notes, note))


def _own_rate(found: Found) -> float | None:
    """Return the rate that the file gives, or that its own arrivals have."""
    if not found.has_arrivals:
        return found.rate
    times = found.trace.arrival[_starts(found.trace)]
    span = float(np.ptp(times)) if len(times) else 0.0
    return (len(times) - 1) / span if span > 0 and math.isfinite(span) else None


def _drawn(trace: Trace, process: str, rate: float, seed: int) -> FloatColumn:
    from kvsim.traces.arrivals import arrivals, source_of_chance

    starts = _starts(trace)
    times = np.zeros(len(trace))
    times[starts] = arrivals(process, len(starts), rate, source_of_chance(seed))
    return times


def _starts(trace: Trace) -> IntColumn:
    """Return the rows that wait for no other row's answer."""
    return np.arange(len(trace)) if trace.parent is None else np.flatnonzero(trace.parent < 0)
