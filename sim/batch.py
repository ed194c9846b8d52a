"""The running sequences, kept so that a decode step touches only what changes in it."""

from __future__ import annotations

from collections import defaultdict

from kvsim.job import Job, by_stamp
from kvsim.longest import Longest
from kvsim.moves import Calendar, Moves
from kvsim.window import Chunk, Edge, first_seen


class Batch:
    """Running sequences with their sums, and calendars of when each needs attention.

    Calendar entries are never removed: one that comes up for a sequence that has left, or that was passed
    over meanwhile, is dropped or moved on when its step comes.
    """

    def __init__(self, windows: tuple[int, ...]) -> None:
        """`windows` are the attention windows, ascending, for which Σ min(length, W) is kept, chunks among them."""
        self.chunks = tuple(window for window in windows if isinstance(window, Chunk))
        self.windows = windows = tuple(window for window in windows if not isinstance(window, Chunk))
        self.block_size = 0
        """Tokens of the blocks that are counted (`Policy.counted_block`); 0 where leases tell who needs memory."""
        self.phases: list[int] = [0]
        """By `base` modulo the block size: blocks that decoding sequences take, less those that windows give back."""
        self.tables = 1
        """Blocks that a sequence takes whenever it takes any."""
        self.moves: Moves | None = None
        """Which counted blocks leave a window when; None without windows that give blocks back."""
        self.pads: list[int] = []
        """Where blocks are counted: pairs of 2 · step, or one more for when it has ended, and by how much Σ `Job.pad`
        over the running grows then. They may lie ahead, and one that turns out wrong is taken back by another."""
        self.marks: set[int] = set()
        """Decode steps for which a calendar has an entry."""
        self.step = 0
        """Decode steps so far; what `Job.base` is relative to."""
        self.running: dict[int, Job] = {}
        """By row, in order of admission."""
        self.prefilling: dict[int, Job] = {}
        self.decodes = 0
        self.context = 0
        """Σ length of the decoding sequences."""
        self.longest: Longest | None = None
        """The longest of them, where somebody asks."""
        self.windowed = [0] * (len(windows) + len(self.chunks))
        """Σ min(length, W) of the decoding sequences, then Σ of the tokens since each one's chunk began."""
        self._growing = [0] * len(self.windowed)
        self._starts: dict[int, list[int]] = {}
        self._due: Calendar = defaultdict(list)
        self.last_steps: Calendar = defaultdict(list)
        """Who gets the last token in which decode step, as far as is known."""
        self._bends: Calendar = defaultdict(list)
        self._wraps: Calendar = defaultdict(list)

    def count_blocks(self, block_size: int, tables: int = 1, edges: tuple[Edge, ...] = ()) -> None:
        """From now on keep count of who needs its next block when; nobody must be running."""
        self.block_size = block_size
        self.tables = tables
        self.phases = [0] * (block_size or 1)
        self.moves = Moves(edges, block_size, self.phases, self.marks, self._wraps) if edges else None

    @property
    def growing(self) -> list[int]:
        """How many decoding sequences have not filled each window."""
        return self._growing

    def advance(self) -> None:
        """Give every decoding sequence one more token."""
        self.step += 1
        self.marks.discard(self.step)
        self.context += self.decodes
        for number, growing in enumerate(self._growing):
            self.windowed[number] += growing

    def settle(self) -> None:
        """Take note of the sequences that have just filled a window, or begun a chunk."""
        if self.moves is not None:
            self.moves.settle(self.step)
        if self._wraps:
            self._begin_chunks()
        if not self._bends:
            return
        for stamp, job in self._bends.pop(self.step, ()):
            if job.stamp != stamp or not job.decoding:
                continue
            if job.base + self.step == self.windows[job.passed]:
                self._growing[job.passed] -= 1
                job.passed += 1
            self._bend(job)

    def wanted(self, step: int) -> int:
        """Return how many counted blocks the decodes of a step take."""
        place = (1 - step) % self.block_size
        return self.phases[place] + (self.moves.residues[place] if self.moves else 0)

    def needs_block(self, job: Job) -> bool:
        """Tell whether a decoding sequence outgrows its blocks or its lease in this step."""
        computed = job.base + self.step - 1
        if self.block_size:
            return computed % self.block_size == 0 or bool(self.moves and self.moves.is_due(job, computed))
        return computed >= job.lease.until

    def cover(self, job: Job, tokens: int) -> None:
        """Note what a sequence whose blocks cover so many tokens will leave unfilled."""
        size = self.block_size
        if not job.pad and tokens > (job.final - 1) // size * size:
            job.pad = -job.final % size
            self.pads += (2 * self.step, job.pad)

    def uncover(self, job: Job, step: int) -> None:
        """Forget what a running sequence leaves unfilled, from 2 · step on (see `pads`)."""
        pad = job.pad
        if not pad:
            return
        self.pads += (max(step, 2 * job.due), -pad)
        if job.decoding:
            self.pads += (2 * (job.final - job.base) + 1, pad)
        job.pad = 0
        job.due = -1

    def has_due(self, step: int) -> bool:
        """Tell whether some sequence may have outgrown its lease at a decode step."""
        return step in self._due

    def begins_chunk(self, step: int) -> bool:
        """Tell whether some sequence may begin a chunk with its token of a decode step."""
        return step in self._wraps

    def due(self) -> list[tuple[int, Job]]:
        """Return the decoding sequences whose lease does not cover this step, in no order."""
        found = []
        for entry in self._due.pop(self.step, ()):
            stamp, job = entry
            if job.stamp != stamp or not job.decoding or job.due != self.step:
                continue
            if job.base + self.step > job.lease.until:
                found.append(entry)
            else:
                self.expect(job)
        return found

    def finish(self) -> list[Job]:
        """Take out the decoding sequences that reach their final length in this step, in order of admission."""
        found: list[Job] = []
        step = self.step
        for stamp, job in self.last_steps.pop(step, ()):
            if job.stamp != stamp or not job.decoding:
                continue
            if job.base + step != job.final:
                self._mark(self.last_steps, job.final - job.base, job)
                continue
            self.leave(job)
            job.tokens = job.final + 1
            found.append(job)
        if len(found) > 1:
            found.sort(key=by_stamp)
        return found

    def expect(self, job: Job) -> None:
        """Note when the sequence will outgrow its lease."""
        if job.lease.until < job.final:
            due = job.lease.until + 1 - job.base
            if due != job.due:
                job.due = due
                self._due[due].append((job.stamp, job))
                self.marks.add(due - 1)

    def join(self, job: Job) -> None:
        """Let a sequence whose tokens all have KV but the last decode from the next step on."""
        length = job.computed
        job.base = base = length - self.step
        job.decoding = True
        job.due = -1
        if self.moves is not None:
            self.moves.join(job, length)
        job.chunk = 1
        self.decodes += 1
        self.context += length
        if self.windowed:
            self._open_windows(job, length)
        if self.longest is not None:
            self.longest.add(job, self.decodes)
        end = job.final - base
        self.last_steps[end].append((job.stamp, job))
        self.marks.add(end)
        size = self.block_size
        if not size:
            self.expect(job)
            return
        self.phases[base % size] += self.tables
        pad = job.pad
        if pad:
            self.pads += (2 * end + 1, -pad)
        elif pad := -job.final % size:
            job.pad = pad
            job.due = due = (job.final - 1) // size * size + 1 - base
            self.pads += (2 * due, pad, 2 * end + 1, -pad)

    def leave(self, job: Job) -> None:
        """Take a decoding sequence out of the sums; its length is then in `computed`."""
        length = job.base + self.step
        job.computed = length
        job.decoding = False
        self.decodes -= 1
        self.context -= length
        if self.block_size:
            self.phases[job.base % self.block_size] -= self.tables
            if self.moves is not None:
                self.moves.leave(job)
        for number, window in enumerate(self.windows):
            self.windowed[number] -= min(length, window)
            if number >= job.passed:
                self._growing[number] -= 1
        for number, start in enumerate(self._starts.pop(job.stamp, ()), len(self.windows)):
            self.windowed[number] -= length - start
            self._growing[number] -= 1

    def jump(self, steps: int) -> None:
        """Give every decoding sequence so many more tokens; no window fills up before the last, no chunk begins."""
        self.step += steps
        self.context += steps * self.decodes
        for number, growing in enumerate(self._growing):
            self.windowed[number] += steps * growing

    def hold_back(self, job: Job) -> None:
        """Take back this step's token from a decoding sequence that is passed over."""
        job.base -= 1
        self.context -= 1
        if self.block_size:
            size = self.block_size
            self.phases[(job.base + 1) % size] -= self.tables
            self.phases[job.base % size] += self.tables
            if self.moves is not None:
                self.moves.hold_back(job)
            self._delay_pad(job)
        for number in range(job.passed, len(self.windowed)):
            self.windowed[number] -= 1

    def length(self, job: Job) -> int:
        """Return how many of the sequence's tokens have KV."""
        return job.base + self.step if job.decoding else job.computed

    def _open_windows(self, job: Job, length: int) -> None:
        job.passed = 0
        for number, window in enumerate(self.windows):
            self.windowed[number] += min(length, window)
            if length < window:
                self._growing[number] += 1
            else:
                job.passed = number + 1
        self._bend(job)
        if self.chunks:
            starts = self._starts[job.stamp] = [first_seen(length - 1, chunk) for chunk in self.chunks]
            for number, start in enumerate(starts, len(self.windows)):
                self.windowed[number] += length - start
                self._growing[number] += 1
            self._wrap(job, length)

    def _begin_chunks(self) -> None:
        """Let those whose last token is the first of a chunk read that chunk only."""
        for stamp, job in self._wraps.pop(self.step, ()):
            if job.stamp != stamp or not job.decoding:
                continue
            length, starts = job.base + self.step, self._starts[stamp]
            for place, chunk in enumerate(self.chunks):
                start = first_seen(length - 1, chunk)
                self.windowed[len(self.windows) + place] -= start - starts[place]
                starts[place] = start
            self._wrap(job, length)

    def _wrap(self, job: Job, length: int) -> None:
        step = min(first_seen(length - 1, chunk) + int(chunk) for chunk in self.chunks) + 1 - job.base
        self._wraps[step].append((job.stamp, job))
        self.marks.add(step - 1)

    def _delay_pad(self, job: Job) -> None:
        """Let a sequence that was passed over get its last block, and end, a step later."""
        pad = job.pad
        if not pad:
            return
        end = job.final - job.base
        self.pads += (2 * end - 1, pad, 2 * end + 1, -pad)
        if job.due >= self.step:
            self.pads += (2 * job.due, -pad, 2 * job.due + 2, pad)
            job.due += 1

    def _bend(self, job: Job) -> None:
        if job.passed < len(self.windows):
            self._mark(self._bends, self.windows[job.passed] - job.base, job)

    def _mark(self, calendar: Calendar, step: int, job: Job) -> None:
        calendar[step].append((job.stamp, job))
        self.marks.add(step)
