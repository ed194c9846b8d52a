"""Many decode steps at once: the loop in which a run spends its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kvsim.cost import Line
from kvsim.decode_lines import DecodeLines
from kvsim.job import Job, by_stamp

if TYPE_CHECKING:
    from kvsim.moves import Moves
    from kvsim.plan import Plan
    from kvsim.replica import Replica

Finished = Callable[[Job, float], bool]
NO_LINE = Line(0.0, 0.0, 1 << 62)


class Stretch:
    """Steps in which everybody decodes, taken without planning each.

    While nobody prefills and nobody can be admitted, a step differs from the one before by one token for each
    sequence. All that has to be looked at is whether a calendar has an entry for it, whether the blocks it needs
    are there, and whether it ends before something else happens. What it costs and holds is the same, to the last
    bit, as if it had been planned by itself.
    """

    def __init__(self, replica: Replica, finished: Finished) -> None:
        """Serve one replica; `finished` is told who has its last token and when, and answers whether it may go on."""
        self._replica = replica
        self._finished = finished
        self._discounts = getattr(replica.cost, "discounts_sharing", False)
        self._count_steps = getattr(replica.cost, "count_steps", None)
        self._lines = DecodeLines(replica)
        self._goes_on = True
        self._block_slots = replica.batch.block_size * replica.policy.slots_per_token // replica.batch.tables
        self._width = replica.planner.width
        self._most_decodes = replica.planner.limits.max_num_batched_tokens // self._width

    def run(self, now: float, horizon: float) -> float:
        """Take steps until one ends at `horizon` or later, or one needs a plan; return when the last ends."""
        replica = self._replica
        self._goes_on = True
        while now < horizon and self._goes_on and self._is_plain():
            if replica.planner.dirty:
                replica.hold(now)
            now = self._take(now, horizon)
        return now

    def end(self, plan: Plan, now: float) -> float | None:
        """Take a planned step at once, and return when it ends; None if somebody is or was passed over."""
        replica = self._replica
        batch, planner, ledger = replica.batch, replica.planner, replica.ledger
        if plan.preempted or plan.stalled or planner.stalled or (batch.decodes and now != planner.last_end):
            return None
        if planner.dirty or replica.policy.reads_lengths:
            replica.hold(now)
        work = replica.account.step(plan, ledger.shared)
        seconds = max(replica.cost.seconds(work), replica.policy.transfers_beside())
        end = now + (seconds + replica.policy.transfers())
        live, placed = replica.account.live({})
        ledger.planned(end, live, placed, work.tokens, work.decodes)
        planner.last_end = end
        finished = []
        for job, _ in plan.chunks.values():
            if job.computed < job.tokens:
                continue
            if job.first_token != job.first_token:
                job.first_token = end
            else:
                ledger.gaps.add(end - job.last_token, self._width, end)
            del batch.prefilling[job.index]
            job.tokens += 1
            if job.computed < job.final:
                batch.join(job)
            else:
                batch.uncover(job, 2 * batch.step + 1)
                finished.append(job)
        self._let_go(finished + batch.finish(), end)
        return end

    def _is_plain(self) -> bool:
        """Tell whether all that happens in the next step is that everybody who runs decodes."""
        replica = self._replica
        batch, planner, policy = replica.batch, replica.planner, replica.policy
        decodes = batch.decodes
        if not decodes or decodes != len(batch.running) or planner.stalled:
            return False
        if decodes > self._most_decodes or planner.may_admit():
            return False
        if policy.reads_lengths or batch.begins_chunk(batch.step + 1):
            return False
        if batch.moves is not None:
            return self._is_quiet()
        if batch.block_size:
            return batch.phases[-batch.step % batch.block_size] <= policy.spare_blocks
        return not batch.has_due(batch.step + 1)

    def _take(self, now: float, horizon: float) -> float:
        """Take the next step, and those after it up to one at which somebody ends or may have to ask."""
        replica = self._replica
        batch, ledger, policy = replica.batch, replica.ledger, replica.policy
        step, phases = batch.step, batch.phases
        decodes, context = batch.decodes * self._width, batch.context * self._width
        placed = context + decodes
        marks, size, slots = batch.marks, len(phases), self._block_slots
        spare, room = self._limits(batch.moves) if batch.moves else (policy.spare_blocks, ledger.room)
        before, holding, stops = spare, ledger.holding, False
        line = self._line(decodes, context + decodes)
        prices = None if line else self._prices()
        fixed, rate, until, _, is_measured = line or NO_LINE
        most = min(until - decodes, context + decodes * (room - 1))
        end_row, hold_row = ledger.ends.append, ledger.held.append
        wanted = phases[-step % size]
        while True:
            step += 1
            if wanted:
                spare -= wanted
                holding += wanted * slots
            context += decodes
            now += fixed + rate * context if prices is None else next(prices)
            end_row(now)
            hold_row(holding)
            if step in marks:
                stops = True
                break
            wanted = phases[-step % size]
            if now >= horizon or wanted > spare or context > most:
                break
        steps = step - batch.step
        if batch.moves or spare != before:
            self._hand_out(before - spare, steps)
        ledger.decoded(steps, holding, decodes, placed, *replica.account.decoding())
        if line and self._count_steps is not None:
            self._count_steps(steps, is_measured, ledger.shared > 0)
        replica.planner.last_end = now
        batch.jump(steps)
        if stops:
            marks.discard(step)
            batch.settle()
            self._let_go(batch.finish(), now)
        return now

    def _limits(self, moves: Moves) -> tuple[int, int]:
        """Return how many spare blocks all asking may come to, and how many rows follow before one needs a look."""
        replica = self._replica
        spare, room = replica.policy.spare_blocks, replica.ledger.room
        if replica.planner.blocked is not None:
            room = min(room, moves.steps_below(replica.batch.step, spare, replica.policy.admits_from))
        # What is given back in a step does not help those who ask before it is.
        return spare - max(moves.residues), room

    def _is_quiet(self) -> bool:
        """Tell whether everybody gets a block for the next step, and windows give back none but on their own."""
        replica = self._replica
        batch, policy = replica.batch, replica.policy
        step, spare = batch.step, policy.spare_blocks
        assert batch.moves is not None
        if batch.moves.late or batch.wanted(step + 1) > spare:
            return False
        return replica.planner.blocked is None or batch.moves.steps_below(step, spare, policy.admits_from) > 0

    def _hand_out(self, blocks: int, steps: int) -> None:
        """Give decoding sequences so many blocks more than their windows gave back in the last so many rows."""
        replica, slots = self._replica, self._block_slots
        if replica.batch.moves is not None:
            moves = replica.batch.moves.ahead(replica.batch.step, steps)
            moved = sum([count for _, count in moves])
            if moved:
                blocks += moved
                replica.policy.take_back(moved)
                row = len(replica.ledger.ends) - steps
                replica.ledger.moved([(row + number, count * slots) for number, count in moves])
        if blocks:
            replica.policy.take_blocks(blocks)

    def _line(self, decodes: int, context: int) -> Line | None:
        """Return the line that prices steps of so many sequences at this Σ context, if the cost model has one."""
        if self._discounts and self._replica.ledger.shared:
            return None
        return self._lines.find(decodes, context)

    def _prices(self) -> Iterator[float]:
        """Price one step after another."""
        price, shared = self._replica.cost.seconds, self._replica.ledger.shared
        return (price(step) for step in self._replica.account.decode_steps(shared))

    def _let_go(self, finished: list[Job], now: float) -> None:
        """Let sequences go that have their last token."""
        if not finished:
            return
        finished.sort(key=by_stamp)
        replica, tell = self._replica, self._finished
        let_go = replica.planner.let_go
        for job in finished:
            let_go(job)
            if not tell(job, now):
                self._goes_on = False
        replica.hold(now)
