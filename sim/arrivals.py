"""The requests of a trace that come at their own times, in order, each as a job when its time has come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

from kvsim.job import Job
from kvsim.policy import Policy
from kvsim.request import Workload

ROWS = 1 << 14
"""Rows of the trace that are read at a time: Python numbers take five times the memory of the columns."""

Rejected = Callable[[int, float, str], None]
Row = tuple[float, int, int, int]
"""Time, row, prompt and output tokens."""


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
        self._most = max_model_len - 1 if policy is None else min(max_model_len - 1, policy.never_refused)
        """Length up to which nothing speaks against a request."""
        self._priorities = workload.priority
        self._rows = _open_loop(workload)
        self._row = next(self._rows)
        self.next = self._row[0]
        """When the next request comes; inf after the last."""

    def take(self, now: float) -> list[Job]:
        """Return the jobs that have come by `now` since the last call."""
        jobs: list[Job] = []
        priorities, most = self._priorities, self._most
        while self.next <= now:
            time, row, prompt, output = self._row
            self._row = next(self._rows)
            self.next = self._row[0]
            final = prompt + output - 1
            if 0 < prompt <= final <= most:
                jobs.append(Job(row, time, prompt, 0 if priorities is None else int(priorities[row]), final))
            elif (job := self._job(row, time, prompt, output)) is not None:
                jobs.append(job)
        return jobs

    def job(self, row: int, time: float) -> Job | None:
        """Return the job of a row that is sent at `time`, or reject it."""
        workload = self._workload
        return self._job(row, time, int(workload.prompt_tokens[row]), int(workload.output_tokens[row]))

    def _job(self, row: int, time: float, prompt: int, output: int) -> Job | None:
        final = min(prompt + output, self._longest) - 1
        reason = self._reason(prompt, final)
        if reason is not None:
            self._rejected(row, time, reason)
            return None
        return Job(row, time, prompt, 0 if self._priorities is None else int(self._priorities[row]), final)

    def _reason(self, prompt: int, final: int) -> str | None:
        """Say why a request can never be served; None when it can."""
        if not prompt:
            return "a prompt of 0 tokens has nothing to compute"
        if prompt >= self._longest:
            return f"prompt of {prompt} tokens does not fit max_model_len {self._longest} with an output"
        if self._policy is not None and final > self._policy.never_refused:
            return self._policy.refuses_request(prompt, final)
        return None


def _open_loop(workload: Workload) -> Iterator[Row]:
    """Go through the rows that wait for no other, and then for ever through one that comes never."""
    for first in range(0, len(workload), ROWS):
        rows = slice(first, first + ROWS)
        columns = [workload.arrival, workload.prompt_tokens, workload.output_tokens]
        times, prompts, outputs = [column[rows].tolist() for column in columns]
        numbers = range(first, first + len(times))
        if workload.parent is None:
            yield from zip(times, numbers, prompts, outputs, strict=True)
            continue
        waits = (workload.parent[rows] >= 0).tolist()
        for wait, *row in zip(waits, times, numbers, prompts, outputs, strict=True):
            if not wait:
                yield tuple(row)
    while True:
        yield inf, -1, 0, 0
