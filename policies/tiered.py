"""Prefix caching that spills: blocks that leave the GPU, or are filled, are kept in CPU memory and on disk."""

from __future__ import annotations

from typing import NamedTuple

from kvsim.errors import InputError
from kvsim.policies.block_policy import BlockPolicy
from kvsim.policies.block_pool import CachingPool
from kvsim.policies.contents import private_key
from kvsim.policies.groups import Hit
from kvsim.policies.tier_store import WRITES, Copies, Tier, TierStore, WatchedPool
from kvsim.policy import Lease, Match, Pool
from kvsim.registry import register
from kvsim.request import Sequence
from kvsim.tier_summary import TierFigures


class Found(NamedTuple):
    """A prefix: first what is on the GPU, then what has to be loaded."""

    hit: Hit
    loads: list[tuple[int, Tier]]
    """Contents to load, in order, and where they are."""
    tokens: tuple[int, int, int]
    """Of it on the GPU, in CPU memory, on disk."""


@register
class TieredPolicy(BlockPolicy):
    """Prefix caching whose blocks are kept in CPU memory and on disk too, and loaded back on a hit.

    On the GPU it is `prefix`: vLLM's blocks, hashes and LRU. Behind it are CPU memory and disk, each with room for
    whole blocks, LRU, and a copy of what it gives back up, as with vLLM's offloading connector and SGLang's HiCache. A
    request finds what is on the GPU and goes on with what lies behind it. GiB and GB/s are per GPU.

    `write` says when a block goes down: `through` when it is filled, `selective` at its first hit (HiCache's
    write_through_selective; both in the background, at no cost in time), `back` when the GPU needs its place: fewer
    bytes, which the step waits for. Disk is written as CPU memory is; with `back`, when CPU memory needs the place.

    A step that admits requests loads what they found. Up the link that takes link_latency_ms + bytes / link_gb_per_s,
    from disk first disk_latency_ms + bytes / disk_gb_per_s, and write-backs go down the link. With `overlap`
    (layer by layer) the step's computing goes on beside all of them and takes as long as the slowest; both ways at once
    the link carries `duplex_gb_per_s` in all. Without it they follow one another, and then comes the computing.

    Defaults: link 50 GB/s one way, 83.4 both ways (H100, PCIe 5 x16, 2 MB blocks, measured for vLLM's offloading
    connector, vLLM blog, 2026-01-08); disk 7 GB/s (data sheets of PCIe 4 x4 NVMe); latencies are assumed.
    """

    name = "tiered"
    shares_prefixes = True

    def __init__(
        self,
        *,
        block_size: int = 16,
        watermark: float = 0.0,
        scheduler_reserve_full_isl: bool = True,
        cpu_gib: float = 64.0,
        disk_gib: float = 1024.0,
        write: str = "through",
        overlap: bool = True,
        link_gb_per_s: float = 50.0,
        duplex_gb_per_s: float = 83.4,
        link_latency_ms: float = 0.02,
        disk_gb_per_s: float = 7.0,
        disk_latency_ms: float = 0.1,
    ) -> None:
        """Store the parameters; memory arrives with `reset`."""
        self.block_size = block_size
        self.watermark = watermark
        self.scheduler_reserve_full_isl = scheduler_reserve_full_isl
        self.cpu_gib = cpu_gib
        self.disk_gib = disk_gib
        self.write = write
        self.overlap = overlap
        self.link_gb_per_s = link_gb_per_s
        self.duplex_gb_per_s = duplex_gb_per_s
        self.link_latency_ms = link_latency_ms
        self.disk_gb_per_s = disk_gb_per_s
        self.disk_latency_ms = disk_latency_ms

    def reset(self, pool: Pool) -> None:
        """Cut the GPU's memory into blocks and empty all tiers."""
        self._check_parameters()
        super().reset(pool)
        self._block_bytes = self.block_size * pool.token_bytes
        rooms = (int(gib * 2**30) // self._block_bytes for gib in (self.cpu_gib, self.disk_gib))
        cpu, disk = (Tier(name, room) for name, room in zip(("cpu", "disk"), rooms, strict=True))
        self._store = TierStore(cpu, disk, self.write)
        self._found: dict[int, tuple[int, int, int]] = {}

    def caching_pool(self, num_blocks: int) -> CachingPool:
        """Return a pool whose comings and goings the tiers can follow."""
        self._watched = WatchedPool(num_blocks, self.write)
        return self._watched

    def caches(self) -> bool:
        """Keep freed blocks findable."""
        return True

    def lookup(self, sequence: Sequence) -> Match:
        """Find the longest prefix on the GPU, and what goes on from there in the tiers behind it."""
        assert self._index is not None
        hit = self._index.find(sequence)
        size, loads = self.block_size, []
        first = block = hit.tokens // size
        cpu, disk, keys = self._store.cpu, self._store.disk, hit.keys
        counts = {cpu: 0, disk: 0}
        while block < (sequence.tokens - 1) // size:
            key = keys[block] if block < len(keys) else private_key(sequence.index, block)
            tier: Tier
            if key in cpu.blocks:
                tier = cpu
            elif key in disk.blocks:
                tier = disk
            else:
                break
            loads.append((key, tier))
            counts[tier] += size
            block += 1
        return Match(block * size, 0, Found(hit, loads, (first * size, counts[cpu], counts[disk])))

    def admit(self, sequence: Sequence, match: Match, tokens: int) -> Lease | None:
        """Hold what is on the GPU and take blocks for what is loaded and computed, if the whole sequence fits."""
        found = match.detail if isinstance(match.detail, Found) else None
        lease = super().admit(sequence, Match(match.tokens, 0, found and found.hit), tokens)
        if lease is not None:
            if found is not None:
                self._store.touch(self._watched.contents(found.hit.blocks[0]))
                self._store.load(found.loads)
            self._store.follow(self._watched)
            self._found.setdefault(sequence.index, found.tokens if found else (0, 0, 0))
        return lease

    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        """Take the blocks that are missing, or none."""
        # Nothing is copied for a refusal, so what it would only give a name has to wait as well.
        if self._needed(self.tables(sequence), tokens) > self._blocks.free:
            return None
        lease = super().grow(sequence, tokens)
        self._store.follow(self._watched)
        return lease

    def release(self, sequence: Sequence, finished: bool) -> None:
        """Free the blocks; in the tiers behind too, a sequence's deepest are its least recently used."""
        table = self.tables(sequence)[0]
        super().release(sequence, finished)
        self._store.follow(self._watched)
        self._store.touch(self._watched.contents(reversed(table)))

    def transfers(self) -> float:
        """Return and forget the seconds of copying that the step's computing waits for."""
        if self.overlap:
            return 0.0
        up, down, disk = self._seconds(self._store.take_copies())
        return up + down + disk

    def transfers_beside(self) -> float:
        """Return and forget the seconds of copying beside the step's computing."""
        if not self.overlap:
            return 0.0
        copies = self._store.take_copies()
        both = sum(copies) * self._block_bytes / (self.duplex_gb_per_s * 1e9)
        return max(*self._seconds(copies), both)

    def tiers(self) -> tuple[TierFigures, ...]:
        """Say what was found where, and what was copied."""
        scale = self._block_bytes
        gpu, cpu, disk = ({row: found[place] for row, found in self._found.items()} for place in range(3))
        store = self._store
        return (
            TierFigures("gpu", gpu, 0, 0),
            TierFigures("cpu", cpu, store.cpu.read * scale, store.cpu.written * scale),
            TierFigures("disk", disk, store.disk.read * scale, store.disk.written * scale),
        )

    def _seconds(self, copies: Copies) -> tuple[float, float, float]:
        """Return the seconds up the link, down the link, and from disk."""
        size, link = self._block_bytes, self.link_gb_per_s * 1e9
        up, down = (copies.from_cpu + copies.from_disk) * size / link, copies.to_cpu * size / link
        disk = copies.from_disk * size / (self.disk_gb_per_s * 1e9)
        late = self.link_latency_ms / 1e3
        return (
            up + late * (up > 0),
            down + late * (down > 0),
            disk + self.disk_latency_ms / 1e3 * (disk > 0),
        )

    def _check_parameters(self) -> None:
        if self.write not in WRITES:
            raise InputError(f"write must be one of {', '.join(WRITES)}, got {self.write!r}")
        for name in ("cpu_gib", "disk_gib", "link_latency_ms", "disk_latency_ms"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} must be a number from 0 up, got {getattr(self, name)}")
        for name in ("link_gb_per_s", "duplex_gb_per_s", "disk_gb_per_s"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0 GB/s, got {getattr(self, name)}")
