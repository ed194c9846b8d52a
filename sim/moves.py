"""Which blocks leave the windows of decoding sequences, step by step, where blocks are counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from kvsim.job import Job
from kvsim.window import Chunk, Edge

Calendar = defaultdict[int, list[tuple[int, Job]]]
"""By decode step: sequences, each with its stamp."""


class Moves:
    """Blocks that windows give back before a decode step.

    With c tokens computed, a window of W gives the next block back when c − W + 1 is a multiple of the block size. So
    a histogram of that remainder, over the sequences that have outgrown the window, says with one read how many
    blocks come back in a step. What comes back at no such moment is kept apart: what prefill left behind the window,
    and what a chunk leaves behind when it ends.
    """

    def __init__(
        self,
        edges: tuple[Edge, ...],
        block_size: int,
        phases: list[int],
        marks: set[int],
        wraps: Calendar,
    ) -> None:
        """Share the batch's histogram of what a step takes, less these blocks; its marks; when chunks may begin."""
        self.residues = [0] * block_size
        """Blocks given back by remainder of their window's `base`; at the places of `phases`."""
        self.late: dict[int, int] = {}
        """By row: blocks behind the window since the prefill, which its next decode step gives back."""
        self.fills: Calendar = defaultdict(list)
        """Decode steps after which a sequence has outgrown a window."""
        self._edges = edges
        sliding = [edge for edge in edges if not isinstance(edge.window, Chunk)]
        self._sliding = sorted(sliding, key=lambda edge: edge.window + edge.kept * block_size)
        self._chunked = [edge for edge in edges if isinstance(edge.window, Chunk)]
        # From here to the first block that leaves it is less than a block.
        self._since = [edge.window + edge.kept * block_size for edge in self._sliding]
        self._first = min(int(edge.window) + edge.kept * block_size for edge in edges)
        """Tokens up to which a sequence has left no block behind."""
        self._rests = [(edge.window - 1) % block_size for edge in self._sliding]
        self._size = block_size
        self._phases = phases
        self._marks = marks
        self._wraps = wraps

    def join(self, job: Job, length: int) -> None:
        """Follow a sequence whose last prefill chunk made it so long."""
        if length > self._first:
            late = self._left(length - 1) - self._left(length - job.chunk)
            if late:
                self.late[job.index] = late
        job.edges = 0
        self._outgrow(job, length)

    def leave(self, job: Job) -> None:
        """Follow a sequence no more."""
        self.late.pop(job.index, None)
        self._count(job, -1)

    def hold_back(self, job: Job) -> None:
        """Let a sequence's next step be one later, its `base` having gone down by one."""
        job.base += 1
        self._count(job, -1)
        job.base -= 1
        self._count(job, 1)

    def settle(self, step: int) -> None:
        """Take note of the sequences that have just outgrown a window."""
        for stamp, job in self.fills.pop(step, ()):
            if job.stamp == stamp and job.decoding:
                self._outgrow(job, job.base + step)

    def before(self, step: int) -> int:
        """Return the blocks given back before a decode step in which nobody is passed over."""
        blocks = self.residues[(1 - step) % self._size] + sum(self.late.values())
        for stamp, job in self._wraps.get(step, ()):
            if job.stamp == stamp and job.decoding:
                computed = job.base + step - 1
                for edge in self._chunked:
                    blocks += edge.left(computed, self._size) - edge.left(computed - 1, self._size)
        return blocks

    def is_due(self, job: Job, computed: int) -> bool:
        """Tell whether a decoding sequence gives blocks back before its next token."""
        if job.index in self.late:
            return True
        if self._chunked and any(computed % int(edge.window) == 0 for edge in self._chunked):
            return True
        return computed % self._size in self._rests[: job.edges]

    def scheduled(self, stalled: Iterable[Job]) -> None:
        """Forget what was late of everybody but those who were passed over."""
        if self.late:
            self.late = {job.index: self.late[job.index] for job in stalled if job.index in self.late}

    def ahead(self, step: int, steps: int) -> list[tuple[int, int]]:
        """Return when in the next so many steps after `step` how many blocks are given back, the first being 0."""
        return [
            (number, blocks)
            for residue, blocks in enumerate(self.residues)
            if blocks
            for number in range((-residue - step) % self._size, steps, self._size)
        ]

    def steps_below(self, step: int, spare: int, awaited: int) -> int:
        """Return how many steps after `step`, at most a block's, leave fewer than `awaited` of `spare` blocks."""
        for number in range(self._size):
            spare -= self._phases[-(step + number) % self._size]
            if spare >= awaited:
                return number
        return self._size

    def _left(self, computed: int) -> int:
        return sum([edge.left(computed, self._size) for edge in self._edges])

    def _outgrow(self, job: Job, length: int) -> None:
        since = self._since
        while job.edges < len(since) and length >= since[job.edges]:
            self._add(job, self._sliding[job.edges], 1)
            job.edges += 1
        if job.edges < len(since):
            step = since[job.edges] - job.base
            self.fills[step].append((job.stamp, job))
            self._marks.add(step)

    def _count(self, job: Job, sign: int) -> None:
        for edge in self._sliding[: job.edges]:
            self._add(job, edge, sign)

    def _add(self, job: Job, edge: Edge, sign: int) -> None:
        place = (job.base - edge.window + 1) % self._size
        self.residues[place] += sign * edge.tables
        self._phases[place] -= sign * edge.tables
