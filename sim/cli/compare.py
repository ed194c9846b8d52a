"""`kvsim compare`: several policies on the same work, one table, plots."""

from __future__ import annotations

import json as json_text
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kvsim.cli.run import DEFAULT_CONFIG, DEFAULT_READING, caption, say_rejected
from kvsim.cli.trace_options import TraceOptions
from kvsim.config import RunConfig

if TYPE_CHECKING:
    from kvsim.compare import Comparison
    from kvsim.result import Result
    from kvsim.traces.trace import Trace


def compare(
    trace: Path,
    *,
    policies: str = "contiguous,paged,prefix,sliding-window",
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    jobs: Annotated[int | None, Parameter(name=("--jobs", "-j"))] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    markdown: Annotated[bool, Parameter(negative=())] = False,
    reading: TraceOptions = DEFAULT_READING,
    config: Annotated[RunConfig, Parameter(name="*")] = DEFAULT_CONFIG,
) -> None:
    """Run several policies on the same trace and memory, and print one table.

    Parameters
    ----------
    trace
        Trace file, or folder of session files.
    policies
        Policies with commas, each with parameters if need be: contiguous:reservation=pow2,paged:block_size=32.
    output
        New folder for compare.csv, the plots, and a run folder a policy.
    jobs
        Policies run at once; all CPUs unless given, one for small traces.
    json
        Print the table as JSON.
    markdown
        Print the table as Markdown.
    """
    from kvsim.compare import compare as run_all
    from kvsim.errors import InputError
    from kvsim.result import new_folder

    if output is not None:
        new_folder(output)
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs must be at least 1, got {jobs}")
    loaded = reading.load(trace)
    names = [name for name in policies.split(",") if name]
    with _progress(len(names)) as done:
        comparison = run_all(loaded, names, config, jobs=jobs, progress=done)
    for result in comparison.results.values():
        result.config["seed"] = reading.seed
    report(comparison, loaded, output, as_json=json, as_markdown=markdown)


def report(
    comparison: Comparison, trace: Trace, output: Path | None, *, as_json: bool, as_markdown: bool
) -> None:
    """Print the table and write the folder with its plots."""
    from kvsim.reports import comparison_markdown, print_comparison, save_comparison

    for name, result in comparison.results.items():
        say_rejected(name, result)
    line = caption(next(iter(comparison.results.values())))
    say_assumed_window(comparison)
    if output is not None:
        frames = comparison.summary, comparison.timeline, comparison.requests
        comparison.save(output, lambda folder: save_comparison(folder, *frames, caption=line))
    if as_json:
        rows = {name: result.summary for name, result in comparison.results.items()}
        trace_name = {"name": trace.name, "requests": len(trace)}
        print(json_text.dumps({"trace": trace_name, "policies": rows}, indent=2, default=str))
    elif as_markdown:
        print(comparison_markdown(comparison.summary, caption=line))
    else:
        print_comparison(comparison.summary, caption=line)
    if output is not None:
        print(f"Written to {output}: compare.csv, plots (PNG, SVG), a run folder a policy", file=sys.stderr)


def say_assumed_window(comparison: Comparison) -> None:
    """Say so when sliding-window had to make up a window for a model without one."""
    from kvsim.policies.sliding_window import DEFAULT_WINDOW
    from kvsim.zoo import find_model

    for name, result in comparison.results.items():
        parameters = result.config["policy_parameters"]
        made_up = parameters.get("window", 0) is None and parameters.get("kv_groups") is None
        model = find_model(result.config["settings"]["model"])
        if (
            result.config["policy"] == "sliding-window"
            and made_up
            and all(s.window is None for s in model.spans)
        ):
            print(
                f"{name}: {model.name} has no windowed layers; every layer gets a window of {DEFAULT_WINDOW} tokens, "
                "which would change the model's outputs",
                file=sys.stderr,
            )


class _progress:
    """A line on stderr, where somebody may be looking, that counts finished policies."""

    def __init__(self, total: int) -> None:
        self._total = total

    def __enter__(self) -> Callable[[str, Result], None] | None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        task = self._bar.add_task("policies", total=self._total)
        self._bar.start()

        def done(name: str, result: Result) -> None:
            del result
            self._bar.update(task, advance=1, description=f"{name} done")

        return done

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()
