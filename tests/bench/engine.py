"""Requests per CPU-second of single runs, and what a step costs by the number of requests that run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from kvsim.result import Result
from kvsim.run import simulate
from kvsim.traces.trace import Trace
from tests.bench.rows import Row, Target
from tests.bench.timing import Timed, calibration_loop, cpu, say
from tests.bench.workloads import CONVERSATION, COST, SLOW_COST, conversation, lognormal, saturated

LOGNORMAL = (
    ("paged", 24_576, COST, 100_000),
    ("paged", 2_048, COST, 40_000),
    ("paged", 2_048, SLOW_COST, 40_000),
    ("contiguous", 24_576, COST, None),
    ("prefix", 24_576, COST, None),
    ("sliding-window", 24_576, COST, None),
)
"""Policy, blocks of 16, step cost, requests per CPU-second to reach."""
CONVERSATION_BLOCKS = (65_536, 16_384)
RUNNING = (8, 64, 512, 4096)


def run(
    trace: Trace, policy: str, blocks: int, **settings: Any
) -> Result:  # Any: fields of RunConfig, and those of simulate
    """Replay with everything that a run reports, but not the second replay that finds the batch capacity."""
    settings = {"cost": COST, "max_model_len": 131_072} | settings
    return simulate(trace, policy, num_gpu_blocks_override=blocks, measure_capacity=False, **settings)


def lognormal_rows(requests: int, repeat: int) -> Iterator[Row]:
    """Replay generated requests at 6 a second through the policies."""
    trace = lognormal(requests)
    run(lognormal(10), "paged", 24_576)  # what is imported when first used
    for policy, blocks, cost, target in LOGNORMAL:
        name = f"{policy}, {blocks:,} blocks" + ("" if cost == COST else ", slower steps")
        say(name)
        timed, result = cpu(partial(run, trace, policy, blocks, cost=cost, max_model_len=32_000), repeat)
        yield _speed(name, trace, timed, result, target)


def conversation_rows(requests: int, repeat: int) -> Iterator[Row]:
    """Replay the start of the Mooncake conversation trace with prefix caching."""
    trace = conversation(requests)
    for blocks in CONVERSATION_BLOCKS:
        name = f"prefix, {blocks:,} blocks, Mooncake conversation"
        if trace is None:
            yield Row(name=name, why=f"no {CONVERSATION.name} in shared/traces/mooncake")
            continue
        say(name)
        timed, result = cpu(partial(run, trace, "prefix", blocks), repeat)
        yield _speed(name, trace, timed, result, 20_000)


def _speed(name: str, trace: Trace, timed: Timed, result: Result, target: float | None) -> Row:
    summary = result.summary
    notes: dict[str, float | str] = {
        "requests": len(trace),
        "µs/step": timed.seconds / max(1, summary["steps"]) * 1e6,
        "running": summary["running_mean"],
        "preemptions": summary["preemptions"],
    }
    if summary["cached_tokens"]:
        notes["hits %"] = summary["prefix_cache_hit_rate"] * 100
    return Row(
        name=name,
        figure=len(trace) / timed.seconds,
        unit="requests/CPU-s",
        target=None if target is None else Target(value=target),
        loop=timed.loop,
        notes=notes,
    )


def step_rows(steps: int, repeat: int, running: tuple[int, ...] = RUNNING) -> Iterator[Row]:
    """Price a step with so many running; in each case one request in 16 steps ends and another starts.

    The price is the difference of two runs, of which one goes on for `steps` steps more: both begin and end with
    everybody's first and last step.
    """
    first = None
    for count in running:
        name = f"a step with {count:,} running"
        say(name)
        short = 16 * count + steps // 4
        timed = [_steady(count, length, repeat) for length in (short, short + steps)]
        (less, few), (more, many) = timed
        each = (more.seconds - less.seconds) / (many - few) * 1e6
        first = each if first is None else first
        yield Row(
            name=name,
            figure=each,
            unit="µs",
            loop=min(less.loop, more.loop),
            notes={"steps": many, f"times that of {running[0]}": each / first if first else 0.0},
        )


def _steady(count: int, length: int, repeat: int) -> tuple[Timed, int]:
    """Return the CPU time from when the pool is made, which takes 0.3 s for 4,096 such sequences, and the steps."""
    trace = saturated(count, length)
    # What `count` staggered sequences of 16 · count tokens hold in blocks of 16, and room to spare.
    blocks = count * (count + 4) + 1024
    seconds, loops, steps = [], [], 0
    for _ in range(repeat):
        began: list[float] = []
        loops.append(calibration_loop())
        attach = partial(_note_time, began)
        result = run(trace, "paged", blocks, max_num_seqs=count, attach=attach)
        seconds.append(time.process_time() - began[0])
        steps = int(result.summary["steps"])
    return Timed(min(seconds), min(loops)), steps


def _note_time(times: list[float], simulation: object) -> None:
    del simulation
    times.append(time.process_time())
