"""Run a case in the fast engine and in the reference, and compare steps, requests, slots and seconds."""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from reference.contents import Row, prompt_length
from reference.draw import Case
from reference.ledger import KINDS, Ledger, inter_token_latencies, request_columns
from reference.loop import Log, run
from reference.samples import COPY_SPEED, LINK_SPEED

from kvsim.block_detail import hashed_blocks
from kvsim.cost import LinearCost
from kvsim.engine import Simulation
from kvsim.gaps import Gaps
from kvsim.policies.contiguous import ContiguousPolicy
from kvsim.policies.paged import BlockPolicy, PagedPolicy
from kvsim.policies.prefix import PrefixPolicy
from kvsim.policies.sliding_window import SlidingWindowPolicy
from kvsim.policy import Policy, Pool
from kvsim.replica import Planned, StepRecord
from kvsim.request import FloatColumn, IntColumn, Sequence
from kvsim.scheduler import Limits
from kvsim.step_log import step_row
from kvsim.verify import request_rows


@dataclass
class Rows:
    """Trace rows as a workload, as they are: a prompt may be empty or too long."""

    arrival: FloatColumn
    prompt_tokens: IntColumn
    output_tokens: IntColumn
    priority: IntColumn | None
    block_ids: IntColumn | None
    block_offsets: IntColumn | None
    block_tokens: int
    parent: IntColumn | None
    think: FloatColumn | None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.arrival)


def workload(rows: list[Row], hash_block_tokens: int) -> Rows:
    """Put rows into columns; all ids are single tokens as soon as one row has token ids."""
    spelt = any("prompt_token_ids" in row for row in rows)
    ids = [ids_of(row, hash_block_tokens if spelt else None) for row in rows]
    return Rows(
        arrival=np.array([row["arrival_s"] for row in rows], np.float64),
        prompt_tokens=np.array([prompt_length(row) for row in rows], np.int64),
        output_tokens=np.array([row["output_len"] for row in rows], np.int64),
        priority=np.array([row.get("priority", 0) for row in rows], np.int64),
        block_ids=np.array([name for row in ids for name in row], np.int64),
        block_offsets=np.cumsum([0, *map(len, ids)]),
        block_tokens=1 if spelt else hash_block_tokens,
        parent=np.array([row.get("parent", -1) for row in rows], np.int64),
        think=np.array([row.get("think", 0.0) for row in rows], np.float64),
    )


def ids_of(row: Row, spell: int | None) -> list[int]:
    """Return a row's ids, each spelt out as so many tokens when asked to."""
    if "prompt_token_ids" in row:
        return list(row["prompt_token_ids"])
    names = row.get("hash_ids") or []
    if spell is None:
        return list(names)
    return [name * spell + offset for name in names for offset in range(spell)][: row["prompt_len"]]


def policy_of(config: dict[str, Any]) -> Policy:
    """Return the policy that a reference configuration means."""
    if config["memory"] is not None:
        memory = config["memory"]
        return ContiguousPolicy(reservation=memory["reservation"], placement=memory["placement"])
    common = {key: config[key] for key in ("block_size", "watermark", "scheduler_reserve_full_isl")}
    if config["groups"] == [{"type": "full"}]:
        paged = PagedPolicy(link_gb_per_s=LINK_SPEED / 1e9, **common)
        return PrefixPolicy(**common) if config["enable_prefix_caching"] else paged
    return SlidingWindowPolicy(
        kv_groups=json.dumps(config["groups"]),
        enable_prefix_caching=config["enable_prefix_caching"],
        prefix_cache_retention_interval=config["prefix_cache_retention_interval"],
        **common,
    )


def limits_of(config: dict[str, Any]) -> Limits:
    """Return the limits that a reference configuration means."""
    same = (
        "max_model_len",
        "max_num_batched_tokens",
        "enable_chunked_prefill",
        "long_prefill_token_threshold",
        "long_prefill_token_threshold_adaptive",
        "async_scheduling",
    )
    return Limits(
        width=config["samples"],
        **{key: config[key] for key in same},
        max_num_seqs=config["max_num_active_seqs"] or config["max_num_seqs"],
        scheduling_policy=config["policy"],
        scheduler="static" if config["batching"] == "static" else "vllm",
        vllm_version=config["vllm_version"],
    )


def simulation_of(rows: list[Row], config: dict[str, Any]) -> Simulation:
    """Set up the fast engine."""
    trace = workload(rows, config["hash_block_tokens"])
    longest = config["max_model_len"]

    def true_tokens(sequence: Sequence) -> int:
        row = sequence.index
        return min(int(trace.prompt_tokens[row] + trace.output_tokens[row]), longest) - 1

    shared: dict[str, Any] = {
        "max_num_batched_tokens": config["max_num_batched_tokens"],
        "async_scheduling": config["async_scheduling"],
        "workload": trace,
        "true_tokens": true_tokens,
        "width": config["samples"],
        "beam": config.get("beam"),
        "copy_bytes_per_second": COPY_SPEED,
    }
    memory = config["memory"]
    if memory is not None:
        pool = Pool.of_tokens(memory["capacity"], longest, **shared)
    elif config["samples"] == 1:
        pool = Pool.of_blocks(config["num_blocks"], longest, **shared)
    else:
        # A byte a token, as the reference counts what is copied.
        tokens = (config["num_blocks"] - 1) * config["block_size"]
        shared["num_gpu_blocks_override"] = config["num_blocks"]
        pool = Pool.of_tokens(tokens, longest, **shared)
    policy = policy_of(config)
    policy.reset(pool)
    cost = LinearCost(config["cost_a"], config["cost_b"], config["cost_c"])
    return Simulation(trace, policy, limits_of(config), cost, reject_never_fits=config["reject_never_fits"])


@dataclass
class Fast:
    """Everything the fast engine says of a run, in the reference's words."""

    simulation: Simulation
    steps: list[dict[str, Any]] = field(default_factory=list)
    slots: list[tuple[int, ...]] = field(default_factory=list)
    records: list[StepRecord] = field(default_factory=list)
    ended: int = 0

    def scheduled(self, record: StepRecord) -> None:
        """Note a step, with the tables of what it scheduled."""
        row = step_row(len(self.steps), record, self.simulation.limits.async_scheduling)
        policy, running = self.simulation.replica.policy, self.simulation.replica.batch.running
        if isinstance(policy, BlockPolicy):
            row["tables"] = {str(index): policy.tables(running[index]) for index, _ in record.scheduled}
            row["tables"] = json.loads(json.dumps(row["tables"]))
        del row["kind"]
        self.steps.append(row)
        self.slots.append(tuple(record.slots))
        self.records.append(record)

    def end(self, planned: Planned) -> None:
        """Note what a step left behind."""
        del planned
        policy = self.simulation.replica.policy
        row = self.steps[self.ended]
        row["blk_end"] = policy.blocks_in_use
        if isinstance(policy, BlockPolicy):
            row["free"] = policy.free_queue()
            row["hashed"] = hashed_blocks(self.simulation.replica, self.records[self.ended], self.records[-1])
        self.ended += 1


def fast(case: Case) -> Fast:
    """Run a case in the fast engine."""
    seen = Fast(simulation_of(*case))
    seen.simulation.replica.watch = seen.scheduled
    seen.simulation.replica.watch_end = seen.end
    seen.simulation.run()
    return seen


def slow(case: Case) -> tuple[Log, Ledger]:
    """Run a case in the reference, with tables and queues."""
    ledger = Ledger()
    return run(*case, detail=True, observe=ledger), ledger


def compare_steps(mine: Fast, log: Log) -> None:
    """Compare step by step, so that the first difference is what is shown."""
    blocks = isinstance(mine.simulation.replica.policy, BlockPolicy)
    for ours, theirs in zip(mine.steps, log.steps, strict=False):
        left_out = () if blocks else ("tables", "free", "hashed")
        assert ours == {key: value for key, value in theirs.items() if key not in left_out}
    assert len(mine.steps) == len(log.steps)


def compare_requests(mine: Fast, log: Log) -> None:
    """Compare the log's rows, and what a result says beyond them."""
    scheduled = array("q", [0]) * len(log.requests)
    for step in mine.steps:
        for row, tokens in step["sched"]:
            scheduled[row] += tokens
    ours = request_rows(mine.simulation, scheduled)
    assert [{k: v for k, v in row.items() if k != "kind"} for row in ours] == log.requests
    outcomes = mine.simulation.outcomes
    columns = request_columns(log)
    assert list(outcomes.recomputed) == [row["recomputed_tokens"] for row in columns]
    assert list(outcomes.readmission_hits) == [row["cached_again_tokens"] for row in columns]
    assert mine.simulation.replica.computed_tokens == sum(scheduled)


def compare_gaps(mine: Fast, log: Log) -> None:
    """Compare the inter-token latencies of all requests together."""
    gaps = _total(mine.simulation.replica.ledger.gaps)
    width = mine.simulation.limits.width
    assert gaps == Counter(
        gap for row in inter_token_latencies(log).values() for gap in row for _ in range(width)
    )


def compare_slots(mine: Fast, ledger: Ledger) -> None:
    """Compare what the memory is used for, at every step and integrated over time."""
    steps = [row for row in ledger.rows if row["step"] is not None]
    assert mine.slots == [tuple(row[kind] for kind in KINDS) for row in steps]
    ours = mine.simulation.replica.ledger
    if not steps or ours.now > steps[-1]["t1"]:
        return  # Somebody came to a standing queue after the last step.
    totals = ours.integrals(steps[-1]["t1"])
    rows = [row for row in ledger.rows if ours.start <= row["t0"] and row["t1"] <= steps[-1]["t1"]]
    assert {kind: totals[kind] for kind in KINDS} == {
        kind: math.fsum(row[kind] * (row["t1"] - row["t0"]) for row in rows) for kind in KINDS
    }


def compare_copies(mine: Fast, log: Log) -> None:
    """Compare how often KV was copied."""
    assert getattr(mine.simulation.replica.policy, "copies", 0) == getattr(log.engine.memory, "copies", 0)


def check_littles_law(mine: Fast, log: Log) -> None:
    """Check ∫(running + waiting) dt = Σ time in the system, where everybody has left it."""
    if any(row["status"] == "stuck" for row in log.requests):
        return
    ledger = mine.simulation.replica.ledger
    totals = ledger.integrals(ledger.now)
    stays = [row["finish"] - row["arrival"] for row in log.requests if row["status"] == "finished"]
    assert totals["running"] + totals["waiting"] == math.fsum(stays)


def compare_in_bulk(mine: Fast, case: Case) -> None:
    """Run once more with nobody watching, so that steps are taken many at a time: all figures must be the same."""
    bulk = simulation_of(*case)
    bulk.run()
    compare_runs(bulk, mine.simulation)


def compare_runs(bulk: Simulation, watched: Simulation) -> None:
    """Compare all figures of two runs that have ended."""
    for name in (*bulk.outcomes.FLOATS, *bulk.outcomes.COUNTS, "status"):
        ours, theirs = getattr(bulk.outcomes, name), getattr(watched.outcomes, name)
        assert np.array_equal(ours, theirs, equal_nan=name in bulk.outcomes.FLOATS), name
    a, b = bulk.replica, watched.replica
    assert (a.steps, a.computed_tokens, bulk.clock) == (b.steps, b.computed_tokens, watched.clock)
    assert (a.planner.first_admission_tokens, a.planner.readmission_tokens) == (
        b.planner.first_admission_tokens,
        b.planner.readmission_tokens,
    )
    assert a.ledger.integrals(bulk.clock) == b.ledger.integrals(bulk.clock)
    columns, wanted = a.ledger.timeline.columns, b.ledger.timeline.columns
    assert {name: column.tolist() for name, column in columns.items()} == {
        name: column.tolist() for name, column in wanted.items()
    }
    for table, other in (
        (a.ledger.time_running, b.ledger.time_running),
        (a.ledger.time_waiting, b.ledger.time_waiting),
    ):
        assert [each.tolist() for each in table.table()] == [each.tolist() for each in other.table()]
    assert _total(a.ledger.gaps) == _total(b.ledger.gaps)


def _total(gaps: Gaps) -> Counter[float]:
    counts: Counter[float] = Counter()
    for seconds, count in gaps:
        counts[seconds] += count
    return counts


def compare(case: Case) -> None:
    """Hold everything against each other."""
    log, ledger = slow(case)
    mine = fast(case)
    assert mine.simulation.endless is None
    compare_steps(mine, log)
    compare_requests(mine, log)
    compare_gaps(mine, log)
    compare_slots(mine, ledger)
    compare_copies(mine, log)
    check_littles_law(mine, log)
    compare_in_bulk(mine, case)
