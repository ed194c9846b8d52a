"""Paged allocation: fixed-size blocks on demand, preemption by recompute or by swap when none is left."""

from __future__ import annotations

from kvsim.errors import InputError
from kvsim.policies.block_policy import BlockPolicy
from kvsim.policies.swap import SwapSpace
from kvsim.policy import NO_MATCH, Lease, Match, Policy, Pool
from kvsim.registry import register
from kvsim.request import Sequence


@register
class PagedPolicy(BlockPolicy):
    """Fixed-size blocks on demand, no sharing; a full pool preempts by recompute or by swap.

    `watermark` is the share of blocks that admissions leave free while others run, and
    `scheduler_reserve_full_isl` lets a request in only if all its tokens so far would fit (both as in vLLM).
    With `preemption="swap"` evicted KV goes to a CPU pool of `swap_space_gib` GiB over a link of
    `link_gb_per_s` GB/s each way, and comes back without being computed again; each copy, a block of one
    tensor, takes `copy_us` microseconds more. When that pool is full the request is recomputed.
    """

    name = "paged"

    def __init__(
        self,
        *,
        block_size: int = 16,
        watermark: float = 0.0,
        scheduler_reserve_full_isl: bool = True,
        preemption: str = "recompute",
        swap_space_gib: float = 4.0,
        link_gb_per_s: float = 50.0,
        copy_us: float = 0.0,
    ) -> None:
        """Store the parameters; memory arrives with `reset`."""
        self.block_size = block_size
        self.watermark = watermark
        self.scheduler_reserve_full_isl = scheduler_reserve_full_isl
        self.preemption = preemption
        self.swap_space_gib = swap_space_gib
        self.link_gb_per_s = link_gb_per_s
        self.copy_us = copy_us

    def reset(self, pool: Pool) -> None:
        """Cut the memory into blocks and empty the swap space."""
        if self.preemption not in ("recompute", "swap"):
            raise InputError(f"preemption must be recompute or swap, got {self.preemption!r}")
        super().reset(pool)
        self._swap = SwapSpace(
            self.swap_space_gib,
            self.link_gb_per_s,
            self.block_size,
            pool.token_bytes,
            self.copy_us,
            pool.tensors,
        )

    def lookup(self, sequence: Sequence) -> Match:
        """Find what was swapped out."""
        tokens = self._swap.holds(sequence)
        return Match(tokens, tokens) if tokens else NO_MATCH

    def admit(self, sequence: Sequence, match: Match, tokens: int) -> Lease | None:
        """Take blocks for the chunk and, after a swap, for what comes back."""
        lease = super().admit(sequence, match, tokens)
        if lease is not None and match.restored:
            self._swap.bring_back(sequence)
        return lease

    def release(self, sequence: Sequence, finished: bool) -> None:
        """Free the blocks; a preempted sequence's KV may go to the CPU first."""
        if self.preemption == "swap" and not finished:
            self._swap.put(sequence)
        super().release(sequence, finished)

    def counted(self) -> Policy | None:
        """Count blocks, unless some go to the CPU or a subclass does something of its own."""
        return self.count_blocks() if type(self) is PagedPolicy and self.preemption == "recompute" else None

    def transfers(self) -> float:
        """Return and forget the seconds of copying over the link."""
        return self._swap.take_seconds()

    @property
    def swapped_bytes(self) -> int:
        """Bytes moved over the link so far, both ways."""
        return self._swap.moved_bytes
