"""One engine replica: it begins steps, prices them, keeps the books, and lets them end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from kvsim.account import Account
from kvsim.admission import waited
from kvsim.batch import Batch
from kvsim.cost import CostModel, Step
from kvsim.job import Job, by_stamp
from kvsim.ledger import Ledger, Slots
from kvsim.longest import Longest
from kvsim.plan import Plan
from kvsim.planner import Planner
from kvsim.policy import Policy
from kvsim.scheduler import Limits
from kvsim.waiting import WaitingQueue


class Planned(NamedTuple):
    """A step that was scheduled; what it brings becomes visible when it ends."""

    scheduled_at: float
    start: float
    end: float
    work: Step
    sampled: list[Job]
    """Sequences whose prefill ends in this step, in scheduling order."""
    finished: list[Job]
    """Sequences that get their last token, in scheduling order."""
    preempted: list[Job]


class StepRecord(NamedTuple):
    """A step as the step log tells it: after scheduling, before anything ends."""

    planned: Planned
    scheduled: list[tuple[int, int]]
    """(row, tokens), in scheduling order."""
    admitted: list[tuple[int, int]]
    """(row, tokens that needed no prefill), first time or resumed."""
    running: int
    waiting: int
    blocks: int
    slots: Slots


class Replica:
    """Serving state of one engine: `offer` requests, `begin` steps, `end` them."""

    def __init__(self, policy: Policy, limits: Limits, cost: CostModel, start: float) -> None:
        """Take a policy that was reset for this run; `start` is the time of the first arrival."""
        self.policy = policy
        self.cost = cost
        windows = {span.window for span in (*policy.attention, *policy.spans)}
        self.batch = Batch(tuple(sorted(window for window in windows if window is not None)))
        if getattr(cost, "reads_longest", False):
            self.batch.longest = Longest()
        self.planner = Planner(policy, limits, self.batch, start)
        self.ledger = Ledger(policy.capacity, policy.slots_per_token, start)
        self.under_way: deque[Planned] = deque()
        """Steps scheduled and not ended: at most one, or two with asynchronous scheduling (rule Y1)."""
        self.watch: Callable[[StepRecord], None] | None = None
        """Called with every step, when somebody keeps a step log."""
        self.watch_end: Callable[[Planned], None] | None = None
        """Called with every step once it has ended and its memory is freed."""
        self.account = Account(self.batch, policy.attention, policy.spans, limits.width)
        self._width = limits.width
        self._depth = 2 if limits.async_scheduling else 1

    def offer(self, jobs: list[Job], now: float) -> None:
        """Queue arrivals, in order."""
        planner = self.planner
        planner.queue(jobs)
        self.ledger.queue(now, len(planner.waiting), waited(jobs, now))

    def count_blocks(self) -> bool:
        """Count blocks instead of placing them, if the policy can and nobody looks; before anything was offered."""
        counted = self.policy.counted()
        if counted is None or self._depth > 1:
            return False
        self.policy = self.planner.policy = counted
        self.batch.count_blocks(counted.counted_block, counted.counted_tables, counted.counted_edges)
        self.ledger.pads = self.batch.pads
        return True

    @property
    def waiting(self) -> WaitingQueue:
        """Requests that do not run."""
        return self.planner.waiting

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return self.ledger.steps

    @property
    def computed_tokens(self) -> int:
        """Tokens computed so far."""
        return self.ledger.tokens

    @property
    def is_full(self) -> bool:
        """Tell whether as many steps are under way as there may be."""
        return len(self.under_way) >= self._depth

    def begin(self, now: float) -> Planned | None:
        """Schedule a step at `now`; None when there is nothing to run and nobody was preempted."""
        plan = self.plan(now)
        return None if plan is None else self.commit(plan, now)

    def plan(self, now: float) -> Plan | None:
        """Choose who runs; None when that is nobody, and nobody was preempted."""
        plan = self.planner.plan(now)
        if not plan.chunks and self.batch.decodes == len(plan.stalled) and not plan.preempted:
            if self.planner.dirty and not self.under_way:
                self.hold(now)
            if self.batch.block_size:
                # Steps are what `Batch.pads` counts by, and this is none.
                self.batch.step -= 1
            return None
        return plan

    def end(self) -> Planned:
        """Let the oldest step under way end: tokens come out, finished sequences free their memory."""
        planned = self.under_way.popleft()
        if not self.under_way:
            self.planner.in_flight = {}
        for job in planned.sampled:
            if job.first_token != job.first_token:
                job.first_token = planned.end
        for job in planned.finished:
            self.planner.finish(job)
        if self.under_way:
            # The step under way was scheduled while what is now free was held: memory is told as it saw it.
            self.ledger.count(planned.end, len(self.batch.running), len(self.planner.waiting))
        elif self.planner.dirty:
            self.hold(planned.end)
        if self.watch_end is not None:
            self.watch_end(planned)
        return planned

    def commit(self, plan: Plan, now: float) -> Planned:
        """Price the step, account for it, and let its sequences be where they will be after it."""
        planner, ledger = self.planner, self.ledger
        start = max(now, planner.last_end)
        if planner.dirty or self.policy.reads_lengths:
            self.hold(start)
        work = self.account.step(plan, self.ledger.shared)
        seconds = self.cost.seconds(work) if work.tokens else 0.0
        seconds = max(seconds, self.policy.transfers_beside()) + self.policy.transfers()
        end = start + seconds
        live, length = self.account.live(planner.ending)
        live -= ledger.shared
        before = self._record(plan, live, length) if self.watch else None
        self._note_gaps(plan, end)
        planned = Planned(now, start, end, work, *self._advance(plan), plan.preempted)
        planner.last_end = end
        self.under_way.append(planned)
        if self._depth == 2:
            planner.in_flight = self._in_flight(plan)
        ledger.step(start, end, live, length, work.tokens)
        if before is not None and self.watch is not None:
            self.watch(before._replace(planned=planned))
        return planned

    def _advance(self, plan: Plan) -> tuple[list[Job], list[Job]]:
        """Return whose prefill ends and who gets the last token, and let the others decode from here on."""
        batch, sampled, finished = self.batch, [], []
        for job, _ in plan.chunks.values():
            if job.computed < job.tokens:
                continue
            sampled.append(job)
            del batch.prefilling[job.index]
            job.tokens += 1
            if job.computed < job.final:
                batch.join(job)
            else:
                job.chunk = 1
                batch.uncover(job, 2 * batch.step + 1)
                finished.append(job)
        finished += batch.finish()
        if finished:
            finished.sort(key=by_stamp)
            self.planner.ending |= {job.index: job for job in finished}
        return sampled, finished

    def _in_flight(self, plan: Plan) -> dict[int, int]:
        """Return what the step just scheduled computes, per row."""
        stalled = plan.stalled_rows()
        flight = {row: 1 for row, job in self.batch.running.items() if job.decoding and row not in stalled}
        flight |= dict.fromkeys(self.planner.ending, 1)
        return flight | {row: tokens for row, (_, tokens) in plan.chunks.items()}

    def hold(self, now: float) -> None:
        """Let the ledger know what has changed."""
        planner, batch = self.planner, self.batch
        if self.policy.reads_lengths:
            for job in batch.running.values():
                job.computed = batch.length(job)
        usage = self.policy.usage(planner.waiting.head())
        reach = planner.reach
        if batch.block_size:
            # What will never be filled is in `Batch.pads`.
            reach = usage.held + usage.shared + self.policy.vacated
        self.ledger.hold(now, usage, reach, len(batch.running), len(planner.waiting))
        planner.dirty = False

    def _note_gaps(self, plan: Plan, end: float) -> None:
        """Note the time since the last token of everyone who gets one at `end`."""
        planner, gaps = self.planner, self.ledger.gaps
        regular = self.batch.decodes - len(plan.stalled)
        if planner.stalled:
            stalled = plan.stalled_rows()
            for row in [row for row in planner.stalled if row not in stalled]:
                gaps.add(end - planner.stalled.pop(row).last_token, self._width, end)
                regular -= 1
        for job in plan.stalled:
            if job.index not in planner.stalled:
                job.last_token = planner.last_end
                planner.stalled[job.index] = job
        if regular:
            gaps.add(end - planner.last_end, regular * self._width, end)
        for job, _ in plan.chunks.values():
            if job.preemptions and job.computed == job.tokens and job.tokens > job.prompt_tokens:
                gaps.add(end - job.last_token, self._width, end)

    def _tokens(self, job: Job, tokens: int) -> int:
        """Return what a chunk computes: what comes back from swap a token for each sequence."""
        return tokens * self._width if job.tokens > job.prompt_tokens else tokens

    def _record(self, plan: Plan, live: int, length: int) -> StepRecord:
        batch, stalled = self.batch, plan.stalled_rows()
        scheduled = [
            (row, self._tokens(*plan.chunks[row]) if row in plan.chunks else self._width)
            for row, job in batch.running.items()
            if row in plan.chunks or (job.decoding and row not in stalled)
        ]
        return StepRecord(
            Planned(0.0, 0.0, 0.0, Step(0, 0, 0, ()), [], [], []),
            scheduled,
            plan.admitted,
            len(batch.running),
            len(self.waiting),
            self.policy.blocks_in_use,
            self.ledger.slots(live, length),
        )
