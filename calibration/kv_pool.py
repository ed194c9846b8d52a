"""Keys and values in physical pages, at random places, several times over: what an attention kernel reads.

A `KvPool` is a case placed in a `KvStore` at several disjoint locations, so that a timed call need not meet data that
an earlier one left in the L2 cache.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from kvsim.calibration.case import Case
from kvsim.calibration.kv_store import KvStore, torch_dtype
from kvsim.errors import InputError

if TYPE_CHECKING:
    import torch

PageOrder = Literal["random", "sequential"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KvPool:
    """A case placed in a store: everything an attention backend is handed.

    The same query goes with every location, since it is hot in serving too. Sequence i of location l has its
    positions p at `key[tables[l, i, p // page], p % page]`.
    """

    case: Case
    query: torch.Tensor
    """[Σ q, query heads, head size] in the case's dtype; sequence i has rows q_start[i] to q_start[i + 1]."""
    key: torch.Tensor
    """[pages, page, KV heads, head size] in the KV dtype, over the whole store."""
    value: torch.Tensor
    """As `key`."""
    scale: float
    """What a stored number is multiplied by."""
    tables: torch.Tensor
    """[locations, sequences, most pages of one or a little more] int32 page numbers; 0 past a sequence's end."""
    q_start: torch.Tensor
    """[sequences + 1] int32."""
    kv_len: torch.Tensor
    """[sequences] int32."""
    out: torch.Tensor | None = None
    """Where a backend that writes whole tensors puts its output, laid out densely; None for a tensor of its own."""

    @property
    def locations(self) -> int:
        """Return how many disjoint locations there are."""
        return int(self.tables.shape[0])

    def slots(self, location: int, sequence: int) -> torch.Tensor:
        """Return where in the store a sequence's tokens are: [kv] int64, in order of position."""
        import torch

        position = torch.arange(self.case.kv[sequence], device=self.tables.device)
        page = self.tables[location, sequence].long()[position // self.case.page]
        return page * self.case.page + position % self.case.page

    def dense(self, location: int, sequence: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy a sequence's keys and values out of their pages: [kv, KV heads, head size] each."""
        slots = self.slots(location, sequence)
        key, value = (tensor.flatten(0, 1)[slots].to(dtype) for tensor in (self.key, self.value))
        return (key, value) if self.scale == 1 else (key * self.scale, value * self.scale)

    def rows(self, sequence: int) -> slice:
        """Return which rows of query and output are a sequence's."""
        start = sum(self.case.q[:sequence])
        return slice(start, start + self.case.q[sequence])

    def take(self, sequences: tuple[int, ...]) -> KvPool:
        """Return these sequences alone, in the same physical pages; a mixed step split in two, for one."""
        import torch

        case = self.case.take(sequences)
        picked = torch.tensor(sequences, device=self.tables.device)
        return replace(
            self,
            case=case,
            query=torch.cat([self.query[self.rows(index)] for index in sequences]),
            tables=self.tables[:, picked, : _table_width(case)].contiguous(),
            q_start=_running_total(case.q, self.tables.device),
            kv_len=self.kv_len[picked],
            out=None,
        )


def place(case: Case, store: KvStore, locations: int, seed: int, order: PageOrder = "random") -> KvPool:
    """Draw disjoint physical pages for `locations` copies of a case, and a random normal query."""
    import torch

    _check_fit(case, store, locations)
    device = store.key.device
    page_count = store.tokens // case.page
    paged = (page_count, case.page, *store.key.shape[1:])
    generator = torch.Generator(device=device).manual_seed(seed)
    query = torch.empty(
        (case.tokens, case.heads[0], case.heads[2]), dtype=torch_dtype(case.dtype), device=device
    )
    return KvPool(
        case=case,
        query=query.normal_(generator=generator),
        key=store.key[: page_count * case.page].view(paged),
        value=store.value[: page_count * case.page].view(paged),
        scale=store.scale,
        tables=torch.from_numpy(_tables(case, page_count, locations, seed, order)).to(device),
        q_start=_running_total(case.q, device),
        kv_len=torch.tensor(case.kv, dtype=torch.int32, device=device),
    )


def _tables(case: Case, page_count: int, locations: int, seed: int, order: PageOrder) -> np.ndarray:
    """Deal pages out: each group's prefix first, then each sequence's own."""
    wanted = locations * case.pages
    drawn = (
        np.random.default_rng(seed).permutation(page_count) if order == "random" else np.arange(page_count)
    )
    pages = drawn[:wanted].astype(np.int32).reshape(locations, case.pages)
    tables = np.zeros((locations, len(case.kv), _table_width(case)), dtype=np.int32)
    shared, taken = case.prefix // case.page, 0
    for index, length in enumerate(case.kv):
        used = -(-length // case.page)
        if index < case.groups:
            start = 0
        else:
            start = shared
            tables[:, index, :shared] = tables[:, index % case.groups, :shared]
        tables[:, index, start:used] = pages[:, taken : taken + used - start]
        taken += used - start
    return tables


def _table_width(case: Case) -> int:
    """Round the pages of the longest sequence up to 4 numbers, 16 bytes.

    Then all locations are aligned alike, and Triton does not compile a second variant in the middle of a capture.
    """
    return -(-max(case.kv) // (4 * case.page)) * 4


def _check_fit(case: Case, store: KvStore, locations: int) -> None:
    if (*case.heads[1:], case.kv_dtype) != (*store.key.shape[1:], store.kv_dtype):
        stored = f"{'/'.join(map(str, store.key.shape[1:]))} {store.kv_dtype}"
        raise InputError(f"the store holds KV heads/head size {stored}, not those of case {case.label}")
    if not 1 <= locations <= store.locations(case):
        raise InputError(
            f"{locations} locations of {case.pages} pages of {case.page} tokens asked for; "
            f"the store of {store.tokens} tokens has room for {store.locations(case)}"
        )


def _running_total(counts: tuple[int, ...], device: torch.device) -> torch.Tensor:
    import torch

    total = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    return torch.from_numpy(total).to(device)
