"""The reference gives back every log that vLLM's own scheduler left, and keeps the laws of the model."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from reference.contiguous import ContiguousMemory
from reference.draw import UNHURRIED, Case, cases, contiguous_cases, paged_cases
from reference.ledger import KINDS, Ledger, capacity, slot_counts
from reference.loop import Engine, Log, run
from reference.paged import PagedMemory
from reference.pool import NULL
from reference.scheduler import Step

ORACLE = Path(__file__).resolve().parents[2] / "shared" / "oracle"
MANIFEST = ORACLE / "manifest.json"
# JSON: values of any type.
CASES: dict[str, Any] = json.loads(MANIFEST.read_text())["cases"] if MANIFEST.exists() else {}


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read gzipped JSON lines."""
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.shared
@pytest.mark.skipif(not CASES, reason=f"no oracle logs at {ORACLE}")
@pytest.mark.parametrize("name", CASES)
def test_reference_gives_back_the_log_of_vllm(name: str) -> None:
    case = CASES[name]
    expected = read_jsonl(ORACLE / case["log"])

    log = run(read_jsonl(ORACLE / case["trace"]), case["config"], detail=case["detail"])

    steps = [{k: v for k, v in line.items() if k != "kind"} for line in expected if line["kind"] == "step"]
    for mine, theirs in zip(log.steps, steps, strict=False):
        assert mine == theirs
    assert len(log.steps) == len(steps)
    requests = [
        {k: v for k, v in line.items() if k != "kind"} for line in expected if line["kind"] == "request"
    ]
    assert log.requests == requests


class Auditor(Ledger):
    """Keeps the ledger and, at every step, checks what must hold of the memory."""

    def step(self, engine: Engine, step: Step) -> None:
        """Check who holds what, then add the row."""
        if isinstance(engine.memory, PagedMemory):
            self.check_blocks(engine, engine.memory)
        else:
            self.check_pieces(engine.memory)
        super().step(engine, step)

    def check_blocks(self, engine: Engine, memory: PagedMemory) -> None:
        """Reference counts are numbers of holders; a block is free exactly while nobody holds it."""
        held = Counter(
            block
            for request in engine.scheduler.running
            for table in memory.tables[request.index]
            for block in table
            if block != NULL
        )
        pool = memory.pool
        assert [held[block] for block in range(pool.num_blocks)] == pool.holders
        assert sorted(pool.queue) == [block for block in range(1, pool.num_blocks) if held[block] == 0]
        findable = {block: key for key, blocks in pool.blocks_with.items() for block in blocks}
        assert findable == {block: key for block, key in enumerate(pool.key) if key is not None}

    def check_pieces(self, memory: ContiguousMemory) -> None:
        """Pieces and holes fill the address space without a gap or an overlap."""
        address = 0
        pieces = [piece for pieces in memory.pieces.values() for piece in pieces]
        for start, size in sorted([*memory.holes, *pieces]):
            assert start == address
            address += size
        assert address == memory.capacity


def audited(case: Case) -> tuple[Log, Auditor]:
    """Run a case under the auditor's eyes."""
    auditor = Auditor()
    return run(*case, observe=auditor), auditor


@UNHURRIED
@given(cases())
def test_slots_of_all_kinds_sum_to_the_capacity_at_every_step(case: Case) -> None:
    log, auditor = audited(case)

    assert all(sum(row[kind] for kind in KINDS) == capacity(log.engine) for row in auditor.rows)
    assert all(row["live"] == row["reserved"] == 0 for row in auditor.rows if row["step"] is None)


@UNHURRIED
@given(cases())
def test_memory_is_whole_again_at_the_end(case: Case) -> None:
    log, _ = audited(case)

    assert log.engine.scheduler.running == []
    counts = slot_counts(log.engine, [])
    assert counts["external"] + counts["reusable"] + counts["free"] == capacity(log.engine)
    if isinstance(log.engine.memory, PagedMemory):
        assert log.engine.memory.pool.holders == [0] * log.engine.memory.pool.num_blocks


@UNHURRIED
@given(cases())
def test_every_request_ends_somehow_and_its_times_are_in_order(case: Case) -> None:
    log, _ = audited(case)

    for request in log.requests:
        assert request["status"] in ("finished", "rejected", "stuck")
        if request["status"] == "finished":
            first, last = request["first_token"], request["finish"]
            assert request["arrival"] <= request["first_sched"] <= first <= last


@UNHURRIED
@given(cases())
def test_time_never_runs_backwards(case: Case) -> None:
    log, _ = audited(case)

    times = [time for step in log.steps for time in (step["t0"], step["t1"])]
    assert times == sorted(times)


@UNHURRIED
@given(cases())
def test_tokens_computed_are_those_needed_and_those_thrown_away(case: Case) -> None:
    log, _ = audited(case)

    for request in log.engine.requests:
        if request.status != "finished":
            continue
        again = [lost - hit for lost, hit in zip(request.thrown_away, request.admissions[1:], strict=False)]
        # One that got its last output while it waited (Y5) was not admitted again.
        unpaid = sum(request.thrown_away[len(again) :])
        # The prompt once, what comes after it by each sample.
        needed = request.prompt + case[1]["samples"] * (request.final_length - request.prompt)
        if unpaid:
            assert request.sched_tokens == unpaid + sum(again) - request.admissions[0]
        else:
            assert request.sched_tokens == needed - request.admissions[0] + sum(again)


@UNHURRIED
@given(cases())
def test_step_never_exceeds_budget_places_or_pool(case: Case) -> None:
    _, config = case

    log, _ = audited(case)

    for step in log.steps:
        assert sum(count for _, count in step["sched"]) <= config["max_num_batched_tokens"]
        assert step["run"] * config["samples"] <= config["max_num_seqs"]
        assert len({request for request, _ in step["sched"]}) == len(step["sched"])


@UNHURRIED
@given(contiguous_cases())
def test_contiguous_memory_never_preempts(case: Case) -> None:
    log, _ = audited(case)

    assert all(step["preempt"] == [] for step in log.steps)


@UNHURRIED
@given(paged_cases())
def test_same_case_gives_the_same_log(case: Case) -> None:
    first, second = run(*case, detail=True), run(*case, detail=True)

    assert first.steps == second.steps
    assert first.requests == second.requests
