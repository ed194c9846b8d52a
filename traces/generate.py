"""Seeded synthetic traces: a named workload, a number of requests, a mean rate.

Prompt and output lengths are drawn independently of each other and of the arrivals.
"""

from __future__ import annotations

import numpy as np

from kvsim.errors import InputError
from kvsim.request import IntColumn
from kvsim.traces.arrivals import arrivals, source_of_chance
from kvsim.traces.trace import Trace
from kvsim.traces.workloads import Quantiles, Workload, workload


def generate(
    name: str, requests: int, rate: float, seed: int = 0, arrival: str = "poisson", **overrides: float
) -> Trace:
    """Draw a trace of a named workload; the same arguments give the same trace.

    `rate` is arrivals a second on average and `arrival` a process of `kvsim.traces.arrivals`. Workloads
    are listed by `kvsim.traces.workloads.workloads()`, with their moments: the mean lengths of a
    trace differ from those only by chance. `overrides` change a workload's figures, as in
    `workload(name, turns=8)`.

    In a workload with sessions (chat, agent) the process draws when sessions start, and `rate` is sessions
    a second. Later turns are closed loop: they name their parent and the think time after its answer,
    and stand under their session's arrival. The last session is cut where the trace is full. A turn's
    prompt is the system prompt, the earlier prompts and answers, and what is new; block ids name all of
    it, so that a turn begins with the ids of the turn before it.
    """
    if requests < 1:
        raise InputError(f"requests must be at least 1, got {requests}")
    found = workload(name, **overrides)
    rng = source_of_chance(seed)
    if found.turns is None:
        return _single(found, requests, rate, arrival, rng)
    return _sessions(found, found.turns, requests, rate, arrival, rng)


def _single(found: Workload, requests: int, rate: float, arrival: str, rng: np.random.Generator) -> Trace:
    """Draw requests that stand alone; only system prompts have ids."""
    times = arrivals(arrival, requests, rate, rng)
    prompt, output = _lengths(found, requests, rng)
    if not found.system_prompts:
        return Trace(name=found.name, arrival=times, prompt_tokens=prompt, output_tokens=output)
    nothing = np.zeros(requests, dtype=np.int64)
    ids, offsets = _content(found, _popular(found, requests, rng), nothing, nothing)
    return Trace(
        name=found.name,
        arrival=times,
        prompt_tokens=prompt + found.system_length,
        output_tokens=output,
        block_ids=ids,
        block_offsets=offsets,
        block_tokens=found.block_tokens,
    )


def _sessions(
    found: Workload, turns: Quantiles, requests: int, rate: float, arrival: str, rng: np.random.Generator
) -> Trace:
    """Draw sessions turn by turn; the rows of a session stand together."""
    counts = _turn_counts(turns, requests, rng)
    session = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    new, output = _lengths(found, requests, rng)
    if found.first is not None:
        new[first] = found.first.draw_whole(rng, len(counts))
    think = np.zeros(requests) if found.think is None else found.think.draw(rng, requests)
    think[first] = 0.0
    parent = np.arange(-1, requests - 1)
    parent[first] = -1
    before = np.cumsum(new + output) - new - output
    prompt = found.system_length + before - before[first][session] + new
    ids, offsets = _session_content(found, counts, session, prompt, rng)
    return Trace(
        name=found.name,
        arrival=arrivals(arrival, len(counts), rate, rng)[session],
        prompt_tokens=prompt,
        output_tokens=output,
        block_ids=ids,
        block_offsets=offsets,
        block_tokens=found.block_tokens,
        session=session,
        parent=parent,
        think=think,
    )


def _turn_counts(turns: Quantiles, requests: int, rng: np.random.Generator) -> IntColumn:
    """Draw turns a session until there are `requests`; the last session is cut."""
    counts = turns.draw_whole(rng, 1 + int(requests / turns.mean))
    while counts.sum() < requests:
        counts = np.concatenate((counts, turns.draw_whole(rng, 1 + len(counts) // 8)))
    ends = np.cumsum(counts)
    last = int(np.searchsorted(ends, requests))
    counts[last] -= ends[last] - requests
    return counts[: last + 1]


def _lengths(found: Workload, requests: int, rng: np.random.Generator) -> tuple[IntColumn, IntColumn]:
    """Draw new prompt and output tokens, again where both pass the limit."""
    prompt = found.prompt.draw_whole(rng, requests)
    output = found.output.draw_whole(rng, requests)
    if found.max_tokens is None:
        return prompt, output
    for _ in range(1000):
        long = np.flatnonzero(prompt + output > found.max_tokens)
        if not len(long):
            return prompt, output
        prompt[long] = found.prompt.draw_whole(rng, len(long))
        output[long] = found.output.draw_whole(rng, len(long))
    raise InputError(
        f"workload {found.name}: prompt and output hardly ever fit max_tokens {found.max_tokens}; "
        "raise it or lower their means"
    )


def _popular(found: Workload, count: int, rng: np.random.Generator) -> IntColumn:
    """Draw which system prompt each session or request has, by Zipf's law."""
    weights = np.arange(1, found.system_prompts + 1, dtype=np.float64) ** -found.zipf
    shares = np.cumsum(weights) / weights.sum()
    return np.minimum(np.searchsorted(shares, rng.random(count)), found.system_prompts - 1)


def _session_content(
    found: Workload, counts: IntColumn, session: IntColumn, prompt: IntColumn, rng: np.random.Generator
) -> tuple[IntColumn, IntColumn]:
    """Number the blocks of the sessions' texts, each after its system prompt's."""
    shared = found.shared_blocks
    own = -(-prompt // found.block_tokens) - shared
    longest = own[np.cumsum(counts) - 1]
    base = np.cumsum(longest) - longest
    nobody = np.zeros(len(counts), dtype=np.int64)
    chosen = _popular(found, len(counts), rng) if shared else nobody
    return _content(found, chosen[session], base[session], own)


def _content(
    found: Workload, chosen: IntColumn, base: IntColumn, own: IntColumn
) -> tuple[IntColumn, IntColumn]:
    """Return flat ids and offsets: the system prompt's, then `own` from `base` on.

    A block that holds the end of a system prompt and the start of something else counts as own.
    """
    shared = found.shared_blocks
    blocks = shared + own
    offsets = np.concatenate(([0], np.cumsum(blocks)))
    ids = np.arange(offsets[-1]) + np.repeat(
        found.system_prompts * shared + base - shared - offsets[:-1], blocks
    )
    system = np.arange(shared)
    ids[offsets[:-1, None] + system] = chosen[:, None] * shared + system
    return ids, offsets
