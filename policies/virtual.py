"""Contiguous virtual memory over physical pages that are mapped as a sequence grows (vAttention)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from kvsim.errors import InputError
from kvsim.placement import Held, Placement, Reader
from kvsim.policies.page_groups import PageGroups
from kvsim.policies.shelf import fill, places_from
from kvsim.policy import Lease, Match, Policy, Pool, Usage, reduced
from kvsim.registry import register
from kvsim.request import IntColumn, Sequence

LEAST_PAGE, LARGEST_PAGE = 64, 2048
"""KiB. 64 to 256 need vAttention's driver; CUDA's own pages are 2 MiB."""

MAP_US, MAP_US_SMALL = 40.0, 8.6
"""Microseconds to map one page into one tensor: cuMemMap and cuMemSetAccess take about 40 for 2 MiB (vAttention §6.1);
8.6 is one 64 KiB page at the 7.6 GB/s that its Table 9 gives, assumed for every page below 2 MiB."""


@register
class VirtualPolicy(Policy):
    """Contiguous virtual memory per request over physical pages mapped on demand (vAttention).

    After vAttention (arXiv 2405.04437). Each layer has a K and a V tensor, in which every request has a virtual range
    for `max_model_len` tokens: attention kernels see one piece (`kv_layout` contiguous), and physical memory is mapped
    a page at a time, into all tensors at once. Such a page group holds

        page_kib · 1024 / (bytes of a token in one tensor) tokens,    bytes = KV heads on the GPU · head size · dtype

    `page_kib` is a power of two from 64 to 2048; MLA has one tensor a layer, for its latent. Mapping a page takes
    `map_us` (none: 40 for 2 MiB, else 8.6; assumed), one call a tensor. `overlap` maps what decodes need
    beside the step before they need it, so a step lasts at least as long as its mapping; what admissions need is always
    waited for. `deferred_reclamation` leaves a finished request's pages mapped for the next one to take over its range,
    and `eager_groups` page groups are mapped beforehand for a newcomer that finds no such range. Pages are taken
    from idle ranges when others need them, in the background at no cost (§6.1.2). A full pool preempts by recompute;
    admission wants room for all tokens so far. `num_gpu_blocks_override` counts page groups.
    """

    name = "virtual"
    kv_layout = "contiguous"

    def __init__(
        self,
        *,
        page_kib: int = 2048,
        map_us: float | None = None,
        overlap: bool = True,
        deferred_reclamation: bool = True,
        eager_groups: int = 1,
    ) -> None:
        """Store the parameters; memory arrives with `reset`."""
        self.page_kib = page_kib
        self.map_us = map_us
        self.overlap = overlap
        self.deferred_reclamation = deferred_reclamation
        self.eager_groups = eager_groups

    def reset(self, pool: Pool) -> None:
        """Cut the memory into page groups, none of them mapped."""
        self._check_parameters()
        self.tensors = pool.tensors
        self.group_bytes = self.tensors * self.page_kib * 1024
        self._token_bytes = pool.token_bytes
        groups = pool.num_gpu_blocks_override or pool.kv_bytes // self.group_bytes
        if groups < 1:
            raise InputError(
                f"{pool.kv_bytes} bytes of KV memory are less than one page of {self.page_kib} KiB in each of "
                f"{self.tensors} tensors ({self.group_bytes} bytes)"
            )
        self.spans, self.attention = reduced(pool.spans), pool.spans
        self._scale = self.slots_per_token
        self.capacity = self.group_tokens(groups) * self._scale
        self._limit = pool.max_model_len
        self._pages = PageGroups(groups, self.deferred_reclamation, self.eager_groups)
        default = MAP_US if self.page_kib == LARGEST_PAGE else MAP_US_SMALL
        self._seconds_a_group = (default if self.map_us is None else self.map_us) * 1e-6 * self.tensors
        self._places: dict[int, IntColumn] = {}
        self._waited = self._beside = 0.0
        self.map_calls = 0

    def group_tokens(self, groups: int) -> int:
        """Return the tokens that so many page groups of one sequence hold."""
        return groups * self.group_bytes // self._token_bytes

    def groups_of(self, tokens: int) -> int:
        """Return the page groups that so many tokens of one sequence take."""
        return -(-tokens * self._token_bytes // self.group_bytes)

    def virtual_bytes(self, max_num_seqs: int) -> int:
        """Return the virtual memory of all tensors, with ranges for so many requests of max_model_len.

        tensors · max_num_seqs · S, S = max_model_len · bytes of a token in one tensor (vAttention §5.1.3).
        """
        return max_num_seqs * self._limit * self._token_bytes

    def refuses(self, tokens: int) -> str | None:
        """Compare what one sequence needs with all page groups."""
        needed = self.groups_of(tokens)
        if needed > self._pages.total:
            return (
                f"{tokens} tokens need {needed} page groups of {self.group_tokens(1)} tokens, "
                f"the pool has {self._pages.total}"
            )
        return None

    def admit(self, sequence: Sequence, match: Match, tokens: int) -> Lease | None:
        """Give the sequence a range with pages for its first chunk, if all its tokens so far would fit."""
        del match
        if self.groups_of(sequence.tokens) > self._pages.free:
            return None
        groups = self.groups_of(tokens)
        self._waited += self._map(self._pages.open(sequence.index, groups))
        return Lease(self.group_tokens(groups))

    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        """Map the pages that are missing, or none."""
        groups = self.groups_of(tokens)
        mapped = self._pages.extend(sequence.index, groups)
        if mapped is None:
            return None
        if self.overlap and sequence.computed >= sequence.prompt_tokens:
            self._beside += self._map(mapped)
        else:
            self._waited += self._map(mapped)
        return Lease(self.group_tokens(groups))

    def release(self, sequence: Sequence, finished: bool) -> None:
        """Let the range be taken over, with its pages, by whoever comes next."""
        del finished
        self._pages.close(sequence.index)

    def usage(self, waiting: Sequence | None) -> Usage:
        """Count the tokens' slots in the pages held; a page is never too small for the next request."""
        del waiting
        return Usage(self.group_tokens(self._pages.held) * self._scale)

    def placements(self, running: Iterable[Sequence], waiting: Sequence | None) -> Placement:
        """Lay out the page groups that sequences hold; each keeps the place it is first seen at."""
        del waiting
        rows = [sequence.index for sequence in running]
        counts = [self._pages.held_by(row) for row in rows]
        known = {row: (0, self._places[row]) for row in rows if row in self._places}
        self._places = {
            row: places_from(known.get(row), 0, count) for row, count in zip(rows, counts, strict=True)
        }
        fill(self._places.values(), self._pages.total)
        # A group need not hold a whole number of tokens.
        starts = np.array([self.group_tokens(group) for group in range(self._pages.total + 1)], np.int64)
        places = np.concatenate([np.empty(0, np.int64), *self._places.values()])
        number = np.concatenate([np.empty(0, np.int64), *map(np.arange, counts)])
        tokens = np.minimum(starts[places + 1] - starts[places], starts[number + 1] - starts[number])
        readers = tuple(Reader(span.window, span.weight) for span in self.spans)
        holder = np.repeat(np.array(rows, np.int64), counts)
        return Placement((Held(readers, starts[places] * self._scale, tokens, starts[number], holder),))

    def footprint(self, tokens: int) -> int:
        """Count whole page groups."""
        return self.group_tokens(self.groups_of(tokens)) * self._scale

    def transfers(self) -> float:
        """Return and forget the seconds of mapping that a step waits for."""
        seconds, self._waited = self._waited, 0.0
        return seconds

    def transfers_beside(self) -> float:
        """Return and forget the seconds of mapping beside a step."""
        seconds, self._beside = self._beside, 0.0
        return seconds

    @property
    def blocks_in_use(self) -> int:
        """Page groups held by sequences."""
        return self._pages.held

    def _map(self, groups: int) -> float:
        self.map_calls += groups * self.tensors
        return groups * self._seconds_a_group

    def _check_parameters(self) -> None:
        size = self.page_kib
        if not LEAST_PAGE <= size <= LARGEST_PAGE or size & (size - 1):
            raise InputError(
                f"page_kib must be a power of two from {LEAST_PAGE} to {LARGEST_PAGE}, got {size}"
            )
        if self.map_us is not None and not 0 <= self.map_us < float("inf"):
            raise InputError(f"map_us must be microseconds from 0 up, got {self.map_us}")
        if self.eager_groups < 0:
            raise InputError(f"eager_groups must be at least 0, got {self.eager_groups}")
