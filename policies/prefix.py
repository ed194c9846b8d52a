"""Paged allocation with blocks shared by content: vLLM's automatic prefix caching."""

from __future__ import annotations

from kvsim.policies.block_policy import BlockPolicy
from kvsim.policies.block_pool import CachingPool
from kvsim.policies.eviction import check_eviction, name_with
from kvsim.policies.eviction_future import Future
from kvsim.policies.eviction_pool import RankedPool
from kvsim.policies.paths import Paths
from kvsim.policies.ranked_runs import RANKS, RankedPrefix
from kvsim.policy import Lease, Match, Policy
from kvsim.registry import register
from kvsim.request import Sequence


@register
class PrefixPolicy(BlockPolicy):
    """Paged, with full blocks shared by content; freed blocks can be hit until they are reused (LRU).

    Blocks are named by the hash of all tokens up to their end, counted by reference, and taken again in the
    order in which they were freed, so the deepest blocks of the least recently finished request go first. That is
    vLLM; `eviction` puts another order in its place: lfu, fifo, length (deepest in its prompt first) or oracle
    (used again last; it reads the whole trace, and calls the policy `prefix-oracle`).
    """

    name = "prefix"
    shares_prefixes = True

    def __init__(
        self,
        *,
        block_size: int = 16,
        watermark: float = 0.0,
        scheduler_reserve_full_isl: bool = True,
        eviction: str = "lru",
    ) -> None:
        """Refuse an unknown eviction at once, since it is part of the name."""
        check_eviction(eviction)
        self.block_size = block_size
        self.watermark = watermark
        self.scheduler_reserve_full_isl = scheduler_reserve_full_isl
        self.eviction = eviction
        self.name = name_with(type(self).name, eviction)

    def caching_pool(self, num_blocks: int) -> CachingPool:
        """Return vLLM's pool, or one with another order."""
        if self.eviction == "lru":
            return super().caching_pool(num_blocks)
        future = None
        if self.eviction == "oracle" and self._workload is not None and not self._contents.shares_nothing:
            future = Future(self._workload)
        return RankedPool(num_blocks, self.eviction, future)

    def admit(self, sequence: Sequence, match: Match, tokens: int) -> Lease | None:
        """Hold the hit blocks and take new ones for the chunk, if the whole sequence would fit (rule A3)."""
        lease = super().admit(sequence, match, tokens)
        if lease is not None and isinstance(self._blocks, RankedPool):
            self._blocks.admitted(sequence.index)
        return lease

    def release(self, sequence: Sequence, finished: bool) -> None:
        """Free the table from its last block to its first (rule P6)."""
        if isinstance(self._blocks, RankedPool):
            self._blocks.leaves(sequence.index, finished, self.tables(sequence)[0], self.block_size)
        super().release(sequence, finished)

    def counted(self) -> Policy | None:
        """Keep cached content in runs, unless a subclass does something of its own, or the order cuts them up."""
        if type(self) is not PrefixPolicy or self.eviction not in ("lru", *RANKS):
            return None
        twin = self.count_blocks()
        if self.eviction == "lru" or twin is None:
            return twin
        sizes = self._blocks.usable, self._reserve, self.scheduler_reserve_full_isl
        return RankedPrefix(
            self, *sizes, Paths(self._workload, self.block_size), self.eviction, self._workload
        )

    def caches(self) -> bool:
        """Keep freed blocks findable."""
        return True
