"""`kvsim demo`: the main job on a small generated trace, with nothing to set up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

WORKLOAD, REQUESTS, RATE, TURNS = "agent", 400, 0.8, 4
"""Agent sessions of four turns on average, so that the longest prompt fits the model's 32,768 tokens."""
MODEL, GPU = "mistral-7b-v0.1", "a100-40-sxm"
"""A model with a window of its own in every layer, on a card that holds five reservations of its longest."""


def demo(
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))] = Path("demo-report"),
    seed: int = 0,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Compare the four policies on a generated trace of coding agents; takes seconds.

    Parameters
    ----------
    output
        Folder for the table and plots; one that an earlier demo wrote is replaced.
    seed
        Seed of the generated trace.
    json
        Print one JSON object with the settings and every policy's summary.
    """
    from kvsim.cli.compare import report
    from kvsim.comparison import compare
    from kvsim.reports.headline import sentences
    from kvsim.result import new_folder
    from kvsim.traces.generate import generate

    if not _is_a_demo(output):
        new_folder(output)
    trace = generate(WORKLOAD, REQUESTS, rate=RATE, seed=seed, turns=TURNS)
    comparison = compare(trace, model=MODEL, gpu=GPU)
    for result in comparison.results.values():
        result.config["seed"] = seed
    _clear(output)
    report(comparison, trace, output, as_json=json, as_markdown=False)
    for sentence in sentences(comparison.summary):
        print(sentence, file=sys.stderr)
    print(f"Look at {output / 'comparison.png'}", file=sys.stderr)


def _is_a_demo(folder: Path) -> bool:
    """Tell whether an earlier demo wrote the folder: nothing else may be removed."""
    from kvsim.errors import InputError
    from kvsim.result import load_result

    try:
        trace = load_result(folder / "paged").config["trace"]
    except InputError:
        return False
    return (folder / "compare.csv").is_file() and (trace["name"], trace["requests"]) == (WORKLOAD, REQUESTS)


def _clear(folder: Path) -> None:
    import shutil

    if _is_a_demo(folder):
        shutil.rmtree(folder)
