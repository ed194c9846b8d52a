"""`kvsim run`: one policy on one trace."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from kvsim.cli.flags import (
    NO_FLAGS,
    OUTPUT,
    POLICY,
    TRACE,
    ConfigFile,
    Flags,
    Json,
    fill_from_file,
    settings,
)
from kvsim.cli.origin import remember
from kvsim.cli.run_band import BandOptions
from kvsim.cli.run_files import RunFiles
from kvsim.cli.trace_options import TraceOptions

if TYPE_CHECKING:
    from kvsim.result import Result

Reading = Annotated[TraceOptions, Parameter(group=TRACE)]
AS_THE_FILE_SAYS = TraceOptions()
Files = Annotated[RunFiles, Parameter(group=OUTPUT)]
NO_FILES = RunFiles()
Banding = Annotated[BandOptions, Parameter(group=OUTPUT)]
BAND_WHERE_KNOWN = BandOptions()

run = App(name="run", config=fill_from_file)


@run.default
def run_policy(
    trace: Annotated[Path, Parameter(group=TRACE)],
    /,
    *,
    policy: Annotated[str, Parameter(group=POLICY)] = "paged",
    reading: Reading = AS_THE_FILE_SAYS,
    flags: Flags = NO_FLAGS,
    config: ConfigFile = None,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"), group=OUTPUT)] = None,
    files: Files = NO_FILES,
    banding: Banding = BAND_WHERE_KNOWN,
    json: Json = False,
) -> None:
    """Replay a trace through one policy and print what came out.

    Parameters
    ----------
    trace
        Trace file, or folder of session files.
    policy
        Policy with parameters, as in paged:block_size=32; `kvsim policies` lists them. module:Class and
        file.py:Class work too.
    output
        New folder for run.json, requests.parquet, timeline.parquet and itl.parquet.
    """
    del config
    from kvsim.run import check_settings, simulate

    chosen = settings(flags)
    check_settings(policy, chosen)
    files.check(output)
    banding.check(policy, chosen)
    with files.opened(chosen) as watchers:
        loaded = reading.load(trace)
        result = simulate(loaded, policy, chosen, attach=watchers.attach, memory_map=files.memory_map)
        remember(result, policy, trace, reading)
        watchers.finish(result)
    band = banding.add(result, loaded, policy, chosen)
    if output is not None:
        result.save(output)
    _report(policy, result, band, output, json)


def caption(result: Result) -> str:
    """Return the provenance line under a table or figure."""
    from kvsim.reports.caption import result_caption

    return result_caption(result)


def say_rejected(policy: str, result: Result) -> None:
    """Say on stderr how many requests were rejected, with the first reason, and how many never finished."""
    summary = result.summary
    if summary["rejected"]:
        frame = result.requests
        row = int((frame["status"] == "rejected").argmax())
        count = "1 request" if summary["rejected"] == 1 else f"{summary['rejected']:,} requests"
        print(f"{policy}: {count} rejected; the first in row {row}: {frame['reason'][row]}", file=sys.stderr)
    if summary["unfinished"]:
        why = result.config.get("ended_early")
        reason = f": {why}" if why else ""
        print(f"{policy}: {summary['unfinished']:,} requests never finished{reason}", file=sys.stderr)
    outside = 1 - summary.get("hull_share", 1)
    if outside > 0:
        print(
            f"{policy}: {outside:.1%} of the steps lie outside what the cost profile measured",
            file=sys.stderr,
        )


def _report(policy: str, result: Result, band: str, output: Path | None, as_json: bool) -> None:
    from kvsim.cli.print_json import print_json

    say_rejected(policy, result)
    if as_json:
        print_json({"config": result.config, "summary": result.summary})
    else:
        import pandas as pd

        from kvsim.reports import print_comparison

        print_comparison(pd.DataFrame([{"policy": policy} | result.summary]), caption=caption(result))
        if band:
            print(band)
    if output is not None:
        print(f"Written to {output}", file=sys.stderr)
