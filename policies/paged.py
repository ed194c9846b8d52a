"""Paged allocation: fixed-size blocks on demand, preemption by recompute or by swap when none is left."""

from __future__ import annotations

from collections.abc import Iterable

from kvsim.errors import InputError
from kvsim.placement import Placement
from kvsim.policies.block_policy import BlockPolicy
from kvsim.policies.block_pool import StackPool
from kvsim.policies.copy_on_write import CopyOnWrite, samples_of
from kvsim.policies.placement import block_placement
from kvsim.policies.swap import SwapSpace
from kvsim.policy import NO_MATCH, Lease, Match, Policy, Pool, Usage
from kvsim.registry import register
from kvsim.request import Sequence

UNLIMITED_GIB = 2.0**40


@register
class PagedPolicy(BlockPolicy):
    """Fixed-size blocks on demand, shared by samples only; a full pool preempts by recompute or by swap.

    `watermark` is the share of blocks that admissions leave free while others run, and
    `scheduler_reserve_full_isl` lets a request in only if all its tokens so far would fit (both as in vLLM).
    With `preemption="swap"` evicted KV goes to a CPU pool of `swap_space_gib` GiB over a link of
    `link_gb_per_s` GB/s each way, and comes back without being computed again; each copy, a block of one
    tensor, takes `copy_us` microseconds more. When that pool is full the request is recomputed. Samples and beams of
    a request share blocks until one of them writes (`CopyOnWrite`), and are swapped out whatever `preemption` says:
    as in vLLM up to 0.2, several sequences cannot be computed again as one.
    """

    name = "paged"
    holds_samples = True

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
        gib = UNLIMITED_GIB if pool.width > 1 and pool.swap_is_unlimited else self.swap_space_gib
        self._swap = SwapSpace(
            gib, self.link_gb_per_s, self.block_size, pool.token_bytes, self.copy_us, pool.tensors
        )
        self._width = pool.width
        self._block_bytes = self.block_size * pool.token_bytes
        self._copy_bytes_per_second = pool.copy_bytes_per_second
        self._timed_copies = 0
        self._shared: CopyOnWrite | None = None
        if pool.width > 1:
            assert isinstance(self._blocks, StackPool)
            self._shared = CopyOnWrite(self._blocks, self._swap, pool, self.block_size)
            # A beam that dies gives blocks back while others only decode.
            self.refusal_holds = pool.beam is None

    def lookup(self, sequence: Sequence) -> Match:
        """Find what was swapped out."""
        tokens = self._swap.holds(sequence)
        return Match(tokens, tokens) if tokens else NO_MATCH

    def admit(self, sequence: Sequence, match: Match, tokens: int) -> Lease | None:
        """Take blocks for the chunk and, after a swap, for what comes back."""
        shared = self._shared
        if shared is not None:
            free = self._blocks.free - (self._reserve if self._holders else 0)
            upto = match.tokens + tokens
            if shared.needed(sequence, sequence.tokens if self.scheduler_reserve_full_isl else upto) > free:
                return None
            self._holders += 1
            return shared.admit(sequence, upto)
        lease = super().admit(sequence, match, tokens)
        if lease is not None and match.restored:
            self._swap.bring_back(sequence)
        return lease

    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        """Take the blocks that are missing, or none."""
        return super().grow(sequence, tokens) if self._shared is None else self._shared.grow(sequence, tokens)

    def release(self, sequence: Sequence, finished: bool) -> None:
        """Free the blocks; a preempted sequence's KV may go to the CPU first."""
        if self._shared is not None:
            self._shared.release(sequence, finished)
            self._holders -= 1
            return
        if self.preemption == "swap" and not finished:
            self._swap.put(sequence)
        super().release(sequence, finished)

    def counted(self) -> Policy | None:
        """Count blocks, unless some go to the CPU or a subclass does something of its own."""
        is_plain = type(self) is PagedPolicy and self.preemption == "recompute" and self._shared is None
        return self.count_blocks() if is_plain else None

    def refuses_request(self, prompt: int, tokens: int) -> str | None:
        """Compare what a request needs whose sequences have only the prompt in common with all usable blocks."""
        if self._shared is None:
            return self.refuses(tokens)
        needed, usable = self._shared.most_blocks(prompt, tokens), self._blocks.usable
        if needed <= usable:
            return None
        return (
            f"{self._width} sequences of {tokens} tokens with a prompt of {prompt} need {needed} blocks of "
            f"{self.block_size}, the pool has {usable}"
        )

    def usage(self, waiting: Sequence | None) -> Usage:
        """Count blocks, and what several sequences have in the same."""
        usage = super().usage(waiting)
        if self._shared is None:
            return usage
        return usage._replace(shared=self._shared.shared_tokens() * self.slots_per_token)

    def reach(self, sequence: Sequence, lease: Lease, final: int) -> int:
        """Count what the tables hold up to the final length."""
        if self._shared is None:
            return super().reach(sequence, lease, final)
        return self._shared.reach(sequence, final) * self.slots_per_token

    def footprint(self, tokens: int) -> int:
        """Count whole blocks; of several sequences as if they had nothing in common."""
        return super().footprint(tokens) * self._width

    def tables(self, sequence: Sequence) -> list[list[int]]:
        """Return the sequence's block table, or one for each of several."""
        return super().tables(sequence) if self._shared is None else samples_of(sequence).tables

    def placements(self, running: Iterable[Sequence], waiting: Sequence | None) -> Placement:
        """Lay the block tables out."""
        if self._shared is None:
            return super().placements(running, waiting)
        tables = ((each.index, [table]) for each in running for table in samples_of(each).tables)
        return block_placement(tables, self._groups, self.spans, self._slots, [])

    def transfers(self) -> float:
        """Return and forget the seconds of copying over the link, and within the GPU's memory."""
        seconds = self._swap.take_seconds()
        if self._shared is None:
            return seconds
        new, self._timed_copies = self.copies - self._timed_copies, self.copies
        return seconds + new * self._block_bytes / self._copy_bytes_per_second

    @property
    def swapped_bytes(self) -> int:
        """Bytes moved over the link so far, both ways."""
        return self._swap.moved_bytes

    @property
    def copies(self) -> int:
        """Blocks copied so far because somebody wrote to a shared one."""
        return 0 if self._shared is None else self._shared.copies

    @property
    def copied_bytes(self) -> int:
        """Bytes of those."""
        return self.copies * self._block_bytes
