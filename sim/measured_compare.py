"""How far a simulated run is from a measured one: latencies, makespan, throughput, and what ran over time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kvsim.errors import InputError
from kvsim.measured import Measured, Requests
from kvsim.request import FloatColumn

if TYPE_CHECKING:
    import pandas as pd

    from kvsim.result import Result

PERCENTILES = (50, 90, 95, 99)
LATENCIES = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "e2el_ms": "latency"}
"""Columns of requests, in words."""
COUNTS = {"in_flight": "in flight", "running": "running", "waiting": "waiting", "kv_tokens": "KV tokens"}
"""What is compared over time: request counts, and the tokens of requests that decode."""
MOMENTS = 400
"""Rows of `over_time`: about one a point of a figure's width."""


class Within(NamedTuple):
    """How far simulated and measured may be apart, as shares of the measured."""

    means: float = 0.05
    """Of means, makespan and throughput."""
    percentiles: float = 0.10


class Line(NamedTuple):
    """One figure, measured and simulated."""

    metric: str
    """As `ttft_ms`, `duration_s` or `running`."""
    statistic: str
    """As `mean` or `p95`; empty for what is one number anyway."""
    measured: float
    simulated: float
    limit: float | None
    """Largest relative difference; None where the figure is shown and not judged."""

    @property
    def difference(self) -> float:
        """Simulated / measured − 1; NaN where nothing was measured and something simulated."""
        if self.simulated == self.measured:
            return 0.0
        return self.simulated / self.measured - 1 if self.measured else float("nan")

    @property
    def is_within(self) -> bool:
        """Tell whether the difference is within the limit, or is not judged."""
        return self.limit is None or abs(self.difference) <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """A simulated run beside a measured one."""

    measured: Measured
    simulated: Requests
    lines: tuple[Line, ...]
    over_time: pd.DataFrame
    """Per moment, in seconds from the first arrival, `measured` and `simulated` of each of COUNTS, and of
    `kv_cache_usage` where the server recorded it."""

    @property
    def is_within(self) -> bool:
        """Tell whether all that is judged is within its limit."""
        return all(line.is_within for line in self.lines)

    @property
    def requests(self) -> pd.DataFrame:
        """A row a request and side, `run` telling them apart; columns as in requests.parquet."""
        import pandas as pd

        frames = [
            _frame(each).assign(run=name, row=np.arange(len(each)))
            for name, each in (("measured", self.measured.requests), ("simulated", self.simulated))
        ]
        return pd.concat(frames, ignore_index=True)

    def records(self) -> list[dict[str, object]]:
        """Return the lines as JSON."""
        return [
            line._asdict() | {"difference": line.difference, "within": line.is_within} for line in self.lines
        ]


def compare_measured(measured: Measured, result: Result, within: Within | None = None) -> Differences:
    """Compare a run with what was measured of the same requests, in the same order.

    Raises InputError where the simulation completed fewer of them: then there is nothing to compare.
    """
    simulated = Requests.of(result)
    if len(simulated) != len(measured.requests):
        reason = next((text for text in result.requests["reason"] if text), "") or result.config.get(
            "ended_early", ""
        )
        raise InputError(
            f"the server answered {len(measured.requests):,} requests, the simulation {len(simulated):,}"
            f"{f' ({reason})' if reason else ''}: do its settings and memory match the server's?"
        )
    lines = tuple(_lines(measured.requests, simulated, within or Within()))
    return Differences(
        measured=measured, simulated=simulated, lines=lines, over_time=_over_time(measured, simulated, result)
    )


def _lines(measured: Requests, simulated: Requests, within: Within) -> Iterator[Line]:
    for metric in LATENCIES:
        ours, theirs = (_finite(getattr(each, metric)) for each in (simulated, measured))
        if not len(theirs):
            continue
        yield Line(metric, "mean", float(theirs.mean()), float(ours.mean()), within.means)
        for percent in PERCENTILES:
            theirs_at, ours_at = (float(np.percentile(each, percent)) for each in (theirs, ours))
            yield Line(metric, f"p{percent}", theirs_at, ours_at, within.percentiles)
    yield Line("duration_s", "", measured.duration, simulated.duration, within.means)
    requests, outputs = len(measured), int(measured.output_tokens.sum())
    for metric, count in (("request_throughput", requests), ("output_throughput", outputs)):
        yield Line(metric, "", count / measured.duration, count / simulated.duration, within.means)
    theirs_over_time, ours_over_time = measured.means(), simulated.means()
    for metric, mean in theirs_over_time.items():
        yield Line(metric, "mean", mean, ours_over_time[metric], None)


def _finite(values: FloatColumn) -> FloatColumn:
    return values[np.isfinite(values)]


def _over_time(measured: Measured, simulated: Requests, result: Result) -> pd.DataFrame:
    import pandas as pd

    last = max(measured.requests.duration, simulated.duration)
    seconds = np.linspace(0, last, MOMENTS)
    sides = {"measured": measured.requests.over_time(seconds), "simulated": simulated.over_time(seconds)}
    columns = {"seconds": seconds}
    for name in COUNTS:
        if name in sides["measured"]:
            columns |= {f"{name}_{side}": found[name] for side, found in sides.items()}
    usage = measured.usage
    if usage is not None:
        columns["kv_cache_usage_measured"] = np.interp(seconds, usage.seconds, usage.share, right=0.0)
        timeline = result.timeline
        ends = timeline["end_s"].to_numpy(dtype=float) - simulated.start
        row = np.searchsorted(ends, seconds)
        used = np.append(timeline["kv_cache_usage"].to_numpy(dtype=float), 0.0)
        columns["kv_cache_usage_simulated"] = used[np.minimum(row, len(used) - 1)]
    return pd.DataFrame(columns)


def _frame(requests: Requests) -> pd.DataFrame:
    import pandas as pd

    columns = {
        "arrival_s": requests.arrival,
        "first_token_s": requests.first_token,
        "finish_s": requests.finish,
        "prompt_tokens": requests.prompt_tokens,
        "output_tokens": requests.output_tokens,
        **{metric: getattr(requests, metric) for metric in LATENCIES},
    }
    if requests.scheduled is not None:
        columns["first_scheduled_s"] = requests.scheduled
    return pd.DataFrame(columns)
