"""Which request will ask for a piece of content next: what only an oracle may know."""

from __future__ import annotations

from bisect import bisect_left

from kvsim.policies.eviction import EVICTIONS, NEVER
from kvsim.policies.radix_text import Texts
from kvsim.policies.radix_tree import Node, Tree
from kvsim.request import Workload


class Future:
    """The prompts of a whole workload, and which of them are still to come.

    A request is still to come until it is admitted, and again once it is preempted. It asks for its prompt but for the
    last token, which has to be computed whatever is cached.
    """

    def __init__(self, workload: Workload) -> None:
        """Read all rows."""
        tree = Tree(1, EVICTIONS["lru"])
        texts = Texts(workload)
        lengths = workload.prompt_tokens.tolist()
        self._admitted = bytearray(len(lengths))
        self._rows: dict[Node, list[int]] = {}
        self._first: dict[Node, int] = {}
        """Place in a node's rows before which all are admitted."""
        self._paths: list[tuple[list[int], list[Node]]] = []
        """Per row: the nodes that its prompt and outputs go through, and how many tokens of it end in each."""
        for row, tokens in enumerate(lengths):
            tree.insert(tree.root, texts.of(row, tokens), tokens - 1, 0)
        for row, tokens in enumerate(lengths):
            node, at = tree.match(texts.of(row, tokens), 1 << 62)
            nodes: list[Node] = []
            while node is not tree.root:
                nodes.append(node)
                if node.low < tokens - 1:
                    self._rows.setdefault(node, []).append(row)
                assert node.parent is not None
                node = node.parent
            nodes.reverse()
            self._paths.append(([min(node.high, at) for node in nodes], nodes))

    def admit(self, row: int) -> None:
        """Note that a row has asked."""
        self._admitted[row] = 1

    def put_back(self, row: int) -> None:
        """Note that a row will ask again."""
        self._admitted[row] = 0
        for node in self._paths[row][1]:
            place = bisect_left(self._rows[node], row)
            self._first[node] = min(self._first.get(node, 0), place)

    def next_use(self, row: int, depth: int) -> tuple[int, int]:
        """Return the row that next asks for a row's first `depth` tokens, and down to which depth that holds."""
        ends, nodes = self._paths[row]
        place = bisect_left(ends, depth)
        if place == len(nodes):
            return NEVER, ends[-1] if ends else 0
        node = nodes[place]
        rows, first = self._rows[node], self._first.get(node, 0)
        while first < len(rows) and self._admitted[rows[first]]:
            first += 1
        self._first[node] = first
        return rows[first] if first < len(rows) else NEVER, node.low
