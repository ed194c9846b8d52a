"""Windowed blocks that several sequences hold, each with its own window on them."""

from __future__ import annotations

from kvsim.policies.groups import Group, Tables
from kvsim.request import Sequence
from kvsim.window import first_seen


class Sharers:
    """Who reads how much of the windowed blocks that several sequences hold.

    Full attention reads shared blocks whole; of a windowed block each holder reads the part that its own window
    still covers. Only whole blocks are shared, so what a holder misses of one lies before its window, and in a step
    only the blocks at windows' edges, and those of sinks, need a look.
    """

    def __init__(self, groups: tuple[Group, ...], references: list[int]) -> None:
        """Start with nobody holding anything; `references` is the pool's own count of who holds each block."""
        self._groups = groups
        self._references = references
        self.follows = tuple(group.window is not None for group in groups)
        """Per group, whether its blocks are followed here."""
        self._windowed = [number for number, follows in enumerate(self.follows) if follows]
        self._readers: dict[int, Sequence] = {}
        self._shared = 0
        """Windowed blocks with several holders."""

    @property
    def are_there(self) -> bool:
        """Tell whether some windowed block has several holders."""
        return self._shared > 0

    def add(self, sequence: Sequence, group: int, table: list[int], first: int = 0) -> None:
        """Note blocks that a sequence now holds; `first` is the place of table[0] in its table."""
        del group
        self._readers[sequence.index] = sequence
        if not first:
            references = self._references
            self._shared += sum([references[block] == 2 for block in table if block])

    def remove(self, sequence: Sequence, blocks: list[int]) -> None:
        """Note blocks that a sequence is about to give back."""
        del sequence
        if self._shared:
            references = self._references
            self._shared -= sum([references[block] == 2 for block in blocks])

    def leave(self, sequence: Sequence) -> None:
        """Note that a sequence has given everything back."""
        self._readers.pop(sequence.index, None)

    def extra_slots(self, extra_references: int, block_slots: int) -> int:
        """Count slots by which live tokens exceed held ones: Σ over holders − what is read at all.

        `extra_references` are those of all blocks.
        """
        slots = extra_references * block_slots
        if self._shared:
            for number in self._windowed:
                group = self._groups[number]
                slots -= self._missed(number, group) * (block_slots // group.block_size)
        return slots

    def _missed(self, number: int, group: Group) -> int:
        """Return Σ over a group's shared blocks of the tokens holders do not read, less those that nobody reads."""
        references, size, kept = self._references, group.block_size, group.kept
        missed: dict[int, list[int]] = {}
        for reader in self._readers.values():
            seen_from = first_seen(reader.computed - reader.chunk, group.window)
            if not seen_from:
                continue
            tables = reader.memory
            assert isinstance(tables, Tables)
            table = tables.blocks[number]
            beyond = min(-(-seen_from // size), len(table))
            for place in (*range(min(kept, beyond)), *range(max(kept, tables.outside[number]), beyond)):
                block = table[place]
                if references[block] > 1:
                    missed.setdefault(block, []).append(size - _live(group, place * size, seen_from))
        total = 0
        for block, tokens in missed.items():
            total += sum(tokens)
            if len(tokens) == references[block]:
                total -= min(tokens)
        return total


def _live(group: Group, start: int, seen_from: int) -> int:
    """Count the tokens of a whole block that a step reads which sees from `seen_from` on."""
    end = start + group.block_size
    sinks = max(0, min(end, group.sinks) - start)
    return sinks + max(0, end - max(start, seen_from, group.sinks))
