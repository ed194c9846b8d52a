"""The recorder's clock: arrivals, steps and finishes in virtual time, around a scheduler that it is given."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from kvsim.errors import InputError
from kvsim.manifest import CaseConfig
from kvsim.manifest import Row as LogRow
from kvsim.record_trace import TraceRow

MOST_LONE_RESTARTS = 3


class Planned(NamedTuple):
    """What one call of the scheduler decided."""

    scheduled: list[tuple[int, int]]
    """(request, tokens), in scheduling order."""
    admitted: list[tuple[int, int]]
    """(request, hit tokens) of those that come from waiting."""
    preempted: list[int]
    sampled: list[int]
    """Requests that get an output token at the end of the step."""
    running: int
    waiting: int
    blocks: int
    """In use, without the null block."""
    context: int
    """Σ over the scheduled requests of the tokens computed after the step."""
    tables: dict[str, list[list[int]]]
    """Block ids per group of every scheduled request; empty unless asked for."""
    handle: object = None
    """The driver's own, handed back to `complete`."""


class Driver(Protocol):
    """A scheduler that can be driven step by step."""

    def add(self, row: TraceRow) -> None:
        """Queue a request."""

    def busy(self) -> bool:
        """Tell whether any request is running or waiting."""

    def schedule(self) -> Planned:
        """Plan the next step, and count it as computed."""

    def complete(self, planned: Planned) -> list[int]:
        """Hand over the step's outputs; return the requests that they finish, in order."""

    def blocks_in_use(self) -> int:
        """Count the blocks that are not in the free queue, without the null block."""

    def pool_state(self) -> dict[str, list[int]]:
        """Return `free`, the free queue, and `hashed`, the blocks that can be hit."""


@dataclass(slots=True)
class RequestLog:
    """What the log says of a request; times are seconds, None for what did not happen."""

    status: str = "stuck"
    first_sched: float | None = None
    first_token: float | None = None
    finish: float | None = None
    preemptions: int = 0
    cached_first: int | None = None
    cached_total: int = 0
    sched_tokens: int = 0
    outputs: int = 0

    def row(self, request: TraceRow) -> LogRow:
        """Return the log's line."""
        return {
            "kind": "request",
            "req": request.index,
            "status": self.status,
            "arrival": request.arrival,
            "first_sched": self.first_sched,
            "first_token": self.first_token,
            "finish": self.finish,
            "preemptions": self.preemptions,
            "cached_first": self.cached_first,
            "cached_total": self.cached_total,
            "sched_tokens": self.sched_tokens,
            "outputs": self.outputs,
        }


@dataclass(slots=True)
class _UnderWay:
    number: int
    scheduled_at: float
    start: float
    end: float
    planned: Planned


@dataclass(slots=True)
class Recording:
    """Drive a scheduler through a trace, and write a log line for every step and request.

    A step runs from its start for a + b·tokens + c·context seconds. Synchronous scheduling has one step
    under way, asynchronous two: the next is then scheduled as soon as the one before it starts to run.
    """

    driver: Driver
    config: CaseConfig
    rows: list[TraceRow]
    write: Callable[[LogRow], None]
    detail: bool = False
    steps: int = 0
    empty_steps: int = 0
    """Calls of the scheduler that scheduled no token."""
    virtual_s: float = 0.0
    """End of the last step."""
    requests: list[RequestLog] = field(init=False)
    _clock: float = field(init=False, default=0.0)
    _ahead: deque[TraceRow] = field(init=False)
    _under_way: deque[_UnderWay] = field(init=False, default_factory=deque)
    _lone_restarts: int = field(init=False, default=0)

    def run(self) -> None:
        """Record until every request is finished, or nothing can change any more."""
        self.requests = [RequestLog() for _ in self.rows]
        for row in self.rows:
            if not 0 < row.prompt_len < self.config.max_model_len:
                self.requests[row.index].status = "rejected"
        accepted = [row for row in self.rows if self.requests[row.index].status != "rejected"]
        self._ahead = deque(sorted(accepted, key=lambda row: row.arrival))
        depth = 2 if self.config.async_scheduling else 1
        while self._take_arrivals():
            planned = self.driver.schedule() if self.driver.busy() else None
            if planned is not None and not planned.scheduled:
                self.empty_steps += 1
            if planned is not None and (planned.scheduled or planned.preempted):
                self._start(planned)
                if len(self._under_way) < depth:
                    continue
            if self._under_way:
                self._end(self._under_way.popleft())
            elif not self._ahead:
                break
            else:
                self._clock = self._ahead[0].arrival
        for row, request in zip(self.rows, self.requests, strict=True):
            self.write(request.row(row))

    def _take_arrivals(self) -> bool:
        """Queue what has arrived by now; tell whether anything is left to do."""
        while self._ahead and self._ahead[0].arrival <= self._clock:
            self._lone_restarts = 0
            self.driver.add(self._ahead.popleft())
        return bool(self._ahead or self._under_way or self.driver.busy())

    def _start(self, planned: Planned) -> None:
        config = self.config
        start = max(self._clock, self.virtual_s)
        end = start
        if planned.scheduled:
            tokens = sum(count for _, count in planned.scheduled)
            end = start + (config.cost_a + config.cost_b * tokens + config.cost_c * planned.context)
        self._under_way.append(_UnderWay(self.steps, self._clock, start, end, planned))
        self.steps += 1
        self.virtual_s = end
        self._count(planned, start)
        self._refuse_endless(planned)

    def _count(self, planned: Planned, start: float) -> None:
        for index in planned.preempted:
            self.requests[index].preemptions += 1
        for index, hit in planned.admitted:
            request = self.requests[index]
            request.cached_total += hit
            if request.first_sched is None:
                request.first_sched, request.cached_first = start, hit
        for index, tokens in planned.scheduled:
            self.requests[index].sched_tokens += tokens

    def _refuse_endless(self, planned: Planned) -> None:
        """Give up on a request that outgrows the whole pool, alone, and starts again for ever."""
        if planned.sampled:
            self._lone_restarts = 0
        elif planned.preempted and not planned.running:
            self._lone_restarts += 1
        if self._lone_restarts > MOST_LONE_RESTARTS and not self._ahead:
            raise InputError(
                f"request {planned.preempted[-1]} outgrows num_blocks {self.config.num_blocks} although "
                "nothing else runs, and starts again for ever; give it more blocks, or turn "
                "scheduler_reserve_full_isl on"
            )

    def _end(self, step: _UnderWay) -> None:
        planned = step.planned
        self._clock = max(self._clock, step.end)
        finished = self.driver.complete(planned)
        for index in planned.sampled:
            request = self.requests[index]
            request.outputs += 1
            if request.first_token is None:
                request.first_token = step.end
        for index in finished:
            self.requests[index].finish = step.end
            self.requests[index].status = "finished"
        self.write(self._step_row(step, finished))

    def _step_row(self, step: _UnderWay, finished: list[int]) -> LogRow:
        planned = step.planned
        row: LogRow = {"kind": "step", "step": step.number}
        if self.config.async_scheduling:
            row["ts"] = step.scheduled_at
        row |= {
            "t0": step.start,
            "t1": step.end,
            "sched": planned.scheduled,
            "new": planned.admitted,
            "preempt": planned.preempted,
            "fin": finished,
            "run": planned.running,
            "wait": planned.waiting,
            "blk": planned.blocks,
            "blk_end": self.driver.blocks_in_use(),
            "ctx": planned.context,
        }
        if self.detail:
            row |= {"tables": planned.tables, **self.driver.pool_state()}
        return row
