"""A pool of numbered blocks: vLLM's free queue, reference counts and content hashes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Ordered

Key = tuple[int, int]
"""Group and content key."""


class StackPool:
    """Blocks without identity: what was freed last is given out first.

    With prefix caching off vLLM puts every freed list at the front of its queue, so a stack is that queue. Blocks
    that were never taken lie below it, in order of number.
    """

    def __init__(self, num_blocks: int) -> None:
        """Start with blocks 1 … num_blocks − 1 free; block 0 is the null block and never given out."""
        self.num_blocks = num_blocks
        self.usable = num_blocks - 1
        self._stack: list[int] = []
        self.unused = 1
        """The first block that was never taken."""

    @property
    def free(self) -> int:
        """Blocks in the free queue."""
        return len(self._stack) + self.num_blocks - self.unused

    def take(self, count: int) -> list[int]:
        """Take so many blocks from the front of the queue."""
        if not count:
            return []
        taken = self._stack[: -count - 1 : -1]
        del self._stack[-count:]
        if len(taken) < count:
            first, self.unused = self.unused, self.unused + count - len(taken)
            taken += range(first, self.unused)
        return taken

    def give_back(self, blocks: Ordered[int]) -> None:
        """Free a list of blocks; its first is the very next to be taken."""
        self._stack.extend(reversed(blocks))

    def free_queue(self) -> list[int]:
        """Return the queue, front first."""
        return [*reversed(self._stack), *range(self.unused, self.num_blocks)]


class CachingPool:
    """Blocks that keep their content hash while free, until they are taken for something else.

    Free blocks without content always lie before those with: freed ones without go to the front of the queue, those
    with go to its back.
    """

    def __init__(self, num_blocks: int, groups: int = 1) -> None:
        """Start with blocks 1 … num_blocks − 1 free and nothing findable in any group."""
        self.num_blocks = num_blocks
        self.usable = num_blocks - 1
        self.references = [0]
        """How many hold each block, of those that were ever taken."""
        self.reusable = 0
        """Free blocks that can still be hit."""
        self.extra_references = 0
        """Σ (references − 1) over the blocks that are held."""
        self.found: list[dict[int, int]] = [{} for _ in range(groups)]
        """Per group: the block to be hit for a content key."""
        self._plain = StackPool(num_blocks)
        """Free blocks without content."""
        self._cached: OrderedDict[int, None] = OrderedDict()
        """Free blocks with content, as they will be taken."""
        self._key: list[Key | None] = [None]
        self._twins: dict[Key, list[int]] = {}

    @property
    def free(self) -> int:
        """Blocks in the free queue."""
        return self._plain.free + self.reusable

    def take(self, count: int) -> list[int]:
        """Take so many blocks from the front; they lose their hash."""
        references, plain = self.references, min(count, self._plain.free)
        taken = self._plain.take(plain)
        if self._plain.unused > len(references):
            self._extend(self._plain.unused - len(references))
        if plain < count:
            evicted = self._evict(count - plain)
            self.reusable -= len(evicted)
            self._forget(evicted)
            taken += evicted
        for block in taken:
            references[block] = 1
        return taken

    def give_back(self, blocks: Ordered[int]) -> None:
        """Drop a reference to each; free ones without hash go to the front as a batch, others to the back."""
        references, keys = self.references, self._key
        plain, cached = [], []
        for block in blocks:
            references[block] -= 1
            if references[block]:
                self.extra_references -= 1
            elif keys[block] is None:
                plain.append(block)
            else:
                cached.append(block)
        self._plain.give_back(plain)
        if cached:
            self.reusable += len(cached)
            self._keep(cached)

    def is_free(self, block: int) -> bool:
        """Tell whether nobody holds the block."""
        return not self.references[block]

    def hit(self, block: int) -> None:
        """Hold a findable block once more; a free one leaves the queue."""
        if self.references[block]:
            self.extra_references += 1
        else:
            self._hold(block)
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
        return [*self._plain.free_queue(), *self._cached]

    def named(self) -> list[int]:
        """Return the blocks that have a hash, in order of number."""
        return [block for block, key in enumerate(self._key) if key is not None]

    def _extend(self, blocks: int) -> None:
        """Make room to note things of so many blocks more."""
        self.references += [0] * blocks
        self._key += [None] * blocks

    def _evict(self, count: int) -> list[int]:
        """Choose which cached blocks make room."""
        first = self._cached.popitem
        return [first(last=False)[0] for _ in range(count)]

    def _keep(self, blocks: list[int]) -> None:
        """Note cached blocks that nobody holds any more, in the order in which they were given back."""
        self._cached.update(dict.fromkeys(blocks))

    def _hold(self, block: int) -> None:
        """Note that a cached block that was free is held again."""
        del self._cached[block]

    def _forget(self, blocks: list[int]) -> None:
        """Let blocks lose their content."""
        keys, twins, finders = self._key, self._twins, self.found
        for block in blocks:
            key = keys[block]
            assert key is not None
            keys[block] = None
            found, content = finders[key[0]], key[1]
            if key not in twins:
                del found[content]
                continue
            others = twins[key]
            if found[content] == block:
                found[content] = others.pop(0)
            else:
                others.remove(block)
            if not others:
                del twins[key]
