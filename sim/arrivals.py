"""The requests of a trace that come at their own times, in order, each as a job when its time has come."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from kvsim.job import Job
from kvsim.policy import Policy
from kvsim.request import Workload

ROWS = 1 << 14
"""Rows of the trace that are read at a time: Python numbers take five times the memory of the columns."""

Rejected = Callable[[int, float, str], None]


class Arrivals:
    """Turn rows of a workload into jobs, or reject them.

    Open-loop times are known beforehand, so whoever runs ahead of the clock reads them here; only requests that
    wait for an answer need an event.
    """

    def __init__(
        self, workload: Workload, max_model_len: int, policy: Policy | None, rejected: Rejected
    ) -> None:
        """`policy` says what it could never hold (None: everything is queued); `rejected` gets the reasons."""
        self._workload = workload
        self._longest = max_model_len
        self._policy = policy
        self._rejected = rejected
        self._row = -1
        self._first = 0
        self._times: list[float] = []
        self._prompts: list[int] = []
        self._outputs: list[int] = []
        self._follows: list[bool] = []
        self.next = -inf
        """When the next request comes; inf after the last."""
        self._advance()

    def take(self, now: float) -> list[Job]:
        """Return the jobs that have come by `now` since the last call."""
        jobs = []
        while self.next <= now:
            at = self._row - self._first
            job = self._job(self._row, self.next, self._prompts[at], self._outputs[at])
            if job is not None:
                jobs.append(job)
            self._advance()
        return jobs

    def job(self, row: int, time: float) -> Job | None:
        """Return the job of a row that is sent at `time`, or reject it."""
        workload = self._workload
        return self._job(row, time, int(workload.prompt_tokens[row]), int(workload.output_tokens[row]))

    def _advance(self) -> None:
        """Go to the next open-loop row."""
        while True:
            self._row += 1
            at = self._row - self._first
            if at == len(self._times):
                self._read(self._row)
                at = 0
                if not self._times:
                    self.next = inf
                    return
            if not (self._follows and self._follows[at]):
                self.next = self._times[at]
                return

    def _read(self, row: int) -> None:
        """Read the rows from `row` on."""
        workload, rows = self._workload, slice(row, row + ROWS)
        self._first = row
        self._times = workload.arrival[rows].tolist()
        self._prompts = workload.prompt_tokens[rows].tolist()
        self._outputs = workload.output_tokens[rows].tolist()
        parents = workload.parent
        self._follows = [] if parents is None else (parents[rows] >= 0).tolist()

    def _job(self, row: int, time: float, prompt: int, output: int) -> Job | None:
        longest = self._longest
        final = min(prompt + output, longest) - 1
        reason: str | None = None
        if not prompt:
            reason = "a prompt of 0 tokens has nothing to compute"
        elif prompt >= longest:
            reason = f"prompt of {prompt} tokens does not fit max_model_len {longest} with an output"
        elif self._policy is not None and final > self._policy.never_refused:
            reason = self._policy.refuses(final)
        if reason is not None:
            self._rejected(row, time, reason)
            return None
        priorities = self._workload.priority
        return Job(row, time, prompt, 0 if priorities is None else int(priorities[row]), final)
