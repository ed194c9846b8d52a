"""What each preemption cost, and who took the memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvsim.policy import Lease

if TYPE_CHECKING:
    from kvsim.engine import Simulation
    from kvsim.policy import Policy
    from kvsim.replica import StepRecord
    from kvsim.request import Sequence


@dataclass(slots=True)
class Preemption:
    """One time that a running request lost its memory."""

    request: int
    by: int
    """Row of the request that needed the memory; the same where it had to preempt itself."""
    time: float
    """Start of the step, seconds."""
    lost_tokens: int
    """Tokens whose KV was thrown away."""
    back: float | None = None
    """Start of the step that admitted it again, seconds; None when that never happened."""
    found_tokens: int = 0
    """Tokens that were still in the cache, or came back from swap."""
    recomputed_tokens: int = 0
    """Lost tokens that had to be computed again."""
    caught_up: float | None = None
    """When these were computed (or it was preempted again), seconds."""
    step_seconds: float = 0.0
    """Share of the steps' time by tokens that went into these."""


class PreemptionWatch:
    """Write down all preemptions of one simulation."""

    def __init__(self, simulation: Simulation) -> None:
        """Look over the policy's shoulder: who asked for memory when somebody was thrown out."""
        self.preemptions: list[Preemption] = []
        self._by: list[tuple[int, int]] = []
        """(victim, who asked) since the last step."""
        self._out: dict[int, Preemption] = {}
        """Preempted and not back."""
        self._back: dict[int, tuple[Preemption, int]] = {}
        """Back, and how many tokens are still to be computed again."""
        _observe(simulation.replica.policy, self._by)

    def step(self, record: StepRecord) -> None:
        """Take in a step that has just been planned."""
        planned = record.planned
        takers = dict(self._by)
        self._by.clear()
        for job in planned.preempted:
            row = job.index
            if row in self._back:
                before, _ = self._back.pop(row)
                before.caught_up = planned.start
            preemption = Preemption(row, takers.get(row, row), planned.start, job.lost)
            self.preemptions.append(preemption)
            self._out[row] = preemption
        for row, found in record.admitted:
            self._return(row, found, planned.start)
        if self._back:
            self._work(record)

    def _return(self, row: int, found: int, start: float) -> None:
        preemption = self._out.pop(row, None)
        if preemption is None:
            return
        preemption.back = start
        preemption.found_tokens = found
        preemption.recomputed_tokens = max(0, preemption.lost_tokens - found)
        if preemption.recomputed_tokens:
            self._back[row] = preemption, preemption.recomputed_tokens
        else:
            preemption.caught_up = start

    def _work(self, record: StepRecord) -> None:
        """Follow those who compute again what they had."""
        planned = record.planned
        share = (planned.end - planned.start) / planned.work.tokens if planned.work.tokens else 0.0
        for row, tokens in record.scheduled:
            if row not in self._back:
                continue
            preemption, left = self._back[row]
            preemption.step_seconds += share * min(tokens, left)
            if tokens < left:
                self._back[row] = preemption, left - tokens
            else:
                preemption.caught_up = planned.end
                del self._back[row]


def _observe(policy: Policy, seen: list[tuple[int, int]]) -> None:
    """Note in `seen` whom the policy is asked to release unfinished, and whom it had refused to grow before."""
    grow, release = policy.grow, policy.release
    refused = [-1]

    def watched_grow(sequence: Sequence, tokens: int) -> Lease | None:
        lease = grow(sequence, tokens)
        if lease is None:
            refused[0] = sequence.index
        return lease

    def watched_release(sequence: Sequence, finished: bool) -> None:
        if not finished:
            seen.append((sequence.index, refused[0]))
        release(sequence, finished)

    # On the object, not the class: other runs of the same policy stay as fast as they are.
    setattr(policy, "grow", watched_grow)  # noqa: B010
    setattr(policy, "release", watched_release)  # noqa: B010
