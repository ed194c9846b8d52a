"""What a trace holds: lengths, arrivals, sessions and prefix reuse."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kvsim.request import FloatColumn, IntColumn
from kvsim.traces.reuse import Reuse, reuse
from kvsim.traces.trace import Trace

PERCENTS = (1, 5, 10, 25, 50, 75, 90, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """The distribution of a column of token counts."""

    total: int
    """Sum over the requests."""
    mean: float
    std: float
    """Standard deviation of the population."""
    weighted_mean: float
    """Σx²/Σx: the mean length as seen by a token, not by a request."""
    min: int
    percentiles: dict[int, float]
    """By percent, interpolated linearly."""
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Figures of a trace, as `kvsim trace stats` prints them."""

    name: str
    """The trace's name."""
    sha256: str
    """Hash of its content."""
    requests: int
    """Rows."""
    prompt: Lengths
    """Prompt tokens."""
    output: Lengths
    """Generated tokens."""
    span: float
    """Seconds from the first arrival to the last."""
    arrival_rate: float | None
    """Arrivals a second, 1 over the mean gap; None where all come at once. Closed-loop rows not counted."""
    arrival_cv: float | None
    """Standard deviation over mean of the gaps: 1 for Poisson, above it for bursts."""
    sessions: int
    """Different sessions."""
    closed_loop: int
    """Rows sent when their parent has been answered."""
    reuse: Reuse | None
    """Prefix reuse; None without block ids."""


def stats(trace: Trace, capacities: Iterable[int] = ()) -> Stats:
    """Measure a trace; `capacities` in blocks add points of the LRU hit curve."""
    waits = np.zeros(len(trace), dtype=bool) if trace.parent is None else trace.parent >= 0
    arrival = trace.arrival[~waits]
    rate, variation = _gaps(arrival)
    sessions = trace.session[trace.session >= 0] if trace.session is not None else trace.prompt_tokens[:0]
    return Stats(
        name=trace.name,
        sha256=trace.sha256(),
        requests=len(trace),
        prompt=lengths(trace.prompt_tokens),
        output=lengths(trace.output_tokens),
        span=float(np.ptp(arrival)) if len(arrival) else 0.0,
        arrival_rate=rate,
        arrival_cv=variation,
        sessions=len(np.unique(sessions)),
        closed_loop=int(np.count_nonzero(waits)),
        reuse=reuse(trace, capacities),
    )


def lengths(column: IntColumn) -> Lengths:
    """Describe a column of token counts that has at least one row."""
    total = int(column.sum())
    values = np.percentile(column, PERCENTS)
    return Lengths(
        total=total,
        mean=total / len(column),
        std=float(column.std()),
        weighted_mean=float(np.square(column.astype(np.float64)).sum()) / total if total else 0.0,
        min=int(column.min()),
        percentiles={percent: float(value) for percent, value in zip(PERCENTS, values, strict=True)},
        max=int(column.max()),
    )


def _gaps(arrival: FloatColumn) -> tuple[float | None, float | None]:
    gaps = np.diff(arrival)
    mean = float(gaps.mean()) if len(gaps) else 0.0
    return (1 / mean, float(gaps.std()) / mean) if mean > 0 else (None, None)
