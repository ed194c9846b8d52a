"""A simulated run over a measured one: latencies as distributions, and what ran over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kvsim.errors import InputError
from kvsim.reports.frames import require, time_unit
from kvsim.reports.latency import METRICS
from kvsim.reports.style import add_caption, axes_or_new, legend_over, styled

if TYPE_CHECKING:
    from pandas import DataFrame

LOOKS = {"measured": ("#333333", "-", 1.8), "simulated": ("#D55E00", (0, (4.0, 1.6)), 1.4)}
"""Colour, dash and width of each side: the measured one is the wide line below."""
COUNTS = {
    "in_flight": "Requests in the server",
    "running": "Running requests",
    "waiting": "Waiting requests",
    "kv_tokens": "KV of decoding requests (1,000 tokens)",
    "kv_cache_usage": "KV cache in use (%)",
}
"""What is drawn over time, in words."""
FACTORS = {"kv_tokens": 1e-3, "kv_cache_usage": 100.0}
"""From a column's unit to its axis."""


def plot_measured_latency(
    frame: DataFrame, ax: Axes | None = None, *, metric: str = "ttft_ms", caption: str = ""
) -> Axes:
    """Draw the share of requests at most x slow, measured and simulated.

    `frame` has a row a request and side: `run`, which is `measured` or `simulated`, and the metric: `ttft_ms`,
    `tpot_ms` or `e2el_ms`. From ten seconds on the axis is in seconds.
    """
    if metric not in METRICS:
        raise InputError(f"latency metric {metric!r} is unknown; known: {', '.join(METRICS)}")
    require(frame, ["run", metric], "measured latency")
    with styled():
        axes = axes_or_new(ax)
        scale, unit = (1e3, "s") if float(frame[metric].max()) >= 1e4 else (1.0, "ms")
        for run, (colour, dash, width) in LOOKS.items():
            values = frame.loc[frame["run"] == run, metric].to_numpy(dtype=float)
            values = np.sort(values[np.isfinite(values)]) / scale
            share = 100 * np.arange(1, len(values) + 1) / max(len(values), 1)
            corners, rises = np.append(values[:1], values), np.append(0, share)
            axes.step(corners, rises, where="post", color=colour, ls=dash, lw=width, label=run)
        axes.set(xlabel=f"{METRICS[metric]} ({unit})", ylabel="Requests (%)", ylim=(0, 101))
        axes.set_yticks([0, 25, 50, 75, 90, 100])
        axes.set_xlim(left=0)
        legend_over(axes)
        add_caption(axes, caption)
    return axes


def plot_measured_over_time(
    frame: DataFrame, ax: Axes | None = None, *, count: str = "running", caption: str = ""
) -> Axes:
    """Draw a count over time, measured and simulated.

    `frame` has a row a moment: `seconds` from the first arrival, `{count}_measured` and `{count}_simulated`, where
    count is `in_flight`, `running`, `waiting`, `kv_tokens` or `kv_cache_usage` (a share).
    """
    if count not in COUNTS:
        raise InputError(f"count {count!r} is unknown; known: {', '.join(COUNTS)}")
    require(frame, ["seconds", *(f"{count}_{run}" for run in LOOKS)], "measured over time")
    with styled():
        axes = axes_or_new(ax)
        scale, unit = time_unit(float(frame["seconds"].max()))
        factor = FACTORS.get(count, 1.0)
        for run, (colour, dash, width) in LOOKS.items():
            values = factor * frame[f"{count}_{run}"].to_numpy(dtype=float)
            axes.plot(frame["seconds"] / scale, values, color=colour, ls=dash, lw=width, label=run)
        axes.set(xlabel=f"Time from the first arrival ({unit})", ylabel=COUNTS[count])
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        legend_over(axes)
        add_caption(axes, caption)
    return axes


def measured_figure(requests: DataFrame, over_time: DataFrame, *, caption: str = "") -> Figure:
    """Draw all of it on one sheet: a row of distributions, and a row over time."""
    known = [name for name in ("running", "waiting", "kv_cache_usage", "kv_tokens", "in_flight") if
             f"{name}_measured" in over_time.columns]  # fmt: skip
    with styled():
        figure = Figure(figsize=(11.0, 6.4))
        above, below = figure.subplots(2, 3)
        for axes, metric in zip(above, METRICS, strict=True):
            plot_measured_latency(requests, axes, metric=metric)
        for axes, count in zip(below, known, strict=False):
            plot_measured_over_time(over_time, axes, count=count)
        for axes in below[len(known) :]:
            axes.set_visible(False)
        for axes in [*above[1:], *below[: len(known)]]:
            axes.get_legend().remove()
        add_caption(figure, caption)
    return figure
