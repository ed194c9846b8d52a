"""Layers that share block tables, and which of a sequence's blocks they still read (vLLM rules W and H)."""

from __future__ import annotations

from typing import NamedTuple

from kvsim.window import Chunk, first_seen


class Group(NamedTuple):
    """Layers that share block tables: one block holds `block_size` tokens of all of them."""

    window: int | None
    """Last tokens attended to; None for all; a Chunk for those since a multiple of it."""
    block_size: int
    """Tokens a block."""
    sinks: int = 0
    """First tokens that are attended to besides the window."""

    @property
    def run(self) -> int:
        """Blocks that a hit needs before its end, at most: ⌈(W − 1)/block_size⌉."""
        return -(-(self.window - 1) // self.block_size) if self.window else 0

    @property
    def is_chunked(self) -> bool:
        """Whether it is of chunked local attention."""
        return isinstance(self.window, Chunk)

    def needed(self, end: int) -> int:
        """Return the first token of the blocks that a hit up to `end` needs."""
        return self.outside(end) * self.block_size if self.is_chunked else end - self.run * self.block_size

    @property
    def kept(self) -> int:
        """Leading blocks that never leave because sinks are in them."""
        return -(-self.sinks // self.block_size)

    def outside(self, computed: int) -> int:
        """Count the leading blocks that the next token does not see: ⌊max(0, c − W + 1)/block_size⌋."""
        return first_seen(computed, self.window) // self.block_size

    def moves_on(self, outside: int) -> int:
        """Return at how many computed tokens one more than `outside` blocks are not seen, for a windowed group."""
        edge, window = (outside + 1) * self.block_size, self.window or 0
        return -(-edge // int(window)) * int(window) if self.is_chunked else window - 1 + edge

    def span(self) -> int | None:
        """Return how many tokens a query attends to at most."""
        return self.window + self.sinks if self.window is not None and self.sinks else self.window
