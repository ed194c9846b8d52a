"""Latency distributions of completed requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from kvsim.errors import InputError
from kvsim.reports.frames import require, runs
from kvsim.reports.style import add_caption, axes_or_new, legend_over, policy_looks, styled

if TYPE_CHECKING:
    from pandas import DataFrame

METRICS = {
    "ttft_ms": "Time to first token",
    "tpot_ms": "Time per output token",
    "e2el_ms": "End-to-end latency",
}
"""Latency columns of the requests frame, in words."""

_LOG_FROM = 20.0
"""Ratio of the 99.5th to the 0.5th percentile from which the axis is logarithmic."""

_BODY, _TAIL = 160, 60
"""Most points of a curve, and how many more its last hundredth has."""


def plot_latency_cdf(
    frame: DataFrame, ax: Axes | None = None, *, metric: str = "ttft_ms", caption: str = ""
) -> Axes:
    """Draw the share of completed requests at most x slow, a line a policy.

    `frame` is the requests frame, several runs told apart by a `policy` column; `metric` is `ttft_ms`,
    `tpot_ms` or `e2el_ms`. Requests that never completed are not in the curve, so a legend entry says
    how many of how many it shows wherever some are missing. The legend lists the fastest median first.
    """
    if metric not in METRICS:
        raise InputError(f"latency metric {metric!r} is unknown; known: {', '.join(METRICS)}")
    require(frame, [metric, "status"], "latency CDF")
    with styled():
        axes = axes_or_new(ax)
        parts = dict(runs(frame))
        samples = {name: _completed(part, metric) for name, part in parts.items()}
        looks = policy_looks(parts)
        for name in sorted(parts, key=lambda name: _median(samples[name])):
            values, share = _curve(samples[name])
            label = run_label(name, parts[name])
            axes.plot(values, 100 * share, color=looks[name].colour, ls=looks[name].dash, label=label)
        _scale(axes, np.concatenate(list(samples.values())))
        axes.set(xlabel=f"{METRICS[metric]} (ms)", ylabel="Completed requests (%)", ylim=(0, 101))
        axes.set_yticks([0, 25, 50, 75, 90, 100])
        if axes.get_legend_handles_labels()[1]:
            legend_over(axes)
        add_caption(axes, caption)
    return axes


def plot_itl_cdf(frame: DataFrame, ax: Axes | None = None, *, caption: str = "") -> Axes:
    """Draw the share of gaps between two tokens of a request at most x long, a line a policy.

    `frame` is the itl frame: `itl_ms`, and `share` of the gaps that are at most that long; several runs told
    apart by a `policy` column. The legend lists the shortest median first.
    """
    require(frame, ["itl_ms", "share"], "ITL CDF")
    with styled():
        axes = axes_or_new(ax)
        parts = {name: part.sort_values("share") for name, part in runs(frame)}
        looks = policy_looks(parts)
        for name in sorted(parts, key=lambda name: _itl_median(parts[name])):
            values = np.repeat(parts[name]["itl_ms"].to_numpy(dtype=float), 2)
            share = np.concatenate([[0.0], np.repeat(parts[name]["share"].to_numpy(dtype=float), 2)[:-1]])
            axes.plot(values, 100 * share, color=looks[name].colour, ls=looks[name].dash, label=name)
        _scale(axes, frame["itl_ms"].to_numpy(dtype=float))
        axes.set(xlabel="Inter-token latency (ms)", ylabel="Gaps between tokens (%)", ylim=(0, 101))
        axes.set_yticks([0, 25, 50, 75, 90, 100])
        if len(parts) > 1:
            legend_over(axes)
        add_caption(axes, caption)
    return axes


def run_label(name: str, part: DataFrame) -> str:
    """Name a run for the legend, with what it completed where some are missing."""
    completed = int((part["status"] == "completed").sum())
    shown = f"({completed:,} of {len(part):,} completed)" if completed < len(part) else ""
    return f"{name} {shown}".strip()


def _completed(part: DataFrame, metric: str) -> NDArray[np.float64]:
    values = part.loc[part["status"] == "completed", metric].to_numpy(dtype=float)
    return np.sort(values[np.isfinite(values)])


def _median(values: NDArray[np.float64]) -> float:
    return float(values[len(values) // 2]) if len(values) else float("inf")


def _itl_median(part: DataFrame) -> float:
    """Return the first gap at which half of all are reached."""
    return float(part["itl_ms"].to_numpy(dtype=float)[np.searchsorted(part["share"], 0.5)])


def _curve(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the corners of the empirical distribution, thinned alike on every machine."""
    count = len(values)
    if not count:
        return np.empty(0), np.empty(0)
    body = np.linspace(0, count - 1, min(count, _BODY))
    tail = np.linspace(0.99 * (count - 1), count - 1, min(count, _TAIL))
    rank = np.unique(np.concatenate([body, tail]).astype(np.int64))
    corners = np.repeat(values[rank], 2)
    share = np.repeat((rank + 1) / count, 2)
    return corners, np.concatenate([[0.0], share[:-1]])


def _scale(axes: Axes, values: NDArray[np.float64]) -> None:
    """Start at zero, or go logarithmic where a linear axis would hide most of the requests."""
    if not len(values):
        axes.text(0.5, 0.5, "no completed requests", ha="center", transform=axes.transAxes)
        axes.set_xlim(0, 1)
        return
    low, high = np.quantile(values, [0.005, 0.995])
    if values.min() > 0 and high > _LOG_FROM * low:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    else:
        axes.set_xlim(left=0)
