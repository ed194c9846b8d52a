"""What every part of a pool is used for at one moment, and a column of cells that shows it.

The split is exact and the same as the ledger's. A cell can show one use only, so uses are dealt out from the
lowest address up such that the area of each in a column is its share of the pool, to within a cell (error
diffusion), and no cell shows what is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Ordered
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvsim.job import Job
from kvsim.placement import Held, Placement, Reader, Stretch
from kvsim.request import FloatColumn, IntColumn
from kvsim.window import Chunk

USES = ("live", "shared", "reserved", "internal", "external", "reusable", "free")
"""The ledger's categories, live split by whether one sequence reads it or several."""
LIVE, SHARED, RESERVED, INTERNAL, EXTERNAL, REUSABLE, FREE = range(len(USES))
NOBODY = -1

Numbers = NDArray[np.int64]
_Span = tuple[IntColumn, IntColumn]


class Parts(NamedTuple):
    """Pieces of the pool with one use each: columns of one length."""

    address: IntColumn
    """First slot."""
    extent: IntColumn
    """Slots from the first to the last."""
    slots: IntColumn
    """How many of them have this use; fewer than `extent` where only some layers do."""
    use: IntColumn
    """Place in USES."""
    holder: IntColumn
    """Place in the list of jobs; −1 for nobody."""


class Splitter:
    """Turn placements of one pool into columns of cells."""

    def __init__(self, capacity: int, bins: int) -> None:
        """Cut `capacity` slots into at most `bins` cells of about the same height."""
        count = min(capacity, bins)
        self.edges: IntColumn = np.arange(count + 1, dtype=np.int64) * capacity // count
        """First slot of each cell, and the capacity."""
        self._heights = np.diff(self.edges)

    def cells(self, placement: Placement, jobs: Ordered[Job]) -> tuple[NDArray[np.uint8], IntColumn]:
        """Return each cell's use and the row that has most of it, −1 for nobody or several."""
        parts = self._cut(_joined([*_held_parts(placement, jobs), *_spare_parts(placement)]))
        place = np.searchsorted(self.edges, parts.address, side="right") - 1
        key = place * len(USES) + parts.use
        counts = np.bincount(key, parts.slots, len(self._heights) * len(USES)).reshape(-1, len(USES))
        counts[:, FREE] = self._heights - counts[:, :FREE].sum(axis=1)
        use = _dealt(counts / self._heights[:, None])
        return use, self._holders(use, place, parts, jobs)

    def _cut(self, parts: Parts) -> Parts:
        """Cut the pieces at the edges of cells; a use of part of the slots goes along in proportion."""
        ends = parts.address + parts.extent
        first = np.searchsorted(self.edges, parts.address, side="right") - 1
        times = np.searchsorted(self.edges, ends, side="left") - first
        of = np.repeat(np.arange(len(times)), times)
        cell = np.arange(len(of)) - np.repeat(np.cumsum(times) - times, times) + first[of]
        low = np.maximum(parts.address[of], self.edges[cell])
        high = np.minimum(ends[of], self.edges[cell + 1])
        slots = parts.slots[of] * ((high - low) / parts.extent[of])
        return Parts(low, high - low, slots, parts.use[of], parts.holder[of])

    def _holders(self, use: NDArray[np.uint8], place: Numbers, parts: Parts, jobs: Ordered[Job]) -> IntColumn:
        """Return for each cell the row with most slots of the use it shows."""
        mine = (parts.use == use[place]) & (parts.holder >= 0) & (parts.use != SHARED)
        rows = np.array([*(job.index for job in jobs), NOBODY], np.int64)
        cells = len(self._heights)
        key = place[mine] * len(jobs) + parts.holder[mine]
        held = np.bincount(key, parts.slots[mine], cells * len(jobs)).reshape(cells, len(jobs))
        if not held.size:
            return np.full(cells, NOBODY, np.int64)
        most = held.argmax(axis=1)
        return rows[np.where(held[np.arange(cells), most] > 0, most, len(jobs))]


def slots_by_use(placement: Placement, jobs: Ordered[Job], capacity: int) -> dict[str, int]:
    """Return the exact slots of each use; they add up to the capacity."""
    parts = _joined([*_held_parts(placement, jobs), *_spare_parts(placement)])
    counts = np.bincount(parts.use, parts.slots, len(USES)).astype(np.int64)
    counts[FREE] = capacity - counts[:FREE].sum()
    return dict(zip(USES, counts.tolist(), strict=True))


def _held_parts(placement: Placement, jobs: Ordered[Job]) -> list[Parts]:
    """Split what sequences hold where a window ends, where their tokens end, and where they will end."""
    rows = np.array([job.index for job in jobs], np.int64)
    order = np.argsort(rows)
    computed = np.array([job.computed for job in jobs], np.int64)
    chunk = np.array([job.chunk for job in jobs], np.int64)
    final = np.maximum(computed, np.array([job.final for job in jobs], np.int64))
    found = []
    for held in placement.held:
        if not len(held.address):
            continue
        holder = order[np.searchsorted(rows, held.holder, sorter=order)]
        gone = [_unread(reader, computed - chunk) for reader in held.readers]
        full = np.max([stop for _, stop in gone], axis=0)[holder]
        end = held.first + held.tokens
        is_whole = (end <= computed[holder]) & (held.first >= full)
        live = held.tokens * sum(reader.slots for reader in held.readers)
        pieces = None
        if not is_whole.all():
            rest = Held(held.readers, *(column[~is_whole] for column in held[1:]))
            at = holder[~is_whole]
            spans = [(start[at], stop[at]) for start, stop in gone]
            pieces = _pieces(rest, computed[at], final[at], spans)
            live[~is_whole] = pieces.live
        keep, use = _one_reader(held.address, live)
        whole = is_whole & keep
        found.append(Parts(held.address[whole], live[whole], live[whole], use[whole], holder[whole]))
        if pieces is not None:
            found += pieces.parts(keep[~is_whole], use[~is_whole], holder[~is_whole])
    return found


class _Pieces(NamedTuple):
    """Pieces cut into stretches of tokens with the same fate: matrices, a row a stretch, a column a piece."""

    address: Numbers
    extent: Numbers
    slots: tuple[Numbers, Numbers, Numbers]
    """Live, reserved and internal."""

    @property
    def live(self) -> IntColumn:
        """Slots that are read, per piece."""
        total: IntColumn = self.slots[0].sum(axis=0)
        return total

    def parts(self, keep: NDArray[np.bool_], live_use: IntColumn, holder: IntColumn) -> Iterator[Parts]:
        """Yield the parts of the pieces to keep, by use."""
        for use, slots in zip((LIVE, RESERVED, INTERNAL), self.slots, strict=True):
            chosen = (slots > 0) & keep
            of = np.nonzero(chosen)[1]
            uses = live_use[of] if use == LIVE else np.full(len(of), use, np.int64)
            yield Parts(self.address[chosen], self.extent[chosen], slots[chosen], uses, holder[of])


def _pieces(held: Held, length: IntColumn, final: IntColumn, unread: list[_Span]) -> _Pieces:
    """Cut pieces where reading stops and begins again, at the end of the tokens and at the end to come."""
    end = held.first + held.tokens
    marks = [length, final, *(mark for span in unread for mark in span)]
    edges = np.sort(np.clip(np.array([held.first, *marks, end]), held.first, end), axis=0)
    low, tokens = edges[:-1], np.diff(edges, axis=0)
    per_token = sum(reader.slots for reader in held.readers)
    read = np.zeros_like(low)
    for reader, (start, stop) in zip(held.readers, unread, strict=True):
        read += np.where((low < start) | (low >= stop), reader.slots, 0)
    read[low >= length] = 0
    ahead = np.where((low >= length) & (low < final), per_token, 0)
    address = held.address + (low - held.first) * per_token
    idle = per_token - read - ahead
    return _Pieces(address, tokens * per_token, (read * tokens, ahead * tokens, idle * tokens))


def _unread(reader: Reader, before: IntColumn) -> _Span:
    """Return the first token that is no longer read and the next that is; `before` is the length before a step."""
    if reader.window is None:
        return np.zeros_like(before), np.zeros_like(before)
    start, width = np.full_like(before, reader.sinks), int(reader.window)
    stop = before // width * width if isinstance(reader.window, Chunk) else before - width + 1
    return start, np.maximum(start, stop)


def _one_reader(address: IntColumn, live: IntColumn) -> tuple[NDArray[np.bool_], IntColumn]:
    """Tell which row counts where several hold a piece, that of the holder that reads most, and its use."""
    order = np.lexsort((live, address))
    last = np.append(address[order[1:]] != address[order[:-1]], True)
    keep = np.zeros(len(order), dtype=bool)
    keep[order[last]] = True
    use = np.full(len(order), LIVE, np.int64)
    use[order[last]] = np.where(np.diff(np.nonzero(last)[0], prepend=-1) > 1, SHARED, LIVE)
    return keep, use


def _spare_parts(placement: Placement) -> list[Parts]:
    return [_spare(placement.reusable, REUSABLE), _spare(placement.external, EXTERNAL)]


def _spare(stretch: Stretch, use: int) -> Parts:
    count = len(stretch.address)
    nobody = np.full(count, NOBODY, np.int64)
    return Parts(stretch.address, stretch.slots, stretch.slots, np.full(count, use, np.int64), nobody)


def _joined(parts: list[Parts]) -> Parts:
    return Parts(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _dealt(shares: FloatColumn) -> NDArray[np.uint8]:
    """Choose a use a cell so that over the column each has its share; only what is in a cell may stand for it."""
    owed = [0.0] * shares.shape[1]
    chosen = np.empty(len(shares), np.uint8)
    for cell, row in enumerate(shares.tolist()):
        best = -1
        for use, share in enumerate(row):
            owed[use] += share
            if share > 0 and (best < 0 or owed[use] > owed[best]):
                best = use
        owed[best] -= 1.0
        chosen[cell] = best
    return chosen
