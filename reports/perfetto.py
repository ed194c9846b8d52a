"""A run as a timeline that ui.perfetto.dev opens, written while the run goes."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from kvsim.reports.request_lanes import Lanes, Life
from kvsim.reports.trace_events import TraceEvents
from kvsim.watchers import add_watch

if TYPE_CHECKING:
    from kvsim.engine import Simulation
    from kvsim.ledger import Slots
    from kvsim.replica import Planned, StepRecord
    from kvsim.result import Result

ENGINE, REQUESTS = 1, 2
"""Numbers of the two groups of tracks."""
STEPS = 1
"""Number of the track of steps in ENGINE."""
REJECTED = 1000
"""Number of the track of rejected requests in REQUESTS; lanes follow it. Perfetto takes 0, and the number of the
group itself, for special threads."""


class PerfettoTrace:
    """Write a run to a file that Perfetto opens; attach it to a simulation before that runs.

        with PerfettoTrace("run.json.gz") as timeline:
            result = simulate(workload, "paged", attach=timeline.attach)
            timeline.finish(result)

    The file has the steps, counters (`KV slots` by use, `requests` running and waiting, `batch` tokens) and for
    each request a span from arrival to finish, with its queue, prefill, decode and preempted inside. Lives that
    do not overlap share a lane. A request that is done is forgotten, so memory does not grow with the run. A name that
    ends in .gz is packed; a run that fails leaves no file.
    """

    def __init__(self, path: Path | str) -> None:
        """Open the file; raise InputError where that is not possible."""
        self._events = TraceEvents(Path(path))
        self._simulation: Simulation | None = None
        self._lives: dict[int, Life] = {}
        self._lanes = Lanes()
        self._steps = 0
        self._idle: tuple[float, Slots] | None = None

    def attach(self, simulation: Simulation) -> None:
        """Watch a simulation that has not run yet."""
        self._simulation = simulation
        add_watch(simulation.replica, self._step, self._ended)
        self._events.call_process(ENGINE, "engine")
        self._events.call_thread(ENGINE, STEPS, "steps")
        self._events.call_process(REQUESTS, "requests")

    def finish(self, result: Result) -> None:
        """Write what is known only at the end, and give the file its name."""
        simulation = self._watched()
        waiting = simulation.replica.waiting
        self._pause(len(waiting))
        for job in waiting:
            self._lives.setdefault(job.index, Life(job.arrival))
        for row, life in sorted(self._lives.items()):
            self._write(row, life, max(simulation.clock, life.arrival), "unfinished")
        self._reject()
        self._events.close({"config": result.config, "environment": result.environment})

    def __enter__(self) -> PerfettoTrace:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing of a run that was not finished."""
        self._events.discard()

    def _watched(self) -> Simulation:
        assert self._simulation is not None, "attach it to a simulation first"
        return self._simulation

    def _step(self, record: StepRecord) -> None:
        """Write a step and its counters, and let its requests go on."""
        planned, work, events = record.planned, record.planned.work, self._events
        if self._idle is not None and planned.start > self._idle[0]:
            self._pause(0)
        self._idle = None
        counts = {"running": record.running, "waiting": record.waiting}
        events.counters(ENGINE, "KV slots", planned.start, record.slots._asdict())
        events.counters(ENGINE, "requests", planned.start, counts)
        events.counters(ENGINE, "batch", planned.start, {"tokens": work.tokens})
        facts: dict[str, object] = {"step": self._steps, "tokens": work.tokens}
        facts |= {"prefill_tokens": work.prefill_tokens, "decodes": work.decodes, "context": work.context}
        rows = {
            "admitted": [row for row, _ in record.admitted],
            "preempted": [job.index for job in planned.preempted],
            "finished": [job.index for job in planned.finished],
        }
        facts |= counts | {"blocks": record.blocks} | {name: found for name, found in rows.items() if found}
        events.span(ENGINE, STEPS, _kind(record), planned.start, planned.end, facts)
        self._steps += 1
        self._follow(record)

    def _ended(self, planned: Planned) -> None:
        """Note what the pool holds when nothing runs: the next step may be far."""
        replica = self._watched().replica
        if replica.under_way:
            # The step under way was planned while those who are done now still ran.
            counts = {"running": len(replica.batch.running), "waiting": len(replica.waiting)}
            self._events.counters(ENGINE, "requests", planned.end, counts)
        elif not replica.batch.running:
            self._idle = planned.end, replica.ledger.slots(0, 0)

    def _pause(self, waiting: int) -> None:
        """Let the counters fall where the last step ended."""
        if self._idle is None:
            return
        at, slots = self._idle
        self._events.counters(ENGINE, "KV slots", at, slots._asdict())
        self._events.counters(ENGINE, "requests", at, {"running": 0, "waiting": waiting})
        self._events.counters(ENGINE, "batch", at, {"tokens": 0})

    def _follow(self, record: StepRecord) -> None:
        planned, lives = record.planned, self._lives
        arrival = self._watched().outcomes.arrival
        for job in planned.preempted:
            # One that is gone had its last token under way.
            if job.index in lives:
                lives[job.index].turn("preempted", planned.start)
                lives[job.index].preemptions += 1
        for row, found in record.admitted:
            if row not in lives:
                lives[row] = Life(arrival[row])
                lives[row].cached = found
            lives[row].turn("prefill", planned.start)
        for job in planned.sampled:
            lives[job.index].turn("decode", planned.end)
        for job in planned.finished:
            self._write(job.index, lives.pop(job.index), planned.end, "completed")

    def _write(self, row: int, life: Life, end: float, status: str) -> None:
        number, is_new = self._lanes.take(life.arrival, end)
        lane = REJECTED + number
        if is_new:
            self._events.call_thread(REQUESTS, lane, f"lane {number:03d}")
        workload = self._watched().workload
        facts = {
            "request": row,
            "status": status,
            "prompt_tokens": int(workload.prompt_tokens[row]),
            "output_tokens": int(workload.output_tokens[row]),
            "cached_tokens": life.cached,
            "preemptions": life.preemptions,
        }
        self._events.span(REQUESTS, lane, f"request {row}", life.arrival, end, facts)
        for part in life.parts(end):
            self._events.span(REQUESTS, lane, part.name, part.start, part.end)

    def _reject(self) -> None:
        """Write the rejected requests as points, in order of arrival."""
        outcomes = self._watched().outcomes
        if outcomes.reasons:
            self._events.call_thread(REQUESTS, REJECTED, "rejected")
        for at, row in sorted((outcomes.arrival[row], row) for row in outcomes.reasons):
            facts = {"request": row, "reason": outcomes.reasons[row]}
            self._events.instant(REQUESTS, REJECTED, f"request {row}", at, facts)


def _kind(record: StepRecord) -> str:
    """Name a step by what it computes, which colours it."""
    work = record.planned.work
    if work.prefills and work.decodes:
        return "mixed"
    if work.prefills:
        return "prefill"
    return "decode" if work.decodes else "nothing"
