"""Lengths of decodes and chunks as a trace has them, in place of drawn ones."""

from __future__ import annotations

import numpy as np

from kvsim.calibration.drawn_lengths import MOST_CHUNK, MOST_LENGTH, PROMPTS_AT_ONCE, Chunks, DrawnLengths
from kvsim.request import Workload

SHORTEST = 4
"""Fewest tokens of a prompt that a chunk is cut from."""


class TraceLengths(DrawnLengths):
    """Draws batches whose sequences are requests of a trace.

    How many sequences there are is drawn as ever, since that is the server's doing and not the trace's; of batches that
    the memory cannot hold, the first sequences are kept.
    """

    def __init__(
        self, workload: Workload, seed: int, longest: int, most_tokens: int, smoke: bool = False
    ) -> None:
        """Take lengths of requests, at most `longest` tokens each."""
        super().__init__(seed, longest, most_tokens, smoke)
        self._prompts, self._outputs = workload.prompt_tokens, workload.output_tokens
        self._steps = np.cumsum(workload.output_tokens)

    def decodes(self, index: int, longest: int = MOST_LENGTH, snap: bool = False) -> tuple[int, ...]:
        """Draw steps of the trace: a request in proportion to its outputs, then which of them it is at."""
        random = np.random.default_rng((self._seed, 0, index))
        count = self._count(index, snap)
        step = random.integers(0, self._steps[-1], count)
        row = np.searchsorted(self._steps, step, side="right")
        done = step - (self._steps[row] - self._outputs[row]) + 1
        limit = max(2, min(longest, self._longest, self._most_tokens))
        lengths = np.clip(self._prompts[row] + done, 2, limit)
        held = max(1, int((np.cumsum(lengths) <= self._most_tokens).sum()))
        if snap and held < count:
            held = max(rows for rows in self._rows if rows <= held)
        return tuple(lengths[:held].tolist())

    def chunks(self, index: int, count: int, snap: bool = False) -> Chunks:
        """Draw prompts of the trace and, in each, evenly, how many tokens are cached before the chunk."""
        random = np.random.default_rng((self._seed, 1, index))
        most = 63 if self._smoke else MOST_CHUNK // count
        prompts = self._drawn(random, count)
        cached = [int(random.integers(1, tokens - 1)) for tokens in prompts]
        q = [min(tokens - before, most) for tokens, before in zip(prompts, cached, strict=True)]
        return self._together(q, cached, snap)

    def prompts(self, index: int) -> tuple[int, ...]:
        """Draw a prompt of the trace, once or several times; rounded to what products are timed at."""
        random = np.random.default_rng((self._seed, 2, index))
        count = PROMPTS_AT_ONCE[index % len(PROMPTS_AT_ONCE)]
        return self._even(count, min(self._drawn(random, 1)[0], MOST_CHUNK // count))

    def _drawn(self, random: np.random.Generator, count: int) -> list[int]:
        rows = random.integers(0, len(self._prompts), count)
        limit = max(SHORTEST, min(self._longest, MOST_LENGTH))
        found: list[int] = np.clip(self._prompts[rows], SHORTEST, limit).tolist()
        return found


def lengths_of(
    workload: Workload | None, seed: int, longest: int, most_tokens: int, smoke: bool
) -> DrawnLengths:
    """Return what draws the batches of a grid: from a trace where there is one."""
    if workload is None:
        return DrawnLengths(seed, longest, most_tokens, smoke)
    return TraceLengths(workload, seed, longest, most_tokens, smoke)
