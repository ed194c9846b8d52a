"""What a real server measured: one row a request, and what its record says of its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from kvsim.errors import InputError
from kvsim.request import FloatColumn, IntColumn

if TYPE_CHECKING:
    from kvsim.result import Result

TIMES = ("arrival", "scheduled", "first_token", "finish")
COLUMNS = (*TIMES, "prompt_tokens", "output_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Requests that were answered, as a server or a simulation saw them; seconds on one clock."""

    arrival: FloatColumn
    first_token: FloatColumn
    finish: FloatColumn
    prompt_tokens: IntColumn
    output_tokens: IntColumn
    scheduled: FloatColumn | None = None
    """When each first got into a batch; None where that was not recorded."""

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.arrival)

    @classmethod
    def of(cls, result: Result) -> Requests:
        """Take the completed requests of a simulated run."""
        frame = result.requests
        done = frame[frame["status"] == "completed"]
        names = {"scheduled": "first_scheduled_s"} | {
            name: f"{name}_s" for name in TIMES if name != "scheduled"
        }
        return cls(
            **{name: done[column].to_numpy(dtype=float) for name, column in names.items()},
            prompt_tokens=done["prompt_tokens"].to_numpy(dtype=np.int64),
            output_tokens=done["output_tokens"].to_numpy(dtype=np.int64),
        )

    @property
    def start(self) -> float:
        """When the first request arrived."""
        return float(self.arrival.min())

    @property
    def duration(self) -> float:
        """Seconds from the first arrival to the last token: the makespan."""
        return float(self.finish.max()) - self.start

    @property
    def ttft_ms(self) -> FloatColumn:
        """Arrival to first token."""
        return (self.first_token - self.arrival) * 1e3

    @property
    def tpot_ms(self) -> FloatColumn:
        """(finish − first token) / (outputs − 1); NaN for a single output."""
        gaps = np.where(self.output_tokens > 1, self.output_tokens - 1, 1)
        value = (self.finish - self.first_token) * 1e3 / gaps
        return np.where(self.output_tokens > 1, value, np.nan)

    @property
    def e2el_ms(self) -> FloatColumn:
        """Arrival to last token."""
        return (self.finish - self.arrival) * 1e3

    def select(self, rows: IntColumn) -> Requests:
        """Return these rows, in this order."""
        chosen: dict[str, Any] = {}
        for name in COLUMNS:
            column = getattr(self, name)
            chosen[name] = None if column is None else column[rows]
        return replace(self, **chosen)

    def over_time(self, seconds: FloatColumn) -> dict[str, FloatColumn]:
        """Return what there was at each moment, in seconds from the first arrival.

        `in_flight` requests have arrived and are not finished; those that were scheduled are `running`, the others
        `waiting`. `kv_tokens` = Σ over requests that decode of prompt + (outputs − 1) · share of their decode time.
        """
        moments = self.start + np.asarray(seconds, dtype=np.float64)
        present = _between(moments, self.arrival, self.finish)
        found = {"in_flight": present.astype(np.float64)}
        if self.scheduled is not None:
            running = _between(moments, self.scheduled, self.finish)
            found |= {
                "running": running.astype(np.float64),
                "waiting": (present - running).astype(np.float64),
            }
        return found | {"kv_tokens": self._kv_tokens(moments)}

    def means(self) -> dict[str, float]:
        """Return the means of `over_time` over the makespan, from exact integrals."""
        duration = self.duration
        present = float((self.finish - self.arrival).sum())
        held = self.prompt_tokens + (self.output_tokens - 1) / 2
        found = {"in_flight": present / duration}
        if self.scheduled is not None:
            running = float((self.finish - self.scheduled).sum())
            found |= {"running": running / duration, "waiting": (present - running) / duration}
        return found | {"kv_tokens": float((held * (self.finish - self.first_token)).sum()) / duration}

    def _kv_tokens(self, moments: FloatColumn) -> FloatColumn:
        lasting = np.maximum(self.finish - self.first_token, 1e-12)
        rate = (self.output_tokens - 1) / lasting
        # Σ over decoding rows of prompt − rate · first_token + rate · moment, as two sums that rows join and leave.
        fixed = self.prompt_tokens - rate * self.first_token
        order, left = np.argsort(self.first_token), np.argsort(self.finish)
        joined = np.searchsorted(self.first_token[order], moments, side="right")
        gone = np.searchsorted(self.finish[left], moments, side="right")
        sums = [
            np.append(0.0, np.cumsum(each[order]))[joined] - np.append(0.0, np.cumsum(each[left]))[gone]
            for each in (fixed, rate)
        ]
        return np.asarray(np.maximum(sums[0] + sums[1] * moments, 0.0), dtype=np.float64)


def _between(moments: FloatColumn, since: FloatColumn, until: FloatColumn) -> IntColumn:
    """Count the rows that have begun and not ended at each moment."""
    begun = np.searchsorted(np.sort(since), moments, side="right")
    ended = np.searchsorted(np.sort(until), moments, side="right")
    return np.asarray(begun - ended, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How full the KV cache was over time, as the server counted it."""

    seconds: FloatColumn
    """From the server's first sample."""
    share: FloatColumn
    """Blocks in use of all blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A run of a real server, as its record tells it."""

    name: str
    requests: Requests
    """In the record's order; seconds from the first arrival."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Fields of `RunConfig` that the record states."""
    usage: Usage | None = None
    """None where the record has no KV use."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What else it says of itself: engine, version, GPU."""
    notes: tuple[str, ...] = ()
    """What is missing or was changed, a sentence each."""

    def __post_init__(self) -> None:
        """Refuse times that run backwards, naming the first request."""
        requests = self.requests
        if not len(requests):
            raise InputError(f"{self.name}: no request was answered")
        steps = [name for name in TIMES if getattr(requests, name) is not None]
        for earlier, later in pairwise(steps):
            before, after = getattr(requests, earlier), getattr(requests, later)
            wrong = np.flatnonzero(~(after - before >= -1e-6))
            if len(wrong):
                row = int(wrong[0])
                raise InputError(
                    f"{self.name} request {row + 1}: {later} at {after[row]:.6f} s is before {earlier} at "
                    f"{before[row]:.6f} s (from the first arrival)"
                )
        if self.requests.duration <= 0:
            raise InputError(f"{self.name}: the last token came with the first arrival; nothing lasted")
