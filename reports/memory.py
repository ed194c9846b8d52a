"""Where the pool's memory goes: shares by policy, and over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.patches import Patch

from kvsim.errors import InputError
from kvsim.reports.frames import (
    CATEGORIES,
    STRETCHES,
    WASTE,
    fold_name,
    require,
    runs,
    stretches,
    time_unit,
)
from kvsim.reports.style import MEMORY_FILLS, add_caption, axes_or_new, figure_of, ink_on, styled

if TYPE_CHECKING:
    from pandas import DataFrame

_LABEL_FROM = 4.5
"""Narrowest segment that carries its value, in % of the pool."""

_INK = "#333333"
"""Of text on paper, and on what is as pale as paper."""

_WIDE = 6.0
"""Inches of a figure on which the legend's six entries fit in a row."""

_ABOVE_LEGEND = 24.0
"""Padding that lifts a title over the legend, in points."""


def plot_memory_split(frame: DataFrame, ax: Axes | None = None, *, caption: str = "") -> Axes:
    """Draw the pool's time-weighted split, one stacked bar a policy.

    `frame` is the comparison frame: a row a policy, `live` … `free` as shares (0 to 1) that sum to 1.
    Values stand on the segments in % where they fit; the waste (reserved + internal + external) stands
    at the end of each bar. `internal` includes KV that lies outside every attention window: dead tokens
    that a policy with one kind of block keeps for windowed layers.
    """
    require(frame, ["policy", *CATEGORIES], "memory split")
    with styled():
        axes = axes_or_new(ax, width=7.2, height=1.3 + 0.42 * len(frame))
        rows = range(len(frame))
        left = np.zeros(len(frame))
        shares = frame[list(CATEGORIES)].fillna(0.0)
        for category in CATEGORIES:
            percent = 100.0 * shares[category].to_numpy(dtype=float)
            fill = MEMORY_FILLS[category]
            bars = axes.barh(rows, percent, 0.66, left, color=fill.colour, hatch=fill.hatch, label=category)
            _finish_bars(axes, bars, fill.colour, _INK if category == "free" else ink_on(fill.colour))
            left += percent
        for row, held in zip(rows, frame[list(WASTE)].sum(axis=1, skipna=False), strict=True):
            end = "never ran" if np.isnan(held) else f"waste {100.0 * held:.1f} %"
            axes.text(101.5, row, end, va="center", fontsize=8.5, color=_INK)
        axes.set_yticks(rows, [fold_name(name, 22) for name in frame["policy"].astype(str)])
        axes.set(
            xlim=(0, 100), ylim=(len(frame) - 0.5, -0.5), xlabel="Share of the KV pool, time-weighted (%)"
        )
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        _legend_above(axes)
        add_caption(axes, caption)
    return axes


def plot_memory_over_time(
    frame: DataFrame,
    ax: Axes | None = None,
    *,
    until: float | None = None,
    most: int = STRETCHES,
    caption: str = "",
) -> Axes:
    """Draw what the pool held in each segment of time, stacked, for one run.

    `frame` is a timeline: `start_s`, `end_s`, and `live` … `free` as shares (0 to 1) of the pool. A
    frame with a `policy` column may name only one policy. `until` is where the time axis ends, in
    seconds, for panels that share one; the end of the run when left out. Rows beyond `most` are merged
    to means over stretches of time. As in `plot_memory_split`, `internal` includes KV that lies outside
    every attention window.
    """
    require(frame, ["start_s", "end_s", *CATEGORIES], "memory over time")
    names = [name for name, _ in runs(frame)]
    if len(names) > 1:
        raise InputError(f"memory over time: one policy at a time, the frame has {', '.join(names)}")
    with styled():
        axes = axes_or_new(ax)
        end = float(frame["end_s"].max()) if until is None else until
        seconds, unit = time_unit(end)
        _stack(axes, frame, seconds, most)
        axes.set(xlim=(0, end / seconds), ylim=(0, 100), yticks=range(0, 101, 25))
        axes.set(xlabel=f"Simulated time ({unit})", ylabel="Share of the KV pool (%)")
        axes.grid(visible=False)
        _legend_above(axes)
        axes.set_title(names[0], pad=_ABOVE_LEGEND)
        add_caption(axes, caption)
    return axes


def memory_handles() -> list[Patch]:
    """Return what a legend of the parts of the pool is made of, in stacking order."""
    looks = ((name, MEMORY_FILLS[name]) for name in CATEGORIES)
    return [
        Patch(facecolor=fill.colour, hatch=fill.hatch, edgecolor="#FFFFFF", linewidth=0, label=name)
        for name, fill in looks
    ]


def _stack(axes: Axes, frame: DataFrame, seconds: float, most: int) -> None:
    """Fill the parts one over the other.

    Each reaches down to 0 under those drawn after it, so its lower edge costs nothing; what is never there
    is not drawn.
    """
    edges, shares = stretches(frame, CATEGORIES, most)
    times = np.concatenate([edges[:1], edges, edges[-1:]]) / seconds
    tops = 100.0 * np.repeat(np.cumsum(shares, axis=1), 2, axis=0)
    for place in reversed(np.flatnonzero(shares.any(axis=0))):
        outline = np.concatenate([[0.0], tops[:, place], [0.0]])
        fill = MEMORY_FILLS[CATEGORIES[place]]
        (layer,) = axes.fill(times, outline, label=CATEGORIES[place])
        layer.set(facecolor=fill.colour, hatch=fill.hatch, edgecolor="#FFFFFF", linewidth=0)


def _finish_bars(axes: Axes, bars: BarContainer, colour: str, ink: str) -> None:
    """Outline the bars, tone down their hatch, and write the values that fit."""
    for bar in bars:
        bar.set(edgecolor="#FFFFFF", linewidth=0.8)
        width = bar.get_width()
        if width >= _LABEL_FROM:
            middle = (bar.get_x() + width / 2, bar.get_y() + bar.get_height() / 2)
            text = axes.text(*middle, f"{width:.1f}", ha="center", va="center", fontsize=8)
            text.set(color=ink, bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.2})


def _legend_above(axes: Axes) -> None:
    is_wide = figure_of(axes).get_figwidth() > _WIDE
    axes.legend(
        handles=memory_handles(),
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.3,
        ncols=len(CATEGORIES) if is_wide else len(CATEGORIES) // 2,
        handlelength=1.3,
        columnspacing=1.1,
    )
