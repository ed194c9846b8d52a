"""The simulation: simpy processes for arrivals and the replica, and what each request went through."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from heapq import heappush
from math import inf
from typing import Any

import simpy
from simpy.events import EventPriority

from kvsim.arrivals import Arrivals
from kvsim.cost import CostModel
from kvsim.job import NEVER, Job
from kvsim.lane import Lane
from kvsim.policy import Policy
from kvsim.replica import Replica
from kvsim.request import Workload
from kvsim.scheduler import Limits
from kvsim.standstill import Standstill
from kvsim.stretch import Stretch

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
        self.arrival[row] = job.arrival
        self.first_scheduled[row] = job.first_scheduled
        self.first_token[row] = job.first_token
        if job.cached:
            self.cached[row] = job.cached
        if job.preemptions:
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
        self.limits = limits
        self.reject_never_fits = reject_never_fits
        self.outcomes = Outcomes(len(workload))
        self._followers = _followers(workload)
        start = float(workload.arrival[0]) if len(workload) else 0.0
        self.replica = Replica(policy, limits, cost, start)
        self.env = simpy.Environment(initial_time=start)
        self.clock = start
        self._source: Arrivals
        self._inbox: list[Job] = []
        self._unanswered: list[int] = []
        self._standstill = Standstill(self.replica)
        self.keeps_places = False
        """Whether blocks get their numbers even if nobody watches, for a look at the policy after the run."""
        self._stretch: Stretch | None = None
        self._lane: Lane | None = None
        self.endless: str | None = None
        """Why the run was cut short: the same preemptions over and over, and no token between them."""

    def run(self) -> None:
        """Run until nothing can happen any more."""
        if self.replica.watch is None and self.replica.watch_end is None and not self.limits.async_scheduling:
            if not self.keeps_places:
                self.replica.count_blocks()
            self._stretch = Stretch(self.replica, self._finish)
        holder = self.replica.policy if self.reject_never_fits else None
        self._source = Arrivals(self.workload, self.limits.max_model_len, holder, self._reject)
        if self._stretch is not None:
            lane = Lane(self.replica, None if self._followers else self._source, self._finish)
            self._lane = lane if lane.is_open else None
        self.env.process(self._serve())
        with _seldom_collected():
            self.env.run()
        for job in [*self.replica.waiting, *self.replica.batch.running.values()]:
            self.outcomes.store(job)
        self.replica.ledger.close(self.clock)

    # -- requests come ------------------------------------------------------------------------------------

    def _follow(self, row: int, at: float) -> Process:
        """Send a closed-loop request once its session has thought long enough."""
        yield self._at(at)
        job = self._source.job(row, at)
        if job is not None:
            self._inbox.append(job)

    def _reject(self, row: int, at: float, reason: str) -> None:
        self.outcomes.arrival[row] = at
        self.outcomes.status[row] = REJECTED
        self.outcomes.reasons[row] = reason
        self._answered(row, at)

    def _answered(self, row: int, at: float) -> None:
        for follower, think in self._followers.get(row, ()):
            self.env.process(self._follow(follower, at + think))

    # -- the replica --------------------------------------------------------------------------------------

    def _serve(self) -> Process:
        """Run steps ahead of simulated time until the next thing anyone else has scheduled."""
        env, source = self.env, self._source
        at, is_idle = self.clock, True
        while True:
            yield self._at(at, AFTER_OTHERS)
            if self._unanswered:
                self._answer()
                continue
            if self._take_arrivals(at):
                self.clock, is_idle = max(self.clock, at), False
            if env.peek() <= at:
                continue
            is_idle = is_idle or not self._run_ahead()
            if self.endless:
                return
            at = max(at, min(source.next, env.peek())) if is_idle else self.clock
            if at == inf:
                return

    def _run_ahead(self) -> bool:
        """Run until somebody else has something to say; False when there is nothing to run."""
        env, replica, source = self.env, self.replica, self._source
        while not self._unanswered:
            others = env.peek()
            if self._lane is not None:
                self.clock = self._lane.run(
                    self.clock, min(others, source.next) if self._followers else others
                )
            if self._stretch is not None and not self._unanswered:
                self.clock = self._stretch.run(self.clock, min(source.next, others))
            if self._unanswered or self.clock >= others:
                return True
            if self.clock >= source.next:
                self._take_arrivals(self.clock)
                if self._followers and self.clock >= env.peek():
                    return True
            plan = replica.plan(self.clock)
            if plan is not None and self._stretch is not None:
                end = self._stretch.end(plan, self.clock)
                if end is not None:
                    self.clock = end
                    continue
            planned = None if plan is None else replica.commit(plan, self.clock)
            if planned is not None and planned.preempted:
                self.endless = self._standstill.after(planned)
                if self.endless:
                    return False
            if planned is None and not replica.under_way:
                return False
            if planned is None or replica.is_full:
                self._end_step()
        return True

    def _end_step(self) -> None:
        ended = self.replica.end()
        self.clock = max(self.clock, ended.end)
        for job in ended.finished:
            self._finish(job, ended.end)

    def _finish(self, job: Job, end: float) -> bool:
        """Write down what a request with its last token went through; False when somebody waited for that."""
        outcomes, row = self.outcomes, job.index
        outcomes.store(job)
        outcomes.finish[row] = end
        outcomes.status[row] = COMPLETED
        if self._followers and row in self._followers:
            self._unanswered.append(row)
            return False
        return True

    def _answer(self) -> None:
        rows, self._unanswered = self._unanswered, []
        for row in rows:
            self._answered(row, self.clock)

    def _take_arrivals(self, now: float) -> bool:
        """Queue whoever has come by now, in order of arrival; False when that is nobody."""
        jobs = self._source.take(now)
        if self._followers:
            # What was rejected may have had followers that come at once.
            jobs = self._inbox = self._inbox + jobs
            if self.env.peek() <= now:
                return False
            jobs.sort(key=lambda job: (job.arrival, job.index))
            self._inbox = []
        for job in jobs:
            # Whoever watches may ask at once.
            self.outcomes.arrival[job.index] = job.arrival
        if jobs:
            self.replica.offer(jobs, now)
        return bool(jobs)

    def _at(self, time: float, priority: int = 1) -> simpy.Event:
        """Return an event at exactly this time: now plus a delay may miss it by an ulp, whatever the delay."""
        env = self.env
        event = simpy.Event(env)
        event._ok = True
        event._value = None
        heappush(env._queue, (max(time, env.now), EventPriority(priority), next(env._eid), event))
        return event


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Look for garbage in cycles a hundred times less often: a run makes many objects, and hardly any cycles."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


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
