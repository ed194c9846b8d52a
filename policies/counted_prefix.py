"""Prefix caching without block tables: cached content in runs, everything else counted."""

from __future__ import annotations

from kvsim.policies.counted import COUNTED, CountedBlocks
from kvsim.policies.paths import Paths
from kvsim.policies.runs import ENDLESS, NEW, Hit, Node, Run, RunPool
from kvsim.policy import NO_MATCH, Lease, Match, Policy, Pool, Usage
from kvsim.request import Sequence


class Table:
    """What one sequence holds with a content."""

    __slots__ = ("covered", "leaf", "named", "runs")

    def __init__(self, leaf: Node, covered: int, runs: list[Run], named: int) -> None:
        """Start from a hit of so many blocks."""
        self.leaf = leaf
        """The deepest node of the content that others may have too."""
        self.covered = covered
        """Blocks of such content."""
        self.runs = runs
        self.named = named
        """Leading blocks with a content."""


class CountedPrefix(CountedBlocks):
    """Blocks of one size, shared by content, in runs as long as the trace's ids.

    An id of the trace stands for several blocks that mostly come and go together, and what only one request can have
    is one run whatever its length. Which physical block holds what makes no difference to anything but the tables of
    a log. Equal in all else to vLLM's prefix caching, eviction order included.
    """

    def __init__(self, policy: Policy, blocks: int, reserve: int, gate: bool, paths: Paths) -> None:
        """Answer for `policy`, which was reset; see `CountedBlocks`."""
        super().__init__(policy, blocks, reserve, gate)
        self._paths = paths
        self._pool = RunPool(blocks)
        self._privates: dict[int, Node] = {}

    def reset(self, pool: Pool) -> None:
        """Start again with an empty pool of the same size."""
        super().reset(pool)
        self._pool = RunPool(self._usable)
        self._paths.clear()

    def lookup(self, sequence: Sequence) -> Match:
        """Find the longest prefix that is present (rule C6), short of the last token."""
        path = self._paths.of(sequence)
        most = (sequence.tokens - 1) // self.block_size
        hit, shared = Hit(), min(most, path.covered)
        for node in path.nodes:
            if not hit.extend(node, shared) or hit.blocks >= shared:
                break
        private = self._privates.get(sequence.index)
        if private is not None and hit.blocks == path.covered:
            hit.extend(private, most)
        return Match(hit.blocks * self.block_size, 0, hit) if hit.blocks else NO_MATCH

    def admit(self, sequence: Sequence, match: Match, tokens: int) -> Lease | None:
        """Hold what was found and take blocks for the chunk, if the whole sequence would fit (rule A3)."""
        hit = match.detail
        found, free = (hit.blocks, hit.free) if isinstance(hit, Hit) else (0, 0)
        size, pool = self.block_size, self._pool
        available = self.spare_blocks - free - (self._reserve if self._holders else 0)
        upto = match.tokens + tokens
        needed = -(-upto // size) - found
        if needed > available or (self._gate and -(-sequence.tokens // size) - found > available):
            return None
        path = self._paths.of(sequence)
        runs = pool.hold(hit) if isinstance(hit, Hit) else []
        pool.take(needed)
        self._holders += 1
        sequence.memory = table = Table(path.leaf, path.covered, runs, found)
        self._name(sequence, table, min(upto, sequence.tokens))
        self.spare_blocks = pool.plain + pool.reusable
        return COUNTED

    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        """Take the blocks between the computed tokens and `tokens`, or none."""
        table, size = sequence.memory, self.block_size
        assert isinstance(table, Table)
        needed = -(-tokens // size) + -sequence.computed // size
        if needed > self.spare_blocks:
            return None
        self._pool.take(needed)
        self.spare_blocks -= needed
        self._name(sequence, table, min(tokens, sequence.tokens))
        return COUNTED

    def take_blocks(self, blocks: int) -> None:
        """Give decoding sequences so many blocks."""
        self._pool.take(blocks)
        self.spare_blocks -= blocks

    def release(self, sequence: Sequence, finished: bool) -> None:
        """Free the table from its last block to its first (rule P6); full blocks stay findable."""
        table, pool = sequence.memory, self._pool
        assert isinstance(table, Table)
        held = -(-sequence.computed // self.block_size)
        self._name(sequence, table, min(sequence.computed, sequence.tokens))
        pool.plain += held - table.named
        pool.give_back(table.runs)
        if finished:
            self._privates.pop(sequence.index, None)
        self.spare_blocks = pool.plain + pool.reusable
        sequence.memory = None
        self._holders -= 1

    def usage(self, waiting: Sequence | None) -> Usage:
        """Count the blocks held, shared and cached."""
        del waiting
        pool, slots = self._pool, self._slots
        held = self._usable - self.spare_blocks
        return Usage(held * slots, pool.extra_references * slots, pool.reusable * slots)

    @property
    def blocks_in_use(self) -> int:
        """Blocks that sequences hold."""
        return self._usable - self.spare_blocks

    def _name(self, sequence: Sequence, table: Table, tokens: int) -> None:
        """Make the full blocks below `tokens` findable."""
        upto, first = tokens // self.block_size, table.named
        if upto <= first:
            return
        shared = min(upto, table.covered)
        if first < shared:
            nodes, node = [], table.leaf
            while node.stop > first:
                if node.start < shared:
                    nodes.append(node)
                if node.parent is None:
                    break
                node = node.parent
            _name_run(table, nodes, first, shared)
        if upto > table.covered:
            private = self._privates.get(sequence.index)
            if private is None:
                private = self._privates[sequence.index] = Node(None, [], table.covered, ENDLESS)
            _name_run(table, [private], max(first, table.covered), upto)
        table.named = upto


def _name_run(table: Table, nodes: list[Node], low: int, high: int) -> None:
    """Let blocks be found in these nodes; they lengthen the table's last run where that changes nothing else."""
    runs = table.runs
    if runs:
        last = runs[-1]
        is_own = last.references == 1 and last.parts is None and last.key == NEW
        if is_own and last.high == low and _is_latest(last, nodes):
            last.high = high
            for node in nodes:
                if node.start >= low:
                    node.runs.append(last)
                    last.nodes.append(node)
            return
    run = Run(nodes, low, high, 1)
    for node in nodes:
        node.runs.append(run)
    runs.append(run)


def _is_latest(run: Run, nodes: list[Node]) -> bool:
    """Tell whether nobody has named blocks since in the node where a run would go on; `nodes` are deepest first."""
    first = nodes[-1]
    return first.runs[-1] is run if first.start < run.high else first.parent is not None
