"""A radix tree of cached tokens, cut only where texts part: SGLang's RadixCache, without places."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

from kvsim.policies.eviction import Rank, Record
from kvsim.policies.radix_text import Page, Text


class Node(Record):
    """Tokens low … high − 1 of every text that passes here."""

    __slots__ = ("children", "floor", "high", "locks", "low", "parent", "serial", "text")

    def __init__(self, parent: Node | None, text: Text, low: int, high: int, tick: int) -> None:
        """Describe the tokens by a text that has them."""
        super().__init__(tick, high)
        self.parent = parent
        self.text = text
        self.low = low
        self.high = high
        self.children: dict[Page, Node] = {}
        """What goes on from here, by its first page."""
        self.locks = 0
        """Sequences that hold it."""
        self.serial = -1
        """Its valid entry among the leaves that may go; −1 for none."""
        self.floor = low
        """Down to where its rank holds."""


class Tree:
    """Cached tokens; what sequences hold is locked, the rest goes leaf by leaf when room is needed."""

    def __init__(self, page_size: int, rank: Callable[[Record], Rank]) -> None:
        """Start empty; nodes begin and end at multiples of `page_size`."""
        self._page = page_size
        self._rank = rank
        self.root = Node(None, Text(-1, []), 0, 0, 0)
        self.root.locks = 1
        self.tokens = 0
        """Tokens in the tree."""
        self.locked = 0
        """Those of nodes that somebody holds."""
        self.extra_locks = 0
        """Σ tokens · (locks − 1) over these."""
        self.foresee: Callable[[Node], None] | None = None
        """Sets a leaf's `next_use` and `floor`; for an oracle."""
        self._leaves: list[tuple[Rank, int, Node]] = []
        self._serial = 0

    def match(self, text: Text, limit: int) -> tuple[Node, int]:
        """Return the deepest node that shares pages with a text, and the tokens found; changes nothing."""
        node, at, page = self.root, 0, self._page
        limit -= limit % page
        while at < limit:
            below = node.children.get(text.page(at, page))
            if below is None:
                break
            stop = min(below.high, limit)
            upto = text.alike(below.text, at, stop)
            node, at = below, upto - upto % page
            if upto < below.high:
                break
        return node, at

    def cut(self, node: Node, at: int) -> Node:
        """Let a node end after `at` tokens; return the node that does."""
        if at == node.high:
            return node
        upper = Node(node.parent, node.text, node.low, at, node.made)
        upper.used, upper.uses, upper.locks = node.used, node.uses, node.locks
        assert node.parent is not None
        node.parent.children[node.text.page(node.low, self._page)] = upper
        upper.children[node.text.page(at, self._page)] = node
        node.parent, node.low, node.floor = upper, at, max(at, node.floor)
        return upper

    def insert(self, node: Node, text: Text, upto: int, tick: int) -> Node:
        """Go on from a node along a text for `upto` tokens, adding what is missing; return where that ends."""
        while node.high < upto:
            at, key = node.high, text.page(node.high, self._page)
            below = node.children.get(key)
            if below is None:
                below = node.children[key] = Node(node, text, at, upto, tick)
                self.tokens += upto - at
                return below
            same = text.alike(below.text, at, min(below.high, upto))
            node = self.cut(below, same - same % self._page)
            node.uses += 1
        return node

    def lock(self, leaf: Node, above: Node) -> None:
        """Hold the nodes from a leaf up to `above`, which is not held once more."""
        for node in _up(leaf, above):
            size = node.high - node.low
            if node.locks:
                self.extra_locks += size
            else:
                self.locked += size
                node.serial = -1
            node.locks += 1

    def unlock(self, leaf: Node) -> None:
        """Let the nodes from a leaf up to the root go."""
        for node in _up(leaf, self.root):
            size = node.high - node.low
            node.locks -= 1
            if node.locks:
                self.extra_locks -= size
            else:
                self.locked -= size
                self._offer(node)

    def touch(self, leaf: Node, tick: int, hits: int = 0) -> None:
        """Note that the nodes from a leaf up are used, and hit so many times."""
        for node in _up(leaf, self.root):
            node.used = tick
            node.uses += hits

    def loose(self, node: Node, at: int) -> int:
        """Count the tokens that nobody holds, of the first `at` tokens of the text that ends in a node."""
        tokens = 0
        for each in _up(node, self.root):
            if each.locks:
                break
            tokens += min(each.high, at) - each.low
        return tokens

    def evict(self, tokens: int) -> None:
        """Drop so many tokens that nobody holds, from the ends of the leaves that rank first."""
        while tokens > 0:
            _, serial, node = self._leaves[0]
            if node.serial != serial:
                heapq.heappop(self._leaves)
                continue
            gone = min(tokens, node.high - node.floor)
            tokens -= gone
            self.tokens -= gone
            node.high -= gone
            if node.high == node.floor:
                heapq.heappop(self._leaves)
                self._shrunk(node)

    def nodes(self) -> list[Node]:
        """Return all nodes but the root, each before what goes on from it."""
        found = list(self.root.children.values())
        for node in found:
            found += node.children.values()
        return found

    def _shrunk(self, node: Node) -> None:
        """Offer what is left of a leaf, or its parent."""
        node.serial = -1
        if node.high > node.low:
            self._offer(node)
            return
        above = node.parent
        assert above is not None
        del above.children[node.text.page(node.low, self._page)]
        if not above.locks:
            self._offer(above)

    def _offer(self, node: Node) -> None:
        """Enter a leaf that nobody holds among those that may go."""
        if node.children:
            return
        node.depth, node.floor = node.high, node.low
        if self.foresee is not None:
            self.foresee(node)
        self._serial += 1
        node.serial = self._serial
        heapq.heappush(self._leaves, (self._rank(node), self._serial, node))


def _up(leaf: Node, above: Node) -> Iterator[Node]:
    node = leaf
    while node is not above:
        yield node
        assert node.parent is not None
        node = node.parent
