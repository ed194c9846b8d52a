"""Contents of a trace's rows as paths through a radix tree, in runs of blocks."""

from __future__ import annotations

from math import gcd
from typing import NamedTuple

from kvsim.policies.runs import Node
from kvsim.request import Sequence, Workload


class Path(NamedTuple):
    """A row's content that others may have too."""

    leaf: Node
    nodes: list[Node]
    """From the root's child to the leaf."""
    covered: int
    """Full blocks."""


class Paths:
    """A radix tree over the contents of a workload's rows."""

    def __init__(self, workload: Workload | None, block_size: int) -> None:
        """Read nothing yet; rows are entered when they are first asked for."""
        self._workload = workload
        self._block_size = block_size
        ids = None if workload is None else workload.block_ids
        self._ids = None if ids is None or not len(ids) else ids
        self._id_tokens = 0 if workload is None else workload.block_tokens
        self._splits = self._id_tokens % block_size > 0
        self._pieces = 1 if self._splits else self._id_tokens // block_size
        """Blocks a name."""
        self.clear()

    def clear(self) -> None:
        """Forget all rows and which blocks are present."""
        self._root = Node(None, [], 0, 0)
        self._nothing = Path(self._root, [], 0)
        self._last: tuple[int, Path] = (-1, self._nothing)

    def of(self, sequence: Sequence) -> Path:
        """Return a row's path through the tree, which another row's may cut later on."""
        if self._ids is None:
            return self._nothing
        row, path = self._last
        if row != sequence.index:
            path = self._enter(sequence)
            self._last = sequence.index, path
        return path

    def _enter(self, sequence: Sequence) -> Path:
        workload, row = self._workload, sequence.index
        assert self._ids is not None
        assert workload is not None
        assert workload.block_offsets is not None
        ids = self._ids[int(workload.block_offsets[row]) : int(workload.block_offsets[row + 1])].tolist()
        covered = min(len(ids) * self._id_tokens, sequence.prompt_tokens) // self._block_size
        names: list[object] = self._parts(ids)[:covered] if self._splits else ids
        node, nodes, at = self._root, [], 0
        while at < len(names):
            below = node.children.get(names[at])
            if below is None:
                start, pieces = node.stop, self._pieces
                below = Node(node, names[at:], start, start + (len(names) - at) * pieces)
                node.children[names[at]] = below
            elif names[at : at + len(below.names)] != below.names:
                alike = _alike(below.names, names[at:])
                below = below.cut(alike, below.start + alike * self._pieces)
            nodes.append(below)
            at += len(below.names)
            node = below
        return Path(node, nodes, covered)

    def _parts(self, ids: list[int]) -> list[object]:
        """Return the blocks of ids that blocks do not end with, by the pieces of ids they consist of."""
        grain, size = self._block_size, self._id_tokens
        piece = gcd(grain, size)
        return [
            tuple((ids[p // size], p % size) for p in range(end - grain, end, piece))
            for end in range(grain, len(ids) * size + 1, grain)
        ]


def _alike(some: list[object], others: list[object]) -> int:
    """Count the leading names that two lists have in common."""
    for number, (one, other) in enumerate(zip(some, others, strict=False)):
        if one != other:
            return number
    return min(len(some), len(others))
