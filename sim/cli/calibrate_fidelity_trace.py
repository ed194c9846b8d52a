"""The requests of a fidelity check where no trace is given: batches of every size, shared prefixes, long prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kvsim.cost import CostModel, Step

if TYPE_CHECKING:
    from kvsim.traces.trace import Trace

ID_TOKENS = 64
"""Tokens that one content id stands for."""
PREFIXES = 4
"""Prefixes that half of the requests begin with."""
BURSTS = 60
"""Bursts that find the server idle."""
IDLE = 2000
"""Decode steps of one sequence between bursts: a prompt, chunk by chunk, takes less."""


class Requests(NamedTuple):
    """Some requests of the trace, a value each."""

    arrival: np.ndarray
    own: np.ndarray
    """Tokens of the prompt behind its prefix."""
    outputs: np.ndarray
    group: np.ndarray
    """Which prefix it begins with; PREFIXES and above for none."""


def drawn_trace(longest: int, most_running: int, cost: CostModel, spans: int, seed: int) -> Trace:
    """Draw requests that fit `longest` tokens: a few that come alone, then ever more at once.

    Half begin with one of four prefixes of a quarter of `longest`. First come bursts of one to four prompts, of up to
    half of `longest`, with next to no output, so far apart that nobody else decodes meanwhile. Then prompts are
    log-normal around a sixteenth of `longest` and outputs around a thirty-second, both with σ 0.8, and arrivals get
    faster until `most_running` would run at once, by what `cost` says a decode step of so many takes.
    """
    from kvsim.traces.trace import Trace

    generator = np.random.default_rng(seed)
    id_tokens = min(ID_TOKENS, max(1, longest // 8))
    prefix_ids = max(1, longest // 4 // id_tokens)
    prefix = prefix_ids * id_tokens

    def decode_seconds(sequences: int, length: int) -> float:
        context = sequences * length
        return cost.seconds(Step(sequences, context, sequences, (context,) * spans))

    alone = _bursts(generator, longest, IDLE * decode_seconds(1, longest))
    busy = _crowd(generator, longest, most_running, prefix // 2, decode_seconds)
    busy = busy._replace(arrival=busy.arrival + alone.arrival[-1] + IDLE * decode_seconds(1, longest))
    arrival, own, outputs, group = (np.concatenate(parts) for parts in zip(alone, busy, strict=True))
    has_prefix = group < PREFIXES
    ids = [group[row] * prefix_ids + np.arange(prefix_ids) for row in np.flatnonzero(has_prefix)]
    return Trace(
        name=f"drawn (longest {longest}, seed {seed})",
        arrival=arrival,
        prompt_tokens=own + has_prefix * prefix,
        output_tokens=outputs,
        block_ids=np.concatenate([np.empty(0, np.int64), *ids]).astype(np.int64),
        block_offsets=np.concatenate(([0], np.cumsum(has_prefix * prefix_ids))).astype(np.int64),
        block_tokens=id_tokens,
    ).checked()


def _bursts(generator: np.random.Generator, longest: int, gap: float) -> Requests:
    """Draw bursts on an idle server, prompts log-uniform from 1/64 to a half of `longest`."""
    sizes = np.tile([1, 1, 1, 2, 1, 4], BURSTS // 6 + 1)[:BURSTS]
    count = int(sizes.sum())
    own = longest / 2 * np.exp(-np.log(32) * generator.random(count))
    return Requests(
        np.repeat(np.arange(BURSTS), sizes) * gap,
        np.clip(own, 2, longest // 2).astype(np.int64),
        generator.integers(1, 3, size=count),
        generator.integers(2 * PREFIXES, size=count),
    )


def _crowd(
    generator: np.random.Generator, longest: int, most_running: int, before: int,
    decode_seconds: Callable[[int, int], float],
) -> Requests:  # fmt: skip
    """Draw requests that arrive ever faster; `before` is what prefixes add to the mean length."""
    count = 2 * most_running + 16
    own = _drawn(generator, longest / 16, count, longest // 2)
    outputs = _drawn(generator, longest / 32, count, longest // 8)
    running = np.maximum(1, most_running * np.arange(1, count + 1) / count)
    length = int(own.mean() + before + outputs.mean() / 2)
    stay = np.array([outputs.mean() * decode_seconds(int(each), length) for each in running])
    arrival = np.cumsum(stay / running) - stay[0] / running[0]
    return Requests(arrival, own, outputs, generator.integers(2 * PREFIXES, size=count))


def _drawn(generator: np.random.Generator, median: float, count: int, most: int) -> np.ndarray:
    drawn = np.rint(median * np.exp(generator.normal(0, 0.8, count)))
    return np.clip(drawn, 2, max(2, most)).astype(np.int64)
