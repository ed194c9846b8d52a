"""The fast lane: step after step of counted blocks in one loop."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

from kvsim.admission import waited
from kvsim.cost import Line, Step
from kvsim.job import Job
from kvsim.ledger import BUFFER
from kvsim.policy import NO_MATCH
from kvsim.waiting import FirstCome

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvsim.arrivals import Arrivals
    from kvsim.replica import Replica


class Lane:
    """What `Planner`, `Replica` and `Stretch` do together, for steps in which nobody is passed over or preempted.

    The rules are theirs, and so are all figures, to the last bit. What is saved is what calls cost: `run` keeps in
    variables of its own whatever a step changes. It stops before the first step that needs one of them.
    """

    def __init__(
        self, replica: Replica, source: Arrivals | None, finished: Callable[[Job, float], bool]
    ) -> None:
        """Serve one replica; arrivals are taken from `source`, if there is one.

        `finished` is told who has its last token and when, and answers whether the lane may go on.
        """
        self._replica = replica
        self._source = source
        self._finished = finished
        self._lines: dict[int, Line] = {}
        self._line_of = getattr(replica.cost, "decode_line", None)
        self._discounts = getattr(replica.cost, "discounts_sharing", False)
        self._count_steps = getattr(replica.cost, "count_steps", None)
        limits, queue = replica.planner.limits, replica.planner.waiting
        self._waiting = queue.jobs if isinstance(queue, FirstCome) else deque()
        self.is_open = (
            replica.batch.block_size > 0
            and type(queue) is FirstCome
            and self._line_of is not None
            and not replica.batch.windowed
            and not limits.long_prefill_token_threshold
            and limits.scheduler == "vllm"
        )
        """Whether this run can use it."""

    def run(self, now: float, until: float) -> float:
        """Take steps until one ends at `until` or later, or one needs a plan; return when the last ends."""
        replica, source, planner = self._replica, self._source, self._replica.planner
        batch, ledger, policy, waiting = replica.batch, replica.ledger, replica.policy, self._waiting
        if planner.stalled or (batch.running and now != planner.last_end):
            return now
        most_tokens, most_running = planner.limits.max_num_batched_tokens, planner.limits.max_num_seqs
        running, prefilling, phases, size = batch.running, batch.prefilling, batch.phases, batch.block_size
        marks, last_steps, pads = batch.marks, batch.last_steps, batch.pads
        rows, end_row, hold_row, entries = ledger.ends, ledger.ends.append, ledger.held.append, ledger.entries
        weight = policy.slots_per_token
        slots = weight * size
        step, decodes, context = batch.step, batch.decodes, batch.context
        total, finds = policy.capacity, policy.shares_prefixes
        goes_on, arrival, gaps = True, inf if source is None else source.next, 0
        ledger.pause(now)
        holding, shared, reusable, _ = policy.usage(None)
        while now < until and goes_on:
            if arrival <= now:
                assert source is not None
                jobs = source.take(now)
                arrival = source.next
                if jobs:
                    # Nobody can be first in line now who was not before, so whoever was refused stays refused.
                    waiting += jobs
                    ledger.waited += waited(jobs, now)
            finished: list[Job] = []
            if prefilling or (waiting and waiting[0] is not planner.blocked and len(running) < most_running):
                # Some compute a prompt: the one that has begun, then those that wait, after the decodes.
                budget, wanted = most_tokens - decodes, phases[-step % size]
                spare = policy.spare_blocks - wanted
                if budget <= 0 or spare < 0 or (prefilling and not self._may_go_on(budget, spare)):
                    break
                if wanted:
                    policy.take_blocks(wanted)
                chunks = self._go_on(budget) if prefilling else []
                if waiting:
                    self._admit(chunks, budget, now)
                if not chunks and not decodes:
                    break
                step += 1
                context += decodes
                gaps += decodes
                if finds:
                    _, shared, reusable, _ = policy.usage(None)
                holding = total - policy.spare_blocks * slots
                work = self._work(chunks, decodes, context, shared // weight)
                now += replica.cost.seconds(work)
                end_row(now)
                hold_row(holding)
                placed, live = work.context, weight * work.context - shared
                entries += (1, 1, work.tokens, len(running), len(waiting), 0, reusable, shared, live)
                entries += (0, placed, 0, decodes)
                for job in chunks:
                    length, final = job.computed, job.final
                    if not job.pad and length > (final - 1) // size * size:
                        job.pad = -final % size
                        pads += (2 * step, job.pad)
                    if length < job.tokens:
                        continue
                    # Its prompt is done, and its first token out.
                    if prefilling:
                        prefilling.pop(job.index, None)
                    job.tokens += 1
                    if job.first_token != job.first_token:
                        job.first_token = now
                    else:
                        ledger.gaps.add(now - job.last_token, 1)
                    if length == final:
                        pads += (2 * step + 1, -job.pad)
                        finished.append(job)
                        continue
                    job.decoding = True
                    job.base = base = length - step
                    job.chunk = 1
                    decodes += 1
                    context += length
                    phases[base % size] += 1
                    end = final - base
                    last_steps[end].append((job.stamp, job))
                    marks.add(end)
                    if job.pad:
                        pads += (2 * end + 1, -job.pad)
                    elif pad := -final % size:
                        job.pad = pad
                        job.due = due = (final - 1) // size * size + 1 - base
                        pads += (2 * due, pad, 2 * end + 1, -pad)
            else:
                # Everybody decodes, until somebody has the last token, or comes, or memory could be short.
                line = self._line(decodes, context + decodes, shared)
                before, spare = step, policy.spare_blocks
                if line is None or phases[-step % size] > spare:
                    break
                fixed, rate, longest, _, is_measured = line
                most = min((longest - context) // decodes, BUFFER - len(rows))
                # In `size` steps everybody takes one block.
                rounds, spare = divmod(spare, decodes)
                if rounds * size < most:
                    most = rounds * size + (self._partial_round(step, spare) if rounds < 4 else 0)
                placed, held, horizon = context + decodes, holding, arrival if arrival < until else until
                for step in range(before + 1, before + 1 + most):  # noqa: B020, PLW2901
                    holding += phases[(1 - step) % size] * slots
                    context += decodes
                    now += fixed + rate * context
                    end_row(now)
                    hold_row(holding)
                    if step in marks or now >= horizon:
                        break
                if holding > held:
                    policy.take_blocks((holding - held) // slots)
                if self._count_steps is not None:
                    self._count_steps(step - before, is_measured, shared > 0)
                gaps += decodes
                live, more = weight * placed - shared, weight * decodes
                entries += (step - before, 1, decodes, len(running), len(waiting), 0, reusable, shared, live)
                entries += (more, placed, decodes, decodes)
            if len(rows) >= BUFFER:
                ledger.sum_up()
            if step in marks:
                marks.discard(step)
                for stamp, job in last_steps.pop(step, ()):
                    if job.stamp != stamp or not job.decoding:
                        continue
                    if job.base + step != job.final:
                        # Somebody else's step passed it over once.
                        last_steps[job.final - job.base].append((stamp, job))
                        marks.add(job.final - job.base)
                        continue
                    job.decoding = False
                    job.computed = job.final
                    job.tokens = job.final + 1
                    decodes -= 1
                    context -= job.final
                    phases[job.base % size] -= 1
                    finished.append(job)
            if finished:
                if len(finished) > 1:
                    finished.sort(key=_stamp)
                planner.blocked = None
                for job in finished:
                    del running[job.index]
                    policy.release(job, True)
                    if not self._finished(job, now):
                        goes_on = False
                if finds:
                    _, shared, reusable, _ = policy.usage(None)
                holding = total - policy.spare_blocks * slots
        batch.step, batch.decodes, batch.context = step, decodes, context
        planner.last_end = ledger.now = now
        ledger.gaps.noted += gaps
        replica.hold(now)
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
        planner, policy, waiting = self._replica.planner, self._replica.policy, self._waiting
        running, prefilling = self._replica.batch.running, self._replica.batch.prefilling
        for job in chunks:
            budget -= job.chunk
        finds, in_chunks = policy.shares_prefixes, planner.limits.enable_chunked_prefill
        match = NO_MATCH
        while waiting and budget and len(running) < planner.limits.max_num_seqs:
            job = waiting[0]
            if job is planner.blocked:
                return
            if finds:
                match = policy.lookup(job)
            tokens = job.tokens - match.tokens
            is_whole = tokens <= budget
            if not is_whole and in_chunks:
                tokens = budget
            if tokens > budget or policy.admit(job, match, tokens) is None:
                planner.blocked = job if policy.refusal_holds and not chunks else None
                return
            waiting.popleft()
            planner.enter(job, match, now)
            if not is_whole:
                prefilling[job.index] = job
            budget -= tokens
            job.chunk = tokens
            job.computed = match.tokens + tokens
            chunks.append(job)

    def _work(self, chunks: list[Job], decodes: int, context: int, shared: int) -> Step:
        """Return what a step computes; see `Account.step`."""
        if not chunks:
            return Step(decodes, context, decodes, (context,), decode_shared=shared)
        lengths = computed = area = 0
        for job in chunks:
            length, tokens = job.computed, job.chunk
            lengths += length
            computed += tokens
            area += tokens * (2 * length - tokens + 1) // 2
            shared -= job.found
        return Step(
            decodes + computed,
            context + lengths,
            decodes,
            (context,),
            len(chunks),
            computed,
            (lengths,),
            (area,),
            max(0, shared),
        )

    def _partial_round(self, step: int, blocks: int) -> int:
        """Return for how many decode steps after one these blocks are enough; not for a whole round."""
        phases, steps = self._replica.batch.phases, 0
        size = len(phases)
        while (blocks := blocks - phases[-(step + steps) % size]) >= 0:
            steps += 1
        return steps

    def _line(self, decodes: int, context: int, shared: int) -> Line | None:
        """Return the line that prices steps of so many sequences at this Σ context; see `Stretch`."""
        if not decodes or (self._discounts and shared):
            return None
        line = self._lines.get(decodes)
        if line is None or not line.since <= context <= line.until:
            line = self._line_of(decodes, context)
            if line is not None:
                self._lines[decodes] = line
        return line


def _stamp(job: Job) -> int:
    return job.stamp
