"""`kvsim compare`: several policies on the same work, or the cells of an experiment; one table, plots."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from kvsim.cli.experiment import CELLS_ON_THIS_MACHINE, CellOptions, Cells, refuse, run_file
from kvsim.cli.flags import NO_FLAGS, OUTPUT, POLICY, TRACE, ConfigFile, Flags, Json, fill_from_file, settings
from kvsim.cli.origin import remember
from kvsim.cli.run import AS_THE_FILE_SAYS, BAND_WHERE_KNOWN, Banding, Reading, caption, say_rejected

if TYPE_CHECKING:
    from kvsim.cli.run_band import BandOptions
    from kvsim.cli.trace_options import TraceOptions
    from kvsim.comparison import Comparison
    from kvsim.config import RunConfig
    from kvsim.result import Result
    from kvsim.traces.trace import Trace

LARGE_FILE = 300_000
"""Bytes from which a trace file is likely to be worth several processes."""
POLICIES = "contiguous,paged,prefix,sliding-window"

compare = App(name="compare", config=fill_from_file)


@compare.default
def compare_policies(
    trace: Annotated[Path, Parameter(group=TRACE)],
    /,
    *,
    policies: Annotated[str, Parameter(group=POLICY)] = POLICIES,
    reading: Reading = AS_THE_FILE_SAYS,
    flags: Flags = NO_FLAGS,
    config: ConfigFile = None,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"), group=OUTPUT)] = None,
    memory_map: Annotated[bool | None, Parameter(group=OUTPUT)] = None,
    jobs: Annotated[int | None, Parameter(name=("--jobs", "-j"), group=OUTPUT)] = None,
    cells: Cells = CELLS_ON_THIS_MACHINE,
    banding: Banding = BAND_WHERE_KNOWN,
    json: Json = False,
    markdown: Annotated[bool, Parameter(negative=(), group=OUTPUT)] = False,
) -> None:
    """Run several policies on the same trace and memory, and print one table.

    Parameters
    ----------
    trace
        Trace file, or folder of session files; or an experiment.toml that says what to vary (reports/experiments.md).
    policies
        Policies with commas, as in contiguous:reservation=pow2,paged; with samples, the default is those that can.
    output
        New folder for compare.csv, the plots, and a run folder a policy. Of an experiment: its cells, which the
        same command goes on from, cells.csv and cells.parquet; named as the experiment unless given.
    memory_map
        Record what lies where in the pool over time, into the run folders; for traces of up to 2,000 requests
        unless given.
    jobs
        Policies or cells run at once; all CPUs unless given, one for small traces.
    markdown
        Print the table as Markdown.
    """
    _check_output(jobs, json, markdown)
    if trace.suffix == ".toml":
        given = {"policies": policies, "memory_map": memory_map, "config": config}
        _refuse_trace_flags(trace, given, reading, flags, banding)
        run_file(trace, cells, output, jobs, as_json=json, as_markdown=markdown)
        return
    _refuse_rest(cells, output, memory_map)
    draw, chosen = memory_map if output is not None else False, settings(flags)
    comparison, loaded = _run(trace, policies, reading, chosen, jobs, draw, banding)
    report(comparison, loaded, output, json, markdown, banding.add_all(comparison, loaded, chosen))


def _able(policies: str, flags: RunConfig) -> str:
    """Return the policies; of the default ones, where requests are several sequences, those that can hold them."""
    from kvsim.registry import policy_class

    if policies != POLICIES or flags.width == 1:
        return policies
    return ",".join(name for name in policies.split(",") if policy_class(name).holds_samples)


def _refuse_trace_flags(
    experiment: Path,
    given: Mapping[str, object],
    reading: TraceOptions,
    flags: RunConfig,
    banding: BandOptions,
) -> None:
    """Refuse what an experiment's file says itself."""
    defaults: dict[str, object] = {"policies": POLICIES}
    values = {name: (value, defaults.get(name)) for name, value in given.items()}
    values |= {name: (getattr(reading, name), getattr(AS_THE_FILE_SAYS, name)) for name in reading.__slots__}
    values |= {name: (getattr(banding, name), None) for name in banding.__slots__}
    values |= {name: (value, getattr(NO_FLAGS, name)) for name, value in vars(flags).items()}
    refuse(values, f"goes with a trace; {experiment} says it in [base] or [sweep]")


def _refuse_rest(cells: CellOptions, output: Path | None, memory_map: bool | None) -> None:
    """Refuse flags that go with an experiment, and an output folder that is not new."""
    from kvsim.errors import InputError
    from kvsim.result import new_folder

    defaults = CELLS_ON_THIS_MACHINE
    values = {name: (getattr(cells, name), getattr(defaults, name)) for name in cells.__slots__}
    refuse(values, "goes with an experiment's .toml file")
    if output is not None:
        new_folder(output)
    elif memory_map:
        raise InputError("--memory-map needs --output, a new folder to write it to")


def _run(
    trace: Path,
    policies: str,
    reading: TraceOptions,
    chosen: RunConfig,
    jobs: int | None,
    draw: bool | None,
    banding: BandOptions,
) -> tuple[Comparison, Trace]:
    from kvsim.comparison import check_comparison
    from kvsim.comparison import compare as run_all
    from kvsim.registry import split_policies

    names = split_policies(_able(policies, chosen))
    check_comparison(names, chosen)
    banding.check(names[0], chosen)
    wait = _start_workers(trace, names, jobs)
    try:
        loaded = reading.load(trace)
    finally:
        wait()
    with Progress(len(names)) as progress:
        comparison = run_all(loaded, names, chosen, jobs=jobs, progress=progress.done, memory_map=draw)
    for name, result in comparison.results.items():
        remember(result, name, trace, reading)
    return comparison, loaded


def _start_workers(trace: Path, policies: list[str], jobs: int | None) -> Callable[[], None]:
    """Let worker processes start while the trace is read, if it looks as if they will be wanted."""
    from kvsim.cell_backends import start_early
    from kvsim.comparison import starts_workers_anew, worker_count

    count = worker_count(policies, jobs)
    is_large = trace.is_file() and trace.stat().st_size >= LARGE_FILE
    if count == 1 or not is_large or starts_workers_anew(policies):
        return lambda: None
    return start_early(count)


def report(
    comparison: Comparison,
    trace: Trace,
    output: Path | None,
    as_json: bool,
    as_markdown: bool,
    bands: Sequence[str] = (),
) -> None:
    """Print the table, with a line a policy on its band, and write the folder with its plots."""
    from kvsim.cli.print_json import print_json
    from kvsim.reports import comparison_markdown, print_comparison

    for name, result in comparison.results.items():
        say_rejected(name, result)
    line = caption(next(iter(comparison.results.values())))
    say_assumed_window(comparison)
    if output is not None:
        # Only plots need matplotlib, whose import takes a third of a second.
        from kvsim.reports import save_comparison

        frames = comparison.summary, comparison.timeline, comparison.requests
        comparison.save(output, lambda folder: save_comparison(folder, *frames, caption=line))
    if as_json:
        rows = {
            name: result.summary | {"cost_band": result.config.get("cost_band")} if bands else result.summary
            for name, result in comparison.results.items()
        }
        chosen = next(iter(comparison.results.values())).config["settings"]
        of = {"name": trace.name, "requests": len(trace)}
        print_json({"trace": of, "settings": chosen, "policies": rows})
    elif as_markdown:
        print(comparison_markdown(comparison.summary, caption=line))
    else:
        print_comparison(comparison.summary, caption=line)
    if bands and not as_json:
        print("\n".join(bands))
    if output is not None:
        plots = "plots (PNG, SVG), " if len(comparison.timeline) else ""
        print(f"Written to {output}: compare.csv, {plots}a run folder a policy", file=sys.stderr)


def _check_output(jobs: int | None, json: bool, markdown: bool) -> None:
    from kvsim.errors import InputError

    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs must be at least 1, got {jobs}")
    if json and markdown:
        raise InputError("--json and --markdown are two ways to print one table; give one of them")


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


class Progress:
    """A line on stderr, where somebody may be looking, that counts finished policies."""

    def __init__(self, total: int) -> None:
        """Expect so many policies."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("policies", total=total)

    def __enter__(self) -> Progress:
        """Show the line."""
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Remove it."""
        self._bar.stop()

    def done(self, name: str, result: Result) -> None:
        """Count a policy."""
        del result
        self._bar.update(self._task, advance=1, description=f"{name} done")
