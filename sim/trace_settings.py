"""Which requests a run replays: a file, or a workload to draw, and what is changed in it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from kvsim.errors import InputError
from kvsim.request import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSettings:
    """Fields are the flags with which a command reads or generates a trace.

    Changes apply in the order between, sample, head, repeat, scale_rate.
    """

    trace: str | None = None
    """Trace file, or folder of session files."""
    workload: str | None = None
    """Workload to draw instead, as `kvsim trace generate` lists them."""
    requests: int = 1000
    """Requests to draw."""
    format: str | None = None
    """Format of the file; told by its content when not given."""
    columns: str | None = None
    """Names of a generic file's columns, as in arrival=ts,prompt=in,output=out."""
    hash_block_tokens: int | None = None
    """Tokens that one hash id stands for, where the file does not say."""
    rate: float | None = None
    """Mean arrivals a second; of sessions in closed-loop traces. 1 for a workload unless given."""
    arrival: str | None = None
    """Arrival process: poisson, gamma:CV, uniform, onoff:ON_S,OFF_S; trace for the file's own times."""
    seed: int = 0
    """Seed of what is drawn: workload, arrivals, sample."""
    between: str | None = None
    """Keep arrivals from START to END seconds, as START,END; time then starts at START."""
    sample: float | None = None
    """Keep each request, or each whole session, with this probability, from 0 to 1."""
    head: int | None = None
    """Keep the first so many requests."""
    repeat: int | None = None
    """Play the trace so many times, one after the other, with the same content ids."""
    scale_rate: float | None = None
    """Divide arrival times by this; 2 doubles the rate."""
    figures: tuple[tuple[str, float], ...] = ()
    """Figures of the workload that differ from its own, as in ("turns", 8)."""

    def read(self) -> Workload:
        """Read the file, or draw the workload, before anything is cut."""
        # By name, since the core knows none of the packages that build on it.
        if self.workload is not None:
            generate = importlib.import_module("kvsim.traces.generate").generate
            rate = 1.0 if self.rate is None else self.rate
            drawn = generate(
                self.workload, self.requests, rate, self.seed, self.arrival or "poisson", **dict(self.figures)
            )
            return cast(Workload, drawn)
        if self.trace is None:
            raise InputError("no trace: give trace = a file, or workload = a name")
        read_trace = importlib.import_module("kvsim.traces.read").read_trace
        found = read_trace(
            Path(self.trace),
            format=self.format,
            columns=None if self.columns is None else column_names(self.columns, "columns"),
            hash_block_tokens=self.hash_block_tokens,
            rate=self.rate,
            arrival=self.arrival or "trace",
            seed=self.seed,
        )
        return cast(Workload, found)

    def cut(self, workload: Workload) -> Workload:
        """Apply the changes to what `read` returned."""
        changes: dict[str, Any] = {
            name: getattr(self, name) for name in ("sample", "head", "repeat", "scale_rate")
        }
        between = None if self.between is None else between_times(self.between, "between")
        transform = importlib.import_module("kvsim.traces.transform").transform
        return cast(Workload, transform(workload, between=between, seed=self.seed, **changes))


def between_times(text: str, name: str) -> tuple[float, float]:
    """Read START,END in seconds; `name` is what the setting is called where it was given."""
    try:
        start, end = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{name} must be START,END in seconds, got {text!r}") from None
    return start, end


def column_names(text: str, name: str) -> dict[str, str]:
    """Read OURS=THEIRS,…; `name` is what the setting is called where it was given."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(ours.strip() and theirs.strip() for ours, _, theirs in pairs):
        raise InputError(f"{name} must be name=column,name=column, got {text!r}")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
