"""The pool as a picture: address up, time across, coloured by who has what where."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from kvsim.errors import InputError
from kvsim.reports.frames import require, runs, time_unit
from kvsim.reports.style import MEMORY_FILLS, Fill, add_caption, axes_or_new, styled

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = ("start_s", "end_s", "slot", "slots", "use", "request")

USES = ("live", "shared", "reserved", "internal", "external", "reusable", "free")
"""What a cell may be used for; the memory categories, live split by whether several requests read it."""

REQUEST_TINTS = ("#1F4E79", "#3C78B4", "#15315A", "#4A5FA5", "#6F5FA8", "#5E86C1")
"""Live cells, by request: neighbours in time of arrival differ."""

USE_FILLS = MEMORY_FILLS | {"live": Fill(REQUEST_TINTS[0], ""), "shared": Fill("#149174", "")}

USE_WORDS = {
    "live": "live, a shade a request",
    "shared": "live, shared",
    "reserved": "reserved",
    "internal": "internal",
    "external": "hole (external)",
    "reusable": "reusable",
    "free": "free",
}
"""Legend of the map, in the order of `USES`."""


class Picture(NamedTuple):
    """A memory map as matrices, a row a cell from address 0 up, a column a moment."""

    times: NDArray[np.float64]
    """Edges of the columns, seconds."""
    slots: NDArray[np.int64]
    """Edges of the rows; the last is the pool's capacity."""
    use: NDArray[np.uint8]
    """Place in USES."""
    request: NDArray[np.int64]
    """Row of the request that has most of the cell; −1 for nobody or several."""


def picture(frame: DataFrame) -> Picture:
    """Draw the patches of one map into a grid."""
    require(frame, COLUMNS, "memory map")
    start, end = frame["start_s"].to_numpy(float), frame["end_s"].to_numpy(float)
    slot = frame["slot"].to_numpy(np.int64)
    top = slot + frame["slots"].to_numpy(np.int64)
    times = np.unique(np.concatenate([start, end]))
    slots = np.unique(np.concatenate([slot, top]))
    places = {use: place for place, use in enumerate(USES)}
    unknown = sorted(set(frame["use"]) - set(places))
    if unknown:
        raise InputError(f"memory map: use {unknown[0]!r} is unknown; known: {', '.join(USES)}")
    use = np.full((len(slots) - 1, len(times) - 1), places["free"], np.uint8)
    request = np.full(use.shape, -1, np.int64)
    row, first, last = (
        np.searchsorted(edges, at) for edges, at in ((slots, slot), (times, start), (times, end))
    )
    columns = (row, first, last, frame["use"].map(places), frame["request"].fillna(-1).astype(np.int64))
    for one, left, right, kind, owner in zip(*(column.tolist() for column in columns), strict=True):
        use[one, left:right] = kind
        request[one, left:right] = owner
    return Picture(times, slots, use, request)


def tint(request: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place in REQUEST_TINTS of each request."""
    return (request * 5 % 7) % len(REQUEST_TINTS)


def plot_memory_map(frame: DataFrame, ax: Axes | None = None, *, caption: str = "") -> Axes:
    """Draw one run's memory map.

    `frame` is a memory map: `start_s`, `end_s`, `slot` (first address), `slots`, `use` and `request`; a frame
    with a `policy` column may name only one. The area of each use is its share of the pool. A cell that holds
    several uses shows one of them, dealt out in proportion.
    """
    names = [name for name, _ in runs(frame)]
    if len(names) > 1:
        raise InputError(f"memory map: one policy at a time, the frame has {', '.join(names)}")
    found = picture(frame)
    with styled():
        axes = axes_or_new(ax, width=7.6, height=3.6)
        seconds, unit = time_unit(float(found.times[-1]))
        _paint(axes, found, seconds)
        axes.set(xlim=(0, found.times[-1] / seconds), ylim=(0, 100), yticks=range(0, 101, 25))
        axes.set(xlabel=f"Simulated time ({unit})", ylabel="Address (% of the pool)")
        axes.grid(visible=False)
        handles = map_handles(np.unique(found.use).tolist())
        axes.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.3, ncols=len(handles),
            handlelength=1.3, columnspacing=1.1,
        )  # fmt: skip
        axes.set_title(names[0], pad=24)
        add_caption(axes, caption)
    return axes


def plot_memory_maps(frame: DataFrame, *, caption: str = "") -> Figure:
    """Draw the memory maps of every policy of a tidy frame, one above the other over the same time."""
    require(frame, COLUMNS, "memory map")
    parts = list(runs(frame))
    with styled():
        figure = Figure(figsize=(9.0, 1.1 + 1.9 * len(parts)))
        panels = figure.subplots(len(parts), 1, sharex=True, squeeze=False)[:, 0]
    until = float(frame["end_s"].max())
    seconds, _ = time_unit(until)
    used: set[str] = set()
    for axes, (name, part) in zip(panels, parts, strict=True):
        found = picture(part)
        used |= {USES[place] for place in np.unique(found.use).tolist()}
        with styled():
            _paint(axes, found, seconds)
            axes.set(ylim=(0, 100), yticks=range(0, 101, 25))
            axes.set_title(name)
            axes.grid(visible=False)
    with styled():
        panels[-1].set(xlim=(0, until / seconds), xlabel=f"Simulated time ({time_unit(until)[1]})")
        figure.supylabel("Address (% of the pool)", fontsize=9, color="#333333")
        handles = map_handles([place for place, use in enumerate(USES) if use in used])
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), handlelength=1.3)
        add_caption(figure, caption)
    return figure


def map_handles(places: list[int]) -> list[Patch]:
    """Return what a legend of these uses is made of."""
    looks = [(USE_WORDS[USES[place]], USE_FILLS[USES[place]]) for place in places]
    return [
        Patch(facecolor=fill.colour, hatch=fill.hatch, edgecolor="#FFFFFF", linewidth=0, label=word)
        for word, fill in looks
    ]


def colours(found: Picture) -> NDArray[np.uint8]:
    """Return the picture's colours, rows × columns × RGB."""
    uses = np.array([to_rgb(USE_FILLS[use].colour) for use in USES])
    tints = np.array([to_rgb(colour) for colour in REQUEST_TINTS])
    painted = uses[found.use]
    live = found.use == USES.index("live")
    painted[live] = tints[tint(found.request[live])]
    return np.round(255 * painted).astype(np.uint8)


def _paint(axes: Axes, found: Picture, seconds: float) -> None:
    """Fill the cells, as pixels in a vector file too, and hatch what a grey print would not tell apart."""
    heights = 100.0 * found.slots / found.slots[-1]
    across = found.times / seconds
    axes.pcolormesh(across, heights, colours(found), rasterized=True)
    middles = (across[:-1] + across[1:]) / 2, (heights[:-1] + heights[1:]) / 2
    for use in ("internal", "external"):
        mask = _wide(found.use == USES.index(use))
        if mask.any() and min(mask.shape) > 1:
            hatch = [USE_FILLS[use].hatch]
            drawn = axes.contourf(
                *middles, mask.astype(float), levels=[0.5, 1.5], colors="none", hatches=hatch
            )
            drawn.set(edgecolor="#FFFFFF", linewidth=0)


def _wide(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep what lies three cells wide or more: hatching of less is noise."""
    padded = np.pad(mask, 1, mode="edge")
    rows, columns = mask.shape
    shifts = [padded[y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
    core = np.pad(np.logical_and.reduce(shifts), 1)
    grown = [core[y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
    whole: NDArray[np.bool_] = np.logical_or.reduce(grown)
    return whole
