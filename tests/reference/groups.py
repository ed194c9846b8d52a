"""Rules W, H, C4 and C6: what one group of layers needs, keeps and finds, and how groups agree on a hit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from reference.pool import NULL, Pool


def ceil_div(tokens: int, size: int) -> int:
    """Return ⌈tokens / size⌉."""
    return -(-tokens // size)


@dataclass
class Group:
    """H1: layers with one spec, full attention or a sliding window, and one table a request."""

    index: int
    block_size: int
    window: int | None

    @property
    def run_length(self) -> int:
        """W4: r, the blocks in a row that a window's hit needs."""
        assert self.window is not None
        return ceil_div(self.window - 1, self.block_size)

    def outside(self, computed: int) -> int:
        """W1: leading blocks that no token from the next one on sees; none with full attention."""
        if self.window is None:
            return 0
        return max(0, computed - self.window + 1) // self.block_size

    def gate_limit(self, in_flight: int, max_model_len: int) -> int | None:
        """W6: the most blocks the admission gate counts; None for no limit. `in_flight` is B or 2·B."""
        if self.window is None:
            return None
        return ceil_div(min(self.window - 1 + in_flight, max_model_len), self.block_size) + 1


def make_groups(config: dict[str, Any]) -> list[Group]:
    """Read the groups of a configuration; a group may have a block size of its own (H3)."""
    return [
        Group(index, int(spec.get("block_size", config["block_size"])), spec.get("window"))
        for index, spec in enumerate(config["groups"])
    ]


def grain(groups: list[Group]) -> int:
    """H3: a, of which every hit is a multiple."""
    return math.lcm(*(group.block_size for group in groups))


def piece_size(groups: list[Group]) -> int:
    """H3: the tokens for which names are made."""
    return math.gcd(*(group.block_size for group in groups))


def name_of(group: Group, block: int, chain: list[int], piece: int) -> int:
    """H3: a larger block's name is that of its last piece."""
    return chain[(block + 1) * group.block_size // piece - 1]


def keeps(group: Group, block: int, aligned: int, retention: int | None, boundaries: list[int]) -> bool:
    """W5, H4, H5: whether this block gets a hash when it is full.

    `boundaries` are token counts: prompt − 1, and the junction if there is one. `aligned` is a of H3.
    """
    if group.window is None:
        return True
    ends = [boundary // aligned * aligned for boundary in boundaries]
    if retention is None:
        ends = [(block * group.block_size // aligned + 1) * aligned]
    elif retention > 0:
        first = (block + 1) * group.block_size
        ends += range(retention, first + group.run_length * group.block_size + retention, retention)
    return any(end // group.block_size - group.run_length <= block < end // group.block_size for end in ends)


@dataclass
class Hit:
    """What a lookup found: one length for all groups, and for each group a table for it."""

    tokens: int = 0
    tables: list[list[int]] = field(default_factory=list)
    junction: int = 0
    """H4: the longest hit of a set, where that is more than `tokens`; else 0."""


class Lookup:
    """C3, H2: one lookup of one request; changes nothing."""

    def __init__(self, pool: Pool, groups: list[Group], chain: list[int]) -> None:
        """Take the pool as it is now and the names of the request's pieces."""
        self.pool = pool
        self.groups = groups
        self.chain = chain
        self.aligned = grain(groups)
        self.piece = piece_size(groups)

    def sets(self) -> list[list[Group]]:
        """H2: groups with equal specs together; sets of full attention first."""
        by_spec: dict[tuple[int, int | None], list[Group]] = {}
        for group in self.groups:
            by_spec.setdefault((group.block_size, group.window), []).append(group)
        sets = list(by_spec.values())
        return [s for s in sets if s[0].window is None] + [s for s in sets if s[0].window is not None]

    def find(self, group: Group, block: int) -> int | None:
        """Return the block to be found for this place in the group's table."""
        return self.pool.find((group.index, name_of(group, block, self.chain, self.piece)))

    def is_there(self, groups: list[Group], block: int) -> bool:
        """H2: a block counts only if it can be found in each group of the set."""
        return all(self.find(group, block) is not None for group in groups)

    def full_hit(self, groups: list[Group], limit: int) -> int:
        """C6: the tokens of the longest run of findable blocks from the start, cut to the grain."""
        size = groups[0].block_size
        run = 0
        while run < limit // size and self.is_there(groups, run):
            run += 1
        return run * size // self.aligned * self.aligned

    def window_hit(self, groups: list[Group], limit: int) -> int:
        """W4, H5: the right end of the rightmost run of r findable blocks, which ends on the grain.

        A shorter run is enough where it starts at block 0; even where r = 0 one block is needed.
        """
        size = groups[0].block_size
        run = 0
        for block in reversed(range(limit // size)):
            if not self.is_there(groups, block):
                run = 0
            elif run > 0 or (block + 1) * size % self.aligned == 0:
                run += 1
                if run >= max(1, groups[0].run_length):
                    return (block + run) * size
        return run * size

    def hit(self, tokens: int) -> Hit:
        """C4, H2, H4: agree on the length, starting from tokens − 1, until no set reduces it."""
        length = tokens - 1
        longest = 0
        full: dict[int, int] = {}
        while True:
            before = length
            for number, groups in enumerate(self.sets()):
                if groups[0].window is not None:
                    length = self.window_hit(groups, length)
                elif number in full:
                    length = min(length, full[number])
                else:
                    length = full[number] = self.full_hit(groups, length)
                longest = max(longest, length)
            if length == before or length == 0:
                break
        tables = [self.table(group, length) for group in self.groups]
        return Hit(length, tables, longest if longest > length else 0)

    def table(self, group: Group, length: int) -> list[int]:
        """W1, W4: the blocks of a hit; those outside the window, or left of the run, are null."""
        blocks = length // group.block_size
        if group.window is None:
            return [self.found(group, block) for block in range(blocks)]
        first = max(group.outside(length), blocks - max(1, group.run_length))
        return [NULL] * min(first, blocks) + [self.found(group, block) for block in range(first, blocks)]

    def found(self, group: Group, block: int) -> int:
        """Return the block, which is known to be there."""
        found = self.find(group, block)
        assert found is not None
        return found
