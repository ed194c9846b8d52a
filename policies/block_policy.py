"""What the block policies share: one pool, a table a layer group, leases of whole blocks."""

from __future__ import annotations

from collections.abc import Iterable

from kvsim.errors import InputError
from kvsim.placement import Placement
from kvsim.policies.block_layout import Layout, check_blocks, most_blocks
from kvsim.policies.block_pool import CachingPool, StackPool
from kvsim.policies.contents import Contents
from kvsim.policies.counted import CountedBlocks
from kvsim.policies.counted_groups import CountedGroups
from kvsim.policies.counted_prefix import CountedPrefix
from kvsim.policies.groups import Group, Hit, PrefixIndex, Tables, grain
from kvsim.policies.overlaps import Overlaps
from kvsim.policies.paths import Paths
from kvsim.policies.placement import block_placement
from kvsim.policies.sharers import Sharers
from kvsim.policy import NO_MATCH, Lease, Match, Policy, Pool, Usage, reduced
from kvsim.request import Sequence


class BlockPolicy(Policy):
    """What paged, prefix and sliding-window allocation have in common; see vLLM rules P, A, W and H."""

    block_size: int
    watermark: float
    scheduler_reserve_full_isl: bool

    def layout(self, pool: Pool) -> Layout:
        """Cut the pool into blocks: by default one table for all layers."""
        spans = reduced(pool.spans)
        slots = self.block_size * sum(span.weight for span in spans)
        group = Group(None, self.block_size)
        return Layout((group,), spans, pool.spans, slots, self.block_size * pool.token_bytes)

    def caches(self) -> bool:
        """Tell whether freed blocks stay findable."""
        return False

    def retention(self) -> int | None:
        """Return vLLM's prefix_cache_retention_interval."""
        return 0

    def caching_pool(self, num_blocks: int) -> CachingPool:
        """Return an empty pool of so many blocks that stay findable while free."""
        return CachingPool(num_blocks, len(self._groups))

    def reset(self, pool: Pool) -> None:
        """Cut the memory into blocks and start with an empty pool."""
        check_blocks(self.block_size, self.watermark)
        layout = self.layout(pool)
        self.spans, self.attention, self._groups = layout.spans, layout.attention, layout.groups
        self._slots = layout.block_slots
        num_blocks = pool.num_gpu_blocks_override or pool.kv_bytes // layout.block_bytes
        if num_blocks < 2:
            raise InputError(
                f"{pool.kv_bytes} bytes of KV memory are {num_blocks} blocks of {layout.block_bytes} bytes; "
                "a pool needs at least 2 (one is the null block)"
            )
        self.capacity = (num_blocks - 1) * self._slots
        self._limit = pool.max_model_len
        step_tokens = pool.max_num_batched_tokens * (2 if pool.async_scheduling else 1)
        self._most = tuple(most_blocks(group, step_tokens, pool.max_model_len) for group in self._groups)
        self._reserve = int(self.watermark * num_blocks)
        self._lag = 1 if pool.async_scheduling else 0
        self._holders = 0
        self._workload = pool.workload
        self._contents = Contents(pool.workload, grain(self._groups))
        self._blocks: StackPool | CachingPool
        self._index: PrefixIndex | None = None
        if self.caches():
            self._blocks = self.caching_pool(num_blocks)
            self._index = PrefixIndex(self._groups, self._blocks, self._contents, self.retention())
        else:
            self._blocks = StackPool(num_blocks)
        mixed = len({group.block_size for group in self._groups}) > 1
        self._fills_show = self._index is not None and (self._contents.outputs_are_shared or mixed)
        # Without the gate a hit that is evicted meanwhile makes the first chunk, and so the need, smaller.
        self.refusal_holds = (
            not self._fills_show
            and (self._index is None or self.scheduler_reserve_full_isl)
            and all(group.window is None for group in self._groups)
        )
        one_table = self._groups == (Group(None, self.block_size),)
        hides = one_table and any(span.window is not None for span in self.spans)
        references = self._blocks.references if isinstance(self._blocks, CachingPool) else []
        self._sharers = Overlaps(self.spans, self.block_size) if hides else Sharers(self._groups, references)

    def refuses(self, tokens: int) -> str | None:
        """Compare what one sequence needs with all usable blocks."""
        needed = sum(
            min(-(-tokens // group.block_size), most)
            for group, most in zip(self._groups, self._most, strict=True)
        )
        if needed > self._blocks.usable:
            return f"{tokens} tokens need {needed} blocks of {self.block_size}, the pool has {self._blocks.usable}"
        return None

    def lookup(self, sequence: Sequence) -> Match:
        """Find the longest prefix that is still in the pool."""
        if self._index is None:
            return NO_MATCH
        hit = self._index.find(sequence)
        return Match(hit.tokens, 0, hit)

    def admit(self, sequence: Sequence, match: Match, tokens: int) -> Lease | None:
        """Hold the hit blocks and take new ones for the chunk, if the whole sequence would fit (rule A3)."""
        hit = match.detail if isinstance(match.detail, Hit) else None
        prefix = hit.blocks if hit else [[0] * group.outside(match.tokens) for group in self._groups]
        available = self._blocks.free - (hit.free if hit else 0) - (self._reserve if self._holders else 0)
        upto = match.tokens + tokens
        if self.scheduler_reserve_full_isl and self._needed(prefix, sequence.tokens, capped=True) > available:
            return None
        if self._needed(prefix, upto) > available:
            return None
        tables = Tables(
            [list(blocks) for blocks in prefix], hit.keys if hit else [], hit.junction if hit else 0
        )
        if hit and isinstance(self._blocks, CachingPool):
            for number, blocks in enumerate(prefix):
                tables.named[number] = len(blocks)
                for block in blocks:
                    if block:
                        self._blocks.hit(block)
        for number, group in enumerate(self._groups):
            tables.outside[number] = group.outside(match.tokens)
        sequence.memory = tables
        self._holders += 1
        self._extend(sequence, tables, upto, held=prefix)
        return Lease(self._until(tables, upto))

    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        """Give back what left the window, then take the blocks that are missing, or none."""
        tables = _tables(sequence)
        if self._index is not None:
            self._index.name(sequence, tables, sequence.computed)
        self._slide(sequence, tables)
        if self._needed(tables.blocks, tokens) > self._blocks.free:
            return None
        self._extend(sequence, tables, tokens)
        return Lease(self._until(tables, tokens))

    def release(self, sequence: Sequence, finished: bool) -> None:
        """Free each group's table from its last block to its first (rule P6)."""
        del finished
        tables = _tables(sequence)
        if self._index is not None:
            self._index.name(sequence, tables, min(sequence.computed, sequence.tokens))
        for number, table in enumerate(tables.blocks):
            self._give_back(sequence, number, [block for block in reversed(table) if block])
        self._sharers.leave(sequence)
        sequence.memory = None
        self._holders -= 1

    def count_blocks(self) -> Policy | None:
        """Return a policy that counts blocks, where their numbers and contents make no difference."""
        sizes = self._blocks.usable, self._reserve, self.scheduler_reserve_full_isl
        if self._groups != (Group(None, self.block_size),):
            is_plain = self._index is None and {group.block_size for group in self._groups} == {
                self.block_size
            }
            return CountedGroups(self, *sizes, self._groups, self._most) if is_plain else None
        if self._fills_show:
            return None
        if any(self._sharers.follows) and self._index is not None and not self._contents.shares_nothing:
            return None
        if self._index is None:
            return CountedBlocks(self, *sizes)
        return CountedPrefix(self, *sizes, Paths(self._workload, self.block_size))

    def usage(self, waiting: Sequence | None) -> Usage:
        """Count blocks; a block is never too small for the next request."""
        del waiting
        pool, slots = self._blocks, self._slots
        if isinstance(pool, StackPool):
            return Usage(held=(pool.usable - pool.free) * slots)
        return Usage(
            held=(pool.usable - pool.free) * slots,
            shared=self._sharers.extra_slots(pool.extra_references, slots),
            reusable=pool.reusable * slots,
        )

    def reach(self, sequence: Sequence, lease: Lease, final: int) -> int:
        """Count per group what its table holds up to the final length."""
        del lease
        tables = _tables(sequence)
        slots = self._slots
        if len(self._groups) == 1:
            size = self._groups[0].block_size
            return slots // size * min(len(tables.blocks[0]) * size, final)
        return sum(
            slots // group.block_size * min(len(table) * group.block_size, final)
            for group, table in zip(self._groups, tables.blocks, strict=True)
        )

    def footprint(self, tokens: int) -> int:
        """Count whole blocks; a window's at most, as vLLM's start-up check does (rules L4, W6)."""
        blocks = (
            min(-(-tokens // group.block_size), most)
            for group, most in zip(self._groups, self._most, strict=True)
        )
        return sum(blocks) * self._slots

    @property
    def blocks_in_use(self) -> int:
        """Blocks that are not in the free queue, the null block aside."""
        return self._blocks.usable - self._blocks.free

    @property
    def num_blocks(self) -> int:
        """Blocks in the pool, the null block included."""
        return self._blocks.num_blocks

    def placements(self, running: Iterable[Sequence], waiting: Sequence | None) -> Placement:
        """Lay the block tables out, and the cached blocks that nobody holds."""
        del waiting
        pool = self._blocks
        cached = [] if isinstance(pool, StackPool) else [b for b in pool.named() if pool.is_free(b)]
        tables = ((sequence.index, self.tables(sequence)) for sequence in running)
        return block_placement(tables, self._groups, self.spans, self._slots, cached)

    def tables(self, sequence: Sequence) -> list[list[int]]:
        """Return the sequence's block table per group, 0 where a window has moved on."""
        return _tables(sequence).blocks

    def free_queue(self) -> list[int]:
        """Return the free blocks in the order in which they will be taken."""
        return self._blocks.free_queue()

    def hashed(self, running: Iterable[Sequence]) -> list[int]:
        """Return the blocks with a content hash by number, first naming what these sequences have filled."""
        pool = self._blocks
        if self._index is None or isinstance(pool, StackPool):
            return []
        for sequence in running:
            self._index.name(sequence, _tables(sequence), min(sequence.computed, sequence.tokens))
        return pool.named()

    def _needed(self, held: list[list[int]], tokens: int, capped: bool = False) -> int:
        needed = 0
        for number, group in enumerate(self._groups):
            blocks = -(-tokens // group.block_size)
            if capped:
                blocks = min(blocks, self._most[number])
            needed += max(0, blocks - len(held[number]))
        return needed

    def _extend(
        self, sequence: Sequence, tables: Tables, tokens: int, held: list[list[int]] | None = None
    ) -> None:
        for number, group in enumerate(self._groups):
            table = tables.blocks[number]
            first = len(table)
            table += self._blocks.take(max(0, -(-tokens // group.block_size) - first))
            if self._index is not None and self._sharers.follows[number]:
                new = first if held is None else 0
                self._sharers.add(sequence, number, table[new:], new)
                self.reads_lengths = self._sharers.are_there
        if self._index is not None:
            self._index.name(sequence, tables, min(tokens, sequence.tokens))

    def _slide(self, sequence: Sequence, tables: Tables) -> None:
        for number, group in enumerate(self._groups):
            outside = group.outside(sequence.computed)
            first = max(tables.outside[number], group.kept)
            if outside <= first:
                continue
            table = tables.blocks[number]
            gone = [block for block in reversed(table[first:outside]) if block]
            table[first:outside] = [0] * (outside - first)
            tables.outside[number] = outside
            self._give_back(sequence, number, gone)

    def _until(self, tables: Tables, tokens: int) -> int:
        """Return the length at which blocks run out, or a window, or a shared output's block, moves on."""
        until = 1 << 60
        for number, group in enumerate(self._groups):
            until = min(until, len(tables.blocks[number]) * group.block_size)
            if group.window is not None:
                until = min(until, group.moves_on(max(tables.outside[number], group.kept)) + self._lag)
        if self._fills_show:
            size = self._contents.grain
            until = min(until, ((tokens - self._lag) // size + 1) * size - 1 + self._lag)
        return max(until, tokens)

    def _give_back(self, sequence: Sequence, number: int, blocks: list[int]) -> None:
        if self._index is not None and self._sharers.follows[number]:
            self._sharers.remove(sequence, blocks)
            self.reads_lengths = self._sharers.are_there
        self._blocks.give_back(blocks)


def _tables(sequence: Sequence) -> Tables:
    tables = sequence.memory
    assert isinstance(tables, Tables), f"{sequence} holds no memory"
    return tables
