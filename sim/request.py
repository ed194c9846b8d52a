"""What the trace says of a request, and what a policy may see of it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatColumn = NDArray[np.float64]
IntColumn = NDArray[np.int64]


class Workload(Protocol):
    """Columns of a trace, one row a request, sorted by arrival (ties keep their row order).

    `block_ids[block_offsets[i]:block_offsets[i + 1]]` name the leading content of row i's prompt: id h
    stands for the `block_tokens` tokens h·block_tokens + 0, 1, …; the last id may be cut short by the end
    of the prompt. What ids do not cover is private to the request. A row with `parent[i] ≥ 0` is closed
    loop: it is sent `think[i]` seconds after row `parent[i]` finished, and its `arrival` is not used.
    """

    @property
    def arrival(self) -> FloatColumn:
        """Seconds from the start of the trace, float64[rows]."""

    @property
    def prompt_tokens(self) -> IntColumn:
        """Prompt tokens, int64[rows]."""

    @property
    def output_tokens(self) -> IntColumn:
        """Tokens that will be generated, int64[rows]."""

    @property
    def priority(self) -> IntColumn | None:
        """Smaller runs first, int64[rows]; None when the trace has none."""

    @property
    def block_ids(self) -> IntColumn | None:
        """Content ids of all rows, flat; None when the trace has no identity."""

    @property
    def block_offsets(self) -> IntColumn | None:
        """Where each row's ids start, int64[rows + 1]."""

    @property
    def block_tokens(self) -> int:
        """Tokens that one id stands for; 0 without ids."""

    @property
    def parent(self) -> IntColumn | None:
        """Row whose answer this one waits for, int64[rows], −1 for none."""

    @property
    def think(self) -> FloatColumn | None:
        """Seconds between the parent's answer and this request, float64[rows]."""

    def __len__(self) -> int:
        """Return the number of requests."""


class Sequence:
    """A request inside the engine, as far as a policy may look: never its true output length.

    The engine keeps `tokens` and `computed` true whenever it hands the sequence to a policy. `memory` is
    the policy's own: whatever it likes to remember between `admit` and `release`.
    """

    computed = 0
    """How many of its tokens have KV, this step's chunk included once it is scheduled."""
    chunk = 1
    """Tokens of the step under way (at least 1): what their queries see is still read."""
    lost = 0
    """How many of its tokens had KV when it was last preempted, what that step would have computed left out."""
    memory: object = None
    """The policy's own note."""

    def __init__(self, index: int, arrival: float, prompt_tokens: int, priority: int = 0) -> None:
        """Start with the prompt known and nothing computed."""
        self.index = index
        """Row in the trace; unique in a run."""
        self.arrival = arrival
        """Seconds."""
        self.prompt_tokens = prompt_tokens
        """Tokens of the prompt."""
        self.priority = priority
        """Smaller is more urgent."""
        self.tokens = prompt_tokens
        """Prompt and outputs so far."""

    def __repr__(self) -> str:
        """Name the row and its progress."""
        return f"Sequence({self.index}, {self.computed}/{self.tokens} tokens)"
