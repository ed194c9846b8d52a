"""The plots that `kvsim plot` knows, by name: what each shows, what it needs, and how it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.figure import Figure

from kvsim.errors import InputError, nearest
from kvsim.reports.batch import plot_batch_size, plot_waiting
from kvsim.reports.caption import common_caption
from kvsim.reports.comparison import plot_comparison, plot_latencies, plot_memory_panels
from kvsim.reports.latency import plot_itl_cdf, plot_latency_cdf
from kvsim.reports.memory import plot_memory_split
from kvsim.reports.memory_map import plot_memory_maps
from kvsim.reports.metrics import CAPACITIES, RATES, is_metric
from kvsim.reports.predicted import plot_predicted_measured
from kvsim.reports.sources import Sources, collect
from kvsim.reports.style import figure_of
from kvsim.reports.sweep import plot_hit_rate, plot_sweep, plot_throughput_latency

if TYPE_CHECKING:
    from pandas import DataFrame

STEPS = "steps.csv"


class Wish(NamedTuple):
    """What to draw a kind from."""

    sources: Sources
    x: str | None
    y: str | None
    caption: str

    def frame(self, kind: str, name: str, how: str) -> DataFrame:
        """Return a frame of the runs, or say how one would be had."""
        found = self.sources.frame(name)
        if found is None:
            raise InputError(f"plot {kind} needs {how}")
        return found

    def curve(self, kind: str, known: Sequence[str]) -> tuple[DataFrame, str]:
        """Return a row a run, and the parameter that they differ in: the one named, or the first known."""
        frame = self.sources.cells()
        swept = [name for sweep in self.sources.sweeps for name in sweep.parameters]
        given = [str(column) for column in frame.columns if not is_metric(str(column))]
        lines = frame.groupby("policy") if "policy" in frame.columns else frame.groupby(lambda row: 0)
        named = [name for name in known or (*swept, *given) if name in frame.columns and name != "policy"]
        varied = [name for name in named if (lines[name].nunique() > 1).any()]
        x = self.x or next(iter(varied), None)
        if x is None:
            raise InputError(
                f"plot {kind} needs a sweep folder, or several runs of one policy that differ in "
                f"{', '.join(known) or 'a setting'}"
            )
        if x not in frame.columns:
            raise InputError(
                f"plot {kind}: no column {x!r} to draw over{nearest(x, map(str, frame.columns))}"
            )
        return frame, x


Draw = Callable[[Sequence[Path], str | None, str | None], Figure]
"""Folders, parameter to draw over, metric to draw → figure."""


class Kind(NamedTuple):
    """One plot."""

    about: str
    draw: Draw


def draw(kind: str, folders: Sequence[Path], x: str | None = None, y: str | None = None) -> Figure:
    """Draw one kind of plot from run, comparison and sweep folders."""
    if kind not in KINDS:
        raise InputError(f"unknown plot {kind!r}{nearest(kind, KINDS)}; known: {', '.join(KINDS)}")
    return KINDS[kind].draw(folders, x, y)


def _of_runs(drawn: Callable[[Wish], Figure]) -> Draw:
    def from_folders(folders: Sequence[Path], x: str | None, y: str | None) -> Figure:
        sources = collect(folders)
        return drawn(Wish(sources, x, y, common_caption([run.result for run in sources.runs])))

    return from_folders


def _runs_only(wish: Wish, kind: str) -> DataFrame:
    if not wish.sources.runs:
        raise InputError(f"plot {kind} needs a run or comparison folder; a sweep keeps no run")
    return wish.sources.summary()


def _memory_split(wish: Wish) -> Figure:
    return figure_of(plot_memory_split(_runs_only(wish, "memory-split"), caption=wish.caption))


def _memory_over_time(wish: Wish) -> Figure:
    frame = wish.frame("memory-over-time", "timeline", "a run or comparison folder in which something ran")
    return plot_memory_panels(frame, caption=wish.caption)


def _memory_map(wish: Wish) -> Figure:
    how = "a run that recorded one: kvsim run --memory-map, or kvsim compare"
    return plot_memory_maps(wish.frame("memory-map", "memory_map", how), caption=wish.caption)


def _batch(wish: Wish) -> Figure:
    frame = wish.frame("batch", "timeline", "a run or comparison folder in which something ran")
    return figure_of(plot_batch_size(frame, caption=wish.caption))


def _waiting(wish: Wish) -> Figure:
    frame = wish.frame("waiting", "timeline", "a run or comparison folder in which something ran")
    return figure_of(plot_waiting(frame, caption=wish.caption))


def _latency(kind: str, metric: str) -> Callable[[Wish], Figure]:
    def drawn(wish: Wish) -> Figure:
        frame = wish.frame(kind, "requests", "a run or comparison folder with requests")
        return figure_of(plot_latency_cdf(frame, metric=metric, caption=wish.caption))

    return drawn


def _itl(wish: Wish) -> Figure:
    how = "a run folder with itl.parquet, in which a request got two tokens; older folders lack it"
    return figure_of(plot_itl_cdf(wish.frame("itl", "itl", how), caption=wish.caption))


def _latencies(wish: Wish) -> Figure:
    frame = wish.frame("latency", "requests", "a run or comparison folder with requests")
    return plot_latencies(frame, caption=wish.caption)


def _comparison(wish: Wish) -> Figure:
    needed = "a run or comparison folder in which something ran"
    frames = [wish.frame("comparison", name, needed) for name in ("timeline", "requests")]
    return plot_comparison(_runs_only(wish, "comparison"), *frames, caption=wish.caption)


def _throughput_latency(wish: Wish) -> Figure:
    frame, rate = wish.curve("throughput-latency", RATES)
    latency = _metric("throughput-latency", frame, wish.y or "p99_ttft_ms")
    return figure_of(plot_throughput_latency(frame, rate=rate, latency=latency, caption=wish.caption))


def _hit_rate(wish: Wish) -> Figure:
    frame, x = wish.curve("hit-rate", CAPACITIES)
    return figure_of(plot_hit_rate(frame, x=x, caption=wish.caption))


def _sweep(wish: Wish) -> Figure:
    frame, x = wish.curve("sweep", ())
    y = _metric("sweep", frame, wish.y or "output_throughput")
    return figure_of(plot_sweep(frame, x=x, y=y, caption=wish.caption))


def _metric(kind: str, frame: DataFrame, name: str) -> str:
    if name not in frame.columns:
        metrics = [str(column) for column in frame.columns if is_metric(str(column))]
        hint = nearest(name, metrics) or f"; there is {', '.join(metrics)}"
        raise InputError(f"plot {kind}: no metric {name!r}{hint}")
    return name


def _predicted(folders: Sequence[Path], x: str | None, y: str | None) -> Figure:
    del x, y
    import pandas as pd

    parts = []
    for folder in folders:
        if not (folder / STEPS).is_file():
            raise InputError(
                f"plot predicted needs a folder that kvsim calibrate fidelity wrote: no {STEPS} in {folder}"
            )
        parts.append(pd.read_csv(folder / STEPS))
    return figure_of(plot_predicted_measured(pd.concat(parts, ignore_index=True)))


KINDS = {
    "comparison": Kind("memory split, batch size, TTFT and TPOT on one page", _of_runs(_comparison)),
    "memory-split": Kind("shares of the pool over the whole run, a bar a run", _of_runs(_memory_split)),
    "memory-over-time": Kind("shares of the pool over time, a panel a run", _of_runs(_memory_over_time)),
    "memory-map": Kind(
        "who has which address when, a panel a run; needs a recorded map", _of_runs(_memory_map)
    ),
    "batch": Kind("running requests over time", _of_runs(_batch)),
    "waiting": Kind("waiting requests over time", _of_runs(_waiting)),
    "latency": Kind("TTFT, TPOT and end-to-end distributions side by side", _of_runs(_latencies)),
    "ttft": Kind("distribution of the time to first token", _of_runs(_latency("ttft", "ttft_ms"))),
    "tpot": Kind("distribution of the time per output token", _of_runs(_latency("tpot", "tpot_ms"))),
    "itl": Kind("distribution of the time between two tokens of a request", _of_runs(_itl)),
    "e2el": Kind("distribution of the end-to-end latency", _of_runs(_latency("e2el", "e2el_ms"))),
    "throughput-latency": Kind(
        "--y (p99_ttft_ms) against throughput as --x, a rate, goes up", _of_runs(_throughput_latency)
    ),
    "hit-rate": Kind("prefix hits over --x, the size of the pool", _of_runs(_hit_rate)),
    "sweep": Kind("--y (output_throughput) over --x, a parameter that was swept", _of_runs(_sweep)),
    "predicted": Kind("predicted against measured step times, of calibrate fidelity", _predicted),
}
"""By the name that `kvsim plot` takes."""
