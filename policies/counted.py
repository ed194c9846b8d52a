"""Paged allocation without block tables: where nothing is shared, how many blocks are free is all that matters."""

from __future__ import annotations

from kvsim.policy import NO_MATCH, Lease, Match, Policy, Pool, Usage
from kvsim.request import Sequence

COUNTED = Lease(0)
"""What admission and growth answer: the engine counts blocks by itself."""


class CountedBlocks(Policy):
    """A pool of blocks of one size, one table a sequence, counted.

    A sequence of n tokens holds ⌈n / block_size⌉ blocks, so nothing has to be kept for each: admission, growth and
    release follow from its length. Equal to vLLM's free queue in all but the blocks' numbers.
    """

    def __init__(self, policy: Policy, blocks: int, reserve: int, gate: bool) -> None:
        """Answer for `policy`, which was reset, with so many usable `blocks`.

        `reserve` is the blocks that admissions leave free while others run, `gate` vLLM's
        scheduler_reserve_full_isl.
        """
        self.original = policy
        self.name = policy.name
        self.capacity, self.spans, self.attention = policy.capacity, policy.spans, policy.attention
        self.kv_layout, self.shares_prefixes = policy.kv_layout, policy.shares_prefixes
        self.block_size = self.counted_block = int(getattr(policy, "block_size", 0))
        self._usable = self.spare_blocks = blocks
        self.never_refused = blocks * self.block_size
        self._reserve = reserve
        self._gate = gate
        self._holders = 0
        self._slots = policy.capacity // blocks

    def reset(self, pool: Pool) -> None:
        """Start again with an empty pool of the same size."""
        del pool
        self.spare_blocks, self._holders = self._usable, 0

    def refuses(self, tokens: int) -> str | None:
        """Say what the policy it counts for says."""
        return self.original.refuses(tokens)

    def admit(self, sequence: Sequence, match: Match, tokens: int) -> Lease | None:
        """Take the blocks of the first chunk, if the whole sequence would fit (rule A3)."""
        del match
        size = self.block_size
        needed = -(-tokens // size)
        available = self.spare_blocks - (self._reserve if self._holders else 0)
        if needed > available or (self._gate and -(-sequence.tokens // size) > available):
            return None
        self.spare_blocks -= needed
        self._holders += 1
        return COUNTED

    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        """Take the blocks between the computed tokens and `tokens`, or none."""
        size = self.block_size
        needed = -(-tokens // size) + -sequence.computed // size
        if needed > self.spare_blocks:
            return None
        self.spare_blocks -= needed
        return COUNTED

    def release(self, sequence: Sequence, finished: bool) -> None:
        """Take the blocks of the computed tokens back."""
        del finished
        self.spare_blocks -= -sequence.computed // self.block_size
        self._holders -= 1

    def usage(self, waiting: Sequence | None) -> Usage:
        """Count the blocks held."""
        del waiting
        return Usage((self._usable - self.spare_blocks) * self._slots)

    def footprint(self, tokens: int) -> int:
        """Count whole blocks."""
        return self.original.footprint(tokens)

    def lookup(self, sequence: Sequence) -> Match:
        """Find nothing."""
        del sequence
        return NO_MATCH

    @property
    def blocks_in_use(self) -> int:
        """Blocks that sequences hold."""
        return self._usable - self.spare_blocks

    def take_blocks(self, blocks: int) -> None:
        """Give decoding sequences so many blocks."""
        self.spare_blocks -= blocks
