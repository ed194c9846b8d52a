"""Numbers that sum up a run; keys are those of `vllm bench serve` where it has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kvsim.engine import COMPLETED, REJECTED
from kvsim.errors import InputError
from kvsim.ledger import CATEGORIES, Ledger
from kvsim.request import FloatColumn, IntColumn
from kvsim.tier_summary import tier_summary

if TYPE_CHECKING:
    from kvsim.engine import Simulation

Summary = dict[str, float | int | None]
PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Requests in trace order; NaN where something did not happen."""

    arrival: FloatColumn
    first_scheduled: FloatColumn
    first_token: FloatColumn
    finish: FloatColumn
    prompt: IntColumn
    output: IntColumn
    """Tokens generated at the end: the trace's, or fewer where max_model_len cuts."""
    cached: IntColumn
    readmission_hits: IntColumn
    recomputed: IntColumn
    preemptions: IntColumn
    status: NDArray[np.int8]
    reasons: dict[int, str]

    @classmethod
    def of(cls, simulation: Simulation) -> Columns:
        """Read what a simulation wrote down."""
        outcomes, workload = simulation.outcomes, simulation.workload
        prompt = np.asarray(workload.prompt_tokens, dtype=np.int64)
        room = np.maximum(simulation.limits.max_model_len - prompt, 0)
        status = np.asarray(outcomes.status, dtype=np.int8)
        floats = {name: np.asarray(getattr(outcomes, name)) for name in outcomes.FLOATS}
        counts = {name: np.asarray(getattr(outcomes, name)) for name in outcomes.COUNTS}
        output = np.minimum(workload.output_tokens, room)
        return cls(prompt=prompt, output=output, status=status, reasons=outcomes.reasons, **floats, **counts)

    @property
    def ttft_ms(self) -> FloatColumn:
        """Arrival to first output token."""
        return (self.first_token - self.arrival) * 1e3

    @property
    def e2el_ms(self) -> FloatColumn:
        """Arrival to last output token."""
        return (self.finish - self.arrival) * 1e3

    @property
    def tpot_ms(self) -> FloatColumn:
        """(e2e − TTFT) / (outputs − 1); NaN for a single output."""
        gaps = np.where(self.output > 1, self.output - 1, 1)
        value = (self.finish - self.first_token) * 1e3 / gaps
        return np.where(self.output > 1, value, np.nan)

    @property
    def queue_ms(self) -> FloatColumn:
        """Arrival to first scheduled."""
        return (self.first_scheduled - self.arrival) * 1e3


def summarise(simulation: Simulation, columns: Columns, goodput: str | None = None) -> Summary:
    """Compute every figure of the summary; times in ms, memory as shares of the pool over time."""
    replica = simulation.replica
    ledger = replica.ledger
    done = columns.status == COMPLETED
    duration = simulation.clock - ledger.start
    per_second = 1.0 / duration if duration else 0.0
    inputs = int(columns.prompt[done].sum())
    outputs = int(columns.output[done].sum()) * simulation.limits.width
    completed = int(done.sum())
    summary: Summary = {
        "duration": duration,
        "completed": completed,
        "failed": len(done) - completed,
        "rejected": int((columns.status == REJECTED).sum()),
        "unfinished": int((columns.status == 0).sum()),
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": completed * per_second,
        "output_throughput": outputs * per_second,
        "total_token_throughput": (inputs + outputs) * per_second,
        "max_output_tokens_per_s": ledger.gaps.most_in_a_second(
            columns.first_token[np.isfinite(columns.first_token)], simulation.limits.width
        ),
        "max_concurrent_requests": _most_at_once(columns.arrival[done], columns.finish[done]),
    }
    if goodput is not None:
        summary["request_goodput"] = int((_is_good(columns, goodput) & done).sum()) * per_second
    for name, values in (
        ("ttft", columns.ttft_ms),
        ("tpot", columns.tpot_ms),
        ("e2el", columns.e2el_ms),
        ("queue", columns.queue_ms),
    ):
        chosen = values[done & np.isfinite(values)]
        summary |= _distribution(name, np.sort(chosen), np.ones(len(chosen), dtype=np.int64), 1.0)
    summary |= _distribution("itl", *ledger.gaps.distribution(), 1e3)
    normalised = columns.e2el_ms[done] / columns.output[done]
    summary["mean_normalized_latency_ms"] = float(normalised.mean()) if completed else None
    summary |= _memory(ledger, simulation.clock) | _cache(simulation, columns)
    summary |= tier_summary(replica.policy.tiers(), columns.ttft_ms, replica.planner.first_admission_tokens)
    # Models that rest on measurements know which steps lay outside them.
    hull_share = getattr(replica.cost, "hull_share", None)
    return summary if hull_share is None else summary | {"hull_share": hull_share}


def _most_at_once(arrival: FloatColumn, finish: FloatColumn) -> int:
    """Return the most requests that were sent and not yet answered; at equal times answers go first."""
    times = np.concatenate((finish, arrival))
    changes = np.repeat((-1, 1), len(arrival))
    return int(np.cumsum(changes[np.argsort(times, kind="stable")]).max(initial=0))


def _memory(ledger: Ledger, end: float) -> Summary:
    totals = ledger.integrals(end)
    span = end - ledger.start
    whole = ledger.capacity * span
    shares: Summary = {name: totals[name] / whole if whole else None for name in CATEGORIES}
    wasted = totals["reserved"] + totals["internal"] + totals["external"]
    shares["waste"] = wasted / whole if whole else None
    held = totals["live"] + totals["reserved"] + totals["internal"]
    unshared = held + totals["shared"]
    shares["memory_saved_by_sharing"] = totals["shared"] / unshared if unshared else 0.0
    shares["kv_cache_usage"] = held / whole if whole else None
    for name, times in (("running", ledger.time_running), ("waiting", ledger.time_waiting)):
        counts, weights = times.table()
        shares[f"{name}_mean"] = totals[name] / span if span else None
        for percentile in (50, 99):
            shares[f"{name}_p{percentile}"] = _weighted_percentile(counts, weights, percentile)
        shares[f"{name}_max"] = int(counts.max()) if len(counts) else 0
    return shares


def _cache(simulation: Simulation, columns: Columns) -> Summary:
    replica, policy = simulation.replica, simulation.replica.policy
    first, again = replica.planner.first_admission_tokens, replica.planner.readmission_tokens
    cached, readmitted = int(columns.cached.sum()), int(columns.readmission_hits.sum())
    return {
        "batch_capacity": None,
        "batch_capacity_bound": policy.capacity / policy.footprint(simulation.limits.max_model_len),
        "preemptions": int(columns.preemptions.sum()),
        "recomputed_tokens": int(columns.recomputed.sum()),
        "swapped_bytes": int(getattr(policy, "swapped_bytes", 0)),
        "copies": int(getattr(policy, "copies", 0)),
        "copied_bytes": int(getattr(policy, "copied_bytes", 0)),
        "cached_tokens": cached,
        "prefix_cache_hit_rate": cached / first if first else 0.0,
        "prefix_cache_hit_rate_blocks": _block_hit_rate(simulation, columns),
        "readmission_cached_tokens": readmitted,
        "readmission_hit_rate": readmitted / again if again else 0.0,
        "computed_tokens": replica.computed_tokens,
        "steps": replica.steps,
    }


def _block_hit_rate(simulation: Simulation, columns: Columns) -> float:
    """Return hit blocks over full blocks of the admitted prompts, at the policy's block size."""
    size = getattr(simulation.replica.policy, "block_size", 1)
    admitted = np.isfinite(columns.first_scheduled)
    full = int((columns.prompt[admitted] // size).sum())
    return int((columns.cached // size).sum()) / full if full else 0.0


def _distribution(name: str, values: FloatColumn, counts: IntColumn, scale: float) -> Summary:
    """Return mean, median, standard deviation and percentiles of values that occur `counts` times, in ms.

    `values` ascend; times `scale` they are ms.
    """
    if not len(values) or not counts.any():
        keys = ["mean", "median", "std", *(f"p{percentile}" for percentile in PERCENTILES)]
        return {f"{key}_{name}_ms": None for key in keys}
    ends = np.cumsum(counts, dtype=np.int64)
    # Not by np.dot: its threads take longer to start than these sums take.
    mean = float((values * counts).sum() / ends[-1])
    squares = values - mean
    squares *= squares
    squares *= counts
    spread = float(np.sqrt(squares.sum() / ends[-1]))
    found: Summary = {
        f"mean_{name}_ms": mean * scale,
        f"median_{name}_ms": _percentile(values, ends, 50) * scale,
        f"std_{name}_ms": spread * scale,
    }
    return found | {f"p{p}_{name}_ms": _percentile(values, ends, p) * scale for p in PERCENTILES}


def _percentile(values: FloatColumn, ends: IntColumn, percentile: float) -> float:
    """Interpolate as numpy.percentile does on the expanded sample; `ends` are the cumulated counts."""
    position = (int(ends[-1]) - 1) * percentile / 100
    low = int(position)
    here, there = np.searchsorted(ends, [low, min(low + 1, int(ends[-1]) - 1)], side="right")
    return float(values[here] + (values[there] - values[here]) * (position - low))


def _weighted_percentile(values: IntColumn, weights: FloatColumn, percentile: float) -> int:
    """Return the smallest value that holds for this share of the time."""
    if not len(values):
        return 0
    ends = np.cumsum(weights)
    return int(values[min(np.searchsorted(ends, ends[-1] * percentile / 100), len(values) - 1)])


def goodput_limits(text: str) -> dict[str, float]:
    """Read `ttft:200,tpot:50,e2el:5000`: the latencies of a good request, in ms."""
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition(":")
        try:
            limits[name] = float(number)
        except ValueError:
            limits[name] = -1.0
        if name not in ("ttft", "tpot", "e2el") or not limits[name] >= 0:
            raise InputError(f"goodput must be like ttft:200,tpot:50,e2el:5000 in ms, got {part!r}")
    return limits


def _is_good(columns: Columns, text: str) -> NDArray[np.bool_]:
    """Tell which requests meet the limits; a single output has TPOT 0."""
    metrics = {"ttft": columns.ttft_ms, "tpot": np.nan_to_num(columns.tpot_ms), "e2el": columns.e2el_ms}
    good = np.ones(len(columns.arrival), dtype=np.bool_)
    for name, limit in goodput_limits(text).items():
        good &= metrics[name] <= limit
    return good
