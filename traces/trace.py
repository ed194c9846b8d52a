"""A request trace as columns; it satisfies `kvsim.request.Workload`."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import InputError
from kvsim.request import FloatColumn, IntColumn
from kvsim.traces.answer_ids import follow_rows
from kvsim.traces.origin import Origin

ROW_COLUMNS = (
    "arrival",
    "prompt_tokens",
    "output_tokens",
    "priority",
    "session",
    "parent",
    "think",
    "samples",
)
"""Columns with one value a row."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Requests as columns, sorted by arrival.

    Build one from columns in any order and call `checked()` on it: that says what is wrong with the first
    wrong value, gives closed-loop rows the arrival of their session's first row, and sorts.
    """

    name: str
    """Where the requests come from: a file name or a workload's name."""
    arrival: FloatColumn
    """Seconds from the start of the trace, float64[rows]."""
    prompt_tokens: IntColumn
    """Prompt tokens, int64[rows], at least 1."""
    output_tokens: IntColumn
    """Generated tokens, int64[rows], at least 1."""
    priority: IntColumn | None = None
    """Smaller runs first."""
    block_ids: IntColumn | None = None
    """Content ids of all rows, flat."""
    block_offsets: IntColumn | None = None
    """Where each row's ids start, int64[rows + 1]."""
    block_tokens: int = 0
    """Tokens one id stands for; 0 without ids."""
    session: IntColumn | None = None
    """Session number, −1 for none."""
    parent: IntColumn | None = None
    """Row whose answer this one waits for (closed loop), −1 for none."""
    think: FloatColumn | None = None
    """Seconds between the parent's answer and this request."""
    samples: IntColumn | None = None
    """Outputs sampled for one prompt (n or beam width)."""
    notes: tuple[str, ...] = field(default=())
    """What reading it changed: rows sorted, rows dropped; shown to the user."""

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.arrival)

    def checked(self, origin: Origin | None = None) -> Trace:
        """Return this trace validated, in int64 and float64, sorted by arrival (stable).

        Raises InputError naming the place (as `origin` knows it), the column and the value.
        """
        from kvsim.traces.check import check

        return check(self, origin or Origin(self.name))

    def ids(self, row: int) -> IntColumn:
        """Return the content ids of one row; empty when it has none."""
        if self.block_ids is None or self.block_offsets is None:
            return np.empty(0, np.int64)
        return self.block_ids[self.block_offsets[row] : self.block_offsets[row + 1]]

    def take(self, indices: IntColumn | NDArray[np.bool_]) -> Trace:
        """Return the trace of these rows (numbers, or a mask) only, in the trace's own order.

        Ids stay. A row whose parent is not taken starts its session anew, at that session's arrival.
        A row may be taken twice only in a trace without parents.
        """
        chosen = np.asarray(indices)
        rows = np.sort(np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.int64))
        if len(rows) and not (rows[0] >= 0 and rows[-1] < len(self)):
            raise InputError(
                f"{self.name}: rows must be from 0 to {len(self) - 1}, got {rows[[0, -1]].tolist()}"
            )
        if self.parent is not None and np.any(rows[1:] == rows[:-1]):
            raise InputError(f"{self.name}: a closed-loop row cannot be taken twice")
        return select(self, rows)

    def sha256(self) -> str:
        """Return the hash of all columns, which names this work whatever file it came from."""
        digest = hashlib.sha256(f"kvsim trace 1, {self.block_tokens} tokens an id".encode())
        for name in (*ROW_COLUMNS, "block_ids", "block_offsets"):
            column = getattr(self, name)
            if column is not None:
                digest.update(f"\n{name} {len(column)}\n".encode())
                kind = "<f8" if column.dtype.kind == "f" else "<i8"
                digest.update(np.ascontiguousarray(column, kind).data)
        return digest.hexdigest()

    def describe(self) -> str:
        """Say in one line how many requests there are, how long, over what time, and what else is known."""
        parts = [f"{len(self):,} requests"]
        if len(self):
            parts.append(f"{self.arrival[-1] - self.arrival[0]:,.1f} s of arrivals")
            parts.append(
                f"mean {self.prompt_tokens.mean():,.1f} prompt and {self.output_tokens.mean():,.1f} output tokens"
            )
        if self.block_ids is not None:
            parts.append(f"{len(self.block_ids):,} ids of {self.block_tokens}-token content")
        if self.parent is not None:
            parts.append(f"{int((self.parent < 0).sum()):,} starts of closed-loop sessions")
        return f"{self.name}: {', '.join(parts)}"


def select(trace: Trace, rows: IntColumn) -> Trace:
    """Return the trace with exactly these rows in exactly this order; parents and answers' ids follow."""
    columns: dict[str, object] = {}
    for name in ROW_COLUMNS:
        column = getattr(trace, name)
        columns[name] = None if column is None else column[rows]
    place = np.full(len(trace) + 1, -1, np.int64)  # one more, so that parent −1 finds −1
    place[rows] = np.arange(len(rows))
    if trace.parent is not None:
        parent = place[trace.parent[rows]]
        columns["parent"] = parent
        if trace.think is not None:
            columns["think"] = np.where(parent >= 0, trace.think[rows], 0.0)
    if trace.block_ids is not None and trace.block_offsets is not None:
        ids, columns["block_offsets"] = _gather(trace.block_ids, trace.block_offsets, rows)
        columns["block_ids"] = follow_rows(ids, place[:-1]) if trace.block_tokens == 1 else ids
    return dataclasses.replace(trace, **columns)  # type: ignore[arg-type]


def _gather(ids: IntColumn, offsets: IntColumn, rows: IntColumn) -> tuple[IntColumn, IntColumn]:
    counts = np.diff(offsets)[rows]
    ends = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
    positions = np.arange(ends[-1]) + np.repeat(offsets[rows] - ends[:-1], counts)
    return ids[positions], ends
