"""The running sequences, kept so that a decode step touches only what changes in it."""

from __future__ import annotations

from collections import defaultdict

from kvsim.policy import Lease
from kvsim.request import Sequence

NEVER = float("nan")


class Job(Sequence):
    """A sequence with what only the engine may know and remember of it.

    While it decodes its length is `base + Batch.step`, so that a step need not touch it.
    """

    __slots__ = (
        "base",
        "cached",
        "decoding",
        "due",
        "final",
        "first_scheduled",
        "first_token",
        "last_token",
        "lease",
        "lost",
        "passed",
        "preemptions",
        "reach",
        "readmission_hits",
        "recomputed",
        "stamp",
        "wait_from",
    )

    def __init__(self, index: int, arrival: float, prompt_tokens: int, priority: int, final: int) -> None:
        """`final` is the number of tokens that will have KV when it finishes."""
        super().__init__(index, arrival, prompt_tokens, priority)
        self.final = final
        self.base = 0
        self.decoding = False
        self.due = -1
        """Decode step at which it will have outgrown its lease, as far as is known."""
        self.stamp = -1
        """Order of admission, new at every one; −1 while it does not run."""
        self.passed = 0
        """How many of the batch's windows it has outgrown."""
        self.lease = Lease(0)
        self.reach = 0
        """Slots it has and will have filled, of what it holds (`Policy.reach`)."""
        self.cached = 0
        """Tokens found at first admission."""
        self.readmission_hits = 0
        """Tokens found again after preemptions."""
        self.lost = 0
        """Tokens whose KV the last preemption threw away."""
        self.recomputed = 0
        self.preemptions = 0
        self.first_scheduled = NEVER
        self.first_token = NEVER
        self.last_token = NEVER
        """When its last token came out; kept only while it is preempted or passed over."""
        self.wait_from = arrival
        """Since when it waits."""


Calendar = defaultdict[int, list[tuple[int, Job]]]


class Batch:
    """Running sequences with their sums, and calendars of when each needs attention.

    Calendar entries are never removed: one that comes up for a sequence that has left, or that was passed
    over meanwhile, is dropped or moved on when its step comes.
    """

    def __init__(self, windows: tuple[int, ...]) -> None:
        """`windows` are the attention windows, ascending, for which Σ min(length, W) is kept."""
        self.windows = windows
        self.step = 0
        """Decode steps so far; what `Job.base` is relative to."""
        self.running: dict[int, Job] = {}
        """By row, in order of admission."""
        self.prefilling: dict[int, Job] = {}
        self.decodes = 0
        self.context = 0
        """Σ length of the decoding sequences."""
        self.windowed = [0] * len(windows)
        """Σ min(length, W) of the decoding sequences."""
        self._growing = [0] * len(windows)
        self._due: Calendar = defaultdict(list)
        self._ends: Calendar = defaultdict(list)
        self._bends: Calendar = defaultdict(list)

    def advance(self) -> None:
        """Give every decoding sequence one more token."""
        self.step += 1
        self.context += self.decodes
        for number, growing in enumerate(self._growing):
            self.windowed[number] += growing

    def settle(self) -> None:
        """Take note of the sequences that have just filled a window."""
        if not self._bends:
            return
        for stamp, job in self._bends.pop(self.step, ()):
            if job.stamp != stamp or not job.decoding:
                continue
            length = job.base + self.step
            if length == self.windows[job.passed]:
                self._growing[job.passed] -= 1
                job.passed += 1
            self._bend(job)

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

    def ending(self) -> list[Job]:
        """Return the decoding sequences that reach their final length in this step."""
        found = []
        for stamp, job in self._ends.pop(self.step, ()):
            if job.stamp != stamp or not job.decoding:
                continue
            if job.base + self.step == job.final:
                found.append(job)
            else:
                self._ends[job.final - job.base].append((stamp, job))
        return found

    def expect(self, job: Job) -> None:
        """Note when the sequence will outgrow its lease."""
        if job.lease.until < job.final:
            due = job.lease.until + 1 - job.base
            if due != job.due:
                job.due = due
                self._due[due].append((job.stamp, job))

    def join(self, job: Job) -> None:
        """Let a sequence whose tokens all have KV but the last decode from the next step on."""
        length = job.computed
        job.base = length - self.step
        job.decoding = True
        job.due = -1
        job.chunk = 1
        job.passed = 0
        self.decodes += 1
        self.context += length
        for number, window in enumerate(self.windows):
            self.windowed[number] += min(length, window)
            if length < window:
                self._growing[number] += 1
            else:
                job.passed = number + 1
        self._bend(job)
        self._ends[job.final - job.base].append((job.stamp, job))
        self.expect(job)

    def leave(self, job: Job) -> None:
        """Take a decoding sequence out of the sums; its length is then in `computed`."""
        length = job.base + self.step
        job.computed = length
        job.decoding = False
        self.decodes -= 1
        self.context -= length
        for number, window in enumerate(self.windows):
            self.windowed[number] -= min(length, window)
            if number >= job.passed:
                self._growing[number] -= 1

    def hold_back(self, job: Job) -> None:
        """Take back this step's token from a decoding sequence that is passed over."""
        job.base -= 1
        self.context -= 1
        for number in range(job.passed, len(self.windows)):
            self.windowed[number] -= 1

    def length(self, job: Job) -> int:
        """Return how many of the sequence's tokens have KV."""
        return job.base + self.step if job.decoding else job.computed

    def _bend(self, job: Job) -> None:
        if job.passed < len(self.windows):
            self._bends[self.windows[job.passed] - job.base].append((job.stamp, job))
