"""Replay a recorded vLLM run in the engine and find the first thing that differs."""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from kvsim.block_detail import BlockTables, hashed_blocks
from kvsim.engine import COMPLETED, REJECTED, Simulation
from kvsim.errors import InputError
from kvsim.manifest import Case, Log, Row
from kvsim.policy import Policy
from kvsim.replica import Planned, Replica, StepRecord
from kvsim.request import Workload
from kvsim.step_log import step_row

AT_END = ("blk_end", "free", "hashed")
"""Fields of a step that are seen once it has ended; `free` and `hashed` are there in detailed logs only."""
OPTIONAL = ("tables", *AT_END)


class Difference(NamedTuple):
    """Where a replay first leaves the log."""

    step: int | None
    """Number of the step; None when it is a request that differs."""
    request: int | None
    field: str
    ours: object
    theirs: object

    def words(self) -> tuple[str, str, str, str]:
        """Return where, field, ours and theirs for a table; long values are cut."""
        where = f"step {self.step}" if self.step is not None else f"request {self.request}"
        return where, self.field, _short(self.ours), _short(self.theirs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What comparing one case came to."""

    case: str
    steps: int
    """Steps that are equal."""
    requests: int
    """Requests that are equal."""
    difference: Difference | None = None
    endless: str | None = None
    """Why the replay was cut short, when it would never have ended."""

    @property
    def equal(self) -> bool:
        """Tell whether every step and every request agrees."""
        return self.difference is None


def verify_case(case: Case, workload: Workload, policy: Policy) -> Verdict:
    """Replay a case with the policy that its settings mean, and compare step by step, then by request.

    All numbers are compared with `==`, times included: under the recorder's clock they are exact. The replay
    stops at the first difference. Raises InputError when the files are not what the manifest says, or the
    settings cannot work.
    """
    log = case.read_log()
    policy.reset(case.config.pool(workload))
    simulation = Simulation(
        workload, policy, case.config.limits(case.vllm_version), case.config.clock(), reject_never_fits=False
    )
    comparison = _Comparison(log, simulation.replica, case.config.async_scheduling, len(workload))
    simulation.replica.watch = comparison.scheduled
    simulation.replica.watch_end = comparison.ended
    requests = 0
    try:
        simulation.run()
        comparison.no_more_steps()
        requests = comparison.requests(simulation)
    except _DifferenceFound:
        pass
    return Verdict(
        case=case.name,
        steps=comparison.equal_steps,
        requests=requests or comparison.equal_requests,
        difference=comparison.difference,
        endless=simulation.endless,
    )


class _DifferenceFound(Exception):  # noqa: N818  it ends a replay; nothing went wrong
    """Ends a replay whose difference is known."""


class _Comparison:
    """Holds the log beside the replay, a step at a time."""

    def __init__(self, log: Log, replica: Replica, asynchronous: bool, rows: int) -> None:
        self.difference: Difference | None = None
        self.equal_steps = 0
        self.equal_requests = 0
        self._log = log
        self._replica = replica
        self._asynchronous = asynchronous
        self._seen = 0
        self._under_way: deque[tuple[StepRecord, Row]] = deque()
        self._scheduled_tokens = array("q", [0]) * rows

    def scheduled(self, record: StepRecord) -> None:
        """Compare what is known of a step when it is scheduled."""
        number = self._seen
        ours = step_row(number, record, self._asynchronous)
        theirs = self._log.next_step()
        if theirs is None:
            self._differ(Difference(number, None, "step", number, None))
        if "tables" in theirs:
            ours["tables"] = self._tables(record)
        self._compare(ours, theirs, number, None)
        self._seen += 1
        self._under_way.append((record, theirs))
        for row, tokens in record.scheduled:
            self._scheduled_tokens[row] += tokens

    def ended(self, planned: Planned) -> None:
        """Compare what is seen when a step has ended."""
        del planned
        last, _ = self._under_way[-1]
        record, theirs = self._under_way.popleft()
        ours: Row = {}
        if "blk_end" in theirs:
            ours["blk_end"] = self._replica.policy.blocks_in_use
        if "free" in theirs:
            ours["free"] = self._block_tables().free_queue()
        if "hashed" in theirs:
            self._block_tables()
            ours["hashed"] = hashed_blocks(self._replica, record, last)
        for field, value in ours.items():
            if value != theirs[field]:
                self._differ(Difference(self.equal_steps, None, field, value, theirs[field]))
        self.equal_steps += 1

    def no_more_steps(self) -> None:
        """Check that the log has no further step either."""
        if self._log.next_step() is not None:
            self._differ(Difference(self._seen, None, "step", None, self._seen))

    def requests(self, simulation: Simulation) -> int:
        """Compare what every request went through; return how many there are."""
        ours = request_rows(simulation, self._scheduled_tokens)
        theirs = self._log.requests()
        if len(ours) != len(theirs):
            self._differ(Difference(None, min(len(ours), len(theirs)), "requests", len(ours), len(theirs)))
        for number, (mine, row) in enumerate(zip(ours, theirs, strict=True)):
            self._compare(mine, row, None, number)
            self.equal_requests += 1
        return len(ours)

    def _compare(self, ours: Row, theirs: Row, step: int | None, request: int | None) -> None:
        """Compare a row's fields in the log's order; both must have the same ones."""
        for field, value in theirs.items():
            if field in ours:
                if ours[field] != value:
                    self._differ(Difference(step, request, field, ours[field], value))
            elif field not in OPTIONAL:
                raise InputError(f"{self._named(step, request)}: field {field!r} is not one that kvsim knows")
        for field in ours:
            if field not in theirs:
                raise InputError(f"{self._named(step, request)}: no field {field!r}")

    def _named(self, step: int | None, request: int | None) -> str:
        return f"{self._log.path.name} " + (f"step {step}" if step is not None else f"request {request}")

    def _differ(self, difference: Difference) -> NoReturn:
        self.difference = difference
        raise _DifferenceFound

    def _block_tables(self) -> BlockTables:
        policy = self._replica.policy
        if not isinstance(policy, BlockTables):
            raise InputError(f"{self._log.path.name} has block tables; policy {policy.name!r} has none")
        return policy

    def _tables(self, record: StepRecord) -> dict[str, list[list[int]]]:
        running = self._replica.batch.running
        policy = self._block_tables()
        return {str(row): policy.tables(running[row]) for row, _ in record.scheduled}


def request_rows(simulation: Simulation, scheduled_tokens: array[int]) -> list[Row]:
    """Return one row a request, as the log has it; what never happened is None."""
    outcomes, workload = simulation.outcomes, simulation.workload
    longest = simulation.limits.max_model_len
    unfinished = {job.index: job.tokens - job.prompt_tokens for job in simulation.replica.planner.waiting}
    rows: list[Row] = []
    for row in range(len(workload)):
        prompt, most = int(workload.prompt_tokens[row]), int(workload.output_tokens[row])
        status, outputs = "stuck", unfinished.get(row, 0)
        if outcomes.status[row] == COMPLETED:
            status, outputs = "finished", min(most, longest - prompt)
        elif outcomes.status[row] == REJECTED:
            status = "rejected"
        admitted = outcomes.first_scheduled[row] == outcomes.first_scheduled[row]
        rows.append(
            {
                "kind": "request",
                "req": row,
                "status": status,
                "arrival": _known(outcomes.arrival[row]),
                "first_sched": _known(outcomes.first_scheduled[row]),
                "first_token": _known(outcomes.first_token[row]),
                "finish": _known(outcomes.finish[row]),
                "preemptions": outcomes.preemptions[row],
                "cached_first": outcomes.cached[row] if admitted else None,
                "cached_total": outcomes.cached[row] + outcomes.readmission_hits[row],
                "sched_tokens": scheduled_tokens[row],
                "outputs": outputs,
            }
        )
    return rows


def _known(value: float) -> float | None:
    """Return None for what never happened."""
    return None if value != value else value


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 50 else text[:49] + "…"
