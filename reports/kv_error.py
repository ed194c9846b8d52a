"""Attention-output error of quantised KV against the bits it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from kvsim.reports.frames import require
from kvsim.reports.style import add_caption, axes_or_new, figure_of, styled

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = ["dtype", "keys", "bits", "inputs", "mean"]
_LOOKS = {"random": ("#0072B2", "o"), "outliers": ("#D55E00", "^")}
_OTHER = ("#333333", "s")


def plot_kv_error(frame: DataFrame, ax: Axes | None = None, *, caption: str = "") -> Axes:
    """Draw the mean relative error of each way of keeping KV, one place a way, fewer bits further right.

    `frame` has a row a way and kind of inputs: `dtype`, `keys` (what shares a scale), `bits` an element, `inputs` and
    `mean`. The vertical axis is logarithmic; below the names are the bits an element takes with its scales.
    """
    require(frame, COLUMNS, "KV errors")
    ways = frame.drop_duplicates(["dtype", "keys"]).sort_values("bits", ascending=False, kind="stable")
    labels = [f"{way.dtype}\nby {way.keys}\n{way.bits:g} bits" for way in ways.itertuples()]
    place = {(way.dtype, way.keys): number for number, way in enumerate(ways.itertuples())}
    with styled():
        axes = axes_or_new(ax, width=10.0, height=4.2)
        for inputs, part in frame.groupby("inputs", sort=False):
            colour, marker = _LOOKS.get(str(inputs), _OTHER)
            at = [place[key] for key in zip(part["dtype"], part["keys"], strict=True)]
            axes.plot(at, part["mean"], ls="", marker=marker, ms=6, color=colour, label=str(inputs))
        axes.set(yscale="log", ylabel="‖output − exact‖ / ‖exact‖")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xticks(range(len(labels)), labels, fontsize=7)
        axes.legend(loc="upper left")
        add_caption(figure_of(axes), caption)
    return axes
