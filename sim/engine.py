"""The simulation: simpy processes for arrivals and the replica, and what each request went through."""

from __future__ import annotations

from array import array
from collections.abc import Generator
from heapq import heappush
from typing import Any

import simpy
from simpy.events import EventPriority

from kvsim.batch import NEVER, Job
from kvsim.cost import CostModel
from kvsim.policy import Policy
from kvsim.replica import Replica
from kvsim.request import Workload
from kvsim.scheduler import Limits
from kvsim.standstill import Standstill

Process = Generator[simpy.Event, Any, None]

UNFINISHED, COMPLETED, REJECTED = 0, 1, 2
AFTER_OTHERS = 2
"""Event priority of the replica: at equal times arrivals come first."""


class Outcomes:
    """What happened to every request: one compact column each, in trace order."""

    FLOATS = ("arrival", "first_scheduled", "first_token", "finish")
    COUNTS = ("cached", "readmission_hits", "recomputed", "preemptions")

    def __init__(self, rows: int) -> None:
        """Start with nothing known."""
        for name in self.FLOATS:
            setattr(self, name, array("d", [NEVER]) * rows)
        for name in self.COUNTS:
            setattr(self, name, array("q", [0]) * rows)
        self.status = array("b", [UNFINISHED]) * rows
        self.reasons: dict[int, str] = {}
        """Why a row was rejected."""

    arrival: array[float]
    first_scheduled: array[float]
    first_token: array[float]
    finish: array[float]
    cached: array[int]
    readmission_hits: array[int]
    recomputed: array[int]
    preemptions: array[int]

    def store(self, job: Job) -> None:
        """Write down what a job has gone through so far."""
        row = job.index
        self.first_scheduled[row] = job.first_scheduled
        self.first_token[row] = job.first_token
        self.cached[row] = job.cached
        self.readmission_hits[row] = job.readmission_hits
        self.recomputed[row] = job.recomputed
        self.preemptions[row] = job.preemptions


class Simulation:
    """One run of one workload through one replica."""

    def __init__(
        self,
        workload: Workload,
        policy: Policy,
        limits: Limits,
        cost: CostModel,
        *,
        reject_never_fits: bool = True,
    ) -> None:
        """Take a policy that was `reset` for this workload.

        Without `reject_never_fits` a request that the whole pool could not hold is queued, as vLLM without its
        start-up check would (rule L5): it stays unfinished, and `endless` says so where steps go on for ever.
        """
        self.workload = workload
        self.reject_never_fits = reject_never_fits
        self.limits = limits
        self.outcomes = Outcomes(len(workload))
        self._arrival = workload.arrival
        self._prompt = workload.prompt_tokens
        self._output = workload.output_tokens
        self._priority = workload.priority
        self._followers = _followers(workload)
        start = float(self._arrival[0]) if len(workload) else 0.0
        self.replica = Replica(policy, limits, cost, start)
        self.env = simpy.Environment(initial_time=start)
        self.clock = start
        self._inbox: list[Job] = []
        self._unanswered: list[int] = []
        self._wake: simpy.Event | None = None
        self._standstill = Standstill(self.replica)
        self.endless: str | None = None
        """Why the run was cut short: the same preemptions over and over, and no token between them."""

    def run(self) -> None:
        """Run until nothing can happen any more."""
        self.env.process(self._arrivals())
        self.env.process(self._serve())
        self.env.run()
        for job in [*self.replica.waiting, *self.replica.batch.running.values()]:
            self.outcomes.store(job)
        self.replica.ledger.timeline.close(self.clock)

    # -- requests come ------------------------------------------------------------------------------------

    def _arrivals(self) -> Process:
        """Send the open-loop requests at their times."""
        parents = self.workload.parent
        for row in range(len(self.workload)):
            if parents is not None and parents[row] >= 0:
                continue
            at = float(self._arrival[row])
            if at > self.env.now:
                yield self._at(at)
            self._send(row, at)

    def _follow(self, row: int, at: float) -> Process:
        """Send a closed-loop request once its session has thought long enough."""
        yield self._at(at)
        self._send(row, at)

    def _send(self, row: int, at: float) -> None:
        prompt, output = int(self._prompt[row]), int(self._output[row])
        self.outcomes.arrival[row] = at
        longest = self.limits.max_model_len
        reason: str | None
        final = min(prompt + output, longest) - 1
        if not prompt:
            reason = "a prompt of 0 tokens has nothing to compute"
        elif prompt >= longest:
            reason = f"prompt of {prompt} tokens does not fit max_model_len {longest} with an output"
        else:
            reason = self.replica.policy.refuses(final) if self.reject_never_fits else None
        if reason is not None:
            self.outcomes.status[row] = REJECTED
            self.outcomes.reasons[row] = reason
            self._answered(row, at)
            return
        priority = int(self._priority[row]) if self._priority is not None else 0
        self._inbox.append(Job(row, at, prompt, priority, final))
        if self._wake is not None:
            self._wake.succeed()
            self._wake = None

    def _answered(self, row: int, at: float) -> None:
        for follower, think in self._followers.get(row, ()):
            self.env.process(self._follow(follower, at + think))

    # -- the replica --------------------------------------------------------------------------------------

    def _serve(self) -> Process:
        """Run steps ahead of simulated time until the next thing anyone else has scheduled."""
        while True:
            yield self._at(self.clock, AFTER_OTHERS)
            if self._unanswered:
                self._answer()
                continue
            self._take_arrivals()
            if not self._run_ahead():
                if self.endless:
                    return
                self._wake = self.env.event()
                yield self._wake
                self.clock = max(self.clock, self.env.now)

    def _run_ahead(self) -> bool:
        """Run until somebody else has something to say; False when there is nothing to run."""
        env, replica = self.env, self.replica
        while True:
            planned = replica.begin(self.clock)
            if planned is not None and planned.preempted:
                self.endless = self._standstill.after(planned)
                if self.endless:
                    return False
            if planned is None and not replica.under_way:
                return False
            if planned is None or replica.is_full:
                self._end_step()
            if self._unanswered or self.clock >= env.peek():
                return True

    def _end_step(self) -> None:
        ended = self.replica.end()
        self.clock = max(self.clock, ended.end)
        outcomes = self.outcomes
        for job in ended.finished:
            outcomes.store(job)
            outcomes.finish[job.index] = ended.end
            outcomes.status[job.index] = COMPLETED
            if job.index in self._followers:
                self._unanswered.append(job.index)

    def _answer(self) -> None:
        rows, self._unanswered = self._unanswered, []
        for row in rows:
            self._answered(row, self.clock)

    def _take_arrivals(self) -> None:
        if self._inbox:
            self.replica.offer(sorted(self._inbox, key=lambda job: (job.arrival, job.index)), self.clock)
            self._inbox.clear()

    def _at(self, time: float, priority: int = 1) -> simpy.Event:
        """Return an event at exactly this time: now plus a delay may miss it by an ulp, whatever the delay."""
        env = self.env
        event = simpy.Event(env)
        event._ok = True
        event._value = None
        heappush(env._queue, (max(time, env.now), EventPriority(priority), next(env._eid), event))
        return event


def _followers(workload: Workload) -> dict[int, list[tuple[int, float]]]:
    """Return, for each row that others wait for, those rows and their think times."""
    followers: dict[int, list[tuple[int, float]]] = {}
    if workload.parent is None:
        return followers
    for row, parent in enumerate(workload.parent.tolist()):
        if parent >= 0:
            think = float(workload.think[row]) if workload.think is not None else 0.0
            followers.setdefault(parent, []).append((row, think))
    return followers
