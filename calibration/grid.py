"""What is timed: the points of a calibration, most needed first, before any is run. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kvsim.calibration.case import Case
from kvsim.calibration.drawn_lengths import ROWS, SMOKE_ROWS
from kvsim.calibration.trace_lengths import lengths_of
from kvsim.request import Workload

GRID = 2
"""Version of the grid; a calibration can only go on with its own."""
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
LENGTHS = (128, 512, 1024, 2048, 4096, 8192, 16384, 32768, 131072)
TILE_ENDS = (17, 33, 65, 129, 257, 513, 1025)
"""One row more than a tile holds: kept from the fit."""
PAGES = (1, 16, 32, 64, 128, 256)
WINDOWS = (128, 1024, 4096)
SMALL_OPS = ("norm", "rope", "activation", "kv_write", "embedding", "final_norm", "sampler")
BY_SEQUENCE = ("lm_head", "sampler")
"""Kernels that run on the rows that sample."""
MOST_TOKENS = 32768
"""Of one prefill call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A call to time: attention of a case, or the kernel `name` on `m` rows."""

    id: str
    set: str
    case: Case | None = None
    name: str = ""
    m: int = 0
    held_out: bool = False
    two_launches: bool = False
    """Time decodes and chunks as two calls: evidence beside the fused one, not fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What bounds the grid."""

    heads: tuple[int, int, int]
    pool_tokens: int
    """Tokens of KV that fit the pool of one layer."""
    longest: int
    """Tokens a sequence may have."""
    dtype: str = "bf16"
    kv_dtype: str = "bf16"
    page: int = 16
    windows: tuple[int, ...] = ()
    """The model's own; WINDOWS where it has none."""
    products: tuple[str, ...] = ("qkv", "o", "gate_up", "down", "lm_head")
    smoke: bool = False
    """At most 4 sequences of at most 256 tokens."""


def make_grid(extent: Extent, seed: int = 0, workload: Workload | None = None) -> list[Planned]:
    """Return every point that fits, in the order in which they would be missed.

    First what no profile can do without, a coarse grid of each kernel; then the sets in the order of their names
    below. A budget drops from the end. Drawn lengths are those of the workload's requests where one is given.
    """
    build = _Grid(extent, seed, workload)
    planned = [
        *build.decodes_even(), *build.decodes_drawn(), *build.pages(), *build.windows(), *build.shared(),
        *build.prompts(), *build.chunks(), *build.several_chunks(), *build.mixed(), *build.products(), *build.small(),
    ]  # fmt: skip
    return sorted(_distinct(planned), key=lambda point: not _is_core(point))


def shuffled(grid: Sequence[Planned], seed: int) -> list[Planned]:
    """Return the points in an order that has nothing to do with their size, the same for a seed."""
    return [grid[index] for index in np.random.default_rng(seed).permutation(len(grid))]


def _distinct(planned: Sequence[Planned]) -> list[Planned]:
    """Leave out what was planned before, and number each set."""
    seen: set[object] = set()
    counts: dict[str, int] = {}
    kept = []
    for point in planned:
        what = (point.case, point.name, point.m, point.two_launches)
        if what not in seen:
            seen.add(what)
            number = counts[point.set] = counts.get(point.set, 0) + 1
            kept.append(replace(point, id=f"{point.set}-{number:03}"))
    return kept


def _is_core(point: Planned) -> bool:
    if point.held_out:
        return False
    if point.case is None:
        return point.m & (point.m - 1) == 0 and (point.set == "G" or point.m in (1, 16, 256, 4096))
    if point.set == "D1":
        return len(point.case.kv) in (1, 4, 16, 64, 256) and max(point.case.kv) in (16, 128, 256, 1024, 8192)
    return (point.set == "P1" and len(point.case.q) == 1) or (
        point.set == "P2" and point.case.q[0] in (16, 128, 1024)
    )


class _Grid:
    def __init__(self, extent: Extent, seed: int, workload: Workload | None) -> None:
        self._extent = extent
        self._smoke = extent.smoke
        self._longest = min(extent.longest, extent.pool_tokens, 256 if extent.smoke else 1 << 20)
        self._lengths = lengths_of(workload, seed, self._longest, extent.pool_tokens // 2, extent.smoke)
        self._rows = SMOKE_ROWS if extent.smoke else ROWS

    def decodes_even(self) -> Iterator[Planned]:
        """D1: decodes of equal lengths."""
        for count in (1, 2, 4) if self._smoke else SEQUENCES:
            for length in (16, 64, 256) if self._smoke else LENGTHS:
                yield from self._fitting("D1", (1,) * count, (length,) * count)

    def decodes_drawn(self) -> Iterator[Planned]:
        """D2: decodes of drawn lengths; every third, of as many sequences as products have rows, is held out."""
        for index in range(9 if self._smoke else 120):
            is_held_out = index % 3 == 2
            lengths = self._lengths.decodes(index, snap=is_held_out)
            yield from self._fitting("D2", (1,) * len(lengths), lengths, held_out=is_held_out)

    def pages(self) -> Iterator[Planned]:
        """D3: the same decodes and chunks in pages of other sizes, and in slots."""
        for page in (32, 0) if self._smoke else (*PAGES, 0):
            if page == self._extent.page:
                continue
            for index in range(2 if self._smoke else 10):
                lengths = self._lengths.decodes(index)
                yield from self._laid_out("D3", (1,) * len(lengths), lengths, page)
            for tokens, cached in ((32, 64),) if self._smoke else ((128, 2048), (512, 2048), (512, 8192)):
                yield from self._laid_out("D3", (tokens,), (tokens + cached,), page)

    def windows(self) -> Iterator[Planned]:
        """D4: decodes and chunks with a sliding window, contexts up to 32 windows long."""
        for window in (64,) if self._smoke else self._extent.windows or WINDOWS:
            for index in range(3 if self._smoke else 20):
                lengths = self._lengths.decodes(index, longest=32 * window)
                yield from self._fitting("D4", (1,) * len(lengths), lengths, window=window)
            for tokens in (16,) if self._smoke else (64, 256, 1024, 4096):
                for cached in (0, 2 * window):
                    yield from self._fitting("D4", (tokens,), (tokens + cached,), window=window)

    def shared(self) -> Iterator[Planned]:
        """D5: decodes that read the same pages, beside a twin that does not; every fourth is held out."""
        page, found = self._extent.page, 0
        for count in (4,) if self._smoke else (32, 128):
            for length in (256,) if self._smoke else (1024, 4096, 8192):
                lengths = (length,) * count
                yield from self._fitting("D5", (1,) * count, lengths)
                for groups in (1, 2) if self._smoke else (1, 4, 16):
                    for share in (0.5, 0.9):
                        prefix = int(share * length) // page * page
                        if prefix and groups < count:
                            found += 1
                            shape = {"layout": "shared", "prefix": prefix, "groups": groups}
                            yield from self._fitting("D5", (1,) * count, lengths, found % 4 == 0, **shape)

    def prompts(self) -> Iterator[Planned]:
        """P1: whole prompts, and some of drawn length that are held out."""
        for tokens in (16, 60, 240) if self._smoke else [128 << step for step in range(8)]:
            for count in (1, 2) if self._smoke else (1, 2, 4, 8):
                yield from self._fitting("P1", (tokens,) * count, (tokens,) * count)
        for index in range(2 if self._smoke else 12):
            drawn = self._lengths.prompts(index)
            if drawn:
                yield from self._fitting("P1", drawn, drawn, held_out=True)

    def chunks(self) -> Iterator[Planned]:
        """P2: a chunk behind a cached prefix."""
        sizes = (16, 60) if self._smoke else (16, 64, 128, 256, 512, 1024, 2048, 4096)
        for tokens in sizes:
            for cached in (0, 64, 192) if self._smoke else (0, 512, 2048, 8192, 32768, 126976):
                yield from self._fitting("P2", (tokens,), (tokens + cached,))

    def several_chunks(self) -> Iterator[Planned]:
        """P3: several chunks of drawn lengths behind drawn prefixes; every fourth is kept from the fit."""
        for index in range(4 if self._smoke else 40):
            is_held_out = index % 4 == 3
            q, kv = self._lengths.chunks(index, 1 + index % (2 if self._smoke else 8), snap=is_held_out)
            yield from self._fitting("P3", q, kv, held_out=is_held_out)

    def mixed(self) -> Iterator[Planned]:
        """M: decodes with one or two chunks in one call; every fifth is kept from the fit, every fourth also split."""
        for index in range(5 if self._smoke else 40):
            lengths = self._lengths.decodes(200 + index)[:256]
            q, kv = self._lengths.chunks(100 + index, 1 + index % 2)
            case = (*q, *(1,) * len(lengths)), (*kv, *lengths)
            yield from self._fitting("M", *case, held_out=index % 5 == 4)
            if index % 4 == 0:
                for point in self._fitting("M", *case):
                    yield replace(point, two_launches=True)

    def products(self) -> Iterator[Planned]:
        """G: the model's matrices; one row more than a tile is kept from the fit."""
        for name in self._extent.products:
            for m in self._rows:
                if name not in BY_SEQUENCE or m <= 1024:
                    yield Planned(id="", set="G", name=name, m=m)
            for m in TILE_ENDS[:1] if self._smoke else TILE_ENDS:
                if name not in BY_SEQUENCE or m <= 1024:
                    yield Planned(id="", set="G", name=name, m=m, held_out=True)

    def small(self) -> Iterator[Planned]:
        """E: everything else, and the launch of an empty kernel."""
        yield Planned(id="", set="E", name="launch", m=1)
        for name in SMALL_OPS:
            for m in self._rows:
                is_too_many = name == "kv_write" and m > self._extent.pool_tokens
                if not is_too_many and (name not in BY_SEQUENCE or m <= 1024):
                    yield Planned(id="", set="E", name=name, m=m)

    def _fitting(
        self, group: str, q: Sequence[int], kv: Sequence[int], held_out: bool = False, **changed: object
    ) -> Iterator[Planned]:
        """Yield the case if the pool holds it and no sequence is longer than the model's context."""
        extent = self._extent
        if max(kv) > self._longest or sum(q) > (512 if self._smoke else MOST_TOKENS):
            return
        shape: dict[str, object] = {"heads": extent.heads, "page": extent.page}
        shape |= {"dtype": extent.dtype, "kv_dtype": extent.kv_dtype} | changed
        case = Case(q=tuple(q), kv=tuple(kv), **shape)  # type: ignore[arg-type]  # fields by name
        if case.pages <= extent.pool_tokens // case.page:
            yield Planned(id="", set=group, case=case, held_out=held_out)

    def _laid_out(self, group: str, q: Sequence[int], kv: Sequence[int], page: int) -> Iterator[Planned]:
        """Yield the case in pages of a size; 0 stands for slots of the next power of two."""
        if page:
            return self._fitting(group, q, kv, page=page)
        return self._fitting(group, q, kv, page=1 << (max(kv) - 1).bit_length(), layout="contiguous")
