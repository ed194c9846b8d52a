"""Cached blocks in runs: neighbours that are held, freed and evicted together, without numbers of their own."""

from __future__ import annotations

from collections import OrderedDict

ENDLESS = 1 << 62
NEW = 1
"""`Run.key` of blocks that one sequence computed and no other has hit."""


class Node:
    """A stretch of content that was never seen with two continuations inside: a radix tree's edge.

    Blocks are counted from the root, so a run keeps its place when a node is cut.
    """

    __slots__ = ("children", "names", "parent", "runs", "start", "stop")

    def __init__(self, parent: Node | None, names: list[object], start: int, stop: int) -> None:
        """Cover blocks start … stop − 1, whose content is `names`, behind a parent."""
        self.parent = parent
        self.names = names
        self.start = start
        self.stop = stop
        self.children: dict[object, Node] = {}
        """What may follow, by its first name."""
        self.runs: list[Run] = []
        """Copies present of some of the blocks, first named first: of equal blocks that is the one to be hit."""

    def cut(self, names: int, block: int) -> Node:
        """Put what comes before a block, the first `names` names, into a new parent, and return that."""
        above = Node(self.parent, self.names[:names], self.start, block)
        assert self.parent is not None
        self.parent.children[above.names[0]] = above
        self.parent, self.names, self.start = above, self.names[names:], block
        above.children[self.names[0]] = self
        above.runs = [run for run in self.runs if run.low < block]
        for run in above.runs:
            if run.high <= block:
                run.nodes.remove(self)
            run.nodes.append(above)
        self.runs = [run for run in self.runs if run.high > block]
        return above


class Run:
    """Blocks low … high − 1, all held by the same sequences, or free since the same moment."""

    __slots__ = ("high", "key", "low", "nodes", "parts", "references", "used")

    def __init__(self, nodes: list[Node], low: int, high: int, references: int) -> None:
        """Describe blocks that so many sequences hold; they lie in these nodes."""
        self.nodes = nodes
        self.low = low
        self.high = high
        self.references = references
        self.parts: tuple[Run, Run] | None = None
        """What has become of it, if it was cut while tables named it."""
        self.key = NEW
        self.used = 0
        """What a pool with an order of its own ranks it by; see `RankedRuns`."""

    def part(self, low: int, high: int) -> Run:
        """Return some of its blocks as a run of their own, which lies in no node yet."""
        part = Run([], low, high, self.references)
        part.key, part.used = self.key, self.used
        return part

    def shorten(self, blocks: int) -> None:
        """Lose so many blocks at the end."""
        self.high -= blocks
        for node in self.nodes:
            if node.start >= self.high:
                node.runs.remove(self)
        if len(self.nodes) > 1:
            self.nodes = [node for node in self.nodes if node.start < self.high]

    def leaves(self) -> list[Run]:
        """Return the runs it consists of now, ascending."""
        if self.parts is None:
            return [self]
        return self.parts[0].leaves() + self.parts[1].leaves()

    def divide(self, *parts: Run) -> None:
        """Put its parts into its place in every node."""
        for node in self.nodes:
            place = node.runs.index(self)
            inside = [part for part in parts if part.low < node.stop and part.high > node.start]
            node.runs[place : place + 1] = inside
            for part in inside:
                if part is not self:
                    part.nodes.append(node)
        self.nodes = [node for node in self.nodes if self.low < node.stop and self.high > node.start]


class Hit:
    """A prefix found: cuts of runs, in order."""

    __slots__ = ("blocks", "cuts", "free")

    def __init__(self) -> None:
        """Start with nothing found."""
        self.blocks = 0
        self.free = 0
        """How many of them are in the free queue."""
        self.cuts: list[tuple[Run, int, int]] = []
        """(run, first block, block after the last)."""

    def extend(self, node: Node, stop: int) -> bool:
        """Add the blocks of a node that are present, before `stop`; False when one is missing."""
        at, stop, runs = self.blocks, min(stop, node.stop), node.runs
        while at < stop:
            upto = stop
            for run in runs:
                if run.low <= at < run.high:
                    break
                if at < run.low < upto:
                    # From there on this one, named earlier, is the one to be hit.
                    upto = run.low
            else:
                self.blocks = at
                return False
            upto = min(run.high, upto)
            if not run.references:
                self.free += upto - at
            if self.cuts and self.cuts[-1][0] is run:
                self.cuts[-1] = (run, self.cuts[-1][1], upto)
            else:
                self.cuts.append((run, at, upto))
            at = upto
        self.blocks = at
        return True


class RunPool:
    """vLLM's free queue and reference counts, by runs.

    Free blocks without content always lie before those with: freed ones without go to the front of the queue, those
    with go to its back. So the first are a number, and only the second a queue.
    """

    def __init__(self, blocks: int) -> None:
        """Start with so many blocks free and nothing findable."""
        self.usable = blocks
        self.plain = blocks
        """Free blocks without content."""
        self.reusable = 0
        """Free blocks that can still be hit."""
        self.extra_references = 0
        """Σ (references − 1) over the blocks that are held."""
        self._queue: OrderedDict[Run, None] = OrderedDict()

    def take(self, blocks: int) -> None:
        """Take so many blocks from the front; they lose their content."""
        if blocks <= self.plain:
            self.plain -= blocks
            return
        blocks -= self.plain
        self.plain = 0
        self.reusable -= blocks
        queue = self._queue
        while blocks:
            run = next(iter(queue))
            size = run.high - run.low
            if size > blocks:
                # The deepest blocks were freed first.
                run.shorten(blocks)
                return
            del queue[run]
            for node in run.nodes:
                node.runs.remove(run)
            blocks -= size

    def hold(self, hit: Hit) -> list[Run]:
        """Hold every block of a hit once more; return the runs."""
        held = []
        for run, low, high in hit.cuts:
            size = high - low
            whole = run.low == low and run.high == high
            if run.references:
                part = run if whole else _cut_held(run, low, high)
                self.extra_references += size
            else:
                if whole:
                    part = run
                    self._leave(run)
                else:
                    part = self._cut_free(run, low, high)
                self.reusable -= size
            part.references += 1
            held.append(part)
        return held

    def give_back(self, runs: list[Run]) -> None:
        """Drop a reference to each block of a table, last block first."""
        for run in reversed(runs):
            for part in [run] if run.parts is None else reversed(run.leaves()):
                part.references -= 1
                size = part.high - part.low
                if part.references:
                    self.extra_references -= size
                else:
                    self.reusable += size
                    self._enter(part)

    def _cut_free(self, run: Run, low: int, high: int) -> Run:
        """Take low … high − 1 out of a free run; the rest keeps its place in the queue."""
        part, rest = run.part(low, high), None
        if low == run.low:
            run.low = high
            run.divide(part, run)
            return part
        if high == run.high:
            run.high = low
            run.divide(run, part)
        else:
            rest = run.part(high, run.high)
            run.high = low
            run.divide(run, part, rest)
        self._lost_its_end(run, rest)
        return part

    def _enter(self, run: Run) -> None:
        """Queue a run that nobody holds any more."""
        self._queue[run] = None

    def _leave(self, run: Run) -> None:
        """Take a whole run out of the queue."""
        del self._queue[run]

    def _lost_its_end(self, run: Run, rest: Run | None) -> None:
        """Queue what lay behind the blocks taken out of a free run, if anything did."""
        if rest is not None:
            # The deeper rest was freed before the run's head, so its place is right in front.
            self._queue = OrderedDict.fromkeys(
                each for entry in self._queue for each in ((rest, run) if entry is run else (entry,))
            )


def _cut_held(run: Run, low: int, high: int) -> Run:
    """Make low … high − 1 of a held run a run of its own."""
    part = run
    if low > part.low:
        part = _halves(part, low)[1]
    if high < part.high:
        part = _halves(part, high)[0]
    return part


def _halves(run: Run, at: int) -> tuple[Run, Run]:
    """Cut a held run in two; tables that name it find the halves through `parts`."""
    halves = run.part(run.low, at), run.part(at, run.high)
    run.divide(*halves)
    run.parts = halves
    return halves
