"""In which order cached content that nobody holds makes room: rules that rank it."""

from __future__ import annotations

from collections.abc import Callable

from kvsim.errors import InputError

NEVER = 1 << 62
"""The next use of what nobody will ask for again."""


class Record:
    """What a rule may look at of a piece of cached content."""

    __slots__ = ("depth", "made", "next_use", "used", "uses")

    def __init__(self, made: int, depth: int) -> None:
        """Start with content made at tick `made` whose last token is the prompt's `depth`th."""
        self.made = self.used = made
        """Ticks: order of making, and of the last use."""
        self.uses = 1
        """How often it was computed or hit since it is there."""
        self.depth = depth
        """Tokens of the sequence up to its end."""
        self.next_use = NEVER
        """Row that will ask for it next; only an oracle fills it in."""


Rank = tuple[int, ...]

EVICTIONS: dict[str, Callable[[Record], Rank]] = {
    "lru": lambda record: (record.used, -record.depth),
    "lfu": lambda record: (record.uses, record.used, -record.depth),
    "fifo": lambda record: (record.made, -record.depth),
    "length": lambda record: (-record.depth, record.used),
    "oracle": lambda record: (-record.next_use, -record.depth),
}
"""Smallest goes first:

- lru: least recently used; of one request's content the deepest.
- lfu: least often used since it is there, then as lru (LFUCache in Mooncake, arXiv 2407.00079, Table 1).
- fifo: made first, whatever was used since.
- length: deepest in its prompt, then as lru: long prompts lose their ends first. (LengthAwareCache there is "similar to
  LFU" with a preference by position; this is position alone.)
- oracle: used again last (Belady, IBM Systems Journal 5:2, 1966): on pieces of one size nothing can hit more.
"""


def check_eviction(eviction: str) -> None:
    """Refuse an unknown rule."""
    if eviction not in EVICTIONS:
        raise InputError(f"eviction must be one of {', '.join(EVICTIONS)}, got {eviction!r}")


def name_with(name: str, eviction: str) -> str:
    """Return a policy's name under a rule: one that sees the future says so."""
    return f"{name}-oracle" if eviction == "oracle" else name
