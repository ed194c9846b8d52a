"""Paged allocation with blocks shared by content: vLLM's automatic prefix caching."""

from __future__ import annotations

from kvsim.policies.block_policy import BlockPolicy
from kvsim.policy import Policy
from kvsim.registry import register


@register
class PrefixPolicy(BlockPolicy):
    """Paged, with full blocks shared by content and freed ones findable until reused (LRU).

    Blocks are named by the hash of all tokens up to their end, counted by reference, and taken again in the
    order in which they were freed, so the deepest blocks of the least recently finished request go first.
    """

    name = "prefix"

    def __init__(
        self, *, block_size: int = 16, watermark: float = 0.0, scheduler_reserve_full_isl: bool = True
    ) -> None:
        """Store the parameters; memory arrives with `reset`."""
        self.block_size = block_size
        self.watermark = watermark
        self.scheduler_reserve_full_isl = scheduler_reserve_full_isl

    def counted(self) -> Policy | None:
        """Keep cached content in runs, unless a subclass does something of its own."""
        return self.count_blocks() if type(self) is PrefixPolicy else None

    def caches(self) -> bool:
        """Keep freed blocks findable."""
        return True
