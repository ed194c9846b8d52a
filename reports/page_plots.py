"""The plots of a page, in sections; sized so that they can be read on a phone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kvsim.reports.batch import plot_batch_size, plot_waiting
from kvsim.reports.frames import fold_name
from kvsim.reports.latency import METRICS, plot_itl_cdf, plot_latency_cdf
from kvsim.reports.memory import plot_memory_over_time, plot_memory_split
from kvsim.reports.metrics import CAPACITIES, RATES, words_for
from kvsim.reports.style import figure_of, styled
from kvsim.reports.svg import inline_svg
from kvsim.reports.sweep import plot_sweep, plot_throughput_latency
from kvsim.reports.sweep_folder import Sweep

if TYPE_CHECKING:
    from pandas import DataFrame

    from kvsim.reports.sources import Sources

WIDTH, HEIGHT = 4.7, 2.9
"""Inches: at 390 px across a phone the 9-point letters come out at about that size."""
STRETCHES = 960
"""Stretches of time of all runs' memory plots together."""
MOST_PANELS = 8
"""Runs with a memory plot of their own."""
MOST_LINES = 8
"""Lines in a plot of a sweep; more and it is drawn per policy."""
SWEPT = ("output_throughput", "p99_ttft_ms", "p99_tpot_ms", "waste", "running_max")
"""What is drawn over every numeric parameter."""


class Plot(NamedTuple):
    """One figure of the page."""

    caption: str
    svg: Markup


class Section(NamedTuple):
    """Figures that belong together."""

    id: str
    heading: str
    note: str
    plots: list[Plot]


def run_sections(sources: Sources) -> list[Section]:
    """Draw memory, load and latency of the runs; a section of nothing is left out."""
    if not sources.runs:
        return []
    sections = [_memory(sources), _load(sources), _latency(sources)]
    return [section for section in sections if section.plots]


def sweep_section(sweep: Sweep, place: int) -> Section:
    """Draw a sweep: throughput against latency over a rate, hits over capacity, and metrics over each knob."""
    cells, plots = sweep.cells, []
    for knob in sweep.parameters:
        if knob == "policy" or cells[knob].nunique() < 2:
            continue
        metrics = [
            m
            for m in _metrics_over(knob)
            if m in cells.columns and cells[m].notna().any() and cells[m].nunique() > 1
        ]
        by = _lines_by(sweep, knob)
        if knob in RATES and cells["request_throughput"].nunique() > 1:
            frame = cells.assign(policy=_names(cells, by))
            plots.append(
                _plot(
                    f"Latency against throughput, as {knob} goes up",
                    partial(plot_throughput_latency, frame, rate=knob),
                )
            )
        plots += [
            _plot(
                f"{words_for(metric).partition(' (')[0]} over {knob}",
                partial(plot_sweep, cells, x=knob, y=metric, by=by),
            )
            for metric in metrics
        ]
    varied = ", ".join(sweep.parameters) or "nothing"
    note = (
        f"{len(cells):,} cells; varied: {varied}. Bands span what is not told apart by lines, such as seeds."
    )
    return Section(f"sweep-{place}", f"Sweep {sweep.name}", note, plots)


def _metrics_over(knob: str) -> tuple[str, ...]:
    return ("prefix_cache_hit_rate", *SWEPT) if knob in CAPACITIES else SWEPT


def _lines_by(sweep: Sweep, knob: str) -> list[str]:
    """Return the parameters that get lines of their own: all others, unless there would be too many."""
    others = [name for name in sweep.parameters if name != knob]
    if sweep.cells.groupby(others, dropna=False).ngroups <= MOST_LINES if others else True:
        return others
    return [name for name in others if name == "policy"]


def _names(cells: DataFrame, by: list[str]) -> list[str]:
    return (
        [", ".join(map(str, row)) for row in cells[by].itertuples(index=False)] if by else [""] * len(cells)
    )


def _memory(sources: Sources) -> Section:
    plots = []
    summary, timeline = sources.summary(), sources.frame("timeline")
    named = summary.assign(policy=[fold_name(str(name), 16) for name in summary["policy"]])
    height = 1.5 + 0.42 * len(summary)
    plots.append(_plot("Where the memory goes", partial(plot_memory_split, named), height))
    if timeline is not None:
        shown = sources.runs[:MOST_PANELS]
        until, most = float(timeline["end_s"].max()), STRETCHES // len(shown)
        for run in shown:
            frame = run.result.timeline
            if len(frame):
                plots.append(
                    _plot(
                        f"{run.name}: memory over time",
                        partial(plot_memory_over_time, frame, until=until, most=most),
                    )
                )
    more = len(sources.runs) - MOST_PANELS
    return Section(
        "memory", "Memory", f"{more} more runs are not drawn over time." if more > 0 else "", plots
    )


def _load(sources: Sources) -> Section:
    timeline = sources.frame("timeline")
    if timeline is None:
        return Section("load", "Load", "", [])
    plots = [
        _plot("Batch size", partial(plot_batch_size, timeline)),
        _plot("Waiting queue", partial(plot_waiting, timeline)),
    ]
    return Section("load", "Load", "", plots)


def _latency(sources: Sources) -> Section:
    requests, itl = sources.frame("requests"), sources.frame("itl")
    plots = []
    if requests is not None:
        drawn = dict(METRICS)
        last = drawn.pop("e2el_ms")
        for metric, words in drawn.items():
            plots.append(_plot(words, partial(plot_latency_cdf, requests, metric=metric)))
        if itl is not None:
            plots.append(_plot("Inter-token latency", partial(plot_itl_cdf, itl)))
        plots.append(_plot(last, partial(plot_latency_cdf, requests, metric="e2el_ms")))
    return Section(
        "latency", "Latency", "Shares of completed requests, or of gaps, that are at most so slow.", plots
    )


def _plot(caption: str, draw: Callable[[Axes], Axes], height: float = HEIGHT) -> Plot:
    with styled():
        axes = Figure(figsize=(WIDTH, height)).add_subplot()
    draw(axes)
    axes.set_title("")
    return Plot(caption, Markup(inline_svg(figure_of(axes), caption)))
