"""Figures as SVG inside a page: its fonts, its colours in light and dark, no ids that clash."""

from __future__ import annotations

import re
import zlib
from io import StringIO

import matplotlib
from matplotlib.figure import Figure

from kvsim.reports.style import styled

INKS = {
    "#333333": "--ink",
    "#000000": "--ink",
    "#555555": "--soft",
    "#666666": "--soft",
    "#999999": "--line",
    "#e3e3e3": "--grid",
    "#ededed": "--free",
    "#0072b2": "--blue",
    "#d55e00": "--vermilion",
    "#009e73": "--green",
    "#cc79a7": "--pink",
    "#332288": "--indigo",
    "#882255": "--wine",
}
"""Colours that the page sets anew where it is dark, by the custom property that does."""


def inline_svg(figure: Figure, label: str) -> str:
    """Return a figure as an `<svg>` element that scales to its box; text stays text.

    `label` is what a screen reader says. Ids begin with a hash of the picture, so they differ within a page.
    """
    stream = StringIO()
    figure.patch.set_alpha(0.0)
    for axes in figure.axes:
        axes.patch.set_alpha(0.0)
    with styled(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kvsim"}):
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    name = f"p{zlib.crc32((label + text).encode()):08x}"
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace("stroke: #ffffff", "stroke: var(--paper)")
    text = re.sub(r"#[0-9a-f]{6}\b", _ink, text)
    text = re.sub(r"(\d+\.\d{2})\d+", r"\1", text)
    text = text.replace("'DejaVu Sans'", "inherit")
    head = re.match(r"<svg[^>]*>", text)
    assert head is not None, "matplotlib writes an svg element"
    box = re.search(r'viewBox="[^"]*"', head.group())
    assert box is not None, "matplotlib writes a viewBox"
    opened = (
        f'<svg {box.group()} role="img" aria-label="{_attribute(label)}" '
        'xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg">'
    )
    return opened + text[head.end() :].strip()


def _ink(found: re.Match[str]) -> str:
    colour = found.group()
    return f"var({INKS[colour]})" if colour in INKS else colour


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
