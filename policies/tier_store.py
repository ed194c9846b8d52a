"""KV blocks kept outside the GPU: CPU memory and disk, what goes where, and what copying takes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from kvsim.policies.block_pool import CachingPool

WRITES = ("through", "selective", "back")


class Tier:
    """Blocks by content in one place outside the GPU, least recently used first."""

    def __init__(self, name: str, room: int) -> None:
        """Start empty, with room for so many blocks."""
        self.name = name
        self._room = room
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self.read = self.written = 0
        """Blocks copied out of it and into it so far."""

    def __contains__(self, key: int) -> bool:
        """Tell whether a content is here."""
        return key in self._blocks

    def __len__(self) -> int:
        """Count the blocks here."""
        return len(self._blocks)

    def touch(self, key: int) -> None:
        """Note a use of a content, if it is here."""
        if key in self._blocks:
            self._blocks.move_to_end(key)

    def put(self, key: int) -> tuple[bool, int | None]:
        """Take a content in; return whether it was copied, and what had to go for it."""
        if not self._room or key in self._blocks:
            self.touch(key)
            return False, None
        gone = self._blocks.popitem(last=False)[0] if len(self._blocks) == self._room else None
        self._blocks[key] = None
        self.written += 1
        return True, gone


class WatchedPool(CachingPool):
    """vLLM's pool, which writes down what becomes findable, is hit, and loses its content."""

    def __init__(self, num_blocks: int) -> None:
        """Start with nothing written down."""
        super().__init__(num_blocks)
        self.made: list[int] = []
        self.used: list[int] = []
        self.lost: list[int] = []
        """Contents, in order, since somebody last looked."""

    def name(self, block: int, group: int, key: int) -> None:
        """Make a held block findable."""
        if self._key[block] is None:
            self.made.append(key)
        super().name(block, group, key)

    def hit(self, block: int) -> None:
        """Hold a findable block once more."""
        name = self._key[block]
        if name is not None:
            self.used.append(name[1])
        super().hit(block)

    def contents(self, blocks: Iterable[int]) -> list[int]:
        """Return the contents of those of the blocks that have one."""
        return [name[1] for block in blocks if (name := self._key[block]) is not None]

    def _forget(self, block: int) -> None:
        name = self._key[block]
        super()._forget(block)
        if name is not None and name[1] not in self.found[name[0]]:
            self.lost.append(name[1])


class Copies(NamedTuple):
    """Blocks that a step waits for."""

    from_cpu: int = 0
    """Up the link, those from disk not counted."""
    from_disk: int = 0
    """Read from disk, and then up the link."""
    to_cpu: int = 0
    """Down the link, before their places on the GPU are used again."""


class TierStore:
    """CPU memory and disk behind a GPU pool; both keep a copy of what goes back up."""

    def __init__(self, cpu: Tier, disk: Tier, write: str) -> None:
        """Start empty; `write` is one of WRITES."""
        self.cpu = cpu
        self.disk = disk
        self._write = write
        self._copies = Copies()

    def where(self, key: int) -> Tier | None:
        """Return the fastest place outside the GPU that has a content."""
        return self.cpu if key in self.cpu else self.disk if key in self.disk else None

    def load(self, places: Iterable[tuple[int, Tier]]) -> None:
        """Copy contents up from where they were found; what comes from disk stays in CPU memory too."""
        for key, tier in places:
            tier.read += 1
            tier.touch(key)
            if tier is self.cpu:
                self._copies = self._copies._replace(from_cpu=self._copies.from_cpu + 1)
            else:
                self._copies = self._copies._replace(from_disk=self._copies.from_disk + 1)
                self._put(key)

    def follow(self, pool: WatchedPool) -> None:
        """Copy down what the write policy says of what has happened on the GPU."""
        down = {"through": pool.made, "selective": pool.used, "back": pool.lost}[self._write]
        for key in down:
            copied = self._put(key)
            if copied and self._write == "back":
                self._copies = self._copies._replace(to_cpu=self._copies.to_cpu + 1)
        for happened in (pool.made, pool.used, pool.lost):
            happened.clear()

    def touch(self, keys: Iterable[int]) -> None:
        """Note uses, in order."""
        for key in keys:
            self.cpu.touch(key)
            self.disk.touch(key)

    def take_copies(self) -> Copies:
        """Return and forget what the step under way waits for."""
        copies, self._copies = self._copies, Copies()
        return copies

    def _put(self, key: int) -> bool:
        """Let a content into CPU memory, and to disk: at once, or (`back`) what CPU memory drops for it."""
        copied, gone = self.cpu.put(key)
        if self._write != "back":
            self.disk.put(key)
        elif gone is not None:
            self.disk.put(gone)
        return copied
