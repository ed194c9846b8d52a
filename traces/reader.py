"""The contract of a reader: what it is asked, what it answers, and how its format is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kvsim.traces.origin import Origin
from kvsim.traces.source import Head, Source
from kvsim.traces.trace import Trace


@dataclass(frozen=True, slots=True)
class Options:
    """What the user said beside the file."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Our name (arrival, prompt, output, …) → the file's, for the generic readers."""
    hash_block_tokens: int | None = None
    """Tokens one hash id stands for, where the file does not say."""
    rate: float | None = None
    """Requests (closed loop: sessions) a second, for files without arrivals."""
    seed: int = 0
    """Of everything that is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a reader made of a file: a trace not yet checked or sorted, and where it came from."""

    trace: Trace
    origin: Origin
    has_arrivals: bool = True
    """Whether `trace.arrival` says anything; without, it is drawn or all 0."""
    rate_used: bool = False
    """Whether the reader itself did what `Options.rate` asks."""
    rate: float | None = None
    """Rate to draw arrivals at when the user gives none."""
    process: str = "poisson"
    """Process to draw them from when the user names none."""


class Format(NamedTuple):
    """A format `read_trace` knows: adding one is a file with a Format and a line in `read.py`."""

    name: str
    """What `--format` calls it."""
    read: Callable[[Source, Options], Found]
    """Reads a whole file; raises InputError."""
    matches: Callable[[Head], bool]
    """Whether a file that begins like this is of the format."""


def has(kind: str, *keys: str, without: tuple[str, ...] = ()) -> Callable[[Head], bool]:
    """Return a test for files of a kind that have all these columns or keys, and none of `without`."""

    def matches(head: Head) -> bool:
        return head.kind == kind and head.keys.issuperset(keys) and head.keys.isdisjoint(without)

    return matches
