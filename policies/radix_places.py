"""Where a radix tree's tokens lie: SGLang's slots have no order, so each page keeps the place it is first drawn at."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from kvsim.placement import Held, Placement, Reader, Stretch
from kvsim.policies.radix_tree import Node, Tree
from kvsim.policies.shelf import fill, places_from
from kvsim.policy import Span
from kvsim.request import IntColumn

Known = tuple[int, IntColumn]
"""Places of pages, from some page of a text on."""


class RadixPlaces:
    """Places of the pages of a tree, and of those that sequences have besides."""

    def __init__(self, page_size: int, pages: int, spans: tuple[Span, ...]) -> None:
        """Start with nothing placed."""
        self._page = page_size
        self._pages = pages
        self._readers = tuple(Reader(span.window, span.weight) for span in spans)
        self._slots = page_size * sum(span.weight for span in spans)
        self._nodes: dict[Node, Known] = {}
        self._rows: dict[int, Known] = {}

    def placement(self, tree: Tree, running: Iterable[tuple[int, Node, int]]) -> Placement:
        """Lay everything out; `running` are rows, the deepest node each holds, and its pages in all."""
        page, sequences = self._page, list(running)
        nodes = self._place_nodes(tree)
        rows = {
            row: (
                leaf.high // page,
                places_from(self._rows.get(row), leaf.high // page, pages - leaf.high // page),
            )
            for row, leaf, pages in sequences
        }
        fill([places for _, places in (*nodes.values(), *rows.values())], self._pages)
        self._nodes, self._rows = nodes, rows
        held = [_Pieces(row, [*_path(leaf, nodes), rows[row]]) for row, leaf, _ in sequences]
        loose = [_stretches(*known) for node, known in nodes.items() if not node.locks]
        address, pages, _ = (_joined([each[column] for each in loose]) * self._slots for column in range(3))
        return Placement((self._held(held),), Stretch(address, pages))

    def _place_nodes(self, tree: Tree) -> dict[Node, Known]:
        """Return the places that are known of each node's pages: of itself, from before it was cut, or its row's."""
        found: dict[Node, Known] = {}
        left: dict[Node, Known] = {}
        for node in reversed(tree.nodes()):
            known = self._nodes.get(node) or left.get(node) or self._rows.get(node.text.row)
            low, high = node.low // self._page, node.high // self._page
            found[node] = low, places_from(known, low, high - low)
            if known is not None and known[0] < low and node.parent is not None:
                left[node.parent] = known
        return found

    def _held(self, pieces: list[_Pieces]) -> Held:
        parts = [(each.row, _stretches(*part)) for each in pieces for part in each.parts]
        places, pages, first = (_joined([part[column] for _, part in parts]) for column in range(3))
        holder = np.repeat(np.array([row for row, _ in parts], np.int64), [len(part[0]) for _, part in parts])
        return Held(self._readers, places * self._slots, pages * self._page, first * self._page, holder)


class _Pieces:
    """What one row holds."""

    __slots__ = ("parts", "row")

    def __init__(self, row: int, parts: list[Known]) -> None:
        self.row = row
        self.parts = parts


def _path(leaf: Node, nodes: dict[Node, Known]) -> list[Known]:
    parts, node = [], leaf
    while node.parent is not None:
        parts.append(nodes[node])
        node = node.parent
    return parts


def _stretches(first: int, places: IntColumn) -> tuple[IntColumn, IntColumn, IntColumn]:
    """Return pages that follow one another in place, too, as stretches: place, pages, and the first page's number."""
    starts = np.flatnonzero(np.diff(places, prepend=-2) != 1)
    return places[starts], np.diff(starts, append=len(places)), first + starts


def _joined(columns: list[IntColumn]) -> IntColumn:
    return np.concatenate([np.empty(0, np.int64), *columns])
