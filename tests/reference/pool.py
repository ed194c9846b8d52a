"""Rules P and C5: blocks, their reference counts, the free queue, and which block has which content."""

from __future__ import annotations

from collections import OrderedDict

Key = tuple[int, int]
"""Group, name of the content up to and with the block."""

NULL = 0
"""P1: the block that stands where a table needs none."""


class Pool:
    """P1: blocks 0…N−1 for all groups; block 0 is never allocated, freed or counted."""

    def __init__(self, num_blocks: int) -> None:
        """P2: start with the queue 1, 2, …, N−1."""
        self.num_blocks = num_blocks
        self.holders = [0] * num_blocks
        self.key: list[Key | None] = [None] * num_blocks
        self.queue: OrderedDict[int, None] = OrderedDict((block, None) for block in range(1, num_blocks))
        self.blocks_with: dict[Key, dict[int, None]] = {}

    @property
    def in_use(self) -> int:
        """P1: blocks that are not in the free queue, the null block apart."""
        return self.num_blocks - 1 - len(self.queue)

    def take(self, count: int) -> list[int]:
        """P2, P4: take blocks from the front for new content; they lose their hash."""
        taken = []
        for _ in range(count):
            block, _ = self.queue.popitem(last=False)
            self.forget(block)
            self.holders[block] = 1
            taken.append(block)
        return taken

    def forget(self, block: int) -> None:
        """P4: take a block's hash away."""
        key = self.key[block]
        if key is None:
            return
        del self.blocks_with[key][block]
        if not self.blocks_with[key]:
            del self.blocks_with[key]
        self.key[block] = None

    def hit(self, block: int) -> None:
        """P7: hold a block that is there: out of the queue with its hash, or one more reference."""
        if self.holders[block] == 0:
            del self.queue[block]
        self.holders[block] += 1

    def free(self, blocks: list[int]) -> None:
        """P3, P5: give up a list of blocks; the null block in it is left out.

        Of those nobody holds any more, the ones without a hash go to the front as a batch, the others to
        the back, both in the list's order.
        """
        freed = []
        for block in blocks:
            if block == NULL:
                continue
            self.holders[block] -= 1
            if self.holders[block] == 0:
                freed.append(block)
        for block in reversed([block for block in freed if self.key[block] is None]):
            self.queue[block] = None
            self.queue.move_to_end(block, last=False)
        for block in [block for block in freed if self.key[block] is not None]:
            self.queue[block] = None

    def give_hash(self, block: int, key: Key) -> None:
        """C1, C2: make a full block findable."""
        self.key[block] = key
        self.blocks_with.setdefault(key, {})[block] = None

    def find(self, key: Key) -> int | None:
        """C5: return the block that got this hash first, of those that still have it."""
        for block in self.blocks_with.get(key, {}):
            return block
        return None
