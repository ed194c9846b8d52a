"""A pool of numbered blocks: vLLM's free queue, reference counts and content hashes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Ordered

Key = tuple[int, int]
"""Group and content key."""


class StackPool:
    """Blocks without identity: what was freed last is given out first.

    With prefix caching off vLLM puts every freed list at the front of its queue, so a stack is that queue.
    """

    def __init__(self, num_blocks: int) -> None:
        """Start with blocks 1 … num_blocks − 1 free; block 0 is the null block and never given out."""
        self.num_blocks = num_blocks
        self.usable = num_blocks - 1
        self._stack = list(range(num_blocks - 1, 0, -1))

    @property
    def free(self) -> int:
        """Blocks in the free queue."""
        return len(self._stack)

    def take(self, count: int) -> list[int]:
        """Take so many blocks from the front of the queue."""
        if not count:
            return []
        taken = self._stack[: -count - 1 : -1]
        del self._stack[-count:]
        return taken

    def give_back(self, blocks: Ordered[int]) -> None:
        """Free a list of blocks; its first is the very next to be taken."""
        self._stack.extend(reversed(blocks))

    def free_queue(self) -> list[int]:
        """Return the queue, front first."""
        return self._stack[::-1]


class CachingPool:
    """Blocks that keep their content hash while free, until they are taken for something else."""

    def __init__(self, num_blocks: int, groups: int = 1) -> None:
        """Start with blocks 1 … num_blocks − 1 free and nothing findable in any group."""
        self.num_blocks = num_blocks
        self.usable = num_blocks - 1
        self.references = [0] * num_blocks
        self.reusable = 0
        """Free blocks that can still be hit."""
        self.extra_references = 0
        """Σ (references − 1) over the blocks that are held."""
        self._queue: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, num_blocks))
        self.found: list[dict[int, int]] = [{} for _ in range(groups)]
        """Per group: the block to be hit for a content key."""
        self._key: list[Key | None] = [None] * num_blocks
        self._twins: dict[Key, list[int]] = {}

    @property
    def free(self) -> int:
        """Blocks in the free queue."""
        return len(self._queue)

    def take(self, count: int) -> list[int]:
        """Take so many blocks from the front; they lose their hash."""
        queue, references, keys = self._queue, self.references, self._key
        taken = []
        for _ in range(count):
            block = queue.popitem(last=False)[0]
            references[block] = 1
            key = keys[block]
            if key is not None:
                self.reusable -= 1
                self._forget(block, key)
            taken.append(block)
        return taken

    def give_back(self, blocks: Ordered[int]) -> None:
        """Drop a reference to each; free ones without hash go to the front as a batch, others to the back."""
        queue, references, keys = self._queue, self.references, self._key
        plain = []
        for block in blocks:
            references[block] -= 1
            if references[block]:
                self.extra_references -= 1
            elif keys[block] is None:
                plain.append(block)
            else:
                queue[block] = None
                self.reusable += 1
        for block in reversed(plain):
            queue[block] = None
            queue.move_to_end(block, last=False)

    def is_free(self, block: int) -> bool:
        """Tell whether nobody holds the block."""
        return not self.references[block]

    def hit(self, block: int) -> None:
        """Hold a findable block once more; a free one leaves the queue."""
        if self.references[block]:
            self.extra_references += 1
        else:
            del self._queue[block]
            self.reusable -= 1
        self.references[block] += 1

    def name(self, block: int, group: int, key: int) -> None:
        """Make a held block findable; of equal blocks the first named is the one to be hit."""
        if self._key[block] is not None:
            return
        self._key[block] = (group, key)
        found = self.found[group]
        if key in found:
            self._twins.setdefault((group, key), []).append(block)
        else:
            found[key] = block

    def free_queue(self) -> list[int]:
        """Return the queue, front first."""
        return list(self._queue)

    def named(self) -> list[int]:
        """Return the blocks that have a hash, in order of number."""
        return [block for block, key in enumerate(self._key) if key is not None]

    def _forget(self, block: int, key: Key) -> None:
        self._key[block] = None
        group, content = key
        found = self.found[group]
        twins = self._twins.get(key)
        if found[content] == block:
            if twins:
                found[content] = twins.pop(0)
            else:
                del found[content]
        elif twins:
            twins.remove(block)
        if twins is not None and not twins:
            del self._twins[key]
