"""The curve that a search walked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from kvsim.reports.frames import require
from kvsim.reports.style import add_caption, axes_or_new, figure_of, legend_over, save_figure, styled

if TYPE_CHECKING:
    from pandas import DataFrame

FLOOR, CEILING = 0.03, 30.0
"""What of figure / limit is drawn; beyond, points stand on the edge."""
LOG_FROM = 5.0
"""Ratio of the largest to the smallest value from which the axis of values is logarithmic."""

_KEPT, _BROKEN, _PARTLY, _LINE = "#0072B2", "#D55E00", "#E69F00", "#333333"


def plot_search_curve(frame: DataFrame, ax: Axes | None = None, *, caption: str = "") -> Axes:
    """Draw what each value of the knob came to: mean over the draws, with bars from the least to the largest.

    `frame` is the curve of a search (`curve.parquet`): `knob`, `unit`, `value`, `seeds`, `seeds_met`. Where it has
    `strain_mean`, `strain_min` and `strain_max` the height is the figure nearest to breaking its limit, or furthest
    beyond, over that limit, so that everything under 1 keeps to all limits; `answer`, `answer_low` and `answer_high`
    are marked if there. Where it has `score_mean`, `score_min`
    and `score_max` the height is the objective, and the best value is marked.
    """
    require(frame, ["knob", "unit", "value", "seeds", "seeds_met"], "search curve")
    with styled():
        axes = axes_or_new(ax)
        ordered = frame.sort_values("value")
        values = ordered["value"].to_numpy(dtype=float)
        if "score_mean" in ordered.columns:
            _draw_scores(axes, ordered, values)
        else:
            _draw_strains(axes, ordered, values)
        _scale(axes, values)
        axes.set_xlabel(f"{ordered['knob'].iloc[0]} ({ordered['unit'].iloc[0]})")
        legend_over(axes)
        add_caption(axes, caption)
    return axes


def save_search_curve(folder: Path, frame: DataFrame, *, caption: str = "") -> list[Path]:
    """Write the curve to a folder as search.png and search.svg, and return both paths."""
    return save_figure(figure_of(plot_search_curve(frame, caption=caption)), folder / "search")


def _draw_strains(axes: Axes, frame: DataFrame, values: NDArray[np.float64]) -> None:
    require(frame, ["strain_mean", "strain_min", "strain_max"], "search curve")
    columns = ("strain_mean", "strain_min", "strain_max")
    mean, least, most = (np.clip(frame[name].to_numpy(dtype=float), FLOOR, CEILING) for name in columns)
    axes.vlines(values, least, most, color="#BBBBBB", lw=1.2, zorder=1)
    met, seeds = frame["seeds_met"].to_numpy(), frame["seeds"].to_numpy()
    groups = (
        ("every draw keeps to the limits", met == seeds, _KEPT, "o"),
        ("some do", (met > 0) & (met < seeds), _PARTLY, "D"),
        ("none does", met == 0, _BROKEN, "X"),
    )
    for label, chosen, colour, marker in groups:
        if chosen.any():
            axes.scatter(
                values[chosen], mean[chosen], color=colour, marker=marker, s=26, zorder=3, label=label
            )
    axes.axhline(1.0, color=_LINE, lw=1.0, ls=(0, (4, 2)), label="limit")
    _draw_answer(axes, frame)
    axes.set(yscale="log", ylim=(FLOOR * 0.8, CEILING * 1.25), ylabel="Worst limited figure / its limit")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _draw_answer(axes: Axes, frame: DataFrame) -> None:
    """Mark the answer, and the confidence interval of the mean, where the curve has them."""
    known = [name for name in ("answer", "answer_low", "answer_high") if name in frame.columns]
    answer, *interval = (float(frame[name].iloc[0]) for name in known) if known else (float("nan"),)
    if np.isfinite(answer):
        axes.axvline(answer, color=_KEPT, lw=1.2, label="answer")
    if len(interval) == 2 and np.isfinite(interval).all():
        axes.axvspan(*interval, color=_KEPT, alpha=0.12, lw=0, label="95 % confidence")


def _draw_scores(axes: Axes, frame: DataFrame, values: NDArray[np.float64]) -> None:
    require(
        frame,
        ["score_mean", "score_min", "score_max", "objective", "objective_unit", "is_best"],
        "search curve",
    )
    columns = ("score_mean", "score_min", "score_max")
    mean, least, most = (frame[name].to_numpy(dtype=float) for name in columns)
    known = np.isfinite(mean)
    axes.vlines(values[known], least[known], most[known], color="#BBBBBB", lw=1.2, zorder=1)
    axes.plot(values[known], mean[known], color=_KEPT, marker="o", ms=4.5, label="mean of the draws")
    if (~known).any():
        axes.scatter(
            values[~known],
            np.zeros(int((~known).sum())),
            color=_BROKEN,
            marker="X",
            label="does not keep to the limits",
        )
    best = frame["is_best"].to_numpy(dtype=bool)
    axes.scatter(
        values[best],
        mean[best],
        s=110,
        facecolors="none",
        edgecolors=_LINE,
        linewidths=1.4,
        zorder=4,
        label="best",
    )
    objective, unit = str(frame["objective"].iloc[0]), str(frame["objective_unit"].iloc[0])
    name = "Highest rate within the limits" if objective == "rate" else objective.replace("_", " ")
    axes.set_ylabel(f"{name} ({unit})")
    axes.set_ylim(bottom=0)


def _scale(axes: Axes, values: NDArray[np.float64]) -> None:
    """Go logarithmic where the values of the knob span much, with whole numbers on the axis."""
    if values.min() > 0 and values.max() > LOG_FROM * values.min():
        axes.set_xscale("log", base=2 if (values == np.rint(values)).all() else 10)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
