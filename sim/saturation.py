"""How many requests of a trace a policy can hold at once, when there are always more waiting."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from kvsim.cost import Line, Step
from kvsim.job import Job
from kvsim.policy import Policy, Pool
from kvsim.replica import Replica
from kvsim.request import Workload
from kvsim.scheduler import Limits
from kvsim.stretch import Stretch

MOST_ROWS = 5000
"""Requests looked at; beyond this many the answer hardly moves and the time does."""


class _UnitCost:
    """Every step takes a second: only the order of things matters here."""

    label = "one second a step (assumed)"

    def seconds(self, step: Step) -> float:
        """Return 1."""
        del step
        return 1.0

    def decode_line(self, decodes: int, context: int) -> Line:
        """Return 1, whatever the context."""
        del decodes, context
        return Line(1.0, 0.0, 1 << 62)


def batch_capacity(workload: Workload, policy: Policy, pool: Pool, limits: Limits) -> int:
    """Return the most requests that run at once while more wait, with no limit but memory.

    All requests (the first 5000 of a long trace) are there from the start, closed-loop ones too, in trace
    order; it ends when the queue is empty. A trace that fits whole gives its own length.
    """
    policy.reset(replace(pool, swap_is_unlimited=True))
    rows = min(len(workload), MOST_ROWS)
    open_limits = Limits(
        max_model_len=limits.max_model_len,
        max_num_seqs=max(rows, 1) * limits.width,
        max_num_batched_tokens=max(limits.max_num_batched_tokens, limits.max_model_len, rows * limits.width),
        width=limits.width,
    )
    replica = Replica(policy, open_limits, _UnitCost(), 0.0)
    replica.count_blocks()
    holds = replica.policy
    prompts, outputs = workload.prompt_tokens[:rows].tolist(), workload.output_tokens[:rows].tolist()
    jobs = []
    for row, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        final = min(prompt + output, limits.max_model_len) - 1
        fits = final <= holds.never_refused or holds.refuses_request(prompt, final) is None
        if fits and prompt < limits.max_model_len:
            jobs.append(Job(row, 0.0, prompt, 0, final))
    stretch = Stretch(replica, lambda job, now: True)
    replica.offer(jobs, 0.0)
    most, clock = 0, 0.0
    while len(replica.waiting):
        clock = stretch.run(clock, inf)
        plan = replica.plan(clock)
        if plan is None:
            break
        most = max(most, len(replica.batch.running))
        end = stretch.end(plan, clock)
        if end is None:
            replica.commit(plan, clock)
            end = replica.end().end
        clock = end
    return most
