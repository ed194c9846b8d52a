"""How every figure looks, and how it reaches the disk; without pyplot."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from kvsim.errors import InputError
from kvsim.reports.caption import fold_caption


class Look(NamedTuple):
    """How one policy's line is drawn."""

    colour: str
    """Hexadecimal RGB."""
    dash: str | tuple[int, tuple[float, ...]]
    """A matplotlib line style, which tells the lines apart in greyscale."""


class Fill(NamedTuple):
    """How one part of the memory is drawn."""

    colour: str
    """Hexadecimal RGB; neighbours in the stack differ in lightness."""
    hatch: str
    """A matplotlib hatch, or nothing."""


_LONG_DASH = (0, (6.0, 1.6))
_DASH_DOT = (0, (6.0, 1.6, 1.2, 1.6))
_DOTS = (0, (1.2, 1.2))

POLICY_LOOKS = {
    "contiguous": Look("#D55E00", "-"),
    "paged": Look("#0072B2", _LONG_DASH),
    "prefix": Look("#009E73", _DASH_DOT),
    "sliding-window": Look("#CC79A7", _DOTS),
}
"""The built-in policies, the same in every figure."""

_OTHER_COLOURS = ("#E69F00", "#56B4E9", "#333333", "#882255", "#999933", "#332288", "#44AA99", "#A6761D")
_OTHER_DASHES = ("-", _LONG_DASH, _DASH_DOT, _DOTS)

MEMORY_FILLS = {
    "live": Fill("#1F4E79", ""),
    "reserved": Fill("#FAD7A0", ""),
    "internal": Fill("#E67E22", "///"),
    "external": Fill("#922B21", "xxx"),
    "reusable": Fill("#A9CCE3", "\\\\"),
    "free": Fill("#EDEDED", ""),
}
"""Blue holds KV, warm is waste, pale is there to be had."""


def policy_looks(names: Iterable[str]) -> dict[str, Look]:
    """Give each policy its look: built-in ones their own, others by name.

    A name's first choice never depends on the company; only where two would share a colour does the
    later one in alphabetical order take the next free one.
    """
    wanted = list(dict.fromkeys(names))
    free = list(_OTHER_COLOURS)
    others: dict[str, Look] = {}
    for name in sorted(set(wanted) - set(POLICY_LOOKS)):
        first = zlib.crc32(name.encode()) % len(_OTHER_COLOURS)
        turned = _OTHER_COLOURS[first:] + _OTHER_COLOURS[:first]
        colour = next((colour for colour in turned if colour in free), turned[0])
        if colour in free:
            free.remove(colour)
        others[name] = Look(colour, _OTHER_DASHES[len(others) % len(_OTHER_DASHES)])
    return {name: POLICY_LOOKS.get(name) or others[name] for name in wanted}


def ink_on(colour: str) -> str:
    """Return the text colour for a background, by relative luminance (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#FFFFFF" if luminance < 0.25 else "#222222"


@contextmanager
def styled() -> Iterator[None]:
    """Hold the kvsim style inside this; nobody else's settings change."""
    with matplotlib.rc_context(_sheet()):
        yield


@cache
def _sheet() -> matplotlib.RcParams:
    return matplotlib.rc_params_from_file(
        Path(__file__).with_name("kvsim.mplstyle"), use_default_template=False
    )


def axes_or_new(axes: Axes | None, width: float = 6.4, height: float = 3.6) -> Axes:
    """Return the axes given, or those of a new figure of that many inches."""
    return axes if axes is not None else Figure(figsize=(width, height)).add_subplot()


def figure_of(axes: Axes) -> Figure:
    """Return the whole figure that axes are in, through any subfigures."""
    figure = axes.get_figure(root=True)
    if figure is None:
        raise InputError("these axes are in no figure any more")
    return figure


def legend_columns(labels: Iterable[str], inches: float) -> int:
    """Return how many entries of a legend, at most four, stand side by side on so many inches."""
    beside, character = 0.6, 0.08
    longest = max(map(len, labels), default=0)
    return max(1, min(4, int(inches / (beside + character * longest))))


def legend_over(axes: Axes) -> None:
    """Put the legend of the lines over the axes, in as many columns as fit the figure."""
    _, labels = axes.get_legend_handles_labels()
    columns = legend_columns(labels, figure_of(axes).get_figwidth())
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.3)


def add_caption(axes_or_figure: Axes | Figure, caption: str) -> None:
    """Write one small line under the figure, folded where it is wider."""
    if not caption:
        return
    figure = axes_or_figure if isinstance(axes_or_figure, Figure) else figure_of(axes_or_figure)
    characters_an_inch = 18.0
    lines = fold_caption(caption, int(figure.get_figwidth() * characters_an_inch))
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=7, color="#555555")


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> list[Path]:
    """Write a figure as PNG and as SVG, and return both paths.

    `path` may end in .png, .svg or neither. The same figure gives the same bytes: no date, fixed ids.
    Both files are complete before either takes its name.
    """
    base = Path(path)
    stem = base.name.removesuffix(".png").removesuffix(".svg")
    finished = [base.with_name(f"{stem}.{kind}") for kind in ("png", "svg")]
    partial = [target.with_name(f".{target.name}.part") for target in finished]
    try:
        _write_both(figure, *partial)
        for source, target in zip(partial, finished, strict=True):
            source.replace(target)
    except OSError as error:
        raise InputError(f"figure {str(base)!r} cannot be written: {error.strerror or error}") from error
    finally:
        for source in partial:
            with suppress(OSError):
                source.unlink()
    return finished


def _write_both(figure: Figure, png: Path, svg: Path) -> None:
    """Write both kinds; the second keeps the layout of the first, which takes as long as a drawing."""
    layout = figure.get_layout_engine()
    with styled():
        figure.savefig(png, format="png", metadata={"Software": None})
        try:
            figure.set_layout_engine("none")
            figure.savefig(svg, format="svg", metadata={"Date": None})
        finally:
            figure.set_layout_engine(layout)
