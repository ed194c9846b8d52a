"""Tokens that the windows of several sequences cover together, in blocks that they share under one table."""

from __future__ import annotations

from kvsim.policy import Span
from kvsim.request import Sequence
from kvsim.window import first_seen


class Overlaps:
    """Who reads which shared block, where one table holds the KV of all layers and some of them have a window.

    Layers that attend to everything read a shared block whole, once for each holder. Through a window a sequence
    reads a block until its window has moved on. So every window keeps, for each block, those who still read it, and in
    a step only the blocks at windows' edges need a look.
    """

    follows = (True,)

    def __init__(self, spans: tuple[Span, ...], block_size: int) -> None:
        """`spans` are the slots that a token takes, by the window of the layers they belong to."""
        self._whole = sum(span.weight for span in spans if span.window is None)
        self._windows = [(_Window(span.window, block_size), span.weight) for span in spans if span.window]
        self._block_size = block_size
        self._holders: dict[int, int] = {}
        self._extra = 0

    @property
    def are_there(self) -> bool:
        """Tell whether some block has several holders."""
        return self._extra > 0

    def add(self, sequence: Sequence, group: int, table: list[int], first: int = 0) -> None:
        """Note blocks that a sequence now holds, in order; there is one group."""
        del group, first
        for block in table:
            others = self._holders.get(block, 0)
            self._holders[block] = others + 1
            self._extra += others > 0
        for window, _ in self._windows:
            window.add(sequence, table)

    def remove(self, sequence: Sequence, blocks: list[int]) -> None:
        """Note that a sequence has given all its blocks back."""
        for block in blocks:
            self._holders[block] -= 1
            if self._holders[block]:
                self._extra -= 1
            else:
                del self._holders[block]
        for window, _ in self._windows:
            window.remove(sequence)

    def leave(self, sequence: Sequence) -> None:
        """Note that a sequence has given everything back; `remove` has."""

    def extra_slots(self, extra_references: int, block_slots: int) -> int:
        """Count slots by which the live tokens of all readers exceed those read at all."""
        del block_slots
        slots = extra_references * self._block_size * self._whole
        return slots + sum(window.overlap() * weight for window, weight in self._windows)


class _Reader:
    """A sequence, its blocks, and the first of them that its window still reaches."""

    __slots__ = ("blocks", "first", "sequence")

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.blocks: list[int] = []
        self.first = 0


class _Window:
    """Readers of blocks through windows of one size."""

    def __init__(self, size: int, block_size: int) -> None:
        self._size = size
        self._block_size = block_size
        self._readers: dict[int, _Reader] = {}
        self._of_block: dict[int, list[_Reader]] = {}
        self.pairs = 0
        """Σ over blocks of readers beyond the first."""

    def add(self, sequence: Sequence, blocks: list[int]) -> None:
        reader = self._readers.setdefault(sequence.index, _Reader(sequence))
        reader.blocks += blocks
        for block in blocks:
            self._join(reader, block)

    def remove(self, sequence: Sequence) -> None:
        reader = self._readers.pop(sequence.index)
        for block in reader.blocks[reader.first :]:
            self._leave(reader, block)

    def overlap(self) -> int:
        """Return Σ over blocks of the tokens all readers read, less those read at all."""
        at_edge: dict[int, int] = {}
        for reader in self._readers.values():
            edge = self._edge(reader)
            passed = min(edge // self._block_size, len(reader.blocks))
            for block in reader.blocks[reader.first : passed]:
                self._leave(reader, block)
            # A step that is taken back moves an edge back.
            for block in reader.blocks[passed : reader.first]:
                self._join(reader, block)
            reader.first = passed
            if edge % self._block_size and passed < len(reader.blocks):
                block = reader.blocks[passed]
                if len(self._of_block[block]) > 1:
                    at_edge[block] = passed * self._block_size
        total = self.pairs * self._block_size
        for block, start in at_edge.items():
            # Only whole blocks are shared, so what a reader misses of one lies before its window.
            cut = [max(0, self._edge(reader) - start) for reader in self._of_block[block]]
            total -= sum(cut) - min(cut)
        return total

    def _edge(self, reader: _Reader) -> int:
        """Return the first token that the reader's step still sees."""
        return first_seen(reader.sequence.computed - reader.sequence.chunk, self._size)

    def _join(self, reader: _Reader, block: int) -> None:
        readers = self._of_block.setdefault(block, [])
        self.pairs += bool(readers)
        readers.append(reader)

    def _leave(self, reader: _Reader, block: int) -> None:
        readers = self._of_block[block]
        readers.remove(reader)
        if readers:
            self.pairs -= 1
        else:
            del self._of_block[block]
