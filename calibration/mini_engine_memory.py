"""The KV pool of the mini engine: every layer's keys and values in one store, found through block tables.

The store is cut into regions of equally many pages. A layer has a region of its own under policies with one block
table; under those with a table a layer group, layers of different groups share a region and their tables keep them
apart, as in vLLM's hybrid KV cache manager.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from kvsim.calibration.fidelity_steps import ScheduledStep
from kvsim.calibration.kv_store import KvStore
from kvsim.errors import InputError
from kvsim.model import Model, layer_groups

if TYPE_CHECKING:
    import torch


class LayerPlace(NamedTuple):
    """Where one layer's KV lies."""

    window: int | None
    """Last tokens that it attends to; None for all."""
    table: int
    """Which of a sequence's block tables it follows."""
    region: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLayout:
    """How a policy lays KV out."""

    layout: Literal["paged", "contiguous"]
    page: int
    """Tokens a page; for contiguous memory the tokens of a slot."""
    places: tuple[LayerPlace, ...]
    """One a layer."""

    @property
    def regions(self) -> int:
        """Parts that the store is cut into."""
        return 1 + max(place.region for place in self.places)

    @property
    def tables(self) -> int:
        """Block tables of a sequence."""
        return 1 + max(place.table for place in self.places)


def layout_of_one_table(model: Model, layout: Literal["paged", "contiguous"], page: int) -> PoolLayout:
    """Give every layer a region; all follow one block table."""
    windows = model.windows or (None,) * model.layers
    places = tuple(LayerPlace(window, 0, layer) for layer, window in enumerate(windows))
    return PoolLayout(layout=layout, page=page, places=places)


def layout_of_groups(model: Model, page: int) -> PoolLayout:
    """Give every layer group a table, in the order of `Model.layer_groups`, and share the regions."""
    groups = layer_groups(model.spans)
    filled: Counter[int] = Counter()
    places = []
    for window in model.windows or (None,) * model.layers:
        number = next(
            number
            for number, group in enumerate(groups)
            if group.window == window and filled[number] < group.layers
        )
        places.append(LayerPlace(window, number, filled[number]))
        filled[number] += 1
    return PoolLayout(layout="paged", page=page, places=tuple(places))


class EngineMemory:
    """A store seen as pages, by one layout."""

    def __init__(self, store: KvStore, layout: PoolLayout) -> None:
        """Cut the store; KV heads, head size and dtype are the store's."""
        self.store = store
        self.layout = layout
        self.pages = store.tokens // layout.page // layout.regions
        """Pages of a region."""
        if not self.pages:
            raise InputError(
                f"a KV store of {store.tokens} tokens has no room for {layout.regions} regions of pages of "
                f"{layout.page} tokens"
            )
        shape = (self.pages * layout.regions, layout.page, *store.key.shape[1:])
        used = shape[0] * layout.page
        self.key: torch.Tensor = store.key[:used].view(shape)
        """[pages of all regions, page, KV heads, head size]."""
        self.value: torch.Tensor = store.value[:used].view(shape)

    def tables(self, step: ScheduledStep, sequences: slice, layers: list[int]) -> torch.Tensor:
        """Return [layers, sequences, pages] int32 page numbers in the whole store.

        Rows are padded to 16 bytes, as those of timed kernels are.
        """
        import torch

        chosen = step.sequences[sequences]
        width = max(self._used(each.length) for each in chosen)
        width = -(-width // 4) * 4
        found = np.zeros((self.layout.tables, len(chosen), width), dtype=np.int32)
        for index, each in enumerate(chosen):
            for number, table in enumerate(each.tables):
                used = table[: self._used(each.length)]
                found[number, index, : len(used)] = used
        assert found.max() < self.pages, f"page {found.max()} of {self.pages}"
        return self._in_store(torch.from_numpy(found), layers, self.pages)

    def slots(self, step: ScheduledStep) -> torch.Tensor:
        """Return [layers, tokens] int64: where in the store each computed token's KV goes."""
        import torch

        page, rows = self.layout.page, []
        for number in range(self.layout.tables):
            parts = []
            for each in step.sequences:
                position = np.arange(each.length - each.tokens, each.length)
                table = np.asarray(each.tables[number], dtype=np.int64)
                parts.append(table[position // page] * page + position % page)
            rows.append(np.concatenate(parts))
        return self._in_store(
            torch.from_numpy(np.stack(rows)), range(len(self.layout.places)), self.pages * page
        )

    def _in_store(self, found: torch.Tensor, layers: Sequence[int], region: int) -> torch.Tensor:
        """Return each layer's own numbers: those of its table, moved to its region of so many."""
        import torch

        device = self.key.device
        places = [self.layout.places[layer] for layer in layers]
        table = torch.tensor([place.table for place in places], device=device)
        shift = torch.tensor([place.region * region for place in places], dtype=found.dtype, device=device)
        return found.to(device)[table] + shift.view(-1, *[1] * (found.dim() - 1))

    def _used(self, length: int) -> int:
        return -(-length // self.layout.page)
