"""`kvsim plot`: one picture of what runs, comparisons and sweeps found."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def plot(
    kind: str,
    /,
    *folders: Path,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    x: str | None = None,
    y: str | None = None,
) -> None:
    """Draw one plot of runs, comparisons and sweeps, as PNG and SVG.

    Kinds: comparison, memory-split, memory-over-time, memory-map, batch, waiting, latency, ttft, tpot, itl, e2el,
    throughput-latency, hit-rate, sweep, predicted. `kvsim plot list` says what each shows.

    Parameters
    ----------
    kind
        What to draw, or list.
    folders
        Folders that kvsim run, compare or demo wrote; for predicted, kvsim calibrate fidelity.
    output
        File to write, with .png, .svg or neither; both are written. KIND in the current folder unless given.
    x
        Parameter to draw over, for sweep, hit-rate and throughput-latency; found out unless given.
    y
        Metric to draw, a column of the summary: for sweep output_throughput, for throughput-latency p99_ttft_ms
        unless given.
    """
    from kvsim.errors import InputError

    if kind == "list":
        _list()
        return
    if not folders:
        raise InputError(
            f"plot {kind} needs a folder that kvsim run, compare or demo wrote: kvsim plot {kind} DIR"
        )
    from kvsim.reports.kinds import draw
    from kvsim.reports.style import save_figure

    target = output or Path(kind)
    figure = draw(kind, folders, x, y)
    target.parent.mkdir(parents=True, exist_ok=True)
    for path in save_figure(figure, target):
        print(f"Written to {path}", file=sys.stderr)


def _list() -> None:
    from kvsim.reports.kinds import KINDS

    width = max(map(len, KINDS))
    for name, kind in KINDS.items():
        print(f"{name:<{width}}  {kind.about}")
