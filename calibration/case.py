"""What an attention kernel is asked to compute: lengths, heads, memory layout, dtypes. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from kvsim.errors import InputError

Layout = Literal["paged", "contiguous", "shared"]
AttentionOp = Literal["attn_decode", "attn_prefill", "attn_mixed"]

DTYPES = ("bf16", "fp16", "fp32")
"""What queries and outputs may be in."""
KV_ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4, "fp8": 1, "int8": 1}
"""Bytes of a stored key or value element. fp8 is e4m3; fp8 and int8 carry one scale a tensor."""
LAYOUTS = ("paged", "contiguous", "shared")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One attention call of one layer on one GPU; field names and meanings are those of `Point`.

    Sequence i has `q[i]` query tokens, the last of the `kv[i]` tokens whose keys and values are in the cache when the
    kernel runs: query t stands at position `kv[i] - q[i] + t` and attends to every position up to its own (the causal
    mask is aligned bottom right), the newest `window` of them if there is a window.

    Layouts: `paged` gives each sequence pages of its own, at random physical places. `contiguous` gives it one slot of
    `page` tokens, so `page` is the longest sequence the slot was reserved for. `shared` is paged, and the sequences
    of a group name the very same physical pages for their first `prefix` tokens; sequence i is in group i mod
    `groups`.
    """

    q: tuple[int, ...]
    kv: tuple[int, ...]
    heads: tuple[int, int, int]
    """Query heads, KV heads and head size on one GPU."""
    page: int = 16
    """Tokens a page; for `contiguous` the tokens of a slot."""
    window: int | None = None
    layout: Layout = "paged"
    prefix: int = 0
    """Tokens of the shared prefix, whole pages; 0 unless the layout is `shared`."""
    groups: int = 1
    """Groups with a prefix of their own."""
    dtype: str = "bf16"
    """Queries, outputs and products of tiles: bf16, fp16 or fp32."""
    kv_dtype: str = ""
    """Stored keys and values: a key of KV_ELEMENT_BYTES; empty means `dtype`."""

    def __post_init__(self) -> None:
        """Refuse what no kernel could be asked; the message names the field."""
        if not self.kv_dtype:
            object.__setattr__(self, "kv_dtype", self.dtype)
        self._check_lengths()
        self._check_shape()
        self._check_prefix()

    @property
    def label(self) -> str:
        """Name the case in a message, on one line however many sequences it has."""
        shape = "/".join(map(str, self.heads))
        lengths = f"q {_span(self.q)} kv {_span(self.kv)}"
        window = "" if self.window is None else f" window {self.window}"
        prefix = f" prefix {self.prefix} groups {self.groups}" if self.prefix else ""
        kind = f"{self.layout} page {self.page}{window}{prefix} {self.dtype}/{self.kv_dtype}"
        return f"{self.op} {len(self.q)} seqs {lengths} heads {shape} {kind}"

    @property
    def op(self) -> AttentionOp:
        """Tell what a `Point` of it is: all queries single, none single, or both."""
        singles = sum(count == 1 for count in self.q)
        if singles == len(self.q):
            return "attn_decode"
        return "attn_mixed" if singles else "attn_prefill"

    @property
    def tokens(self) -> int:
        """Return Σ q, the rows of query and output."""
        return sum(self.q)

    @property
    def group(self) -> int:
        """Return the query heads that read one KV head."""
        return self.heads[0] // self.heads[1]

    @property
    def pages(self) -> int:
        """Return the physical pages (or slots) that one location takes; shared ones count once."""
        table = sum(-(-length // self.page) for length in self.kv)
        used_groups = min(self.groups, len(self.kv))
        return table - self.prefix // self.page * (len(self.kv) - used_groups)

    @property
    def token_bytes(self) -> int:
        """Return the bytes of one token's key and value in this layer."""
        return 2 * self.heads[1] * self.heads[2] * KV_ELEMENT_BYTES[self.kv_dtype]

    @property
    def kv_bytes(self) -> int:
        """Return the bytes of KV that some query attends to, read by each sequence for itself.

        2 · KV heads · head size · element bytes · Σ min(kv, window + q - 1).
        """
        return self.token_bytes * sum(map(self._seen, self.q, self.kv))

    @property
    def unique_kv_bytes(self) -> int:
        """Return the bytes of KV that must come from memory at least once: shared tokens count once a group.

        No cache makes a cold call read less, so this over the time is the bandwidth that a gate may trust.
        """
        seen = dict.fromkeys(range(self.groups), 0)
        total = 0
        for index, (queries, length) in enumerate(zip(self.q, self.kv, strict=True)):
            first = length - self._seen(queries, length)
            total += length - max(first, self.prefix)
            seen[index % self.groups] = max(seen[index % self.groups], self.prefix - first)
        return self.token_bytes * (total + sum(seen.values()))

    @property
    def pairs(self) -> int:
        """Return Σ over queries of the tokens that each attends to (an area, per head)."""
        return sum(map(self._area, self.q, self.kv))

    @property
    def flops(self) -> int:
        """Return 4 · query heads · head size · pairs: two products of a multiply and an add each."""
        return 4 * self.heads[0] * self.heads[2] * self.pairs

    def take(self, sequences: tuple[int, ...]) -> Case:
        """Return the case of these sequences alone, paged layout standing in for `shared`."""
        layout: Layout = "paged" if self.layout == "shared" else self.layout
        q = tuple(self.q[index] for index in sequences)
        kv = tuple(self.kv[index] for index in sequences)
        return replace(self, q=q, kv=kv, layout=layout, prefix=0, groups=1)

    def _seen(self, queries: int, length: int) -> int:
        return length if self.window is None else min(length, self.window + queries - 1)

    def _area(self, queries: int, length: int) -> int:
        window = length if self.window is None else min(self.window, length)
        full = max(0, min(queries, length - window + 1))  # queries with a whole window behind them
        rising = queries - full
        first = length - queries + 1
        return full * window + rising * first + rising * (rising - 1) // 2

    def _check_lengths(self) -> None:
        if not self.q or len(self.q) != len(self.kv):
            raise InputError(
                f"q and kv must name as many sequences, at least one: {len(self.q)} and {len(self.kv)}"
            )
        for index, (queries, length) in enumerate(zip(self.q, self.kv, strict=True)):
            if not 1 <= queries <= length:
                raise InputError(f"sequence {index}: needs 1 ≤ q ≤ kv, got q {queries} and kv {length}")

    def _check_shape(self) -> None:
        heads, kv_heads, size = self.heads
        if min(self.heads) < 1 or heads % kv_heads:
            raise InputError(f"heads must be a multiple of KV heads, all ≥ 1, got {heads}/{kv_heads}/{size}")
        for name, value, known in (
            ("layout", self.layout, LAYOUTS),
            ("dtype", self.dtype, DTYPES),
            ("kv_dtype", self.kv_dtype, tuple(KV_ELEMENT_BYTES)),
        ):
            if value not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if self.page < 1:
            raise InputError(f"page must be ≥ 1 token, got {self.page}")
        if self.window is not None and self.window < 1:
            raise InputError(f"window must be ≥ 1 token or None, got {self.window}")
        if self.layout == "contiguous" and max(self.kv) > self.page:
            raise InputError(f"a slot of {self.page} tokens cannot hold a sequence of {max(self.kv)}")

    def _check_prefix(self) -> None:
        if self.layout != "shared":
            if self.prefix or self.groups != 1:
                raise InputError(f"prefix and groups need layout 'shared', got {self.layout!r}")
            return
        cached = min(length - queries for queries, length in zip(self.q, self.kv, strict=True))
        if self.prefix % self.page or not 0 <= self.prefix <= cached:
            raise InputError(
                f"prefix must be whole pages of {self.page} and at most the {cached} tokens before the first query, "
                f"got {self.prefix}"
            )
        if self.groups < 1:
            raise InputError(f"groups must be ≥ 1, got {self.groups}")


def _span(lengths: tuple[int, ...]) -> str:
    low, high = min(lengths), max(lengths)
    return str(low) if low == high else f"{low}–{high}"
