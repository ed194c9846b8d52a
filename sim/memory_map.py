"""The pool as a picture: address up, time across, and who has what where.

A `MapRecorder` watches the steps of one simulation. At even intervals it asks the policy where everything lies and
keeps a column of cells. Whenever there are `COLUMNS` of them every other one is dropped and the interval doubled, so a
map stays as small, and looks as seldom, however long the run is. Being watched, the engine goes step by step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvsim.memory_cells import USES, Splitter
from kvsim.replica import Planned
from kvsim.request import IntColumn
from kvsim.watchers import add_watch

if TYPE_CHECKING:
    from kvsim.engine import Simulation

COLUMNS = 256
"""Most columns; a finished map has half as many or more."""
BINS = 200
"""Most cells in a column."""
FIRST_INTERVAL = 1 / 64
"""Seconds between columns where all requests arrive at once, so that the trace does not say how long it is."""


class _Column(NamedTuple):
    """The pool at one moment."""

    use: NDArray[np.uint8]
    """Of each cell, a place in USES."""
    holder: IntColumn
    """Row of the request that has most of the cell; −1 where nobody or several have it."""


class MapRecorder:
    """Watch one simulation; `columns` then has the map, None where the policy does not say what lies where."""

    def __init__(self, simulation: Simulation, most: int = COLUMNS, bins: int = BINS) -> None:
        """Start watching; the simulation must not have run yet."""
        self._simulation = simulation
        self._most = most
        self._bins = bins
        self._start = simulation.clock
        self._interval = _span(simulation) / (most // 2 + 1) or FIRST_INTERVAL
        self._found: list[_Column] = []
        self._splitter: Splitter | None = None
        self._idle: tuple[int, _Column] | None = None
        """The pool when nobody ran, and the number of columns there were."""
        self._is_known = True
        add_watch(simulation.replica, ended=self._ended)

    def columns(self) -> dict[str, Any] | None:  # Any: arrays
        """Return the map, a row a run of equal cells along time; None when nothing is known.

        `slot` and `slots` are the cell's first address and height, `start_s` and `end_s` seconds, `use` one of
        USES, `request` the row that has most of it (missing where nobody or several have it).
        """
        if not self._found or self._splitter is None:
            return None
        import pandas as pd

        if (
            len(self._found) > 1
            and self._start + self._interval * (len(self._found) - 1) >= self._simulation.clock
        ):
            self._found.pop()
        use = np.array([column.use for column in self._found])
        holder = np.array([column.holder for column in self._found])
        changed = np.ones(use.shape, dtype=bool)
        changed[1:] = (use[1:] != use[:-1]) | (holder[1:] != holder[:-1])
        bins, firsts = np.nonzero(changed.T)
        lasts = np.append(firsts[1:], 0)
        lasts[np.append(bins[1:] != bins[:-1], True)] = len(use)
        times = self._start + self._interval * np.arange(len(use) + 1)
        times[-1] = self._simulation.clock
        edges, rows = self._splitter.edges, holder[firsts, bins]
        return {
            "start_s": times[firsts],
            "end_s": times[lasts],
            "slot": edges[bins],
            "slots": np.diff(edges)[bins],
            "use": np.array(USES)[use[firsts, bins]],
            "request": pd.Series(rows, dtype="Int64").mask(rows < 0),
        }

    def _ended(self, planned: Planned) -> None:
        """Fill the columns that begin before the end of this step, those of a pause before it as it was then."""
        if not self._is_known:
            return
        if self._idle is not None:
            self._fill(planned.start, self._idle[1])
        is_idle = not self._simulation.replica.batch.running
        # One look a column at an idle pool: a run at low load is idle after every request.
        look_again = is_idle and (self._idle is None or self._idle[0] != len(self._found))
        if self._due > planned.end and not look_again:
            return
        column = self._look()
        if column is None:
            self._is_known = False
            return
        self._fill(planned.end, column)
        if is_idle:
            self._idle = len(self._found), column

    @property
    def _due(self) -> float:
        """When the next column begins."""
        return self._start + self._interval * len(self._found)

    def _fill(self, until: float, column: _Column) -> None:
        while self._due <= until:
            self._found.append(column)
            if len(self._found) >= self._most:
                del self._found[1::2]
                self._interval *= 2

    def _look(self) -> _Column | None:
        """Return the pool as it is now; None where the policy does not know."""
        replica = self._simulation.replica
        jobs = list(replica.batch.running.values())
        for job in jobs:
            job.computed = replica.batch.length(job)
        placement = replica.policy.placements(jobs, replica.waiting.head())
        if placement is None:
            return None
        if self._splitter is None:
            self._splitter = Splitter(replica.policy.capacity, self._bins)
        return _Column(*self._splitter.cells(placement, jobs))


def _span(simulation: Simulation) -> float:
    """Return the seconds from the first arrival to the last that the trace itself tells."""
    workload = simulation.workload
    arrival = np.asarray(workload.arrival, np.float64)
    if workload.parent is not None:
        arrival = arrival[np.asarray(workload.parent) < 0]
    return float(arrival.max() - arrival.min()) if len(arrival) else 0.0
