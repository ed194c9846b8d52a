"""Several runs in one figure, and the plots that a comparison leaves."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kvsim.reports.batch import plot_batch_size
from kvsim.reports.frames import STRETCHES, runs
from kvsim.reports.latency import METRICS, plot_latency_cdf, run_label
from kvsim.reports.memory import memory_handles, plot_memory_over_time, plot_memory_split
from kvsim.reports.style import (
    add_caption,
    figure_of,
    legend_columns,
    policy_looks,
    save_figure,
    styled,
)

if TYPE_CHECKING:
    from pandas import DataFrame

_PANEL_STRETCHES = 960
"""Stretches of time that all panels of one figure may have together, for the size of the file."""


def plot_comparison(
    summary: DataFrame, timeline: DataFrame, requests: DataFrame, *, caption: str = ""
) -> Figure:
    """Draw memory split, batch size, TTFT and TPOT of several runs as one figure.

    All three frames are tidy, runs told apart by a `policy` column: `summary` has a row a policy,
    `timeline` a row a segment of time, `requests` a row a request.
    """
    with styled():
        figure = Figure(figsize=(11.0, 6.4))
        panels = figure.subplots(2, 2).ravel()
    plot_memory_split(summary, panels[0])
    plot_batch_size(timeline, panels[1])
    plot_latency_cdf(requests, panels[2], metric="ttft_ms")
    plot_latency_cdf(requests, panels[3], metric="tpot_ms")
    with styled():
        panels[0].set_title("Where the memory goes", pad=24)
        for axes, title in zip(panels[1:], ("Batch size", *METRICS.values()), strict=False):
            axes.set_title(title)
        _one_legend(figure, panels[1:], requests)
        add_caption(figure, caption)
    return figure


def plot_latencies(requests: DataFrame, *, caption: str = "") -> Figure:
    """Draw TTFT, TPOT and end-to-end distributions side by side, with one legend."""
    with styled():
        figure = Figure(figsize=(11.0, 3.6))
        panels = figure.subplots(1, len(METRICS), sharey=True)
    for axes, metric in zip(panels, METRICS, strict=True):
        plot_latency_cdf(requests, axes, metric=metric)
    with styled():
        for axes in panels[1:]:
            axes.set_ylabel("")
        _one_legend(figure, panels, requests)
        add_caption(figure, caption)
    return figure


def plot_memory_panels(timeline: DataFrame, *, caption: str = "") -> Figure:
    """Draw memory over time for every policy of a tidy timeline, one above the other."""
    parts = list(runs(timeline))
    with styled():
        figure = Figure(figsize=(7.6, 1.1 + 1.45 * len(parts)))
        panels = figure.subplots(len(parts), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    until = float(timeline["end_s"].max())
    for axes, (_, part) in zip(panels, parts, strict=True):
        plot_memory_over_time(part, axes, until=until, most=min(STRETCHES, _PANEL_STRETCHES // len(parts)))
        _drop_legend(axes)
        axes.set(ylabel="", xlabel=axes.get_xlabel() if axes is panels[-1] else "")
    with styled():
        for axes, (name, _) in zip(panels, parts, strict=True):
            axes.set_title(name)
        figure.supylabel("Share of the KV pool (%)", fontsize=9, color="#333333")
        handles = memory_handles()
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), handlelength=1.3)
        add_caption(figure, caption)
    return figure


def save_comparison(
    folder: str | os.PathLike[str],
    summary: DataFrame,
    timeline: DataFrame,
    requests: DataFrame,
    *,
    caption: str = "",
) -> list[Path]:
    """Write all plots of a comparison as PNG and SVG; return the paths.

    The frames are those of `plot_comparison`. There are none where nothing ran.
    """
    if not len(timeline):
        return []
    figures = {
        "comparison": plot_comparison(summary, timeline, requests, caption=caption),
        "memory_split": figure_of(plot_memory_split(summary, caption=caption)),
        "batch_size": figure_of(plot_batch_size(timeline, caption=caption)),
        "latency_cdf": plot_latencies(requests, caption=caption),
        "memory_over_time": plot_memory_panels(timeline, caption=caption),
    }
    return [path for name, figure in figures.items() for path in save_figure(figure, Path(folder) / name)]


def _one_legend(figure: Figure, panels: Iterable[Axes], requests: DataFrame) -> None:
    """Put one legend above the figure in place of the panels' own, with what each run completed."""
    for axes in panels:
        _drop_legend(axes)
    labels = {name: run_label(name, part) for name, part in runs(requests)}
    looks = policy_looks(labels)
    handles = [Line2D([], [], color=looks[name].colour, ls=looks[name].dash) for name in labels]
    columns = legend_columns(labels.values(), figure.get_figwidth())
    figure.legend(handles, labels.values(), loc="outside upper left", ncols=columns)


def _drop_legend(axes: Axes) -> None:
    legend = axes.get_legend()
    if legend is not None:
        legend.remove()
