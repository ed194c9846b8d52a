"""How far back a token attends: to everything, to a sliding window, or to the start of its chunk."""

from __future__ import annotations

from typing import NamedTuple


class Chunk(int):
    """Width in tokens of chunked local attention: a token sees back to the last multiple of it (Llama 4).

    It stands where the width of a sliding window would, and never equals one.
    """

    def __eq__(self, other: object) -> bool:
        """Tell whether both are chunks of one width."""
        return isinstance(other, Chunk) and int(self) == int(other)

    def __ne__(self, other: object) -> bool:
        """Tell whether they are not."""
        return not self == other

    def __hash__(self) -> int:
        """Return a hash other than the window's."""
        return hash((Chunk, int(self)))

    def __repr__(self) -> str:
        """Show the width."""
        return f"Chunk({int(self)})"

    def __str__(self) -> str:
        """Say what it is the width of."""
        return f"chunks of {int(self)}"


def first_seen(position: int, window: int | None) -> int:
    """Return the first position that the token at `position` attends to; both count from 0.

    Without a window 0; in a window of W, position − W + 1; in chunks of C, the last multiple of C.
    """
    if window is None:
        return 0
    if isinstance(window, Chunk):
        return position - position % int(window)
    return max(0, position - window + 1)


def seen(length: int, tokens: int, window: int | None) -> int:
    """Return how many KV tokens the last `tokens` of a sequence of `length` attend to, together."""
    return length - first_seen(length - tokens, window)


class Edge(NamedTuple):
    """Where a window ends, in the block tables of the layers that have it."""

    window: int
    """Tokens attended to; a Chunk for chunked local attention."""
    kept: int = 0
    """Leading blocks that never leave."""
    tables: int = 1
    """Block tables of such layers."""

    def left(self, computed: int, block_size: int) -> int:
        """Return how many of a sequence's blocks its next token does not see."""
        return self.tables * max(0, first_seen(computed, self.window) // block_size - self.kept)


def area(length: int, tokens: int, window: int | None) -> int:
    """Return Σ over the last `tokens` of a sequence of `length` of the KV tokens each attends to, itself included.

    Without a window that is tokens · (first + length) / 2.
    """
    first = length - tokens + 1
    if isinstance(window, Chunk):
        return _chunked(length, int(window)) - _chunked(length - tokens, int(window))
    if window is None or length <= window:
        return tokens * (first + length) // 2
    if first >= window:
        return tokens * window
    rising = window - first
    return rising * (first + window - 1) // 2 + (tokens - rising) * window


def _chunked(length: int, width: int) -> int:
    whole, rest = divmod(length, width)
    return (whole * width * (width + 1) + rest * (rest + 1)) // 2
