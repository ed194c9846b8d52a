"""Where a block policy's sequences lie: block tables as pieces of the pool."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from kvsim.placement import Held, Placement, Reader, Stretch
from kvsim.policies.groups import Group
from kvsim.policy import Span

Tables = Iterable[tuple[int, Sequence[Sequence[int]]]]
"""Row of a sequence and its block table per group, 0 for the null block."""


def block_placement(
    tables: Tables, groups: Sequence[Group], spans: Sequence[Span], block_slots: int, reusable: Iterable[int]
) -> Placement:
    """Lay block b at slots (b − 1)·block_slots …, the null block nowhere.

    With one group a block holds all layers' KV of its tokens, which `spans` then tell apart; with several
    each group's blocks hold that group's. `reusable` are free blocks whose content can still be hit.
    """
    rows = list(tables)
    held = []
    for number, group in enumerate(groups):
        slots = block_slots // group.block_size
        readers: tuple[Reader, ...] = (Reader(group.window, slots, group.sinks),)
        if len(groups) == 1 and group.window is None:
            readers = tuple(Reader(span.window, span.weight) for span in spans)
        held.append(_held(readers, [(row, table[number]) for row, table in rows], group, block_slots))
    spare = np.fromiter(reusable, np.int64)
    return Placement(
        tuple(held), Stretch((spare - 1) * block_slots, np.full(len(spare), block_slots, np.int64))
    )


def _held(
    readers: tuple[Reader, ...], tables: list[tuple[int, Sequence[int]]], group: Group, block_slots: int
) -> Held:
    parts = [np.asarray(table, np.int64) for _, table in tables]
    lengths = [len(part) for part in parts]
    blocks = np.concatenate([np.empty(0, np.int64), *parts])
    holder = np.repeat(np.array([row for row, _ in tables], np.int64), lengths)
    place = np.concatenate([np.empty(0, np.int64), *map(np.arange, lengths)])
    there = blocks > 0
    return Held(
        readers,
        (blocks[there] - 1) * block_slots,
        np.full(int(there.sum()), group.block_size, np.int64),
        place[there] * group.block_size,
        holder[there],
    )
