"""The flags with which every command reads a trace."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

from kvsim.trace_settings import between_times, column_names

if TYPE_CHECKING:
    from kvsim.traces.trace import Trace


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """How to read a trace, and what to change in it.

    Changes apply in the order between, sample, head, repeat, scale-rate.
    """

    format: str | None = None
    """Format of the file; told by its content when not given."""
    columns: str | None = None
    """Names of a generic file's columns, as in arrival=ts,prompt=in,output=out."""
    hash_block_tokens: int | None = None
    """Tokens that one hash id stands for, where the file does not say."""
    rate: float | None = None
    """Mean arrivals a second, for files without arrival times; of sessions in closed-loop traces."""
    arrival: str = "trace"
    """Arrival times: trace (the file's own), or drawn at --rate: poisson, gamma:CV, uniform, onoff:ON_S,OFF_S."""
    seed: int = 0
    """Seed of drawn arrivals and of --sample."""
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

    def load(self, path: Path) -> Trace:
        """Read and transform a trace; what had to be changed on reading goes to stderr."""
        from kvsim.traces.read import read_trace
        from kvsim.traces.transform import transform

        between = None if self.between is None else between_times(self.between, "--between")
        trace = read_trace(
            path,
            format=self.format,
            columns=None if self.columns is None else column_names(self.columns, "--columns"),
            hash_block_tokens=self.hash_block_tokens,
            rate=self.rate,
            arrival=self.arrival,
            seed=self.seed,
        )
        most = 1 if trace.samples is None else int(trace.samples.max(initial=1))
        ignored = f"rows ask for up to {most} samples; a run gives all prompts as many, by --samples"
        for note in (*trace.notes, *[ignored] * (most > 1)):
            print(f"{trace.name}: {note}", file=sys.stderr)
        return transform(
            trace,
            between=between,
            sample=self.sample,
            seed=self.seed,
            head=self.head,
            repeat=self.repeat,
            scale_rate=self.scale_rate,
        )
