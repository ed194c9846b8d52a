"""The common course of events where blocks are counted: requests come, are computed, decode and leave."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

from kvsim.admission import waited
from kvsim.decode_lines import DecodeLines
from kvsim.job import Job, by_stamp
from kvsim.ledger import BUFFER
from kvsim.mixed import MixedSteps
from kvsim.waiting import FirstCome

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvsim.arrivals import Arrivals
    from kvsim.replica import Replica


class Lane:
    """What `Planner`, `Replica` and `Stretch` do for steps in which nobody is passed over or preempted.

    The rules are theirs, and so are all figures, to the last bit. What is saved are calls, which are most of what a
    request costs; their bodies are written out here. The lane stops before the first step that needs a plan, with
    nothing to be undone.
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
        self._goes_on = True
        self._mixed = MixedSteps(replica)
        self._lines = DecodeLines(replica)
        self._discounts = getattr(replica.cost, "discounts_sharing", False)
        self._count_steps = getattr(replica.cost, "count_steps", None)
        self._weight = replica.policy.slots_per_token
        limits, queue = replica.planner.limits, replica.planner.waiting
        self._most_running = limits.max_num_seqs
        self._waiting: deque[Job] = queue.jobs if isinstance(queue, FirstCome) else deque()
        self.is_open = (
            replica.batch.block_size > 0
            and limits.width == 1
            and type(queue) is FirstCome
            and self._lines.are_there
            and replica.batch.tables == 1
            and not replica.batch.windowed
            and not limits.long_prefill_token_threshold
            and limits.scheduler == "vllm"
        )
        """Whether this run can use it."""

    def run(self, now: float, until: float) -> float:
        """Take steps until one ends at `until` or later, or one needs a plan; return when the last ends."""
        replica, source, waiting = self._replica, self._source, self._waiting
        batch, planner, ledger, mixed = replica.batch, replica.planner, replica.ledger, self._mixed
        if planner.stalled or (batch.running and now != planner.last_end):
            return now
        if planner.dirty or now != ledger.now:
            replica.hold(now)
        running, prefilling, most_running = batch.running, batch.prefilling, self._most_running
        arrival = inf if source is None else source.next
        self._goes_on = True
        end: float | None = now
        while now < until and self._goes_on:
            if arrival <= now and source is not None:
                jobs = source.take(now)
                arrival = source.next
                if jobs:
                    # They are behind whoever was refused.
                    waiting += jobs
                    ledger.waited += waited(jobs, now)
            if prefilling or (waiting and waiting[0] is not planner.blocked and len(running) < most_running):
                end = mixed.take(now)
            else:
                end = self._decode(now, arrival if arrival < until else until)
            if end is None:
                break
            now = end
            if len(ledger.ends) >= BUFFER:
                ledger.sum_up()
            if batch.step in batch.marks or mixed.done:
                self._leave(now)
        planner.last_end = ledger.now = now
        replica.hold(now)
        return now

    def _decode(self, now: float, horizon: float) -> float | None:
        """Take steps in which everybody decodes; None if the next one is none. See `Stretch._take`."""
        replica = self._replica
        batch, ledger, policy = replica.batch, replica.ledger, replica.policy
        decodes, context, before, phases = batch.decodes, batch.context, batch.step, batch.phases
        spare, size, marks = policy.spare_blocks, batch.block_size, batch.marks
        if not decodes or phases[-before % size] > spare or (self._discounts and ledger.shared):
            return None
        line = self._lines.find(decodes, context + decodes)
        if line is None:
            return None
        fixed, rate, longest, _, is_measured = line
        most = min((longest - context) // decodes, BUFFER - len(ledger.ends))
        # In so many steps as a block has tokens, everybody takes one.
        rounds, spare = divmod(spare, decodes)
        if rounds * size < most:
            most = rounds * size + (self._partial_round(spare) if rounds < 4 else 0)
        end_row, hold_row, slots = ledger.ends.append, ledger.held.append, size * self._weight
        held = holding = ledger.holding
        placed = context + decodes
        for step in range(before + 1, before + 1 + most):
            holding += phases[(1 - step) % size] * slots
            context += decodes
            now += fixed + rate * context
            end_row(now)
            hold_row(holding)
            if step in marks or now >= horizon:
                break
        if holding > held:
            policy.take_blocks((holding - held) // slots)
            ledger.holding = holding
        steps, shared = step - before, ledger.shared
        if self._count_steps is not None:
            self._count_steps(steps, is_measured, shared > 0)
        batch.step, batch.context = step, context
        live, more, waiting = self._weight * placed - shared, self._weight * decodes, len(self._waiting)
        ledger.entries += (steps, 1, decodes, decodes, waiting, 0, shared, ledger.reusable, shared)
        ledger.entries += (live, more, placed, decodes, decodes)
        ledger.gaps.noted += 1
        return now

    def _partial_round(self, blocks: int) -> int:
        """Return for how many decode steps these blocks are enough, which must be fewer than a round takes."""
        batch, steps = self._replica.batch, 0
        while (blocks := blocks - batch.phases[-(batch.step + steps) % batch.block_size]) >= 0:
            steps += 1
        return steps

    def _leave(self, now: float) -> None:
        """Let everybody go who has the last token; see `Batch.finish` and `Admission.let_go`."""
        replica, done = self._replica, self._mixed.done
        batch, step = replica.batch, replica.batch.step
        batch.marks.discard(step)
        for stamp, job in batch.last_steps.pop(step, ()):
            if job.stamp != stamp or not job.decoding:
                continue
            if job.base + step != job.final:
                # It was passed over once.
                batch.last_steps[job.final - job.base].append((stamp, job))
                batch.marks.add(job.final - job.base)
                continue
            job.decoding = False
            job.computed = job.final
            job.tokens = job.final + 1
            batch.decodes -= 1
            batch.context -= job.final
            batch.phases[job.base % batch.block_size] -= 1
            done.append(job)
        if not done:
            return
        if len(done) > 1:
            done.sort(key=by_stamp)
        replica.planner.blocked = None
        for job in done:
            del batch.running[job.index]
            replica.policy.release(job, True)
            if not self._finished(job, now):
                self._goes_on = False
        done.clear()
        self._mixed.hold()
