"""Why requests waited: for every stretch of waiting, what kept the request from being scheduled."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kvsim.engine import Simulation
    from kvsim.job import Job
    from kvsim.replica import StepRecord

SLOTS, BLOCKS, BUDGET = "slots", "blocks", "token budget"
PREEMPTION, BATCH = "preemption", "static batch"
HEAD, STEP = "head of line", "step under way"

REASONS = {
    SLOTS: "first in line, and max_num_seqs requests ran",
    BLOCKS: "first in line, and the policy had no memory for it",
    BUDGET: "first in line, and max_num_batched_tokens were spent",
    PREEMPTION: "first in line, and a step that preempts admits nobody",
    BATCH: "first in line, and the static batch was not done",
    HEAD: "behind somebody who had to wait",
    STEP: "came while a step was under way",
}
"""What each reason means, in the order in which they are shown."""


class Wait(NamedTuple):
    """A stretch of waiting with one reason."""

    request: int
    preemptions: int
    """How often it had been preempted by then: 0 while it waits for the first time."""
    reason: str
    start: float
    end: float


class _Waiting:
    """A request in the queue, as far as its time is explained."""

    __slots__ = ("known", "preemptions", "since")

    def __init__(self, since: float, preemptions: int, known: bool) -> None:
        self.since = since
        """Until when its waiting is explained."""
        self.preemptions = preemptions
        self.known = known
        """Whether a step has been planned since it came."""


class WaitWatch:
    """Explain all waiting of one simulation; `waits` is complete after `finish`.

    A request that is not admitted when a step is planned waits until the next step starts, for the reason that
    this planning had. Only the first in line can be kept waiting by a bound; everybody else waits behind it. The
    waits of a request follow each other without a gap, from its arrival (or the start of the step that preempted
    it) to the start of the step that admits it.
    """

    def __init__(self, simulation: Simulation) -> None:
        """Watch nothing yet: `step` wants every step in order."""
        self.waits: list[Wait] = []
        self._simulation = simulation
        self._limits = simulation.limits
        self._planned = array("d")
        self._starts = array("d")
        self._queue: dict[int, _Waiting] = {}
        self._head: Job | None = None
        self._reason = ""
        self._preemptions: dict[int, int] = {}
        self._ended: set[int] = set()
        """Rows that get their last token in the step before."""

    def step(self, record: StepRecord) -> None:
        """Take in a step that has just been planned."""
        planned = record.planned
        self._planned.append(planned.scheduled_at)
        self._starts.append(planned.start)
        for row, _ in record.admitted:
            self._explain(row, planned.start)
            self._queue.pop(row)
            self._head = self._head if self._head is None or self._head.index != row else None
        for job in planned.preempted:
            if job.index not in self._ended:
                count = self._preemptions[job.index] = self._preemptions.get(job.index, 0) + 1
                self._queue[job.index] = _Waiting(planned.start, count, True)
        self._look(record)
        self._ended = {job.index for job in planned.finished}

    def finish(self) -> None:
        """Explain those who wait still."""
        for job in sorted(self._simulation.replica.waiting, key=lambda job: job.index):
            self._explain(job.index, max(self._simulation.clock, job.arrival))

    def _look(self, record: StepRecord) -> None:
        """See who is first in line now, and why."""
        head = self._simulation.replica.waiting.head()
        if head is not None and head.index in self._ended:
            # Preempted while its last token was under way: it is done, and leaves the queue when that is out.
            head = None
        reason = "" if head is None else self._why(record, head)
        if head is self._head and reason == self._reason:
            return
        now = record.planned.start
        for job in (self._head, head):
            if job is not None:
                self._explain(job.index, now)
        self._head, self._reason = head, reason

    def _why(self, record: StepRecord, head: Job) -> str:
        """Return what kept the first in line out of this step, in the order in which the planner asks."""
        limits, replica = self._limits, self._simulation.replica
        if record.planned.preempted:
            return PREEMPTION
        if limits.scheduler == "static" and record.running > len(record.admitted):
            return BATCH
        if record.running >= limits.max_num_seqs:
            return SLOTS
        left = limits.max_num_batched_tokens - record.planned.work.tokens
        if left <= 0:
            return BUDGET
        if not limits.enable_chunked_prefill:
            cap = limits.chunk_cap(record.running + record.waiting)
            if min(head.tokens - replica.policy.lookup(head).tokens, cap) > left:
                return BUDGET
        return BLOCKS

    def _explain(self, row: int, until: float) -> None:
        """Write down why a request has waited since it was last looked at."""
        if row not in self._queue:
            self._queue[row] = _Waiting(self._simulation.outcomes.arrival[row], 0, False)
        waiting = self._queue[row]
        if not waiting.known:
            waiting.known = True
            step = bisect_left(self._planned, waiting.since)
            first = self._starts[step] if step < len(self._starts) else until
            self._add(row, waiting, STEP, min(first, until))
        is_head = self._head is not None and self._head.index == row
        self._add(row, waiting, self._reason if is_head else HEAD, until)

    def _add(self, row: int, waiting: _Waiting, reason: str, until: float) -> None:
        if until > waiting.since:
            self.waits.append(Wait(row, waiting.preemptions, reason, waiting.since, until))
            waiting.since = until
