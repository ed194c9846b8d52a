"""What every report asks of a frame: its columns, and its runs by `policy`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kvsim.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

CATEGORIES = ("live", "reserved", "internal", "external", "reusable", "free")
"""Parts of the pool in stacking order; their shares sum to 1."""

WASTE = ("reserved", "internal", "external")
"""The parts that hold no KV and that nobody else can have."""


def require(frame: DataFrame, columns: Sequence[str], what: str) -> None:
    """Raise InputError unless the frame has rows and all of these columns."""
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        present = ", ".join(map(str, frame.columns)) or "none"
        raise InputError(f"{what}: no column {', '.join(map(repr, missing))}; the frame has {present}")
    if not len(frame):
        raise InputError(f"{what}: the frame has no rows")


def runs(frame: DataFrame) -> Iterator[tuple[str, DataFrame]]:
    """Split a tidy frame by its `policy` column, in order of appearance.

    A frame without that column is one unnamed run.
    """
    if "policy" not in frame.columns:
        yield "", frame
        return
    for name, part in frame.groupby("policy", sort=False):
        yield str(name), part


def fold_name(name: str, width: int) -> str:
    """Break a name into lines of about `width` characters, after `- : , / _`."""
    lines = [""]
    for piece in re.findall(r"[^-:,/_]*[-:,/_]?", name):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def time_unit(seconds: float) -> tuple[float, str]:
    """Choose the unit of an axis that ends at `seconds`: its length and symbol."""
    if seconds <= 600:
        return 1.0, "s"
    return (60.0, "min") if seconds <= 3 * 3600 else (3600.0, "h")
