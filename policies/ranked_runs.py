"""Prefix caching in runs whose free blocks make room in an order other than vLLM's."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from kvsim.policies.counted_prefix import CountedPrefix
from kvsim.policies.eviction_future import Future
from kvsim.policies.paths import Paths
from kvsim.policies.runs import Hit, Run, RunPool
from kvsim.policy import Lease, Match, Policy, Pool
from kvsim.request import Sequence, Workload

Rank = tuple[int, ...]

RANKS: dict[str, Callable[[Run], Rank]] = {
    "lfu": lambda run: (run.key, run.used, -run.high),
    "length": lambda run: (-run.high, run.used),
    "oracle": lambda run: (run.key, -run.high, run.used),
}
"""Rank of a run's last block under the rules of `EVICTIONS` whose ranks are alike within a run but for the depth.

`used` is the tick at which the run was freed; `key` is how often it was used, or less the row that asks for it next.
"""


class RankedRuns(RunPool):
    """Runs by rank at the moment they were freed; a run loses its blocks from its end."""

    def __init__(self, blocks: int, eviction: str, future: Future | None, block_size: int) -> None:
        """Start with so many blocks free and nothing findable; `future` is an oracle's."""
        super().__init__(blocks)
        self.row = 0
        """The row whose blocks are given back."""
        self._rank = RANKS[eviction]
        self._is_lfu = eviction == "lfu"
        self._future = future
        self._block_size = block_size
        self._heap: list[tuple[Rank, int, Run]] = []
        self._valid: dict[Run, int] = {}
        """Serial of each free run's entry in the heap; others there are of the past."""
        self._serial = self._tick = 0

    def take(self, blocks: int) -> None:
        """Take so many blocks, those without content first; they lose their content."""
        plain = min(blocks, self.plain)
        self.plain -= plain
        blocks -= plain
        self.reusable -= blocks
        while blocks:
            blocks -= self._evict(blocks)

    def hold(self, hit: Hit) -> list[Run]:
        """Hold every block of a hit once more; return the runs."""
        held = super().hold(hit)
        for run in held:
            run.key += 1
        return held

    def give_back(self, runs: list[Run]) -> None:
        """Drop a reference to each block of a table, last block first."""
        self._tick += 1
        super().give_back(runs)

    def _enter(self, run: Run) -> None:
        run.used = self._tick
        if self._future is not None:
            self._look_ahead(run, self._future)
        self._push(run)

    def _leave(self, run: Run) -> None:
        del self._valid[run]

    def _lost_its_end(self, run: Run, rest: Run | None) -> None:
        self._push(run)
        if rest is not None:
            self._push(rest)

    def _push(self, run: Run) -> None:
        self._serial += 1
        self._valid[run] = self._serial
        heapq.heappush(self._heap, (self._rank(run), self._serial, run))

    def _look_ahead(self, run: Run, future: Future) -> None:
        """Note who asks for the run next, and cut its end off where that is somebody else than for its head."""
        size = self._block_size
        while True:
            next_use, since = future.next_use(self.row, run.high * size)
            if since // size <= run.low:
                run.key = -next_use
                return
            end = run.part(since // size, run.high)
            run.high = end.low
            run.divide(run, end)
            end.key = -next_use
            self._push(end)

    def _evict(self, most: int) -> int:
        """Evict some of the blocks that go first; return how many."""
        heap = self._heap
        rank, serial, run = heap[0]
        if self._valid.get(run) != serial:
            heapq.heappop(heap)
            return 0
        size = run.high - run.low
        count = min(size, most) if self._is_lfu else min(size, most, self._before_others(rank, size))
        if count == size:
            heapq.heappop(heap)
            del self._valid[run]
            for node in run.nodes:
                node.runs.remove(run)
        else:
            run.shorten(count)
            heapq.heapreplace(heap, (self._rank(run), serial, run))
        return count

    def _before_others(self, rank: Rank, size: int) -> int:
        """Return how many blocks of the run of that rank, so many long, go before any other."""
        others = self._heap[1:3]
        if not others:
            return size
        (*key, depth, used), (*other, next_depth, since) = rank, min(others)[0]
        return size if key < other else next_depth - depth + (used < since)


class RankedPrefix(CountedPrefix):
    """Prefix caching in runs, under one of the orders of `RANKS`."""

    def __init__(
        self,
        policy: Policy,
        blocks: int,
        reserve: int,
        gate: bool,
        paths: Paths,
        eviction: str,
        workload: Workload | None,
    ) -> None:
        """Answer for `policy`, which was reset; the `workload` is told to an oracle."""
        super().__init__(policy, blocks, reserve, gate, paths)
        self._eviction = eviction
        self._workload = workload
        self._start()

    def reset(self, pool: Pool) -> None:
        """Start again with an empty pool of the same size."""
        super().reset(pool)
        self._start()

    def admit(self, sequence: Sequence, match: Match, tokens: int) -> Lease | None:
        """Hold what was found and take blocks for the chunk, if the whole sequence would fit (rule A3)."""
        lease = super().admit(sequence, match, tokens)
        if lease is not None and self._future is not None:
            self._future.admit(sequence.index)
        return lease

    def release(self, sequence: Sequence, finished: bool) -> None:
        """Free the table; full blocks stay findable."""
        self._runs.row = sequence.index
        if self._future is not None and not finished:
            self._future.put_back(sequence.index)
        super().release(sequence, finished)

    def _start(self) -> None:
        has_future = self._eviction == "oracle" and self._workload is not None
        self._future = Future(self._workload) if has_future and self._workload is not None else None
        self._pool = self._runs = RankedRuns(self._usable, self._eviction, self._future, self.block_size)
