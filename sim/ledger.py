"""What the pool was used for, and how many ran and waited, over simulated time."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from kvsim.durations import Durations
from kvsim.gaps import Gaps
from kvsim.policy import Usage
from kvsim.request import IntColumn
from kvsim.timeline import Timeline

CATEGORIES = ("live", "reserved", "internal", "external", "reusable", "free")
BUFFER = 1 << 15
"""Rows that are kept before they are summed up: 40 bytes each."""


class Slots(NamedTuple):
    """The pool at one moment, in slots; the six add up to its capacity."""

    live: int
    """Hold KV that attention still reads."""
    reserved: int
    """Held, and this request will fill them."""
    internal: int
    """Held, and never filled before release, or outside every window."""
    external: int
    """Free, in pieces too small for the next waiting request."""
    reusable: int
    """Cached prefixes nobody holds."""
    free: int


class Ledger:
    """Slots and requests over time, written down step by step and summed up a few thousand steps at a time.

    A *row* is a step, or a pause between two; it has an end and the slots held. Rows that follow each other while
    only decoding goes on share one entry of `ENTRY`: their live slots and tokens grow by the same number from each
    to the next. The split of what sequences hold is

        reserved = Σ reach − slots_per_token · Σ length
        internal = held − live − reserved
        free     = capacity − held − reusable − external
    """

    ENTRY = (
        "rows",
        "steps",  # per row: 1, or 0 for a pause
        "tokens",  # per row
        "running",
        "waiting",
        "external",
        "shared",
        "reusable",  # less, where growing took free blocks beyond those without content
        "beyond",  # Σ reach − held of the last row, which growing leaves as it is, but for `pads` and `moved`
        "live",  # of the first row
        "live_more",  # of each row than of the one before
        "placed",
        "placed_more",
        "decodes",  # sequences whose last token came at the end of the row before; 0 where gaps are noted apart
    )

    def __init__(self, capacity: int, slots_per_token: int, start: float) -> None:
        """Begin at time `start` with an empty pool."""
        self.capacity = capacity
        self.slots_per_token = slots_per_token
        self.start = start
        self.now = start
        """Until when rows are written."""
        self.holding = 0
        """Slots held; whoever changes it between two calls of `hold` changes only what growing changes."""
        self.beyond = 0
        """Σ reach − holding."""
        self.shared = self.external = self.reusable = 0
        self.running = 0
        self.waiting = 0
        self.ends = array("d")
        """When each row ends; whoever appends here also appends to `held` and then calls `entry`."""
        self.held = array("q")
        """Slots held in each row."""
        self.timeline = Timeline(start)
        self.gaps = Gaps(start)
        self.time_running = Durations()
        """Seconds with so many running."""
        self.time_waiting = Durations()
        """Seconds with so many waiting."""
        self.entries: list[int] = []
        """Flat; whoever adds one appends its rows to `ends` and `held` before."""
        self.pads: list[int] = []
        """Changes of the tokens that will never be filled, where `beyond` leaves them out (`Batch.pads`)."""
        self._unfilled = 0
        self._moved: list[tuple[int, int]] = []
        self._steps = self._tokens = 0
        self._totals = np.zeros(len(CATEGORIES) + 2)
        self._total_shared = 0.0
        self.waited = 0.0
        """Σ seconds that requests have waited before they were queued, since that happens between steps."""
        self._summed_to = start

    def hold(self, now: float, usage: Usage, reach: int, running: int, waiting: int) -> None:
        """Let these figures hold from `now` on."""
        self.pause(now)
        self.holding, self.shared, self.reusable, self.external = usage
        self.beyond = reach - self.holding
        self.running = running
        self.waiting = waiting

    def count(self, now: float, running: int, waiting: int) -> None:
        """Note who runs and waits from `now` on; what the memory holds is told by the next `hold`."""
        self.pause(now)
        self.running = running
        self.waiting = waiting

    def queue(self, now: float, waiting: int, waited: float) -> None:
        """Note new arrivals that have waited `waited` seconds in sum before they were queued at `now`."""
        self.pause(now)
        self.waiting = waiting
        self.waited += waited

    def step(self, start: float, end: float, live: int, placed: int, tokens: int) -> None:
        """Add a step: `live` slots are read, `placed` tokens have a place when it is planned."""
        self.pause(start)
        self.ends.append(end)
        self.held.append(self.holding)
        self.entry(1, 1, tokens, live, 0, placed, 0, 0)

    def planned(self, end: float, live: int, placed: int, tokens: int, decodes: int) -> None:
        """Add a step that starts where the last row ended; `decodes` get a token as long after as it takes."""
        self.ends.append(end)
        self.held.append(self.holding)
        self.entry(1, 1, tokens, live - self.shared, 0, placed, 0, decodes)

    def decoded(self, rows: int, holding: int, decodes: int, placed: int, live: int, live_more: int) -> None:
        """Describe the rows of steps in which everybody decoded, just appended to `ends` and `held`.

        `holding` is what the last of them holds, `placed` is of the first, `live` of the step before that.
        """
        self.holding = holding
        live += live_more - self.shared
        self.entry(rows, 1, decodes, live, live_more, placed, decodes, decodes)

    def moved(self, moves: list[tuple[int, int]]) -> None:
        """Note at which rows not yet described windows gave so many slots back: they count as held no more."""
        self.beyond += sum([slots for _, slots in moves])
        self._moved += moves

    def entry(
        self,
        rows: int,
        steps: int,
        tokens: int,
        live: int,
        live_more: int,
        placed: int,
        placed_more: int,
        decodes: int,
    ) -> None:
        """Describe the rows that were just appended to `ends` and `held`; see `ENTRY`.

        The figures last told to `hold` are those of the first of them.
        """
        self.entries += (
            rows,
            steps,
            tokens,
            self.running,
            self.waiting,
            self.external,
            self.shared,
            self.reusable,
            self.beyond,
            live,
            live_more,
            placed,
            placed_more,
            decodes,
        )
        self.now = self.ends[-1]
        if decodes:
            self.gaps.noted += 1
        if len(self.ends) >= BUFFER:
            self.sum_up()

    def slots(self, live: int, placed: int) -> Slots:
        """Return the split at this moment."""
        reserved = self.holding + self.beyond - self.slots_per_token * placed
        free = self.capacity - self.holding - self.reusable - self.external
        return Slots(live, reserved, self.holding - live - reserved, self.external, self.reusable, free)

    def integrals(self, now: float) -> dict[str, float]:
        """Return slot-seconds by category and `shared` (see `Usage`), and request-seconds running and waiting."""
        self.close(now)
        names = (*CATEGORIES, "running", "waiting")
        totals = dict(zip(names, self._totals.tolist(), strict=True))
        return totals | {"waiting": totals["waiting"] + self.waited, "shared": self._total_shared}

    @property
    def room(self) -> int:
        """Rows to go until they are summed up: the same for any run, since the last bit of a sum depends on it."""
        return BUFFER - len(self.ends)

    @property
    def steps(self) -> int:
        """Steps so far."""
        self.sum_up()
        return self._steps

    @property
    def tokens(self) -> int:
        """Tokens computed so far."""
        self.sum_up()
        return self._tokens

    def close(self, now: float) -> None:
        """Write rows up to `now` and sum up."""
        self.pause(now)
        self.sum_up()

    def pause(self, now: float) -> None:
        """Write a row up to `now`, if the last one ends before."""
        if now != self.now:
            self.ends.append(now)
            self.held.append(self.holding)
            self.entry(1, 0, 0, 0, 0, 0, 0, 0)

    def sum_up(self) -> None:
        """Turn the rows into integrals, of the whole run and of the timeline's stretches."""
        if not self.ends:
            return
        ends, held = np.array(self.ends), np.array(self.held)
        entries = np.fromiter(self.entries, np.int64, len(self.entries)).reshape(-1, len(self.ENTRY))
        del self.ends[:], self.held[:], self.entries[:]
        seconds = np.diff(ends, prepend=self._summed_to)
        self._summed_to = float(ends[-1])
        rows = np.ascontiguousarray(entries[:, 0])
        since = np.arange(len(ends)) - np.repeat(np.cumsum(rows) - rows, rows)
        # One column after the other lies in the cache, all of them do not.
        column = {name: np.repeat(entries[:, place], rows) for place, name in enumerate(self.ENTRY)}
        figures = np.empty((len(CATEGORIES) + 2, len(ends)))
        for place, slots in enumerate(self._split(column, since, held)):
            np.multiply(slots, seconds, out=figures[place])
        np.multiply(column["running"], seconds, out=figures[-2])
        np.multiply(column["waiting"], seconds, out=figures[-1])
        self._steps += int(column["steps"].sum())
        self._tokens += int(column["tokens"].sum())
        if column["shared"].any():
            self._total_shared += float((column["shared"] * seconds).sum())
        self._totals += figures.sum(axis=1)
        self.time_running.add(column["running"], seconds)
        self.time_waiting.add(column["waiting"], seconds)
        regular = np.flatnonzero(column["decodes"])
        self.gaps.extend(seconds[regular], column["decodes"][regular], ends[regular])
        self.timeline.add(ends, column["steps"], column["tokens"], figures)

    def _split(self, column: dict[str, IntColumn], since: IntColumn, held: IntColumn) -> Iterator[IntColumn]:
        """Go through the six categories, each for every row."""
        live = since * column["live_more"] + column["live"]
        placed = since * column["placed_more"] + column["placed"]
        beyond = column["beyond"] - self.slots_per_token * placed
        if self.pads or self._unfilled:
            beyond -= self.slots_per_token * self._never_filled(column["steps"])
        if self._moved:
            beyond -= self._still_held(since, column["rows"])
        external = column["external"]
        left = self.capacity - held - external
        # Blocks without content go first, so growing leaves all reusable ones alone as long as it can.
        reusable = np.minimum(column["reusable"], left)
        yield from (live, held + beyond, -live - beyond, external, reusable, left - reusable)

    def _never_filled(self, steps: IntColumn) -> IntColumn:
        """Return for each row the tokens that sequences hold and will never fill, and forget `pads` of the past."""
        # In halves: a pause comes after the step before it.
        times = 2 * (self._steps + np.cumsum(steps)) + 1 - steps
        changes = np.fromiter(self.pads, np.int64, len(self.pads)).reshape(-1, 2)
        rows = np.searchsorted(times, changes[:, 0])
        is_known = rows < len(times)
        self.pads[:] = changes[~is_known].ravel().tolist()
        added = np.bincount(rows[is_known], changes[is_known, 1], len(times))
        tokens = self._unfilled + np.cumsum(added.astype(np.int64))
        self._unfilled = int(tokens[-1])
        return tokens

    def _still_held(self, since: IntColumn, rows: IntColumn) -> IntColumn:
        """Return for each row the slots that `moved` says are given back in later rows of its entry."""
        places, slots = np.array(self._moved).T
        self._moved.clear()
        gone = np.cumsum(np.bincount(places, slots, len(rows)).astype(np.int64))
        last = np.arange(len(rows)) - since + rows - 1
        return np.asarray(gone[last] - gone)
