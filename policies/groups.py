"""Layer groups over one block pool: tables, windows, and which blocks can be hit (vLLM rules W and H)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import chain
from math import gcd, lcm
from operator import and_
from typing import NamedTuple

from kvsim.policies.block_pool import CachingPool
from kvsim.policies.contents import Contents, private_key
from kvsim.policies.layer_group import Group as Group
from kvsim.request import Sequence

NO, YES = b"\0", b"\1"


class Tables:
    """What one sequence holds: a block table a group, null blocks (0) where a window has moved on."""

    __slots__ = ("blocks", "junction", "keys", "known", "named", "outside")

    def __init__(self, blocks: list[list[int]], keys: list[int], junction: int) -> None:
        """Start from the tables that admission filled."""
        self.blocks = blocks
        """Block numbers per group."""
        self.keys = keys
        """Content keys of the shared leading blocks, at the pool's grain."""
        self.known = 0
        """Tokens for which keys were last computed; only where outputs are shared."""
        self.junction = junction
        """Tokens at which another group's longer hit ended (rule H4); 0 for none."""
        self.named = [0] * len(blocks)
        """Blocks looked at for a hash, per group."""
        self.outside = [0] * len(blocks)
        """Leading blocks given back, per group."""


class Hit(NamedTuple):
    """A prefix found in the pool."""

    tokens: int
    blocks: list[list[int]]
    """Table prefixes per group."""
    free: int
    """How many of these blocks are in the free queue."""
    keys: list[int]
    junction: int


class PrefixIndex:
    """Find and name blocks by content, over groups that may differ in window and block size."""

    def __init__(
        self, groups: tuple[Group, ...], pool: CachingPool, contents: Contents, retention: int | None
    ) -> None:
        """`retention` is vLLM's prefix_cache_retention_interval: 0, a number of tokens, or None for all."""
        self._groups = groups
        self._pool = pool
        self._contents = contents
        self._retention = retention
        self._grain = contents.grain
        self._aligned = lcm(*(group.block_size for group in groups))
        sets: dict[Group, list[int]] = {}
        for number, group in enumerate(groups):
            sets.setdefault(group, []).append(number)
        self._sets = sorted(sets.items(), key=lambda item: item[0].window is not None)

    def find(self, sequence: Sequence) -> Hit:
        """Return the longest hit common to all groups (rules C4, C6, W4, H2); changes nothing."""
        keys = self._contents.keys(sequence)
        limit = (sequence.tokens - 1) // self._aligned * self._aligned
        length, longest = limit, 0
        full_length = limit
        while True:
            before = length
            for group, members in self._sets:
                if group.window is None:
                    if before == limit:
                        full_length = self._full_run(sequence, keys, group, members, length)
                    length = min(length, full_length)
                else:
                    find = self._chunk_run if group.is_chunked else self._window_run
                    length = find(sequence, keys, group, members, length)
                longest = max(longest, length)
            if length == before or self._one_round():
                break
        blocks = [self._prefix(sequence, keys, number, length) for number in range(len(self._groups))]
        references = self._pool.references
        free = sum([not references[block] for table in blocks for block in table if block])
        return Hit(length, blocks, free, keys, longest if longest > length else 0)

    def name(self, sequence: Sequence, tables: Tables, upto: int) -> None:
        """Give hashes to the blocks below `upto` tokens that are kept findable (rules C2, W5, H3, H4)."""
        upto = upto // self._aligned * self._aligned
        if self._contents.outputs_are_shared and tables.known < sequence.tokens:
            tables.keys, tables.known = self._contents.keys(sequence), sequence.tokens
        for number, group in enumerate(self._groups):
            first, last = tables.named[number], upto // group.block_size
            if last <= first:
                continue
            tables.named[number] = last
            table, names = tables.blocks[number], self._names(tables.keys, group)
            for block in self._kept(sequence, tables, group, range(first, last)):
                if table[block]:
                    name = names[block] if block < len(names) else self._private(sequence, group, block)
                    self._pool.name(table[block], number, name)

    def _one_round(self) -> bool:
        full = sum(group.window is None for group, _ in self._sets)
        return len(self._sets) == 1 or (full == 1 and len(self._sets) == 2)

    def _names(self, keys: list[int], group: Group) -> list[int]:
        """Return the content keys of a group's shared blocks: each that of the block's last piece (rule H3)."""
        pieces = group.block_size // self._grain
        return keys if pieces == 1 else keys[pieces - 1 :: pieces]

    def _private(self, sequence: Sequence, group: Group, block: int) -> int:
        return private_key(sequence.index, (block + 1) * group.block_size // self._grain - 1)

    def _full_run(
        self, sequence: Sequence, keys: list[int], group: Group, members: list[int], length: int
    ) -> int:
        """Return the longest findable prefix (rule C6), cut to whole blocks of every group."""
        names, maps = self._names(keys, group), [self._pool.found[number] for number in members]
        most = length // group.block_size
        shared = min(most, len(names))
        first, *others = maps
        block = 0
        while block < shared and names[block] in first:
            if others and not all(names[block] in found for found in others):
                break
            block += 1
        if block == shared:
            while block < most and self._is_private_hit(sequence, group, maps, block):
                block += 1
        return block * group.block_size // self._aligned * self._aligned

    def _is_private_hit(
        self, sequence: Sequence, group: Group, maps: list[dict[int, int]], block: int
    ) -> bool:
        name = self._private(sequence, group, block)
        return all(name in found for found in maps)

    def _is_there(
        self, sequence: Sequence, group: Group, names: list[int], maps: list[dict[int, int]], block: int
    ) -> bool:
        if block < len(names):
            return all(names[block] in found for found in maps)
        return self._is_private_hit(sequence, group, maps, block)

    def _window_run(
        self, sequence: Sequence, keys: list[int], group: Group, members: list[int], length: int
    ) -> int:
        there = self._present(sequence, keys, group, members, length // group.block_size)
        needed, step = max(1, group.run), self._aligned // group.block_size
        end = there.rfind(YES * needed) + needed
        while end >= needed and end % step:
            # A run further left ends before this one's last block.
            end = there.rfind(YES * needed, 0, end - 1) + needed
        if end < needed:
            # The run at the very start may be shorter.
            leading = there.find(NO)
            end = (len(there) if leading < 0 else leading) // step * step
        if end and group.sinks:
            return self._with_sinks(sequence, keys, group, members, end * group.block_size)
        return end * group.block_size

    def _present(
        self, sequence: Sequence, keys: list[int], group: Group, members: list[int], blocks: int
    ) -> bytes:
        """Tell for each of a sequence's first blocks whether it is findable in all groups of a kind."""
        names, pieces = self._names(keys, group)[:blocks], group.block_size // self._grain
        first = private_key(sequence.index, (len(names) + 1) * pieces - 1)
        private = range(first, first - (blocks - len(names)) * pieces, -pieces)
        there = YES * blocks
        for number in members:
            found = self._pool.found[number].__contains__
            there = bytes(map(and_, there, chain(map(found, names), map(found, private))))
        return there

    def _with_sinks(
        self, sequence: Sequence, keys: list[int], group: Group, members: list[int], length: int
    ) -> int:
        """Return the longest hit up to `length` of a group that also needs the blocks of its sinks."""
        names, maps = self._names(keys, group), [self._pool.found[number] for number in members]
        for block in range(min(group.kept, length // group.block_size)):
            if not self._is_there(sequence, group, names, maps, block):
                before = block * group.block_size // self._aligned * self._aligned
                return self._window_run(sequence, keys, group, members, before)
        return length

    def _chunk_run(
        self, sequence: Sequence, keys: list[int], group: Group, members: list[int], length: int
    ) -> int:
        """Return the longest findable prefix of a group of chunked local attention, as vLLM's manager does.

        A chunk's blocks are needed from its start to the end of the hit, those of earlier chunks not at all. Where no
        group of full attention vouches for them, the block before a chunk's start has to be there.
        """
        names, maps = self._names(keys, group), [self._pool.found[number] for number in members]
        is_there = partial(self._is_there, sequence, group, names, maps)
        vouched = any(other.window is None for other, _ in self._sets)
        while length:
            first, last = group.outside(length), length // group.block_size
            end = next((block for block in range(first, last) if not is_there(block)), last)
            found = end * group.block_size // self._aligned * self._aligned
            if found == length and (vouched or end > first or is_there(end - 1)):
                break
            length = min(found, length - self._aligned)
        return length

    def _prefix(self, sequence: Sequence, keys: list[int], number: int, length: int) -> list[int]:
        group = self._groups[number]
        outside = group.outside(length)
        names, found = self._names(keys, group), self._pool.found[number]
        last = length // group.block_size
        table = [0] * outside + [found.get(name, 0) for name in names[outside:last]]
        for block in range(max(outside, len(names)), last):
            table.append(found.get(self._private(sequence, group, block), 0))
        for block in range(min(outside, group.kept)):
            name = names[block] if block < len(names) else self._private(sequence, group, block)
            table[block] = found.get(name, 0)
        return table

    def _kept(self, sequence: Sequence, tables: Tables, group: Group, blocks: range) -> Iterable[int]:
        """Return which of a sequence's blocks are kept findable, ascending (rule W5)."""
        size = group.block_size
        keeps_all = self._retention is None and size == self._aligned and (group.run or group.is_chunked)
        if group.window is None or keeps_all:
            return blocks
        if self._retention != 0:
            return [block for block in blocks if self._is_kept(sequence, tables, group, block)]
        kept = set(blocks[: max(0, group.kept - blocks.start)])
        for boundary in ((sequence.prompt_tokens - 1) // self._aligned * self._aligned, tables.junction):
            first, last = max(0, -(-group.needed(boundary) // size)), boundary // size
            kept.update(range(max(first, blocks.start), min(last, blocks.stop)))
        return sorted(kept)

    def _is_kept(self, sequence: Sequence, tables: Tables, group: Group, block: int) -> bool:
        """Tell whether a window group's block is kept findable, where the interval is not 0 (rule W5)."""
        if block < group.kept:
            return True
        size, aligned = group.block_size, self._aligned
        start, end = block * size, (block + 1) * size
        reach = group.run * size
        if self._retention is None:
            return group.needed(-(-end // aligned) * aligned) <= start or group.is_chunked
        boundaries = [(sequence.prompt_tokens - 1) // aligned * aligned]
        if tables.junction:
            boundaries.append(tables.junction)
        nth = -(-end // self._retention)
        boundaries += [
            k * self._retention // aligned * aligned for k in range(nth, nth + 2 + reach // self._retention)
        ]
        return any(group.needed(boundary) <= start and end <= boundary for boundary in boundaries)


def grain(groups: tuple[Group, ...]) -> int:
    """Return the tokens per hash: the greatest common divisor of the block sizes (rule H3)."""
    return gcd(*(group.block_size for group in groups))
