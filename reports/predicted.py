"""Predicted against measured step times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from kvsim.reports.frames import require
from kvsim.reports.style import add_caption, axes_or_new, policy_looks, styled

if TYPE_CHECKING:
    from pandas import DataFrame

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""By kind of step, in order of appearance."""
BAND = 0.05
"""Relative error that the shaded band shows."""
_ROOM = 1.25
_POLICIES = {"windowed": "sliding-window"}
"""Layouts whose policy has another name."""
_PALEST = 0.65


def plot_predicted_measured(frame: DataFrame, ax: Axes | None = None, *, caption: str = "") -> Axes:
    """Draw every executed step at (measured, predicted) on logarithmic axes; on the line they agree.

    `frame` has a row a step: `predicted_s` and `measured_s` in seconds, `layout` (colour) and `kind` (marker). The band
    is ±5 %. Points above the line were predicted too slow.
    """
    require(frame, ["layout", "kind", "predicted_s", "measured_s"], "predicted and measured")
    layouts = list(dict.fromkeys(frame["layout"].astype(str)))
    kinds = list(dict.fromkeys(frame["kind"].astype(str)))
    colours = _colours(layouts)
    marks = {kind: MARKERS[place % len(MARKERS)] for place, kind in enumerate(kinds)}
    with styled():
        axes = axes_or_new(ax, width=6.4, height=5.2)
        for (layout, kind), part in frame.groupby(["layout", "kind"], sort=False):
            axes.scatter(
                1e3 * part["measured_s"], 1e3 * part["predicted_s"], s=18, alpha=0.7, linewidths=0,
                color=colours[str(layout)], marker=marks[str(kind)],
            )  # fmt: skip
        times = 1e3 * frame[["measured_s", "predicted_s"]].to_numpy(dtype=float)
        ends = np.array([times.min() / _ROOM, times.max() * _ROOM])
        axes.plot(ends, ends, color="#444444", lw=0.8, zorder=0)
        axes.fill_between(ends, ends * (1 - BAND), ends * (1 + BAND), color="#DDDDDD", lw=0, zorder=-1)
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        axes.set(xlabel="Measured step time (ms)", ylabel="Predicted step time (ms)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        handles = [_dot(name, colours[name], "o") for name in layouts]
        handles += [_dot(kind, "#444444", marks[kind]) for kind in kinds]
        axes.legend(handles=handles, loc="upper left", fontsize=8)
        add_caption(axes, caption)
    return axes


def _colours(layouts: list[str]) -> dict[str, str]:
    """Give each layout its policy's colour, paler from one page size to the next."""
    policies = {name: _POLICIES.get(name.split()[0], name.split()[0]) for name in layouts}
    looks = policy_looks(policies.values())
    found = {}
    for name, policy in policies.items():
        alike = [other for other in layouts if policies[other] == policy]
        paleness = _PALEST * alike.index(name) / len(alike)
        red, green, blue = (part + (1 - part) * paleness for part in to_rgb(looks[policy].colour))
        found[name] = to_hex((red, green, blue))
    return found


def _dot(label: str, colour: str, marker: str) -> Line2D:
    return Line2D([], [], ls="", marker=marker, ms=5, mew=0, color=colour, label=label)
