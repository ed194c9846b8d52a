"""`kvsim demo`: the main job on a small generated trace, with nothing to set up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

WORKLOAD, REQUESTS, RATE = "agent", 600, 0.6
MODEL, GPU, MEMORY = "mistral-7b-v0.1", "a100-40-sxm", 8 * 2**30


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
        Print the table as JSON.
    """
    from kvsim.cli.compare import report
    from kvsim.compare import compare
    from kvsim.traces.generate import generate

    trace = generate(WORKLOAD, REQUESTS, rate=RATE, seed=seed)
    comparison = compare(trace, model=MODEL, gpu=GPU, kv_cache_memory_bytes=MEMORY)
    for result in comparison.results.values():
        result.config["seed"] = seed
    _clear(output)
    report(comparison, trace, output, as_json=json, as_markdown=False)
    print(f"Look at {output / 'comparison.png'}", file=sys.stderr)


def _clear(folder: Path) -> None:
    """Remove what an earlier demo left, and nothing else."""
    import shutil

    if (folder / "compare.csv").is_file():
        shutil.rmtree(folder)
