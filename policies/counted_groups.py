"""Block tables per layer group without the tables: windows give back what they have left, by count."""

from __future__ import annotations

from kvsim.policies.counted import COUNTED, CountedBlocks
from kvsim.policies.groups import Group
from kvsim.policy import Lease, Match, Policy, Pool
from kvsim.request import Sequence
from kvsim.window import Edge


class CountedGroups(CountedBlocks):
    """Groups of layers over one pool of blocks of one size, where nothing is shared.

    A sequence of n tokens holds ⌈n / block_size⌉ blocks in each group, less those that had left its window before its
    last step (vLLM rules W1 to W3). A refusal holds until so many blocks are spare as it wanted.
    """

    def __init__(
        self,
        policy: Policy,
        blocks: int,
        reserve: int,
        gate: bool,
        groups: tuple[Group, ...],
        most: tuple[int, ...],
    ) -> None:
        """Answer for `policy`, which was reset; `most` is what one sequence takes of each group at most (rule W6)."""
        super().__init__(policy, blocks, reserve, gate)
        self.counted_tables = len(groups)
        self.counted_edges = _edges(groups)
        self.never_refused = blocks // len(groups) * self.block_size
        self._most = most

    def reset(self, pool: Pool) -> None:
        """Start again with an empty pool of the same size."""
        super().reset(pool)
        self.vacated = 0

    def admit(self, sequence: Sequence, match: Match, tokens: int) -> Lease | None:
        """Take the blocks of the first chunk, if the whole sequence would fit (rules A3 and W6)."""
        del match
        size = self.block_size
        needed = wanted = self.counted_tables * -(-tokens // size)
        if self._gate:
            whole = -(-sequence.tokens // size)
            wanted = max(wanted, sum([min(whole, most) for most in self._most]))
        wanted += self._reserve if self._holders else 0
        if wanted > self.spare_blocks:
            self.admits_from = wanted
            return None
        self.spare_blocks -= needed
        self._holders += 1
        sequence.memory = (0, tokens)
        return COUNTED

    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        """Give back what left the window, then take the blocks that are missing, or none."""
        size, computed = self.block_size, sequence.computed
        _, upto = _memory(sequence)
        self._move(self._left(computed) - self._left(_moved_at(sequence)))
        needed = self.counted_tables * (-(-tokens // size) + -computed // size)
        if needed > self.spare_blocks:
            sequence.memory = (computed, upto)
            return None
        self.spare_blocks -= needed
        sequence.memory = (computed, tokens)
        return COUNTED

    def release(self, sequence: Sequence, finished: bool) -> None:
        """Take the blocks of the computed tokens back."""
        del finished
        left = self._left(_moved_at(sequence))
        self.spare_blocks += self.counted_tables * -(-sequence.computed // self.block_size) - left
        self.vacated -= left * self._slots
        self._holders -= 1
        sequence.memory = None

    def take_back(self, blocks: int) -> None:
        """Take blocks back that have left the windows of decoding sequences."""
        self._move(blocks)

    def _move(self, blocks: int) -> None:
        self.spare_blocks += blocks
        self.vacated += blocks * self._slots

    def _left(self, computed: int) -> int:
        size = self.block_size
        return sum([edge.left(computed, size) for edge in self.counted_edges])


def _edges(groups: tuple[Group, ...]) -> tuple[Edge, ...]:
    """Return the windows, each with the number of groups that have it."""
    tables: dict[Group, int] = {}
    for group in groups:
        if group.window is not None:
            tables[group] = tables.get(group, 0) + 1
    return tuple(Edge(group.window or 0, group.kept, count) for group, count in tables.items())


def _memory(sequence: Sequence) -> tuple[int, int]:
    """Return the computed tokens at which its windows last moved on by themselves, and how many it then was given."""
    memory = sequence.memory
    assert isinstance(memory, tuple), f"{sequence} holds no memory"
    moved_at, upto = memory
    return moved_at, upto


def _moved_at(sequence: Sequence) -> int:
    """Return the computed tokens at which its windows last moved on: decoding since then, one less than it has."""
    moved_at, upto = _memory(sequence)
    return max(moved_at, sequence.computed - 1) if sequence.computed > upto else moved_at
