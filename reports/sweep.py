"""Curves over a knob: one metric of many runs against a parameter that was swept, or against another metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from kvsim.errors import InputError
from kvsim.reports.frames import require
from kvsim.reports.metrics import scaled, words_for
from kvsim.reports.style import Look, add_caption, axes_or_new, legend_over, policy_looks, styled

if TYPE_CHECKING:
    from pandas import DataFrame, Series

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""One a line, so that they can be told apart without colour."""
_ROOM = 0.06
"""Share of the axis that lies between two points that are both marked."""


def plot_sweep(
    frame: DataFrame,
    ax: Axes | None = None,
    *,
    x: str,
    y: str,
    by: Sequence[str] = ("policy",),
    caption: str = "",
) -> Axes:
    """Draw a metric against a swept parameter, a line a policy.

    `frame` has a row a run; `x` and `y` are two of its columns. Runs that agree in `by` and `x` (several
    seeds) become their mean, with the span from least to most as a band. Rows without a value are not drawn.
    Parameters that are not numbers stand in the order in which they appear.
    """
    require(frame, [x, y], "sweep")
    groups = [column for column in by if column in frame.columns]
    drawn = frame[frame[y].notna() & frame[x].notna()]
    if not len(drawn):
        raise InputError(f"sweep: no row has both {x!r} and {y!r}")
    with styled():
        axes = axes_or_new(ax)
        at, names = _positions(drawn[x])
        lines = _lines(drawn.assign(_x=at, _y=scaled(drawn[y].astype(float), y)), groups)
        looks = policy_looks(lines)
        for place, (name, part) in enumerate(lines.items()):
            middle = part.groupby("_x")["_y"].agg(["mean", "min", "max"])
            _line(axes, middle.index, middle["mean"], looks[name], place, name)
            if (middle["max"] > middle["min"]).any():
                band = axes.fill_between(middle.index, middle["min"], middle["max"])
                band.set(color=looks[name].colour, alpha=0.18, linewidth=0)
        axes.set(xlabel=words_for(x), ylabel=words_for(y))
        _scale_x(axes, np.unique(at), names)
        _scale_y(axes, scaled(drawn[y].astype(float), y).to_numpy())
        if len(lines) > 1:
            legend_over(axes)
        add_caption(axes, caption)
    return axes


def plot_throughput_latency(
    frame: DataFrame,
    ax: Axes | None = None,
    *,
    throughput: str = "request_throughput",
    latency: str = "p99_ttft_ms",
    rate: str | None = None,
    caption: str = "",
) -> Axes:
    """Draw latency against throughput as the offered rate goes up, a line a policy.

    `frame` has a row a run. `rate` is the column that orders a line's points, which carry its value: the
    throughput bends back where a server is overloaded.
    """
    require(frame, [throughput, latency, *([rate] if rate else [])], "throughput–latency")
    drawn = frame[frame[throughput].notna() & frame[latency].notna()]
    if not len(drawn):
        raise InputError(f"throughput–latency: no row has both {throughput!r} and {latency!r}")
    order = rate or throughput
    with styled():
        axes = axes_or_new(ax)
        lines = _lines(drawn, ["policy"] if "policy" in drawn.columns else [])
        looks = policy_looks(lines)
        curves: dict[str, tuple[Series, Series]] = {}
        for place, (name, part) in enumerate(lines.items()):
            means = (
                part.groupby(order)[[throughput, latency]].mean() if rate else part.sort_values(throughput)
            )
            across, up = scaled(means[throughput], throughput), scaled(means[latency], latency)
            _line(axes, across, up, looks[name], place, name)
            curves[name] = across, up
        if rate:
            _note(axes, curves)
        noted = f"; numbers are {rate}" if rate else ""
        axes.set(xlabel=f"{words_for(throughput)}{noted}", ylabel=words_for(latency))
        axes.margins(x=0.08)
        axes.set_xlim(left=0)
        _scale_y(axes, scaled(drawn[latency].astype(float), latency).to_numpy())
        if len(lines) > 1:
            legend_over(axes)
        add_caption(axes, caption)
    return axes


def plot_hit_rate(
    frame: DataFrame, ax: Axes | None = None, *, x: str = "pool_tokens", caption: str = ""
) -> Axes:
    """Draw the prefix cache's hit rate, by tokens, against the size of the pool."""
    return plot_sweep(frame, ax, x=x, y="prefix_cache_hit_rate", caption=caption)


def _line(axes: Axes, across: Any, up: Any, look: Look, place: int, name: str) -> None:
    """Draw points joined by a line; `across` and `up` are columns."""
    marker = MARKERS[place % len(MARKERS)]
    axes.plot(across, up, color=look.colour, ls=look.dash, marker=marker, ms=4.5, label=name)


def _lines(frame: DataFrame, by: list[str]) -> dict[str, DataFrame]:
    if not by:
        return {"": frame}
    found = {}
    for values, part in frame.groupby(by, sort=False, dropna=False):
        found[", ".join(map(str, values if isinstance(values, tuple) else (values,)))] = part
    return found


def _positions(column: Series) -> tuple[np.ndarray, list[str]]:
    """Return where each row stands on the axis, and the names of the places where they are not numbers."""
    if column.dtype.kind in "iuf":
        return column.to_numpy(dtype=float), []
    names = list(dict.fromkeys(map(str, column)))
    return np.array([names.index(str(value)) for value in column], dtype=float), names


def _scale_x(axes: Axes, places: np.ndarray, names: list[str]) -> None:
    """Mark the values that were run, on a logarithmic axis where they go up by factors."""
    if names:
        axes.set_xticks(range(len(names)), names)
        return
    if len(places) > 2 and places.min() > 0 and places.max() >= 8 * places.min():
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    if len(places) <= 9:
        axes.xaxis.set_major_locator(FixedLocator(places.tolist()))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _scale_y(axes: Axes, values: np.ndarray) -> None:
    """Start at zero, or go logarithmic where that would hide most of the values."""
    if values.min() > 0 and values.max() > 30 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    else:
        axes.set_ylim(bottom=min(0.0, float(values.min())))


def _note(axes: Axes, curves: dict[str, tuple[Series, Series]]) -> None:
    """Write the rate at the points of the longest curve, where there is room."""
    across, up = max(curves.values(), key=lambda curve: float(np.ptp(curve[0])))
    least = _ROOM * max(float(curve[0].max()) for curve in curves.values())
    before = -np.inf
    for rate, one, other in zip(across.index, across, up, strict=True):
        if abs(one - before) >= least:
            before = one
            axes.annotate(
                f"{rate:g}",
                (one, other),
                xytext=(4, -11),
                textcoords="offset points",
                fontsize=7.5,
                color="#555555",
            )
