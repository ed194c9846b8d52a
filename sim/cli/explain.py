"""`kvsim explain`: why the requests of a run waited, were preempted, and found no prefix."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from kvsim.cli.flags import OUTPUT, TRACE, Json
from kvsim.cli.origin import remembered_policy, remembered_trace

if TYPE_CHECKING:
    from kvsim.explain import Explanation
    from kvsim.result import Result
    from kvsim.traces.trace import Trace

explain = App(name="explain")


@explain.default
def explain_run(
    folder: Annotated[Path, Parameter(group=TRACE)],
    /,
    *,
    request: Annotated[int | None, Parameter(group=OUTPUT)] = None,
    trace: Annotated[Path | None, Parameter(group=TRACE)] = None,
    limit: Annotated[int, Parameter(group=OUTPUT)] = 10,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"), group=OUTPUT)] = None,
    json: Json = False,
) -> None:
    """Say why the requests of a run waited, were preempted, and found no prefix in the cache.

    Runs are deterministic, so the run is done again from what its folder says, and watched. The trace has to be
    where it was, unchanged.

    Parameters
    ----------
    folder
        Run folder, as kvsim run -o and kvsim compare -o leave them.
    request
        Row of a request in the trace, from 0: tell its life as text instead.
    trace
        Trace file, where it is not where it was.
    limit
        Preemptions shown, those that cost most time first.
    output
        New folder for waits.csv, preemptions.csv and lookups.csv.
    """
    _check(limit, output)
    result = _load(folder)
    explanation = again(result, folder, trace)
    if output is not None:
        _write(explanation, output)
    if json:
        _print_json(explanation, request)
    else:
        _print_text(explanation, result, request, limit)


def _check(limit: int, output: Path | None) -> None:
    from kvsim.errors import InputError
    from kvsim.result import new_folder

    if limit < 0:
        raise InputError(f"--limit must be 0 or more, got {limit}")
    if output is not None:
        new_folder(output)


def again(result: Result, folder: Path, trace: Path | None) -> Explanation:
    """Do a run again, watched; raise InputError where that is not possible."""
    from rich.console import Console

    from kvsim.config import RunConfig
    from kvsim.errors import InputError
    from kvsim.explain import explain as run_again

    config = result.config
    loaded = _load_trace(config, folder, trace)
    try:
        settings = RunConfig().changed(**config["settings"])
    except InputError as error:
        raise InputError(f"{folder}: the run is from another version of kvsim: {error}") from error
    policy = remembered_policy(config)
    # Shown on a terminal only.
    with Console(stderr=True).status(f"Doing the run again: {len(loaded):,} requests"):
        explanation = run_again(loaded, policy, settings)
    _compare(result, explanation)
    return explanation


def _load(folder: Path) -> Result:
    from kvsim.errors import InputError
    from kvsim.result import load_result

    if not folder.exists():
        raise InputError(f"{folder}: there is no such folder")
    if folder.is_dir() and not (folder / "run.json").exists():
        runs = sorted(path.parent.name for path in folder.glob("*/run.json"))
        holds = f"; it holds {', '.join(runs)}" if runs else ""
        raise InputError(f"{folder}: not a run folder: no run.json in it{holds}")
    return load_result(folder)


def _load_trace(config: dict[str, Any], folder: Path, given: Path | None) -> Trace:  # Any: JSON
    """Read the run's trace as it was read then, and check that it is the same."""
    from kvsim.errors import InputError

    path, reading = remembered_trace(config)
    name, digest = config["trace"]["name"], config["trace"]["sha256"]
    path = given or path
    if path is None:
        raise InputError(
            f"{folder}: the run does not say which file its trace {name!r} is; name it with --trace"
        )
    if not path.exists():
        raise InputError(f"{path}: the run's trace is not there any more; say with --trace where it is")
    loaded = reading.load(path)
    if digest is not None and loaded.sha256() != digest:
        raise InputError(
            f"{path}: not the trace of this run: {len(loaded):,} requests with sha256 {loaded.sha256()[:8]}, the run "
            f"had {config['trace']['requests']:,} with {digest[:8]}"
        )
    return loaded


def _compare(result: Result, explanation: Explanation) -> None:
    """Say so where doing it again gave other numbers, as another version of kvsim may."""
    before, now = result.summary, explanation.result.summary
    # Keys that only one of the two has are no difference in what happened.
    common = [key for key in before if key in now and key != "batch_capacity"]
    other = [key for key in common if not _is_same(before[key], now[key])]
    if other:
        versions = result.environment.get("kvsim"), explanation.result.environment["kvsim"]
        print(
            f"The run was done by kvsim {versions[0]}; done again by {versions[1]} it differs, first in {other[0]}: "
            f"{before[other[0]]} then, {now[other[0]]} now",
            file=sys.stderr,
        )


def _is_same(before: float | None, now: float | None) -> bool:
    """Compare two figures; watching a run may sum the same terms in another order."""
    if before is None or now is None:
        return before is now
    return math.isclose(before, now, rel_tol=1e-9, abs_tol=1e-12)


def _print_text(explanation: Explanation, result: Result, request: int | None, limit: int) -> None:
    from kvsim.cli.explain_text import print_explanation
    from kvsim.cli.run import caption
    from kvsim.explain_life import life_text

    if request is not None:
        print(life_text(explanation, request))
    else:
        print_explanation(explanation, limit, caption(result))


def _print_json(explanation: Explanation, request: int | None) -> None:
    from kvsim.cli.explain_text import preemption_totals, prefix_totals, wait_totals
    from kvsim.cli.print_json import print_json
    from kvsim.explain_life import life

    if request is not None:
        events = [event._asdict() for event in life(explanation, request)]
        print_json({"request": request, "events": events})
        return
    print_json(
        {
            "waits": [total._asdict() for total in wait_totals(explanation)],
            "preemptions": preemption_totals(explanation),
            "prefix_tokens": prefix_totals(explanation),
        }
    )


def _write(explanation: Explanation, output: Path) -> None:
    from kvsim.result import whole_folder

    frames = {
        "waits": explanation.waits_frame,
        "preemptions": explanation.preemptions_frame,
        "lookups": explanation.lookups_frame,
    }
    with whole_folder(output) as working:
        for name, frame in frames.items():
            frame.to_csv(working / f"{name}.csv", index=False)
    print(f"Written to {output}: {', '.join(f'{name}.csv' for name in frames)}", file=sys.stderr)
