"""The frames of a search: the curve that it walked, and every run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kvsim.search_knobs import RATE
from kvsim.slo import holds, strain

if TYPE_CHECKING:
    import pandas as pd

    from kvsim.search_point import Point
    from kvsim.search_result import Score, Search

SHOWN = (
    "request_throughput", "output_throughput", "p99_ttft_ms", "p99_tpot_ms", "p99_e2el_ms", "mean_e2el_ms",
    "running_mean", "waiting_mean", "kv_cache_usage", "preemptions", "prefix_cache_hit_rate", "backlog_growth",
)  # fmt: skip
"""Figures whose means over the seeds the curve has beside those that are limited."""

Row = dict[str, object]


def curve_frame(search: Search) -> pd.DataFrame:
    """Return one row a value of the knob, ascending."""
    import pandas as pd

    rows = [_score_row(search, score) for score in search.scores.values()] or list(_edge_rows(search))
    frame = pd.DataFrame(rows).sort_values("value", ignore_index=True)
    # None, where nothing ran, would make a column of objects.
    empty = frame.columns[frame.isna().any()]
    frame[empty] = frame[empty].astype(float)
    return frame


def runs_frame(search: Search) -> pd.DataFrame:
    """Return one row a run, in the order in which they were needed."""
    import pandas as pd

    searched, again = set(search.points), set(search.band.points if search.band else ())
    rows = []
    for point, outcome in search.outcomes.items():
        part = "band" if point in again else "search" if point in searched else "guess"
        row: Row = {"part": part, "seed": point.seed, "rate": point.rate, **dict(point.changes)}
        row |= {"cost_factor": point.cost_factor, "meets": holds(search.plan.bounds, outcome.figures)}
        rows.append(row | {"reason": outcome.reason} | dict(outcome.figures))
    return pd.DataFrame(rows)


def _edge_rows(search: Search) -> Iterator[Row]:
    plan, estimate = search.plan, search.estimate
    low, high = (None, None) if estimate is None else (estimate.low, estimate.high)
    groups: dict[float, list[Point]] = {}
    for point in search.points:
        groups.setdefault(search.value_of(point), []).append(point)
    for value, points in groups.items():
        found = [search.outcomes[point].figures for point in points]
        strains = [strain(plan.bounds, figures) for figures in found]
        row: Row = {"knob": plan.knob, "unit": plan.unit, "value": value, "seeds": len(points)}
        row |= {"seeds_met": sum(holds(plan.bounds, figures) for figures in found)}
        row |= {
            "strain_mean": sum(strains) / len(strains),
            "strain_min": min(strains),
            "strain_max": max(strains),
        }
        row |= {"answer": search.value, "answer_low": low, "answer_high": high}
        yield row | _means(search, points)


def _score_row(search: Search, score: Score) -> Row:
    plan, known = search.plan, [value for value in score.values if value is not None]
    row: Row = {"knob": plan.knob, "unit": plan.unit, "value": score.value, "seeds": len(plan.seeds)}
    row |= {"seeds_met": len(known), "objective": plan.objective.name if plan.objective else RATE}
    row |= {"objective_unit": plan.score_unit, "score_mean": score.mean}
    row |= {"score_min": min(known, default=None), "score_max": max(known, default=None)}
    return row | {"is_best": score.value == search.best} | _means(search, score.points)


def _means(search: Search, points: Sequence[Point]) -> dict[str, float | None]:
    """Return the means, over the runs that have them, of the figures that a curve shows."""
    keys = dict.fromkeys([*(bound.key for bound in search.plan.bounds), *SHOWN])
    found = [search.outcomes[point].figures for point in points]
    means: dict[str, float | None] = {}
    for key in keys:
        values = [float(value) for each in found if (value := each.get(key)) is not None]
        means[key] = sum(values) / len(values) if values else None
    return means
