"""Measures of traces and generated workloads, for the rows of `published.toml`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvsim.engine import Simulation
    from kvsim.traces.trace import Trace
    from kvsim.validate_memory import Figures


def trace_facts(*, trace: Path) -> Figures:
    """Return `requests`, and total, mean, median, 90th percentile and most of prompts and outputs."""
    from kvsim.traces.read import read_trace

    return _lengths(read_trace(trace))


def workload_facts(*, workload: str, requests: int = 100_000) -> Figures:
    """Return the same of a generated workload."""
    from kvsim.traces.generate import generate

    return _lengths(generate(workload, requests, rate=1.0, seed=0))


def reuse_facts(*, trace: Path) -> Figures:
    """Return `references`, `unique` and `hits` of a trace's blocks, and the hit rate by three denominators.

    `top_tenth` is the share of the hits that the most hit tenth of the blocks gives, `seconds_80` the time since the
    last use that 80 % of the hits do not exceed.
    """
    from kvsim.traces.read import read_trace
    from kvsim.traces.reuse import reuse

    found = reuse(read_trace(trace))
    assert found is not None
    return {
        "references": found.references,
        "unique": found.unique,
        "hits": found.hits,
        "by_block": found.block_hit_rate,
        "by_token": found.token_hit_rate,
        "by_full_block": found.full_block_hit_rate,
        "top_tenth": found.top_tenth_share,
        "seconds_80": found.seconds_since[80],
    }


def lru_facts(*, trace: Path, blocks: int = 0, tokens: int = 0) -> Figures:
    """Return the `hits` of one LRU cache of so many blocks, or ⌊tokens / block⌋.

    `by_full_block` is their share of full blocks, `of_all` that of an unlimited cache's hits.
    """
    from kvsim.traces.read import read_trace
    from kvsim.traces.reuse import reuse

    loaded = read_trace(trace)
    size = blocks or tokens // loaded.block_tokens
    found = reuse(loaded, [size])
    assert found is not None
    hits = found.lru_hits[size]
    return {"hits": hits, "by_full_block": hits / found.full_blocks, "of_all": hits / found.hits}


def _lengths(trace: Trace) -> Figures:
    import numpy as np

    figures: Figures = {"requests": len(trace)}
    for name, column in (("prompt", trace.prompt_tokens), ("output", trace.output_tokens)):
        figures[f"{name}_total"] = int(column.sum())
        figures[f"{name}_mean"] = float(column.mean())
        figures[f"{name}_median"] = float(np.median(column))
        figures[f"{name}_p90"] = float(np.percentile(column, 90))
        figures[f"{name}_std"] = float(column.std())
        figures[f"{name}_most"] = int(column.max())
    return figures


def worked_example(
    *,
    requests: Sequence[Sequence[Any]],
    policy: str,
    blocks: int,
    max_model_len: int = 64,
    samples: int = 1,
) -> Figures:  # Any: numbers, then pairs of them
    """Replay a few requests by hand: [arrival, prompt, output, [first id, past the last], …], a second a step.

    Returns tokens `cached` a request, blocks `in_use` after each step, the last block `table` and the `free_queue`
    at the end, blocks numbered from 0 without the null block. `table` is of the first of several `samples`, and
    `last_table` of the last; `copies` are blocks copied.
    """
    simulation = _small_run(_by_hand(requests), policy, blocks, max_model_len, samples)
    chosen = simulation.replica.policy
    in_use: list[int] = []
    table: list[list[list[int]]] = []
    batch, tables = simulation.replica.batch, getattr(chosen, "tables", None)

    def look(_: object) -> None:
        in_use.append(chosen.blocks_in_use)
        if tables is not None and batch.running:
            found = tables(list(batch.running.values())[-1])
            table.append([[block - 1 for block in each] for each in found])

    simulation.replica.watch = look
    simulation.run()
    queue = getattr(chosen, "free_queue", None)
    return {
        "cached": tuple(simulation.outcomes.cached),
        "in_use": tuple(in_use),
        "table": tuple(table[-1][0]) if table else (),
        "last_table": tuple(table[-1][-1]) if table else (),
        "copies": getattr(chosen, "copies", 0),
        "free_queue": tuple(block - 1 for block in queue()) if queue is not None else (),
    }


def _small_run(work: Trace, policy: str, blocks: int, max_model_len: int, samples: int) -> Simulation:
    from kvsim.cost import LinearCost
    from kvsim.engine import Simulation
    from kvsim.policy import Pool
    from kvsim.registry import make_policy
    from kvsim.scheduler import Limits

    chosen = make_policy(policy)
    chosen.reset(
        Pool.of_blocks(blocks + 1, max_model_len, workload=work, max_num_batched_tokens=64, width=samples)
    )
    limits = Limits(max_model_len=max_model_len, max_num_seqs=8, max_num_batched_tokens=64, width=samples)
    simulation = Simulation(work, chosen, limits, LinearCost(1.0, 0.0, 0.0))
    simulation.keeps_places = True
    return simulation


def _by_hand(requests: Sequence[Sequence[Any]]) -> Trace:  # Any: numbers, then pairs of them
    import numpy as np

    from kvsim.traces.trace import Trace

    rows = [[block for first, end in row[3:] for block in range(first, end)] for row in requests]
    return Trace(
        name="by hand",
        arrival=np.array([row[0] for row in requests], np.float64),
        prompt_tokens=np.array([row[1] for row in requests], np.int64),
        output_tokens=np.array([row[2] for row in requests], np.int64),
        block_ids=np.array([block for row in rows for block in row], np.int64),
        block_offsets=np.cumsum([0, *map(len, rows)]),
        block_tokens=1,
    )
