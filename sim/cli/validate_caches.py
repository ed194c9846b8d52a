"""Measures of what a cache finds: by order of eviction, by order of admission, and with further tiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvsim.policy import Policy
    from kvsim.traces.trace import Trace
    from kvsim.validate_memory import Figures


def eviction_order(*, trace: Path, blocks: int, evictions: Sequence[str]) -> Figures:
    """Return the hits of each order of eviction in a radix tree of so many blocks, and their `order`, fewest first.

    Requests are served one after another, in order of arrival.
    """
    from kvsim.policies.radix import RadixPolicy
    from kvsim.traces.read import read_trace

    work = read_trace(trace)
    size = work.block_tokens
    hits: dict[str, int] = {}
    for name in evictions:
        policy = RadixPolicy(page_size=size, block_size=size, eviction=name)
        hits[name] = _found(policy, work, blocks)
    order = sorted(hits, key=hits.__getitem__)
    return {**hits, "order": tuple(order)}


def _found(policy: Policy, work: Trace, blocks: int) -> int:
    """Return the prompt tokens found when requests come one after another; none keeps its answer."""
    from kvsim.policy import Pool
    from kvsim.request import Sequence as Request

    policy.reset(Pool.of_blocks(blocks + 1, 1 << 20, workload=work))
    found = 0
    for row, prompt in enumerate(work.prompt_tokens.tolist()):
        request = Request(row, 0.0, prompt)
        match = policy.lookup(request)
        lease = policy.admit(request, match, prompt - match.tokens)
        assert lease is not None
        request.computed = prompt
        policy.release(request, finished=True)
        found += match.tokens
    return found


def shared_prefixes(
    *,
    prefixes: int,
    questions: int,
    prefix: int,
    question: int,
    output: int = 1,
    rate: float = 0.0,
    **settings: Any,
) -> Figures:  # Any: RunConfig fields
    """Return what admitting by longest cached prefix finds, as a share `of_optimum`, and `over_fcfs`.

    So many questions follow each of some prefixes, in random order, at `rate` or all at once. The optimum computes each
    token once, as depth-first order does (RadixAttention's theorem 3.1).
    """
    from kvsim.run import simulate

    work = _few_shot(prefixes, questions, prefix, question, output, rate)
    found = {
        order: int(
            simulate(work, "radix", scheduling_policy=order, measure_capacity=False, **settings)
            .requests["cached_tokens"]
            .sum()
        )
        for order in ("lpm", "fcfs")
    }
    optimum = prefixes * (questions - 1) * prefix
    return {
        "of_optimum": found["lpm"] / optimum,
        "over_fcfs": found["lpm"] / found["fcfs"] if found["fcfs"] else float("inf"),
    }


def _few_shot(prefixes: int, questions: int, prefix: int, question: int, output: int, rate: float) -> Trace:
    import numpy as np

    from kvsim.traces.trace import Trace

    rng = np.random.default_rng(0)
    asked = rng.permutation(np.repeat(np.arange(prefixes), questions))
    count = len(asked)
    gaps = rng.exponential(1 / rate, count) if rate else np.zeros(count)
    return Trace(
        name="prefixes with questions",
        arrival=np.cumsum(gaps) - gaps[0],
        prompt_tokens=np.full(count, prefix + question),
        output_tokens=np.full(count, output),
        block_ids=(asked[:, None] * prefix + np.arange(prefix)).ravel(),
        block_offsets=np.arange(count + 1) * prefix,
        block_tokens=1,
    )


@cache
def tier_gain(
    *, trace: Path, cpu_gib: float, sample: float = 1.0, **settings: Any
) -> Figures:  # Any: RunConfig fields by name
    """Return hits in % of the prompt tokens `without` tiers and `with` so much CPU memory, and ratios between the runs.

    `throughput` is that of requests; `ttft_less` is by how much the mean time to the first token is shorter, in %.
    """
    from kvsim.run import simulate
    from kvsim.traces.read import read_trace
    from kvsim.traces.transform import transform

    work = read_trace(trace)
    work = transform(work, sample=sample) if sample < 1 else work
    size = work.block_tokens

    def summary(policy: str) -> Mapping[str, Any]:
        return simulate(work, policy, measure_capacity=False, **settings).summary

    plain = summary(f"prefix:block_size={size}")
    tiered = summary(f"tiered:block_size={size}:cpu_gib={cpu_gib}:disk_gib=0")
    return {
        "without": 100 * float(plain["prefix_cache_hit_rate"]),
        "with": 100 * float(tiered["prefix_cache_hit_rate"]),
        "throughput": float(tiered["request_throughput"]) / float(plain["request_throughput"]),
        "ttft_less": 100 * (1 - float(tiered["mean_ttft_ms"]) / float(plain["mean_ttft_ms"])),
    }


def swap_or_recompute(
    *,
    tokens: int,
    block_sizes: Sequence[int],
    link_gb_per_s: float,
    copy_us: float,
    model: str,
    **settings: Any,
) -> Figures:  # Any: RunConfig fields
    """Return which of two ways to bring back a preempted sequence is `faster` in blocks of each size.

    `ratio` is the longest that recomputing takes of the time of swapping, there and back.
    """
    from kvsim.config import RunConfig
    from kvsim.cost import Step
    from kvsim.policies.swap import SwapSpace
    from kvsim.request import Sequence as Request
    from kvsim.run import prepare_cost, prepare_policy, prepare_pool

    config = RunConfig(model=model, **settings)
    policy = prepare_policy("paged", config)
    pool = prepare_pool(None, policy, config)
    policy.reset(pool)
    area = tokens * (tokens + 1) // 2
    recompute = prepare_cost(config, policy).seconds(
        Step(tokens, tokens, 0, (0,), 1, tokens, (tokens,), (area,))
    )
    ratios = []
    for size in block_sizes:
        swap = SwapSpace(1024.0, link_gb_per_s, size, pool.token_bytes, copy_us, pool.tensors)
        request = Request(0, 0.0, tokens + 1)
        request.computed = request.lost = tokens
        swap.put(request)
        swap.bring_back(request)
        ratios.append(recompute / swap.take_seconds())
    return {
        "faster": tuple("recompute" if ratio < 1 else "swap" for ratio in ratios),
        "ratio": max(ratios),
    }
