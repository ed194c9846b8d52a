"""What an attention call costs is told from: sums over its sequences, as `kvsim.cost.Step` has them."""

from __future__ import annotations

from typing import NamedTuple

from kvsim.calibration.peak_gate import attended
from kvsim.calibration.points import Point

TILES = (16, 64, 128)
"""Query rows a tile of a prefill kernel may have; a shorter chunk takes a whole one."""


class Decodes(NamedTuple):
    """The sequences of a call that compute one token on top of what is cached."""

    sequences: int
    context: int
    """Σ KV tokens read, each sequence's at most its window."""
    longest: int = 0
    """KV tokens that the longest reads; 0 for as many as each."""

    @property
    def lack(self) -> int:
        """KV tokens that the others would have to read more, were all as long as the longest."""
        return max(0, self.sequences * self.longest - self.context)


class Chunks(NamedTuple):
    """The sequences of a call that compute a chunk of prompt."""

    sequences: int
    tokens: int
    """Σ q."""
    context: int
    """Σ KV tokens read."""
    area: int
    """Σ over the queries of the KV tokens each attends to."""

    @property
    def depth(self) -> float:
        """KV tokens a query attends to, on average."""
        return self.area / self.tokens

    @property
    def cached(self) -> float:
        """Tokens before a chunk that it reads, on average."""
        return (self.context - self.tokens) / self.sequences


def is_dense(point: Point) -> bool:
    """Tell whether these are whole prompts, timed with a kernel that reads no pages: torch's own.

    Such a prompt attends to what its step has just computed, wherever that is kept afterwards. Anything behind a cached
    prefix needs another kernel, so the two are fitted and priced apart.
    """
    return point.op == "attn_prefill" and point.q == point.kv and point.backend.startswith("sdpa")


def decodes_of(point: Point) -> Decodes:
    """Return the decodes: sequences with one query token, in a prefill call none."""
    if point.op == "attn_prefill":
        return Decodes(0, 0)
    window = point.window or max(point.kv)
    lengths = [min(kv, window) for q, kv in zip(point.q, point.kv, strict=True) if q == 1]
    return Decodes(len(lengths), sum(lengths), max(lengths, default=0))


def chunks_of(point: Point) -> Chunks:
    """Return the chunks: sequences with several query tokens, in a prefill call all."""
    if point.op == "attn_decode":
        return Chunks(0, 0, 0, 0)
    pairs = [(q, kv) for q, kv in zip(point.q, point.kv, strict=True) if q > 1 or point.op == "attn_prefill"]
    window = point.window or max(point.kv)
    return Chunks(
        sequences=len(pairs),
        tokens=sum(q for q, _ in pairs),
        context=sum(min(kv, window - 1 + q) for q, kv in pairs),
        area=sum(attended(q, kv, window) for q, kv in pairs),
    )
