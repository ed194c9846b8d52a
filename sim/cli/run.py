"""`kvsim run`: one policy on one trace."""

from __future__ import annotations

import json as json_text
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kvsim.cli.trace_options import TraceOptions
from kvsim.config import RunConfig

if TYPE_CHECKING:
    from kvsim.result import Result

DEFAULT_READING = TraceOptions()
DEFAULT_CONFIG = RunConfig()


def run(
    trace: Path,
    *,
    policy: str = "paged",
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    step_log: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    reading: TraceOptions = DEFAULT_READING,
    config: Annotated[RunConfig, Parameter(name="*")] = DEFAULT_CONFIG,
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
        New folder for run.json, requests.parquet and timeline.parquet.
    step_log
        File for one JSON row a step; .gz is compressed.
    json
        Print the summary as JSON.
    """
    from kvsim.result import new_folder
    from kvsim.run import simulate
    from kvsim.step_log import StepLog

    if output is not None:
        new_folder(output)
    loaded = reading.load(trace)
    if step_log is None:
        result = simulate(loaded, policy, config)
    else:
        with StepLog(step_log, config.async_scheduling) as log:
            result = simulate(loaded, policy, config, watch=log)
    result.config["seed"] = reading.seed
    if output is not None:
        result.save(output)
    say_rejected(policy, result)
    if json:
        print(json_text.dumps({"config": result.config, "summary": result.summary}, indent=2, default=str))
    else:
        _print_summary(policy, result, output)


def caption(result: Result) -> str:
    """Return the provenance line under a table or figure."""
    from kvsim.reports import provenance_caption

    config = result.config
    settings = config["settings"]
    digest = config["trace"]["sha256"]
    return provenance_caption(
        trace=f"{config['trace']['name']} ({config['trace']['requests']:,} requests, sha256 {str(digest)[:8]})",
        model=settings["model"],
        gpu=settings["gpu"],
        cost=config["cost"],
        seed=config.get("seed", 0),
        version=result.environment["kvsim"],
    )


def say_rejected(policy: str, result: Result) -> None:
    """Say on stderr how many requests were rejected, with the first reason, and how many never finished."""
    summary = result.summary
    if summary["rejected"]:
        frame = result.requests
        row = int((frame["status"] == "rejected").argmax())
        first = f"the first in row {row}: {frame['reason'][row]}"
        print(f"{policy}: {summary['rejected']} requests rejected; {first}", file=sys.stderr)
    if summary["unfinished"]:
        print(f"{policy}: {summary['unfinished']} requests never finished", file=sys.stderr)


def _print_summary(policy: str, result: Result, output: Path | None) -> None:
    import pandas as pd

    from kvsim.reports import print_comparison

    print_comparison(pd.DataFrame([{"policy": policy} | result.summary]), caption=caption(result))
    if output is not None:
        print(f"Written to {output}", file=sys.stderr)
