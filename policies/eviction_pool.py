"""A pool of numbered blocks whose cached content makes room in an order other than vLLM's."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from collections.abc import Sequence as Ordered

from kvsim.policies.block_pool import CachingPool
from kvsim.policies.eviction import EVICTIONS, Rank, Record
from kvsim.policies.eviction_future import Future

Place = tuple[int, int]
"""A row that has a block's content, and the tokens of it up to the block's end."""


class RankedPool(CachingPool):
    """Free blocks without content first, as in vLLM; then those with, by rank at the moment they were freed."""

    def __init__(self, num_blocks: int, eviction: str, future: Future | None) -> None:
        """Start with all blocks free; `future` is an oracle's."""
        super().__init__(num_blocks)
        self._rank: Callable[[Record], Rank] = EVICTIONS[eviction]
        self._future = future
        self._records = [Record(0, 0)]
        self._places: list[Place] = [(0, 0)]
        self._ranked: list[tuple[Rank, int, int]] = []
        self._serials = [-1]
        """Each block's valid entry among the ranked; −1 for none."""
        self._tick = self._serial = 0

    def admitted(self, row: int) -> None:
        """Note that a row has asked for what it could find."""
        if self._future is not None:
            self._future.admit(row)

    def leaves(self, row: int, finished: bool, table: Ordered[int], block_size: int) -> None:
        """Note where in a row's tokens its blocks lie; they are given back next."""
        for number, block in enumerate(table, 1):
            self._places[block] = row, number * block_size
        if self._future is not None and not finished:
            self._future.put_back(row)

    def take(self, count: int) -> list[int]:
        """Take so many blocks; they lose their content."""
        self._tick += 1
        taken = super().take(count)
        for block in taken:
            self._records[block] = Record(self._tick, 0)
        return taken

    def give_back(self, blocks: Ordered[int]) -> None:
        """Drop a reference to each; free ones are ranked, or go to the front of the queue without content."""
        self._tick += 1
        super().give_back(blocks)

    def hit(self, block: int) -> None:
        """Hold a findable block once more."""
        self._records[block].uses += 1
        super().hit(block)

    def free_queue(self) -> list[int]:
        """Return the free blocks in the order in which they will be taken."""
        return [
            *self._plain.free_queue(),
            *(block for _, serial, block in sorted(self._ranked) if self._serials[block] == serial),
        ]

    def _extend(self, blocks: int) -> None:
        super()._extend(blocks)
        self._records += [Record(0, 0) for _ in range(blocks)]
        self._places += [(0, 0)] * blocks
        self._serials += [-1] * blocks

    def _evict(self, count: int) -> list[int]:
        ranked, serials = self._ranked, self._serials
        evicted: list[int] = []
        while len(evicted) < count:
            _, serial, block = heapq.heappop(ranked)
            if serials[block] == serial:
                serials[block] = -1
                evicted.append(block)
        return evicted

    def _keep(self, blocks: list[int]) -> None:
        for block in blocks:
            self._enter(block)

    def _hold(self, block: int) -> None:
        self._serials[block] = -1

    def _enter(self, block: int) -> None:
        record, (row, depth) = self._records[block], self._places[block]
        record.used, record.depth = self._tick, depth
        if self._future is not None:
            record.next_use = self._future.next_use(row, depth)[0]
        self._serial += 1
        self._serials[block] = self._serial
        heapq.heappush(self._ranked, (self._rank(record), self._serial, block))
