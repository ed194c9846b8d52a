"""Steps in which some compute a prompt while all others decode: the part of the fast lane before the first token."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from kvsim.cost import Step
from kvsim.job import Job
from kvsim.policy import NO_MATCH
from kvsim.waiting import FirstCome

if TYPE_CHECKING:
    from kvsim.replica import Replica


class MixedSteps:
    """What planner, account and replica do for a step with prompts, if nobody is passed over or preempted."""

    def __init__(self, replica: Replica) -> None:
        """Serve one replica whose policy counts blocks."""
        self._replica = replica
        self._finds = replica.policy.shares_prefixes
        self._weight = replica.policy.slots_per_token
        limits, queue = replica.planner.limits, replica.planner.waiting
        self._most_tokens, self._most_running = limits.max_num_batched_tokens, limits.max_num_seqs
        self._in_chunks = limits.enable_chunked_prefill
        self._waiting: deque[Job] = queue.jobs if isinstance(queue, FirstCome) else deque()
        self.done: list[Job] = []
        """Who got the first and last token in the step just taken."""

    def take(self, now: float) -> float | None:
        """Take a step in which prompts are computed, and return when it ends; None if it needs a plan."""
        replica = self._replica
        batch, ledger, policy = replica.batch, replica.ledger, replica.policy
        decodes, prefilling = batch.decodes, batch.prefilling
        budget, wanted = self._most_tokens - decodes, batch.phases[-batch.step % batch.block_size]
        spare = policy.spare_blocks - wanted
        if budget <= 0 or spare < 0 or (prefilling and not self._may_go_on(budget, spare)):
            return None
        if wanted:
            policy.take_blocks(wanted)
        chunks = self._go_on(budget) if prefilling else []
        if self._waiting:
            self._admit(chunks, budget, now)
        if not chunks and not decodes:
            return None
        batch.step += 1
        batch.context += decodes
        self.hold()
        work = self._work(chunks)
        now += replica.cost.seconds(work)
        ledger.ends.append(now)
        ledger.held.append(ledger.holding)
        tokens, placed, shared = work.tokens, work.context, ledger.shared
        running, waiting, live = len(batch.running), len(self._waiting), self._weight * placed
        ledger.entries += (1, 1, tokens, running, waiting, 0, shared, ledger.reusable, shared)
        ledger.entries += (live - shared, 0, placed, 0, decodes)
        if decodes:
            ledger.gaps.noted += 1
        if chunks:
            self._begin(chunks, now)
        return now

    def _may_go_on(self, budget: int, spare: int) -> bool:
        """Tell whether the only prompt under way is behind all decodes, and its next blocks are there."""
        batch = self._replica.batch
        if len(batch.prefilling) > 1 or next(reversed(batch.running)) not in batch.prefilling:
            return False
        return budget // batch.block_size + 1 <= spare

    def _go_on(self, budget: int) -> list[Job]:
        """Let the prompt under way have its next chunk."""
        (job,) = self._replica.batch.prefilling.values()
        job.chunk = tokens = min(job.tokens - job.computed, budget)
        self._replica.policy.grow(job, job.computed + tokens)
        job.computed += tokens
        return [job]

    def _admit(self, chunks: list[Job], budget: int, now: float) -> None:
        """Admit waiting requests until one cannot be; see `Admission.admit`."""
        replica, waiting = self._replica, self._waiting
        batch, planner, policy = replica.batch, replica.planner, replica.policy
        for job in chunks:
            budget -= job.chunk
        match = NO_MATCH
        while waiting and budget and len(batch.running) < self._most_running:
            job = waiting[0]
            if job is planner.blocked:
                return
            if self._finds:
                match = policy.lookup(job)
            tokens = job.tokens - match.tokens
            is_whole = tokens <= budget
            if not is_whole and self._in_chunks:
                tokens = budget
            if tokens > budget or policy.admit(job, match, tokens) is None:
                planner.blocked = job if policy.refusal_holds and not chunks else None
                return
            waiting.popleft()
            planner.enter(job, match, now)
            if not is_whole:
                batch.prefilling[job.index] = job
            budget -= tokens
            job.chunk = tokens
            job.computed = match.tokens + tokens
            chunks.append(job)

    def hold(self) -> None:
        """Note what is held; see `Replica.hold`."""
        ledger, policy = self._replica.ledger, self._replica.policy
        if self._finds:
            ledger.holding, ledger.shared, ledger.reusable, _ = policy.usage(None)
        else:
            ledger.holding = policy.capacity - policy.spare_blocks * self._weight * policy.counted_block

    def _work(self, chunks: list[Job]) -> Step:
        """Return what the step computes; see `Account.step`."""
        batch, shared = self._replica.batch, self._replica.ledger.shared
        decodes, context = batch.decodes, batch.context
        lengths = computed = area = found = 0
        for job in chunks:
            length, tokens = job.computed, job.chunk
            lengths += length
            computed += tokens
            area += tokens * (2 * length - tokens + 1) // 2
            found += job.found
        if shared:
            shared = max(0, shared // self._weight - found)
        longest = 0 if batch.longest is None else batch.longest.at(batch.step)
        if not chunks:
            return Step(decodes, context, decodes, (context,), 0, 0, (), (), shared, longest)
        tokens, reads = decodes + computed, context + lengths
        return Step(
            tokens, reads, decodes, (context,), len(chunks), computed, (lengths,), (area,), shared, longest
        )

    def _begin(self, chunks: list[Job], now: float) -> None:
        """Let those whose prompts are done decode from here on; see `Batch.join`."""
        batch = self._replica.batch
        step, size, pads, prefilling = batch.step, batch.block_size, batch.pads, batch.prefilling
        for job in chunks:
            length, final = job.computed, job.final
            last_block = (final - 1) // size * size
            if length > last_block and not job.pad:
                job.pad = -final % size
                pads += (2 * step, job.pad)
            if length < job.tokens:
                continue
            if prefilling:
                prefilling.pop(job.index, None)
            job.tokens += 1
            if job.first_token != job.first_token:
                job.first_token = now
            else:
                self._replica.ledger.gaps.add(now - job.last_token, 1, now)
            if length == final:
                pads += (2 * step + 1, -job.pad)
                self.done.append(job)
                continue
            job.decoding = True
            job.chunk = 1
            job.base = base = length - step
            batch.decodes += 1
            batch.context += length
            batch.phases[base % size] += 1
            end = final - base
            if batch.longest is not None:
                batch.longest.add(job, batch.decodes)
            batch.last_steps[end].append((job.stamp, job))
            batch.marks.add(end)
            if job.pad:
                pads += (2 * end + 1, -job.pad)
            elif pad := -final % size:
                job.pad = pad
                job.due = due = last_block + 1 - base
                pads += (2 * due, pad, 2 * end + 1, -pad)
