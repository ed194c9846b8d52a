"""One engine replica: schedules steps, prices them, and lets them end (vLLM's rules S, E, L and Y)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from kvsim.batch import Batch, Job
from kvsim.cost import CostModel, Step
from kvsim.ledger import Ledger, Slots
from kvsim.policy import Lease, Policy, Span
from kvsim.scheduler import Limits, waiting_queue


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
    """A step as the step log tells it."""

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
    """Serving loop state of one engine: `offer` requests, `begin` steps, `end` them."""

    def __init__(self, policy: Policy, limits: Limits, cost: CostModel, start: float) -> None:
        """Take a policy that was reset for this run."""
        self.policy = policy
        self.limits = limits
        self.cost = cost
        self.waiting = waiting_queue(limits.scheduling_policy)
        ledger_windows = {span.window for span in policy.spans}
        self._spans = policy.attention
        windows = {span.window for span in policy.attention} | ledger_windows
        self._windows = tuple(sorted(window for window in windows if window is not None))
        self.batch = Batch(self._windows)
        self.ledger = Ledger(policy.capacity, policy.slots_per_token, start)
        self.under_way: deque[Planned] = deque()
        """Steps scheduled and not ended: at most one, or two with asynchronous scheduling."""
        self.gaps: list[tuple[float, int]] = []
        """Seconds between a request's consecutive tokens, and how many such gaps."""
        self.watch: Callable[[StepRecord], None] | None = None
        """Called with every step, when somebody keeps a step log."""
        self.watch_end: Callable[[Planned], None] | None = None
        """Called with every step once it has ended and its memory is freed."""
        self.first_admission_tokens = 0
        """Tokens of prompts looked up when first admitted."""
        self.readmission_tokens = 0
        """Tokens looked up when admitted again."""
        self.computed_tokens = 0
        self.steps = 0
        self._depth = 2 if limits.async_scheduling else 1
        self._last_end = start
        self._reach = 0
        self._stamp = 0
        self._blocked: Job | None = None
        self._dirty = True
        self._stalled: dict[int, Job] = {}
        self._ending: dict[int, Job] = {}
        self._in_flight: dict[int, int] = {}
        """Tokens of the last scheduled step per row: until it ends they do not count as computed (rule Y3)."""

    # -- requests come ------------------------------------------------------------------------------------

    def offer(self, jobs: list[Job], now: float) -> None:
        """Queue arrivals, in order."""
        for job in jobs:
            self.waiting.add(job)
        if self._blocked is not self.waiting.head():
            self._blocked = None
            self._dirty = True
        self.ledger.queue(now, len(self.waiting), sum(now - job.arrival for job in jobs))

    @property
    def is_full(self) -> bool:
        """Tell whether as many steps are under way as there may be."""
        return len(self.under_way) >= self._depth

    # -- a step is scheduled ------------------------------------------------------------------------------

    def begin(self, now: float) -> Planned | None:
        """Schedule a step at `now`; None when there is nothing to run and nothing was preempted."""
        plan = _Plan(self.limits, len(self.batch.running) + len(self.waiting))
        batch = self.batch
        was_empty = not batch.running
        batch.advance()
        if batch.running:
            self._schedule_running(plan)
            batch.settle()
        if not plan.preempted and (was_empty or self.limits.scheduler == "vllm"):
            self._admit(plan, now)
        if not plan.chunks and batch.decodes == len(plan.stalled) and not plan.preempted:
            return None
        return self._commit(plan, now)

    def _schedule_running(self, plan: _Plan) -> None:
        """Give running sequences their tokens in list order (rule S2).

        While the budget covers everybody, or only prefills at the end of the list compete for it, decodes need
        a look only where a lease runs out; else the whole list is walked.
        """
        batch = self.batch
        every = not self._decodes_come_first(plan)
        visits = batch.due()
        if every:
            visits = [(job.stamp, job) for job in batch.running.values()]
        else:
            plan.budget -= batch.decodes
            visits += [(job.stamp, job) for job in batch.prefilling.values()]
            if len(visits) > 1:
                visits.sort()
        for stamp, job in visits:
            if job.stamp != stamp or job.index in self._ending:
                continue
            fits = self._decode(plan, job, every) if job.decoding else self._prefill(plan, job, every)
            if not fits and self._stops_at_own_preemption():
                self._pass_over_behind(plan, stamp)
                break
        for job in plan.stalled:
            if job.decoding and job.base + batch.step == job.lease.until:
                batch.expect(job)

    def _decodes_come_first(self, plan: _Plan) -> bool:
        batch = self.batch
        if not batch.prefilling:
            return True
        rest = sum(min(plan.cap, job.tokens - job.computed) for job in batch.prefilling.values())
        if batch.decodes + rest <= plan.budget:
            return True
        prefilling = batch.prefilling
        tail = zip(range(len(prefilling)), reversed(batch.running), strict=False)
        return batch.decodes <= plan.budget and all(index in prefilling for _, index in tail)

    def _decode(self, plan: _Plan, job: Job, every: bool) -> bool:
        """Extend one decoding sequence by its token; False when it preempted itself."""
        batch = self.batch
        if every:
            if plan.budget == 0:
                plan.stalled.append(job)
                batch.hold_back(job)
                return True
            plan.budget -= 1
            if job.base + batch.step <= job.lease.until:
                return True
        return self._grow(plan, job, job.base + batch.step, every)

    def _prefill(self, plan: _Plan, job: Job, every: bool) -> bool:
        """Extend one prefilling sequence by its next chunk; False when it preempted itself."""
        tokens = min(job.tokens - job.computed, plan.cap, plan.budget)
        if tokens <= 0:
            return True
        plan.budget -= tokens
        job.chunk = 1
        if not self._grow(plan, job, job.computed + tokens, every):
            return False
        job.computed += tokens
        job.chunk = tokens
        plan.chunks[job.index] = (job, tokens)
        return True

    def _grow(self, plan: _Plan, job: Job, tokens: int, every: bool) -> bool:
        """Get memory for the sequence, preempting others while there is none (rule E1)."""
        computed = tokens - 1 if job.decoding else job.computed
        flight = self._in_flight.get(job.index, 0) if self.under_way else 0
        if job.decoding:
            job.tokens = tokens - (1 if flight else 0)
        job.computed = computed - flight
        self._dirty = True
        lease = self.policy.grow(job, tokens)
        while lease is None:
            victim = self.waiting.victim(self.batch.running)
            job.computed = computed
            self._preempt(plan, victim, job, every)
            if victim is job:
                return False
            job.computed = computed - flight
            lease = self.policy.grow(job, tokens)
        job.computed = computed
        self._lease(job, lease)
        return True

    def _lease(self, job: Job, lease: Lease) -> None:
        job.lease = lease
        reach = self.policy.reach(job, lease, job.final)
        self._reach += reach - job.reach
        job.reach = reach
        if job.decoding:
            self.batch.expect(job)

    def _stops_at_own_preemption(self) -> bool:
        """Rule E5: in 0.32 a self-preemption under `priority` ends the running loop."""
        return self.limits.vllm_version == "0.32" or self.limits.scheduling_policy != "priority"

    def _pass_over_behind(self, plan: _Plan, stamp: int) -> None:
        for job in reversed(self.batch.running.values()):
            if job.stamp < stamp:
                break
            if job.decoding and job.index not in plan.stalled_rows():
                plan.stalled.append(job)
                self.batch.hold_back(job)

    def _preempt(self, plan: _Plan, victim: Job, grower: Job, every: bool) -> None:
        """Throw a running sequence out, wherever this step has got to with it (rules E2 to E4)."""
        batch = self.batch
        if victim.index in self._ending:
            del self._ending[victim.index]
            lost = victim.computed
        elif victim.decoding:
            is_scheduled = victim.stamp < grower.stamp
            if not is_scheduled:
                batch.hold_back(victim)
            batch.leave(victim)
            lost = victim.computed - is_scheduled
            victim.tokens = lost + 1
            victim.computed -= self._in_flight.get(victim.index, 0) if self.under_way else 0
            plan.budget += is_scheduled or not every
            if victim.index not in self._stalled:
                victim.last_token = self._last_end
        else:
            _, tokens = plan.chunks.pop(victim.index, (victim, 0))
            plan.budget += tokens
            lost = victim.computed - tokens
            batch.prefilling.pop(victim.index)
        self._stalled.pop(victim.index, None)
        del batch.running[victim.index]
        self.policy.release(victim, finished=False)
        self._reach -= victim.reach
        victim.reach = 0
        victim.stamp = -1
        victim.computed = 0
        victim.chunk = 1
        victim.lost = lost
        victim.preemptions += 1
        plan.preempted.append(victim)
        self.waiting.put_back(victim)
        self._blocked = None

    def _admit(self, plan: _Plan, now: float) -> None:
        """Admit waiting requests until one cannot be (rules S3 to S5, S8)."""
        waiting, limits = self.waiting, self.limits
        while plan.budget > 0 and len(self.batch.running) < limits.max_num_seqs:
            job = waiting.head()
            if job is None or job is self._blocked:
                return
            match = self.policy.lookup(job)
            tokens = min(job.tokens - match.tokens, plan.cap)
            if not limits.enable_chunked_prefill and tokens > plan.budget:
                lease = None
            else:
                tokens = min(tokens, plan.budget)
                lease = self.policy.admit(job, match, tokens)
            if lease is None:
                only_decodes = not plan.chunks and not self.batch.prefilling
                self._blocked = job if self.policy.refusal_holds and only_decodes else None
                return
            waiting.take()
            self._enter(plan, job, match.tokens, match.restored, tokens, lease, now)

    def _enter(
        self, plan: _Plan, job: Job, found: int, restored: int, tokens: int, lease: Lease, now: float
    ) -> None:
        plan.budget -= tokens
        plan.admitted.append((job.index, found))
        plan.chunks[job.index] = (job, tokens)
        job.computed = found + tokens
        job.chunk = tokens
        job.stamp = self._stamp
        self._stamp += 1
        if job.preemptions:
            job.readmission_hits += found - restored
            job.recomputed += max(0, job.lost - found)
            self.readmission_tokens += job.tokens
        else:
            job.cached = found
            job.first_scheduled = max(now, self._last_end)
            self.first_admission_tokens += job.tokens
        self.batch.running[job.index] = job
        self.batch.prefilling[job.index] = job
        self._lease(job, lease)
        self._dirty = True

    # -- what a step is, and what it costs ----------------------------------------------------------------

    def _commit(self, plan: _Plan, now: float) -> Planned:
        """Price the step, account for it, and let its sequences be where they will be after it."""
        batch, ledger = self.batch, self.ledger
        start = max(now, self._last_end)
        work = self._work(plan)
        seconds = self.cost.seconds(work) if work.tokens else 0.0
        if plan.admitted or plan.preempted:
            seconds += self.policy.transfers()
        end = start + seconds
        live, length = self._live_slots()
        if self._dirty or self.policy.reads_lengths:
            self._hold(start)
        live -= ledger.usage.shared
        ledger.step(seconds, live, length)
        record = self._record(plan, live, length) if self.watch else None
        self._note_gaps(plan, end)
        sampled = self._end_prefills(plan)
        ending = batch.ending()
        for job in ending:
            batch.leave(job)
        finished = sorted(ending + [job for job in sampled if job.computed == job.final], key=_stamp)
        for job in finished:
            job.tokens = job.computed + 1
            self._ending[job.index] = job
        planned = Planned(now, start, end, work, sampled, finished, plan.preempted)
        self._last_end = end
        self.steps += 1
        self.computed_tokens += work.tokens
        self.under_way.append(planned)
        if self._depth == 2:
            self._in_flight = self._tokens_in_flight(plan)
        ledger.timeline.step(end, work.tokens)
        if record is not None and self.watch is not None:
            self.watch(record._replace(planned=planned))
        return planned

    def _tokens_in_flight(self, plan: _Plan) -> dict[int, int]:
        """Return what the step just scheduled computes, per row."""
        stalled = plan.stalled_rows()
        flight = {row: 1 for row, job in self.batch.running.items() if job.decoding and row not in stalled}
        flight |= dict.fromkeys(self._ending, 1)
        return flight | {row: tokens for row, (_, tokens) in plan.chunks.items()}

    def _work(self, plan: _Plan) -> Step:
        batch = self.batch
        held_back = [batch.length(job) for job in plan.stalled]
        decodes = batch.decodes - len(held_back)
        context = batch.context - sum(held_back)
        reads = tuple(self._sum(span, held_back) for span in self._spans)
        if not plan.chunks:
            return Step(decodes, context, decodes, reads)
        chunks = [(job.computed, tokens) for job, tokens in plan.chunks.values()]
        prefill_tokens = sum(tokens for _, tokens in chunks)
        prefill_reads = tuple(
            sum(min(length, span.window - 1 + tokens) if span.window else length for length, tokens in chunks)
            for span in self._spans
        )
        return Step(
            tokens=decodes + prefill_tokens,
            context=context + sum(length for length, _ in chunks),
            decodes=decodes,
            decode_context=reads,
            prefills=len(chunks),
            prefill_tokens=prefill_tokens,
            prefill_context=prefill_reads,
            prefill_area=tuple(sum(_area(*chunk, span.window) for chunk in chunks) for span in self._spans),
        )

    def _sum(self, span: Span, without: list[int]) -> int:
        if span.window is None:
            return self.batch.context - sum(without)
        whole = self.batch.windowed[self._windows.index(span.window)]
        return whole - sum(min(length, span.window) for length in without)

    def _live_slots(self) -> tuple[int, int]:
        """Return the slots that attention reads, shared ones counted for each reader, and Σ length."""
        batch = self.batch
        chunks = [(job.computed, job.chunk) for job in batch.prefilling.values()]
        chunks += [(job.computed, 1) for job in self._ending.values()]
        length = batch.context + sum(computed for computed, _ in chunks)
        live = 0
        for span in self.policy.spans:
            if span.window is None:
                live += span.weight * length
            else:
                seen = batch.windowed[self._windows.index(span.window)]
                seen += sum(min(computed, span.window - 1 + chunk) for computed, chunk in chunks)
                live += span.weight * seen
        return live, length

    def _hold(self, now: float) -> None:
        """Let the ledger know what has changed."""
        if self.policy.reads_lengths:
            for job in self.batch.running.values():
                if job.decoding:
                    job.computed = job.base + self.batch.step
        usage = self.policy.usage(self.waiting.head())
        self.ledger.hold(now, usage, self._reach, len(self.batch.running), len(self.waiting))
        self._dirty = False

    def _note_gaps(self, plan: _Plan, end: float) -> None:
        """Note the time since the last token of everyone who gets one at `end`."""
        regular = self.batch.decodes - len(plan.stalled)
        stalled = plan.stalled_rows() if plan.stalled else set()
        if self._stalled:
            for row in [row for row in self._stalled if row not in stalled]:
                self.gaps.append((end - self._stalled.pop(row).last_token, 1))
                regular -= 1
        for job in plan.stalled:
            if job.index not in self._stalled:
                job.last_token = self._last_end
                self._stalled[job.index] = job
        if regular:
            self.gaps.append((end - self._last_end, regular))
        for job, _ in plan.chunks.values():
            if job.computed == job.tokens and job.tokens > job.prompt_tokens:
                self.gaps.append((end - job.last_token, 1))

    def _end_prefills(self, plan: _Plan) -> list[Job]:
        """Let the sequences whose tokens now all have KV decode from the next step on."""
        sampled = []
        for job, _ in plan.chunks.values():
            if job.computed < job.tokens:
                continue
            sampled.append(job)
            del self.batch.prefilling[job.index]
            job.tokens += 1
            if job.computed < job.final:
                self.batch.join(job)
        return sampled

    def _record(self, plan: _Plan, live: int, length: int) -> StepRecord:
        batch = self.batch
        stalled = plan.stalled_rows()
        scheduled = [
            (row, plan.chunks[row][1] if row in plan.chunks else 1)
            for row, job in batch.running.items()
            if row in plan.chunks or (job.decoding and row not in stalled)
        ]
        blocks = self.policy.blocks_in_use
        slots = self.ledger.slots(live, length)
        planned = Planned(0.0, 0.0, 0.0, Step(0, 0, 0, ()), [], [], [])
        return StepRecord(
            planned, scheduled, plan.admitted, len(batch.running), len(self.waiting), blocks, slots
        )

    # -- a step ends --------------------------------------------------------------------------------------

    def end(self) -> Planned:
        """Let the oldest step under way end: tokens come out, finished sequences free their memory."""
        planned = self.under_way.popleft()
        for job in planned.sampled:
            if job.first_token != job.first_token:
                job.first_token = planned.end
        for job in planned.finished:
            self._finish(job)
        if planned.finished:
            self._blocked = None
            self._dirty = True
            self._hold(planned.end)
        if self.watch_end is not None:
            self.watch_end(planned)
        return planned

    def _finish(self, job: Job) -> None:
        if job.index not in self._ending:
            self.waiting.remove(job)
            return
        del self._ending[job.index]
        del self.batch.running[job.index]
        self._reach -= job.reach
        self.policy.release(job, finished=True)


class _Plan:
    """A step while it is being scheduled."""

    __slots__ = ("admitted", "budget", "cap", "chunks", "preempted", "stalled")

    def __init__(self, limits: Limits, requests: int) -> None:
        self.budget = limits.max_num_batched_tokens
        self.cap = limits.chunk_cap(requests)
        self.chunks: dict[int, tuple[Job, int]] = {}
        self.admitted: list[tuple[int, int]] = []
        self.preempted: list[Job] = []
        self.stalled: list[Job] = []

    def stalled_rows(self) -> set[int]:
        return {job.index for job in self.stalled}


def _stamp(job: Job) -> int:
    return job.stamp


def _area(length: int, tokens: int, window: int | None) -> int:
    """Σ over a chunk's queries of the KV tokens each attends to, itself included."""
    first = length - tokens + 1
    if window is None or length <= window:
        return tokens * (first + length) // 2
    if first >= window:
        return tokens * window
    rising = window - first
    return rising * (first + window - 1) // 2 + (tokens - rising) * window
