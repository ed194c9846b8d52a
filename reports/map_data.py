"""A memory map for a page: one small image, and what a pointer over it is told."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.image import imsave
from numpy.typing import NDArray

from kvsim.reports.memory_map import USES, Picture, colours, picture

if TYPE_CHECKING:
    from pandas import DataFrame

    from kvsim.result import Result

ACROSS = 240
"""Columns of the image, fewer where many maps share a page."""
CELLS = 200_000
"""Cells of all maps of a page together."""


class MapView(NamedTuple):
    """What a page needs of one map."""

    name: str
    image: str
    """PNG as a data URL, address 0 at the bottom, free cells transparent."""
    shares: dict[str, float]
    """Share of the picture that each use has."""
    start: float
    end: float
    """Seconds."""
    data: dict[str, Any]  # Any: JSON
    """For the script: size, times, addresses, and runs of equal cells."""


def map_view(name: str, result: Result, maps: int) -> MapView | None:
    """Return one of so many maps; None when the run has none."""
    frame = result.memory_map
    if frame is None or not len(frame):
        return None
    found = picture(frame)
    across = min(ACROSS, max(40, CELLS // (maps * len(found.use))))
    even = _evenly(found, across)
    shares = np.bincount(even.use.ravel(), minlength=len(USES)) / even.use.size
    used = {use: float(share) for use, share in zip(USES, shares, strict=True) if share}
    data = {
        "columns": even.use.shape[1],
        "rows": even.use.shape[0],
        "start": float(even.times[0]),
        "end": float(even.times[-1]),
        "capacity": int(even.slots[-1]),
        "runs": _runs(even),
        "requests": _requests(even, result.requests),
    }
    return MapView(name, _image(even), used, data["start"], data["end"], data)


def _evenly(found: Picture, across: int) -> Picture:
    """Sample columns of the same width."""
    times = np.linspace(found.times[0], found.times[-1], across + 1)
    middle = (times[:-1] + times[1:]) / 2
    at = np.clip(np.searchsorted(found.times, middle, side="right") - 1, 0, found.use.shape[1] - 1)
    return Picture(times, found.slots, found.use[:, at], found.request[:, at])


def _image(found: Picture) -> str:
    opaque = np.where(found.use == USES.index("free"), 0, 255).astype(np.uint8)
    pixels = np.dstack([colours(found), opaque])[::-1]
    pixels[pixels[..., 3] == 0] = 0
    stream = BytesIO()
    imsave(stream, np.ascontiguousarray(pixels), format="png")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _runs(found: Picture) -> str:
    """Write length and code of each run of equal cells, row after row; code = use + 7·(request + 1), base 36."""
    code = found.use.astype(np.int64) + len(USES) * (found.request + 1)
    firsts = np.ones(code.shape, dtype=bool)
    firsts[:, 1:] = code[:, 1:] != code[:, :-1]
    places = np.flatnonzero(firsts.ravel())
    lengths = np.diff(np.append(places, code.size))
    codes = code.ravel()[places]
    pairs = zip(lengths.tolist(), codes.tolist(), strict=True)
    return " ".join(
        f"{_short(code)}" if length == 1 else f"{_short(code)},{_short(length)}" for length, code in pairs
    )


def _requests(found: Picture, requests: DataFrame) -> dict[str, list[int]]:
    """Return prompt, output and cached tokens, and preemptions, of the requests that are in the picture."""
    rows = np.unique(found.request)
    rows = rows[(rows >= 0) & (rows < len(requests))]
    columns = ["prompt_tokens", "output_tokens", "cached_tokens", "preemptions"]
    table: NDArray[np.int64] = requests[columns].to_numpy(np.int64)[rows]
    return dict(zip(map(str, rows.tolist()), table.tolist(), strict=True))


def _short(number: int) -> str:
    return np.base_repr(number, 36).lower()
