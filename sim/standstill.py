"""Tell a run that would go on for ever: the same preemptions over and over, and no token between them."""

from __future__ import annotations

from kvsim.replica import Planned, Replica

PATIENCE = 256
"""Steps with preemptions and no token between them that pass before a look at the state is worth its cost."""

State = tuple[object, ...]


class Standstill:
    """Watches the steps that preempt.

    A step without any output leaves only the prefills' progress and the order of the queues changed. When
    these are again what they were, with no output since, the steps between will repeat for ever: new arrivals
    only queue up behind. It happens where a request outgrows the whole pool (vLLM's rule L5), or where two of
    one priority push each other out in turn, with the admission gate A3 off.
    """

    def __init__(self, replica: Replica) -> None:
        """Watch one replica."""
        self._replica = replica
        self._outputs = -1
        self._fruitless = 0
        self._next = PATIENCE
        self._seen: State = ()

    def after(self, planned: Planned) -> str | None:
        """Look at a step that preempted; say what goes round, or None."""
        outputs = self._replica.ledger.gaps.noted
        if outputs != self._outputs:
            self._outputs, self._fruitless, self._next, self._seen = outputs, 0, PATIENCE, ()
        self._fruitless += 1
        if self._fruitless < PATIENCE:
            return None
        state = self._state(planned)
        if state == self._seen:
            return self._reason(planned)
        if self._fruitless >= self._next:
            # Doubling the distance finds a round of any length.
            self._seen, self._next = state, 2 * self._fruitless
        return None

    def _state(self, planned: Planned) -> State:
        replica = self._replica
        running = tuple(
            (job.index, job.tokens, replica.batch.length(job)) for job in replica.batch.running.values()
        )
        preempted = tuple(job.index for job in planned.preempted)
        waiting = replica.planner.waiting
        head = waiting.head()
        return running, preempted, None if head is None else (head.index, head.tokens), len(waiting)

    def _reason(self, planned: Planned) -> str:
        rows = sorted({job.index for job in planned.preempted})
        named = ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")
        return (
            f"requests {named} are preempted and admitted over and over at t = {planned.start:g} s, and no token "
            "comes out: the pool is too small for them, or they take it from each other (vLLM would never end "
            "either)"
        )
