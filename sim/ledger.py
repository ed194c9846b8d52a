"""What the pool was used for, and how many ran and waited, integrated over simulated time."""

from __future__ import annotations

from array import array
from collections import defaultdict
from typing import NamedTuple

from kvsim.policy import Usage

ROWS = 8192
"""Timeline rows beyond which neighbours are merged."""

CATEGORIES = ("live", "reserved", "internal", "external", "reusable", "free")


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
    """Slots over time.

    Sums that move with every token (`live`, and the tokens already in place) are handed over for each step;
    everything else holds from one `hold` to the next. The split of what sequences hold is

        reserved = Σ reach − slots_per_token · Σ length
        internal = held − live − reserved
        free     = capacity − held − reusable − external
    """

    def __init__(self, capacity: int, slots_per_token: int, start: float) -> None:
        """Begin at time `start` with an empty pool."""
        self.capacity = capacity
        self.slots_per_token = slots_per_token
        self.start = start
        self.now = start
        self.usage = Usage(0)
        self.reach = 0
        self.running = 0
        self.waiting = 0
        self.time_running: defaultdict[int, float] = defaultdict(float)
        """Seconds with so many running."""
        self.time_waiting: defaultdict[int, float] = defaultdict(float)
        """Seconds with so many waiting."""
        self._held = self._external = self._reusable = self._reach = 0.0
        self._live = self._placed = 0.0
        self._running = self._waiting = 0.0
        self.timeline = Timeline(self)

    def hold(self, now: float, usage: Usage, reach: int, running: int, waiting: int) -> None:
        """Close the span up to `now` and let these figures hold from there."""
        self._flush(now)
        self.usage = usage
        self.reach = reach
        self.running = running
        self.waiting = waiting

    def count(self, now: float, running: int, waiting: int) -> None:
        """Note who runs and waits from `now` on; what the memory holds is told by the next `hold`."""
        self._flush(now)
        self.running = running
        self.waiting = waiting

    def queue(self, now: float, waiting: int, waited: float) -> None:
        """Note new arrivals that have waited `waited` seconds in sum before they were queued at `now`."""
        self._flush(now)
        self.waiting = waiting
        self._waiting += waited

    def step(self, seconds: float, live: int, length: int) -> None:
        """Add a step: `live` slots are read, `length` tokens are in place."""
        self._live += live * seconds
        self._placed += length * seconds

    def slots(self, live: int, length: int) -> Slots:
        """Return the split at this moment."""
        usage = self.usage
        reserved = self.reach - self.slots_per_token * length
        free = self.capacity - usage.held - usage.reusable - usage.external
        return Slots(live, reserved, usage.held - live - reserved, usage.external, usage.reusable, free)

    def integrals(self, now: float) -> dict[str, float]:
        """Return slot-seconds by category, and request-seconds running and waiting, since the start."""
        self._flush(now)
        reserved = self._reach - self.slots_per_token * self._placed
        span = now - self.start
        return {
            "live": self._live,
            "reserved": reserved,
            "internal": self._held - self._live - reserved,
            "external": self._external,
            "reusable": self._reusable,
            "free": self.capacity * span - self._held - self._reusable - self._external,
            "running": self._running,
            "waiting": self._waiting,
        }

    def _flush(self, now: float) -> None:
        seconds = now - self.now
        if not seconds:
            return
        self.now = now
        usage = self.usage
        self._held += usage.held * seconds
        self._external += usage.external * seconds
        self._reusable += usage.reusable * seconds
        self._reach += self.reach * seconds
        self._running += self.running * seconds
        self._waiting += self.waiting * seconds
        self.time_running[self.running] += seconds
        self.time_waiting[self.waiting] += seconds


class Timeline:
    """Means over spans of steps; neighbours are merged whenever there are more than `ROWS` rows."""

    COLUMNS = ("start_s", "end_s", "steps", "tokens", *CATEGORIES, "running", "waiting")

    def __init__(self, ledger: Ledger) -> None:
        """Start with one step a row."""
        self._ledger = ledger
        self._stride = 1
        self._steps = 0
        self._tokens = 0
        self._seen: dict[str, float] = {}
        self._start = ledger.start
        self.columns: dict[str, array[float]] = {name: array("d") for name in self.COLUMNS}
        """Slot-seconds and request-seconds per row, beside start, end, steps and tokens."""

    def step(self, end: float, tokens: int) -> None:
        """Count a step that ends at `end`."""
        self._steps += 1
        self._tokens += tokens
        if self._steps >= self._stride:
            self.close(end)

    def close(self, end: float) -> None:
        """End the row at `end`."""
        if end <= self._start:
            return
        totals = self._ledger.integrals(end)
        row = {name: total - self._seen.get(name, 0.0) for name, total in totals.items()}
        row |= {"start_s": self._start, "end_s": end, "steps": self._steps, "tokens": self._tokens}
        for name, column in self.columns.items():
            column.append(row[name])
        self._seen, self._start, self._steps, self._tokens = totals, end, 0, 0
        if len(self.columns["end_s"]) >= ROWS:
            self._merge()

    def _merge(self) -> None:
        self._stride *= 2
        for name, column in self.columns.items():
            if name == "start_s":
                merged = column[0::2]
            elif name == "end_s":
                merged = column[1::2]
            else:
                merged = array("d", map(float.__add__, column[0::2], column[1::2]))
            self.columns[name] = merged
