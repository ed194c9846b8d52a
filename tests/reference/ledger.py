"""What every slot of the memory is used for, step by step, spelled out from the tables.

A slot is what `capacity` counts. Contiguous: one token. Paged: a block has lcm(block sizes of the groups)
slots, and a token of a group takes lcm / block size of them, so with one group, or equal block sizes, a
block has block_size slots and a token takes one. The null block does not count.

A row describes the state during [t0, t1] of a step, taken when the step has been scheduled. With c the
computed tokens of a sequence after the step, n what the step computes of it (1 if it is not scheduled), F
its final length (`Request.final_length`, the tokens that will ever have KV) and W a group's window, a
sequence reads the tokens [0, c) with full attention, and [max(0, c − n − W + 1), c) with a window: its first
query of the step is at c − n and sees itself and W − 1 tokens before it. Then a slot is

- live: held, and its token is read by a sequence that holds it;
- reserved: else, held at a position in [c, F) of a holder, which will fill it;
- internal: else, held: never filled, or dead because outside the window or beyond the final length;
- reusable: in a free block whose content can still be hit;
- external: contiguous only: in a hole too small for the next waiting request, after scheduling;
- free: everything else.

A shared slot counts once. With async scheduling a step is scheduled while the one before it runs, so that
what that one's finishes give back is still held here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from reference.contents import Row
from reference.contiguous import ContiguousMemory
from reference.groups import Group, grain
from reference.loop import Engine, Log, Observer, run
from reference.paged import PagedMemory
from reference.pool import NULL
from reference.request import Request
from reference.samples import SampledMemory
from reference.scheduler import Step

KINDS = ("live", "reserved", "internal", "external", "reusable", "free")
Counts = dict[str, int]


def capacity(engine: Engine) -> int:
    """Return the slots of the memory: (N − 1)·lcm, or what a contiguous memory was given."""
    if isinstance(engine.memory, ContiguousMemory):
        return engine.memory.capacity
    return (engine.memory.pool.num_blocks - 1) * grain(engine.memory.groups)


@dataclass
class Holder:
    """A sequence that holds a place, as far as the kind of a slot depends on it."""

    request: Request
    first_read: int
    """The first token that it reads in this step."""

    def kind(self, position: int) -> str:
        """Return what the slot of its token at `position` is, as far as this holder is concerned."""
        if self.first_read <= position < self.request.computed:
            return "live"
        if self.request.computed <= position < self.request.final_length:
            return "reserved"
        return "internal"


def first_read(request: Request, window: int | None, count: int) -> int:
    """Return the first token the sequence reads when it computes `count` tokens, by now counted."""
    return 0 if window is None else max(0, request.computed - count - window + 1)


def slot_kind(holders: list[Holder], position: int) -> str:
    """Return the best use that any holder has for a slot."""
    kinds = [holder.kind(position) for holder in holders]
    return next(kind for kind in ("live", "reserved", "internal") if kind in kinds)


def block_holders(engine: Engine, counts: dict[int, int]) -> dict[int, tuple[Group, int, list[Holder]]]:
    """Return for each held block its group, its index in the tables, and who holds it.

    Blocks are shared by equal content of all tokens from the first, so the index is the same for all.
    """
    memory = engine.memory
    assert isinstance(memory, PagedMemory)
    if isinstance(memory, SampledMemory):
        return sample_holders(engine, memory)
    found: dict[int, tuple[Group, int, list[Holder]]] = {}
    for request in engine.scheduler.running:
        for group, table in zip(memory.groups, memory.tables[request.index], strict=True):
            start = first_read(request, group.window, counts.get(request.index, 1))
            for index, block in enumerate(table):
                if block == NULL:
                    continue
                kept_group, kept_index, holders = found.setdefault(block, (group, index, []))
                assert (kept_group.index, kept_index) == (group.index, index)
                holders.append(Holder(request, start))
    return found


def sample_holders(engine: Engine, memory: SampledMemory) -> dict[int, tuple[Group, int, list[Holder]]]:
    """Return the same of samples and beams: each sequence of a request is a holder."""
    found: dict[int, tuple[Group, int, list[Holder]]] = {}
    for request in engine.scheduler.running:
        for table in memory.tables[request.index]:
            for index, block in enumerate(table):
                found.setdefault(block, (memory.groups[0], index, []))[2].append(Holder(request, 0))
    return found


def paged_counts(engine: Engine, counts: dict[int, int]) -> Counts:
    """Count the slots of a paged memory; `counts` has the tokens scheduled in this step by row."""
    memory = engine.memory
    assert isinstance(memory, PagedMemory)
    block_slots = grain(memory.groups)
    result = dict.fromkeys(KINDS, 0)
    for group, index, holders in block_holders(engine, counts).values():
        for position in range(index * group.block_size, (index + 1) * group.block_size):
            result[slot_kind(holders, position)] += block_slots // group.block_size
    for block in memory.pool.queue:
        result["free" if memory.pool.key[block] is None else "reusable"] += block_slots
    return result


def contiguous_counts(engine: Engine) -> Counts:
    """Count the slots of a contiguous memory, from addresses and holes."""
    memory = engine.memory
    assert isinstance(memory, ContiguousMemory)
    result = dict.fromkeys(KINDS, 0)
    for request in engine.scheduler.running:
        # N4: until the prompt is computed, only the first sequence has KV.
        alone = request.computed < request.prompt
        for number, (_, size) in enumerate(memory.pieces[request.index]):
            for position in range(size):
                kind = Holder(request, 0).kind(position)
                result["reserved" if kind == "live" and number and alone else kind] += 1
    least = memory.size(engine.scheduler.waiting[0]) if engine.scheduler.waiting else 0
    for _, size in memory.holes:
        result["external" if size < least else "free"] += size
    return result


def slot_counts(engine: Engine, scheduled: list[tuple[Request, int]]) -> Counts:
    """Count the slots of the memory as it is now, by kind."""
    if isinstance(engine.memory, ContiguousMemory):
        return contiguous_counts(engine)
    return paged_counts(engine, {request.index: count for request, count in scheduled})


class Ledger(Observer):
    """A row for every step, and for every time in which nothing can run."""

    def __init__(self) -> None:
        """Start with no rows."""
        self.rows: list[dict[str, Any]] = []

    def step(self, engine: Engine, step: Step) -> None:
        """Add the step's row."""
        self.add(step.log["step"], step.log["t0"], step.log["t1"], slot_counts(engine, step.sched))

    def idle(self, engine: Engine, until: float) -> None:
        """Add a row without a step: nobody runs, so nothing is held."""
        self.add(None, engine.clock, until, slot_counts(engine, []))

    def add(self, number: int | None, start: float, end: float, counts: Counts) -> None:
        """Add one row."""
        self.rows.append({"step": number, "t0": start, "t1": end, **counts})

    def integrals(self) -> dict[str, float]:
        """Return Σ slots·(t1 − t0) by kind, in slot seconds, from the first step's t0 to the last t1.

        Idle time between steps counts; what comes before the first step or after the last does not.
        """
        steps = [number for number, row in enumerate(self.rows) if row["step"] is not None]
        rows = self.rows[steps[0] : steps[-1] + 1] if steps else []
        return {kind: math.fsum(row[kind] * (row["t1"] - row["t0"]) for row in rows) for kind in KINDS}


def run_with_ledger(rows: list[Row], config: dict[str, Any]) -> tuple[Log, Ledger]:
    """Run the rows and keep the ledger."""
    ledger = Ledger()
    return run(rows, config, observe=ledger), ledger


def inter_token_latencies(log: Log) -> dict[int, list[float]]:
    """Return for each row the gaps between its consecutive outputs, in seconds."""
    return {
        request.index: [
            later - earlier
            for earlier, later in zip(request.output_times, request.output_times[1:], strict=False)
        ]
        for request in log.engine.requests
    }


def request_columns(log: Log) -> list[dict[str, Any]]:
    """Return what a run's table of requests says of each row; hits of re-admissions apart."""
    return [
        {
            "status": request.status,
            "arrival": request.arrival,
            "first_scheduled": request.first_sched,
            "first_token": request.output_times[0] if request.output_times else None,
            "finish": request.finish,
            "cached_tokens": request.admissions[0] if request.admissions else 0,
            "cached_again_tokens": sum(request.admissions[1:]) - request.restored,
            "recomputed_tokens": request.recomputed,
            "preemptions": request.preemptions,
            "output_tokens": request.outputs,
        }
        for request in log.engine.requests
    ]
