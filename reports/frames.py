"""What every report asks of a frame: its columns, and its runs by `policy`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

CATEGORIES = ("live", "reserved", "internal", "external", "reusable", "free")
"""Parts of the pool in stacking order; their shares sum to 1."""

WASTE = ("reserved", "internal", "external")
"""The parts that hold no KV worth reading and that nobody else can have."""

STRETCHES = 400
"""Rows of a timeline beyond which a plot merges neighbours: about one a point of a figure's width."""


class Stretches(NamedTuple):
    """A timeline, or its means over longer stretches of time."""

    edges: NDArray[np.float64]
    """Start and end of each stretch, alternating, in seconds."""
    means: NDArray[np.float64]
    """A row a stretch, a column a quantity."""


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


def stretches(frame: DataFrame, columns: Sequence[str], most: int = STRETCHES) -> Stretches:
    """Return a timeline's columns, time-weighted means where it has more than `most` rows.

    The span is cut into `most` equal parts, and the rows whose middle lies in one part become one stretch:
    edges stay where rows met, and a row longer than a part stays as it is.
    """
    times = frame[["start_s", "end_s"]].to_numpy(dtype=float)
    values = frame[list(columns)].to_numpy(dtype=float)
    lengths = times[:, 1] - times[:, 0]
    if len(times) <= most or not lengths.any():
        return Stretches(times.ravel(), values)
    times, values, lengths = times[lengths > 0], values[lengths > 0], lengths[lengths > 0]
    part = (times.mean(axis=1) - times[0, 0]) * (most / (times[-1, 1] - times[0, 0]))
    first = np.flatnonzero(np.diff(part.astype(np.int64), prepend=-1))
    last = np.append(first[1:], len(times)) - 1
    weights = np.add.reduceat(lengths, first)
    means = np.add.reduceat(values * lengths[:, None], first) / weights[:, None]
    return Stretches(np.column_stack([times[first, 0], times[last, 1]]).ravel(), means)


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
