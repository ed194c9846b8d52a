"""Drawn lengths of decodes and chunks: the same for a seed and an index, so that layouts meet the same batch."""

from __future__ import annotations

from math import exp, log

import numpy as np

ROWS = (
    1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896,
    1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096, 5120, 6144, 7168, 8192,
)  # fmt: skip
"""Rows of products and small kernels: no gap above 24 wider than a quarter, so that steps between can be summed."""

STEPS = 0.7548776662, 0.5698402910
"""Inverse powers of the plastic number: multiples of them fill the unit square evenly."""
MOST_LENGTH = 32768
MOST_CHUNK = 8192


class DrawnLengths:
    """Draws batches that a grid may have."""

    def __init__(self, seed: int, longest: int, most_tokens: int, smoke: bool = False) -> None:
        """Keep sequences to `longest` tokens, and batches of average length to about `most_tokens`."""
        self._seed = seed
        self._longest = longest
        self._most_tokens = most_tokens
        self._smoke = smoke
        self._shift = float(np.random.default_rng(seed).random())

    def decodes(self, index: int, longest: int = MOST_LENGTH, snap: bool = False) -> tuple[int, ...]:
        """Draw how many and how long by a sequence that leaves no gaps, and how uneven in turn.

        Log-normal (σ 0.5 and 1), uniform, and short ones with one to four 16 times as long. `snap` takes a number of
        sequences that products are timed at.
        """
        across, along = ((self._shift + index * step) % 1 for step in STEPS)
        count = round((4 if self._smoke else 512) ** across)
        if snap:
            count = min(ROWS, key=lambda rows: abs(rows - count))
        longest = max(2, min(longest, self._longest, self._most_tokens // count))
        shortest = min(16 if self._smoke else 64, longest // 2)
        middle = shortest * (longest / 2 / shortest) ** along
        lengths = middle * self._factors(index, count)
        return tuple(int(length) for length in np.clip(lengths, 2, longest))

    def chunks(self, index: int, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Draw q and kv of chunks, sizes and cached prefixes log-uniform."""
        random = np.random.default_rng((self._seed, 1, index))
        # few sizes in a smoke run, since each octave of them is checked apart
        least, most = (33, 63) if self._smoke else (8, MOST_CHUNK // count)
        q = [int(exp(random.uniform(log(least), log(most)))) for _ in range(count)]
        room = max(2, min(self._longest, MOST_LENGTH) - most)
        return tuple(q), tuple(tokens + int(exp(random.uniform(0, log(room)))) for tokens in q)

    def _factors(self, index: int, count: int) -> np.ndarray:
        random = np.random.default_rng((self._seed, 0, index))
        if index % 4 < 2:
            return np.exp(random.normal(0, (0.5, 1.0)[index % 4], count))
        if index % 4 == 2:
            return random.uniform(0.1, 2, count)
        return np.where(np.arange(count) < random.integers(1, 5), 4.0, 0.25)
