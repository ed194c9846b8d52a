"""How many requests run, and wait, at each moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from kvsim.reports.frames import require, runs, stretches, time_unit
from kvsim.reports.style import add_caption, axes_or_new, legend_over, policy_looks, styled

if TYPE_CHECKING:
    from pandas import DataFrame


def plot_batch_size(
    frame: DataFrame, ax: Axes | None = None, *, waiting: bool = False, caption: str = ""
) -> Axes:
    """Draw running requests over simulated time, a step line a policy.

    With `waiting`, the queue too, as thin dashed lines.
    `frame` is a timeline: `start_s`, `end_s`, `running` and `waiting` (means over the segment), several
    runs told apart by a `policy` column; more than 400 rows a run are merged to means over stretches. The
    legend lists the largest time-weighted mean first.
    """
    require(frame, ["start_s", "end_s", "running", *(["waiting"] if waiting else [])], "batch size")
    with styled():
        axes = axes_or_new(ax)
        parts = sorted(runs(frame), key=lambda run: -_mean(run[1]))
        looks = policy_looks(name for name, _ in runs(frame))
        seconds, unit = time_unit(float(frame["end_s"].max()))
        for name, part in parts:
            shown = ["running", "waiting"] if waiting else ["running"]
            edges, means = stretches(part, shown)
            edges, steps = edges / seconds, np.repeat(means, 2, axis=0)
            colour = looks[name].colour
            axes.plot(edges, steps[:, 0], color=colour, ls=looks[name].dash, label=name or "running")
            if waiting:
                label = f"{name} waiting".strip()
                axes.plot(edges, steps[:, 1], color=colour, ls=(0, (3, 2)), lw=0.8, label=label)
        axes.set(xlabel=f"Simulated time ({unit})", ylabel="Running requests")
        if waiting:
            axes.set_ylabel("Requests")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        if len(parts) > 1 or waiting:
            legend_over(axes)
        add_caption(axes, caption)
    return axes


def plot_waiting(frame: DataFrame, ax: Axes | None = None, *, caption: str = "") -> Axes:
    """Draw waiting requests over simulated time, a step line a policy, the longest mean queue first.

    `frame` is a timeline: `start_s`, `end_s` and `waiting` (mean over the segment), several runs told apart
    by a `policy` column.
    """
    require(frame, ["start_s", "end_s", "waiting"], "waiting queue")
    with styled():
        axes = axes_or_new(ax)
        parts = sorted(runs(frame), key=lambda run: -_mean(run[1], "waiting"))
        looks = policy_looks(name for name, _ in runs(frame))
        seconds, unit = time_unit(float(frame["end_s"].max()))
        for name, part in parts:
            edges, means = stretches(part, ["waiting"])
            steps = np.repeat(means[:, 0], 2)
            axes.plot(edges / seconds, steps, color=looks[name].colour, ls=looks[name].dash, label=name)
        axes.set(xlabel=f"Simulated time ({unit})", ylabel="Waiting requests")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        if len(parts) > 1:
            legend_over(axes)
        add_caption(axes, caption)
    return axes


def _mean(part: DataFrame, column: str = "running") -> float:
    """Return ∫ column dt / ∫ dt."""
    length = (part["end_s"] - part["start_s"]).to_numpy(dtype=float)
    total = float(length.sum())
    return float(part[column].to_numpy(dtype=float) @ length) / total if total else 0.0
