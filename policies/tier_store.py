"""KV blocks kept outside the GPU: CPU memory and disk, what goes where, and what copying takes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from kvsim.policies.block_pool import CachingPool

WRITES = ("through", "selective", "back")


class Tier:
    """Blocks by content in one place outside the GPU, least recently used first."""

    def __init__(self, name: str, room: int) -> None:
        """Start empty, with room for so many blocks."""
        self.name = name
        self._room = room
        self.blocks: OrderedDict[int, None] = OrderedDict()
        """Contents that are here."""
        self.read = self.written = 0
        """Blocks copied out of it and into it so far."""

    def __contains__(self, key: int) -> bool:
        """Tell whether a content is here."""
        return key in self.blocks

    def __len__(self) -> int:
        """Count the blocks here."""
        return len(self.blocks)

    def touch(self, keys: Iterable[int]) -> None:
        """Note uses of contents, in order, of those that are here."""
        blocks, use = self.blocks, self.blocks.move_to_end
        for key in keys:
            if key in blocks:
                use(key)

    def put(self, keys: Iterable[int]) -> list[int]:
        """Take contents in, in order, and copy those that are new; return what had to go for them."""
        blocks, room, gone = self.blocks, self._room, []
        if not room:
            return []
        size = before = len(blocks)
        for key in keys:
            if key in blocks:
                blocks.move_to_end(key)
                continue
            if size == room:
                gone.append(blocks.popitem(last=False)[0])
            else:
                size += 1
            blocks[key] = None
        self.written += size - before + len(gone)
        return gone


class WatchedPool(CachingPool):
    """vLLM's pool, which writes down what becomes findable, is hit, and loses its content."""

    def __init__(self, num_blocks: int, write: str) -> None:
        """Start with nothing written down; `write` tells which of it will be asked for."""
        super().__init__(num_blocks)
        self._notes_lost = write == "back"
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

    def _forget(self, blocks: list[int]) -> None:
        names = [self._key[block] for block in blocks] if self._notes_lost else []
        super()._forget(blocks)
        # Of copies it is the last that takes the content with it.
        last = dict.fromkeys(name for name in reversed(names) if name is not None)
        self.lost += [key for group, key in reversed(last) if key not in self.found[group]]


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

    def load(self, places: Iterable[tuple[int, Tier]]) -> None:
        """Copy contents up from where they were found; what comes from disk stays in CPU memory too."""
        for tier, stretch in groupby(places, key=itemgetter(1)):
            keys = [key for key, _ in stretch]
            tier.read += len(keys)
            if tier is self.cpu:
                tier.touch(keys)
                self._note(len(keys), 0, 0)
                continue
            self._note(0, len(keys), 0)
            # What CPU memory drops for one may be written over the next.
            for some in [[key] for key in keys] if self._write == "back" else [keys]:
                tier.touch(some)
                self._put(some)

    def follow(self, pool: WatchedPool) -> None:
        """Copy down what the write policy says of what has happened on the GPU."""
        down = {"through": pool.made, "selective": pool.used, "back": pool.lost}[self._write]
        if down:
            before = self.cpu.written
            self._put(down)
            if self._write == "back":
                self._note(0, 0, self.cpu.written - before)
        for happened in (pool.made, pool.used, pool.lost):
            happened.clear()

    def touch(self, keys: list[int]) -> None:
        """Note uses, in order."""
        self.cpu.touch(keys)
        self.disk.touch(keys)

    def take_copies(self) -> Copies:
        """Return and forget what the step under way waits for."""
        copies, self._copies = self._copies, Copies()
        return copies

    def _put(self, keys: list[int]) -> None:
        """Let contents into CPU memory, and to disk: at once, or (`back`) what CPU memory drops for them."""
        gone = self.cpu.put(keys)
        self.disk.put(gone if self._write == "back" else keys)

    def _note(self, from_cpu: int, from_disk: int, to_cpu: int) -> None:
        up, read, down = self._copies
        self._copies = Copies(up + from_cpu, read + from_disk, down + to_cpu)
