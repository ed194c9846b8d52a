"""The memory maps of a page: where each image stands on the common time scale, its legend and its data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvsim.reports.frames import time_unit
from kvsim.reports.headline import share_text
from kvsim.reports.map_data import MapView, map_view
from kvsim.reports.memory_map import USE_WORDS, USES

if TYPE_CHECKING:
    from kvsim.reports.sources import Run

MOST_MAPS = 8
"""Maps on one page; more would make it slow and say little."""
MOST_UNEQUAL = 8.0
"""Ratio of the longest run to the shortest up to which all maps share a time scale."""

Context = dict[str, Any]  # Any: what a template takes


def map_context(runs: list[Run]) -> Context:
    """Return what the template needs of the runs' maps, and why some have none."""
    having = [run for run in runs if run.result.memory_map is not None]
    shown = having[:MOST_MAPS]
    views = [view for run in shown if (view := map_view(run.name, run.result, len(shown))) is not None]
    lengths = [view.end for view in views]
    shared = bool(views) and max(lengths) <= MOST_UNEQUAL * max(min(lengths), 1e-12)
    maps = [
        _map(view, run, max(lengths) if shared else view.end) for view, run in zip(views, shown, strict=True)
    ]
    used = [use for use in USES if any(use in view.shares for view in views)]
    return {
        "maps": maps,
        "shared_time": shared and len(views) > 1,
        "uses": [{"name": use, "word": USE_WORDS[use]} for use in used],
        "no_maps": _absent(runs, having) if having else [],
        "map_data": {
            "uses": [{"name": use, "text": USE_WORDS[use].partition(",")[0]} for use in USES],
            "maps": [view.data for view in views],
        },
    }


def _absent(runs: list[Run], having: list[Run]) -> list[str]:
    without = [run.name for run in runs if run.result.memory_map is None]
    said = [f"No map was recorded of {', '.join(without)}."] if without else []
    if len(having) > MOST_MAPS:
        rest = [run.name for run in having[MOST_MAPS:]]
        said.append(f"Not shown, to keep the page small: {', '.join(rest)}.")
    return said


def _map(view: MapView, run: Run, until: float) -> Context:
    summary = run.result.summary
    live, waste = summary.get("live"), summary.get("waste")
    note = (
        ""
        if live is None or waste is None
        else f"{share_text(live)} live, {share_text(waste)} waste over time"
    )
    return {
        "name": view.name,
        "note": note,
        "image": view.image,
        "left": round(100 * view.start / until, 3) if until else 0,
        "width": round(100 * (view.end - view.start) / until, 3) if until else 100,
        "words": ", ".join(f"{USE_WORDS[use]} {share:.0%}" for use, share in view.shares.items()),
        "ticks": _ticks(until),
    }


def _ticks(until: float) -> list[Context]:
    """Return four or five round times from 0 to the end, the unit at the last."""
    from matplotlib.ticker import MaxNLocator

    seconds, unit = time_unit(until)
    end = until / seconds
    values = [
        value
        for value in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(0, end)
        if 0 <= value < 0.84 * end
    ]
    ticks = [{"at": round(100 * value / end, 2), "text": f"{value:g}"} for value in values] if end else []
    return [*ticks, {"at": 100, "text": f"{end:.3g} {unit}"}]
