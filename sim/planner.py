"""Which sequences compute how many tokens in a step, and who has to leave for it (vLLM's rules S, E and Y)."""

from __future__ import annotations

from kvsim.admission import Admission
from kvsim.job import Job
from kvsim.plan import Plan
from kvsim.policy import Lease


class Planner(Admission):
    """Decide steps: extend the running, preempt where memory is short, then open the door to the waiting."""

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
            if batch.moves is not None:
                batch.moves.scheduled(plan.stalled)
            if batch.windowed:
                batch.settle()
        if not plan.preempted and (was_empty or limits.scheduler == "vllm"):
            self.admit(plan, now)
        return plan

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
            plan.budget -= batch.decodes * self.width
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
        batch, policy, decodes = self.batch, self.policy, self.batch.decodes * self.width
        if batch.prefilling or self.ending or decodes > plan.budget or batch.has_due(batch.step):
            return False
        if batch.block_size:
            wanted = batch.wanted(batch.step)
            if wanted > policy.spare_blocks:
                return False
            if wanted:
                policy.take_blocks(wanted)
                self.dirty = True
            self._take_back()
        plan.budget -= decodes
        return True

    def _counted(self, plan: Plan, every: bool) -> list[tuple[int, Job]]:
        """Take the blocks that decodes need at once if they are there; else return who has to ask for one."""
        batch, policy, size = self.batch, self.policy, self.batch.block_size
        self.dirty = True
        wanted = batch.wanted(batch.step)
        chunks = len(batch.prefilling) * (min(plan.cap, plan.budget) // size + 1) * batch.tables
        if not every and wanted + chunks <= policy.spare_blocks:
            policy.take_blocks(wanted)
            self._take_back()
            return []
        return [(job.stamp, job) for job in batch.running.values() if job.decoding and batch.needs_block(job)]

    def _take_back(self) -> None:
        """Take back what leaves the windows of the decoding sequences, all of which get their token in this step."""
        moves = self.batch.moves
        if moves is not None and (blocks := moves.before(self.batch.step)):
            self.policy.take_back(blocks)
            self.dirty = True

    def _decodes_come_first(self, plan: Plan) -> bool:
        batch, decodes = self.batch, self.batch.decodes * self.width
        if not batch.prefilling:
            return True
        rest = sum(min(plan.cap, job.tokens - job.computed) for job in batch.prefilling.values())
        if decodes + rest <= plan.budget:
            return True
        prefilling = batch.prefilling
        tail = zip(range(len(prefilling)), reversed(batch.running), strict=False)
        return decodes <= plan.budget and all(index in prefilling for _, index in tail)

    def _decode(self, plan: Plan, job: Job, every: bool) -> bool:
        """Extend one decoding sequence by its token; False when it preempted itself."""
        batch = self.batch
        if every:
            if plan.budget < self.width:
                plan.stalled.append(job)
                batch.hold_back(job)
                return True
            if batch.needs_block(job) and not self._grow(plan, job, job.base + batch.step, every):
                return False
            plan.budget -= self.width
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
        self.lease(job, lease, tokens)
        return True

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
            batch.uncover(victim, 2 * batch.step)
            batch.leave(victim)
            lost = victim.computed - is_scheduled
            victim.tokens = lost + 1
            victim.computed -= self.in_flight.get(victim.index, 0)
            plan.budget += self.width * (is_scheduled or not every)
            if victim.index not in self.stalled:
                victim.last_token = self.last_end
        else:
            _, tokens = plan.chunks.pop(victim.index, (victim, 0))
            plan.budget += tokens
            lost = victim.computed - tokens
            batch.uncover(victim, 2 * batch.step)
            batch.prefilling.pop(victim.index)
        self.stalled.pop(victim.index, None)
        del batch.running[victim.index]
        victim.lost = lost
        self.policy.release(victim, finished=False)
        self.forget(victim)
        victim.stamp = -1
        victim.computed = 0
        victim.chunk = 1
        victim.preemptions += 1
        plan.preempted.append(victim)
        self.waiting.put_back(victim)
        self.blocked = None
