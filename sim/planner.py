"""Which sequences compute how many tokens in a step, and who has to leave for it (vLLM's rules S, E and Y)."""

from __future__ import annotations

from kvsim.batch import Batch, Job
from kvsim.policy import Lease, Policy
from kvsim.scheduler import Limits, WaitingQueue, waiting_queue


class Plan:
    """A step while it is being scheduled."""

    __slots__ = ("admitted", "budget", "cap", "chunks", "preempted", "stalled")

    def __init__(self, budget: int, cap: int) -> None:
        """Start with nobody scheduled."""
        self.budget = budget
        """Tokens left for this step."""
        self.cap = cap
        """Most tokens one request may get."""
        self.chunks: dict[int, tuple[Job, int]] = {}
        """Prefills by row: who, and how many tokens."""
        self.admitted: list[tuple[int, int]] = []
        """(row, tokens that need no prefill)."""
        self.preempted: list[Job] = []
        self.stalled: list[Job] = []
        """Decoding sequences that the budget, or rule E5, passes over."""

    def stalled_rows(self) -> set[int]:
        """Return the rows that are passed over."""
        return {job.index for job in self.stalled} if self.stalled else set()


class Planner:
    """Decide steps: extend the running, preempt where memory is short, admit the waiting."""

    def __init__(self, policy: Policy, limits: Limits, batch: Batch, now: float) -> None:
        """Share the batch with whoever prices and ends the steps."""
        self.policy = policy
        self.limits = limits
        self.batch = batch
        self.waiting: WaitingQueue = waiting_queue(limits.scheduling_policy)
        self.reach = 0
        """Σ `Job.reach` over the running."""
        self.dirty = True
        """Whether memory, or who runs and waits, changed since somebody last looked."""
        self.blocked: Job | None = None
        """A head of the queue that cannot be admitted until something is released."""
        self.ending: dict[int, Job] = {}
        """Running sequences whose last token is on its way; they hold their memory until it is out."""
        self.stalled: dict[int, Job] = {}
        """Decoding sequences that were passed over in the last step."""
        self.in_flight: dict[int, int] = {}
        """Tokens per row of a step under way: until it ends they do not count as computed (rule Y3)."""
        self.last_end = now
        """When the last scheduled step ends."""
        self.first_admission_tokens = 0
        """Tokens of prompts looked up when first admitted."""
        self.readmission_tokens = 0
        """Tokens looked up when admitted again."""
        self._stamp = 0

    def plan(self, now: float) -> Plan:
        """Schedule one step at `now`."""
        batch, limits = self.batch, self.limits
        cap = budget = limits.max_num_batched_tokens
        if limits.long_prefill_token_threshold:
            cap = limits.chunk_cap(len(batch.running) + len(self.waiting))
        plan = Plan(budget, cap)
        was_empty = not batch.running
        batch.advance()
        if not was_empty:
            if not self._all_decode(plan):
                self._schedule_running(plan)
            if batch.windows:
                batch.settle()
        if not plan.preempted and (was_empty or limits.scheduler == "vllm"):
            self._admit(plan, now)
        return plan

    def queue(self, jobs: list[Job]) -> None:
        """Let arrivals wait, in order."""
        for job in jobs:
            self.waiting.add(job)
        # An adaptive threshold falls as more requests are there, so that a smaller chunk may do.
        if self.blocked is not self.waiting.head() or self.limits.long_prefill_token_threshold_adaptive:
            self.blocked = None
            self.dirty = True

    def finish(self, job: Job) -> None:
        """Release a sequence whose last token is out, even if it was preempted meanwhile (rule Y5)."""
        self.blocked = None
        self.dirty = True
        if job.index in self.ending:
            del self.ending[job.index]
            self.let_go(job)
        else:
            self.waiting.remove(job)

    def may_admit(self) -> bool:
        """Tell whether a step in which everybody decodes would try to admit somebody."""
        head = self.waiting.head()
        if head is None or head is self.blocked or self.limits.scheduler != "vllm":
            return False
        return len(self.batch.running) < self.limits.max_num_seqs

    def let_go(self, job: Job) -> None:
        """Release a running sequence that has its last token."""
        self.blocked = None
        self.dirty = True
        del self.batch.running[job.index]
        self._forget(job)
        self.policy.release(job, finished=True)

    def _schedule_running(self, plan: Plan) -> None:
        """Give running sequences their tokens in list order (rule S2).

        While the budget covers everybody, or only prefills at the end of the list compete for it, decodes need
        a look only where a lease runs out; else the whole list is walked.
        """
        batch = self.batch
        for job in batch.prefilling.values():
            job.chunk = 1
        every = not self._decodes_come_first(plan)
        visits = self._counted(plan, every) if batch.block_size else batch.due()
        if every:
            visits = [(job.stamp, job) for job in batch.running.values()]
        else:
            plan.budget -= batch.decodes
            visits += [(job.stamp, job) for job in batch.prefilling.values()]
            if len(visits) > 1:
                visits.sort()
        for stamp, job in visits:
            if job.stamp != stamp or job.index in self.ending:
                continue
            fits = self._decode(plan, job, every) if job.decoding else self._prefill(plan, job, every)
            if not fits and self._stops_at_own_preemption():
                self._pass_over_behind(plan, stamp)
                break
        for job in plan.stalled:
            if not job.decoding or batch.block_size:
                continue
            if self.limits.async_scheduling:
                # Nothing of it is in flight when its turn comes: its window may then have moved on (rule Y3).
                job.lease = Lease(job.base + batch.step)
            if job.base + batch.step == job.lease.until:
                batch.expect(job)

    def _all_decode(self, plan: Plan) -> bool:
        """Give everybody a token at once, if all decode and the blocks they need are there."""
        batch, policy, decodes = self.batch, self.policy, self.batch.decodes
        if not batch.block_size or batch.prefilling or self.ending or decodes > plan.budget:
            return False
        wanted = batch.wanted(batch.step)
        if wanted > policy.spare_blocks:
            return False
        plan.budget -= decodes
        self.dirty = batch.last_blocks(batch.step) > 0 or self.dirty
        if wanted:
            policy.take_blocks(wanted)
            self.dirty = True
        return True

    def _counted(self, plan: Plan, every: bool) -> list[tuple[int, Job]]:
        """Take the blocks that decodes need at once if they are there; else return who has to ask for one."""
        batch, policy, size = self.batch, self.policy, self.batch.block_size
        batch.last_blocks(batch.step)
        self.dirty = True
        wanted = batch.wanted(batch.step)
        chunks = len(batch.prefilling) * (min(plan.cap, plan.budget) // size + 1)
        if not every and wanted + chunks <= policy.spare_blocks:
            policy.take_blocks(wanted)
            return []
        return [(job.stamp, job) for job in batch.running.values() if job.decoding and batch.needs_block(job)]

    def _decodes_come_first(self, plan: Plan) -> bool:
        batch = self.batch
        if not batch.prefilling:
            return True
        rest = sum(min(plan.cap, job.tokens - job.computed) for job in batch.prefilling.values())
        if batch.decodes + rest <= plan.budget:
            return True
        prefilling = batch.prefilling
        tail = zip(range(len(prefilling)), reversed(batch.running), strict=False)
        return batch.decodes <= plan.budget and all(index in prefilling for _, index in tail)

    def _decode(self, plan: Plan, job: Job, every: bool) -> bool:
        """Extend one decoding sequence by its token; False when it preempted itself."""
        batch = self.batch
        if every:
            if plan.budget == 0:
                plan.stalled.append(job)
                batch.hold_back(job)
                return True
            if batch.needs_block(job) and not self._grow(plan, job, job.base + batch.step, every):
                return False
            plan.budget -= 1
            return True
        return self._grow(plan, job, job.base + batch.step, every)

    def _prefill(self, plan: Plan, job: Job, every: bool) -> bool:
        """Extend one prefilling sequence by its next chunk; False when it preempted itself."""
        tokens = min(job.tokens - job.computed, plan.cap, plan.budget)
        if tokens <= 0:
            return True
        if not self._grow(plan, job, job.computed + tokens, every):
            return False
        plan.budget -= tokens
        job.computed += tokens
        job.chunk = tokens
        plan.chunks[job.index] = (job, tokens)
        return True

    def _grow(self, plan: Plan, job: Job, tokens: int, every: bool) -> bool:
        """Get memory for the sequence, preempting others while there is none (rule E1)."""
        computed = tokens - 1 if job.decoding else job.computed
        flight = self.in_flight.get(job.index, 0)
        if job.decoding:
            job.tokens = tokens - (1 if flight else 0)
        job.computed = computed - flight
        self.dirty = True
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
        self._lease(job, lease, tokens)
        return True

    def _lease(self, job: Job, lease: Lease, tokens: int) -> None:
        if self.batch.block_size:
            self.batch.cover(job, tokens)
            return
        job.lease = lease
        reach = self.policy.reach(job, lease, job.final)
        self.reach += reach - job.reach
        job.reach = reach
        if job.decoding:
            self.batch.expect(job)

    def _stops_at_own_preemption(self) -> bool:
        """Rule E5: in 0.32 a self-preemption under `priority` ends the running loop."""
        return self.limits.vllm_version == "0.32" or self.limits.scheduling_policy != "priority"

    def _pass_over_behind(self, plan: Plan, stamp: int) -> None:
        stalled = plan.stalled_rows()
        for job in reversed(self.batch.running.values()):
            if job.stamp < stamp:
                break
            if job.decoding and job.index not in stalled:
                plan.stalled.append(job)
                self.batch.hold_back(job)

    def _preempt(self, plan: Plan, victim: Job, grower: Job, every: bool) -> None:
        """Throw a running sequence out, wherever this step has got to with it (rules E2 to E4)."""
        batch = self.batch
        if victim.index in self.ending:
            del self.ending[victim.index]
            lost = victim.computed
            victim.computed -= self.in_flight.get(victim.index, 0)
        elif victim.decoding:
            is_scheduled = victim.stamp < grower.stamp
            if not is_scheduled:
                batch.hold_back(victim)
            batch.leave(victim)
            lost = victim.computed - is_scheduled
            victim.tokens = lost + 1
            victim.computed -= self.in_flight.get(victim.index, 0)
            plan.budget += is_scheduled or not every
            if victim.index not in self.stalled:
                victim.last_token = self.last_end
        else:
            _, tokens = plan.chunks.pop(victim.index, (victim, 0))
            plan.budget += tokens
            lost = victim.computed - tokens
            batch.prefilling.pop(victim.index)
        self.stalled.pop(victim.index, None)
        del batch.running[victim.index]
        self.policy.release(victim, finished=False)
        self._forget(victim)
        victim.stamp = -1
        victim.computed = 0
        victim.chunk = 1
        victim.lost = lost
        victim.preemptions += 1
        plan.preempted.append(victim)
        self.waiting.put_back(victim)
        self.blocked = None

    def _forget(self, job: Job) -> None:
        """Take a sequence that gives its memory back out of the sums over what sequences hold."""
        self.batch.uncover(job)
        self.reach -= job.reach
        job.reach = 0

    def _admit(self, plan: Plan, now: float) -> None:
        """Admit waiting requests until one cannot be (rules S3 to S5, S8)."""
        waiting, limits = self.waiting, self.limits
        while plan.budget > 0 and len(self.batch.running) < limits.max_num_seqs:
            job = waiting.head()
            if job is None or job is self.blocked:
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
                self.blocked = job if self.policy.refusal_holds and only_decodes else None
                return
            waiting.take()
            self._enter(plan, job, match.tokens, match.restored, tokens, lease, now)

    def _enter(
        self, plan: Plan, job: Job, found: int, restored: int, tokens: int, lease: Lease, now: float
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
            job.first_scheduled = max(now, self.last_end)
            self.first_admission_tokens += job.tokens
        self.batch.running[job.index] = job
        self.batch.prefilling[job.index] = job
        self._lease(job, lease, job.computed)
        self.dirty = True
