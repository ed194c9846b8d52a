"""Windowed blocks that several sequences hold, each with its own window on them."""

from __future__ import annotations

from kvsim.policies.groups import Group
from kvsim.request import Sequence
from kvsim.window import first_seen


class Sharers:
    """Who holds which windowed block, and where in its table.

    Full attention reads shared blocks whole; of a windowed block each holder reads the part that its own window
    still covers, so live slots have to be counted block by block.
    """

    def __init__(self, groups: tuple[Group, ...]) -> None:
        """Start with nobody holding anything."""
        self._groups = groups
        self.follows = tuple(group.window is not None for group in groups)
        """Per group, whether its blocks are followed here."""
        self._holders: dict[int, list[Sequence]] = {}
        self._place: dict[int, tuple[int, int]] = {}
        """Group and first token of a block, the same for all its holders."""
        self._shared: set[int] = set()

    @property
    def are_there(self) -> bool:
        """Tell whether some windowed block has several holders."""
        return bool(self._shared)

    def add(self, sequence: Sequence, group: int, table: list[int], first: int = 0) -> None:
        """Note blocks that a sequence now holds; `first` is the place of table[0] in its table."""
        size = self._groups[group].block_size
        for number, block in enumerate(table, first):
            if not block:
                continue
            holders = self._holders.setdefault(block, [])
            holders.append(sequence)
            self._place[block] = (group, number * size)
            if len(holders) > 1:
                self._shared.add(block)

    def remove(self, sequence: Sequence, blocks: list[int]) -> None:
        """Note blocks that a sequence has given back."""
        for block in blocks:
            holders = self._holders[block]
            holders.remove(sequence)
            if len(holders) < 2:
                self._shared.discard(block)
            if not holders:
                del self._holders[block]

    def extra_slots(self, extra_references: int, block_slots: int) -> int:
        """Count slots by which live tokens exceed held ones: Σ over holders − what is read at all.

        `extra_references` are those of all blocks; those of full attention count whole.
        """
        slots = 0
        reaches: dict[tuple[int, int], tuple[int, int]] = {}
        for block in self._shared:
            holders = self._holders[block]
            extra_references -= len(holders) - 1
            number, start = self._place[block]
            group = self._groups[number]
            most = total = 0
            for holder in holders:
                reach = reaches.get((number, holder.index))
                if reach is None:
                    seen_from = first_seen(holder.computed - holder.chunk, group.window)
                    reach = reaches[number, holder.index] = seen_from, holder.computed
                live = _live(group, start, *reach)
                total += live
                most = max(most, live)
            slots += (total - most) * (block_slots // group.block_size)
        return slots + extra_references * block_slots


def _live(group: Group, start: int, seen_from: int, computed: int) -> int:
    """Count the tokens of a block that a step reads which sees from `seen_from` on."""
    end = start + group.block_size
    if seen_from <= start and end <= computed:
        return group.block_size
    end = min(end, computed)
    sinks = max(0, min(end, group.sinks) - start)
    return sinks + max(0, end - max(start, seen_from, group.sinks))
