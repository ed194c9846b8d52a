"""Drawn lengths of decodes and chunks: the same for a seed and an index, so that layouts meet the same batch."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log

import numpy as np

ROWS = (
    1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896,
    1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096, 5120, 6144, 7168, 8192,
)  # fmt: skip
"""Rows of products and small kernels: no gap above 24 wider than a quarter, so that steps between can be summed."""
SMOKE_ROWS = (1, 2, 4, 16, 64, 256)

STEPS = 0.7548776662, 0.5698402910
"""Inverse powers of the plastic number: multiples of them fill the unit square evenly."""
MOST_LENGTH = 32768
MOST_CHUNK = 8192
PROMPTS_AT_ONCE = (1, 2, 4)

Chunks = tuple[tuple[int, ...], tuple[int, ...]]
"""q and kv of each."""


class DrawnLengths:
    """Draws batches that a grid may have."""

    def __init__(self, seed: int, longest: int, most_tokens: int, smoke: bool = False) -> None:
        """Keep sequences to `longest` tokens, and batches of average length to about `most_tokens`."""
        self._seed = seed
        self._longest = longest
        self._most_tokens = most_tokens
        self._smoke = smoke
        self._shift = float(np.random.default_rng(seed).random())
        self._rows = SMOKE_ROWS if smoke else ROWS

    def decodes(self, index: int, longest: int = MOST_LENGTH, snap: bool = False) -> tuple[int, ...]:
        """Draw how many and how long by a sequence that leaves no gaps, and how uneven in turn.

        Log-normal (σ 0.5 and 1), uniform, and short ones with one to four 16 times as long. `snap` takes a number of
        sequences that products are timed at.
        """
        count = self._count(index, snap)
        along = (self._shift + index * STEPS[1]) % 1
        longest = max(2, min(longest, self._longest, self._most_tokens // count))
        shortest = min(16 if self._smoke else 64, longest // 2)
        middle = shortest * (longest / 2 / shortest) ** along
        lengths = middle * self._factors(index, count)
        return tuple(int(length) for length in np.clip(lengths, 2, longest))

    def chunks(self, index: int, count: int, snap: bool = False) -> Chunks:
        """Draw q and kv of chunks, sizes and cached prefixes log-uniform.

        `snap` makes the first chunk longer or shorter, so that together they have as many tokens as products are timed
        at.
        """
        random = np.random.default_rng((self._seed, 1, index))
        # few sizes in a smoke run, since each octave of them is checked apart
        least, most = (33, 63) if self._smoke else (8, MOST_CHUNK // count)
        q = [int(exp(random.uniform(log(least), log(most)))) for _ in range(count)]
        room = max(2, min(self._longest, MOST_LENGTH) - most)
        cached = [int(exp(random.uniform(0, log(room)))) for _ in q]
        return self._together(q, cached, snap)

    def prompts(self, index: int) -> tuple[int, ...]:
        """Draw a few whole prompts of one length; together they have as many tokens as products are timed at."""
        random = np.random.default_rng((self._seed, 2, index))
        count = PROMPTS_AT_ONCE[index % len(PROMPTS_AT_ONCE)]
        least, most = (16, 256) if self._smoke else (64, MOST_CHUNK)
        return self._even(count, exp(random.uniform(log(least), log(most // count))))

    def _count(self, index: int, snap: bool) -> int:
        count = round((4 if self._smoke else 512) ** ((self._shift + index * STEPS[0]) % 1))
        return nearest(self._rows, count) if snap else count

    def _together(self, q: list[int], cached: Sequence[int], snap: bool) -> Chunks:
        if snap:
            others = sum(q) - q[0]
            fitting = [
                rows for rows in self._rows if others + 2 <= rows <= others + self._longest - cached[0]
            ]
            if fitting:
                q[0] = nearest(fitting, sum(q)) - others
        return tuple(q), tuple(new + before for new, before in zip(q, cached, strict=True))

    def _even(self, count: int, tokens: float) -> tuple[int, ...]:
        fitting = [
            rows for rows in self._rows if rows % count == 0 and 2 * count <= rows <= count * self._longest
        ]
        return (nearest(fitting, count * tokens) // count,) * count if fitting else ()

    def _factors(self, index: int, count: int) -> np.ndarray:
        random = np.random.default_rng((self._seed, 0, index))
        if index % 4 < 2:
            return np.exp(random.normal(0, (0.5, 1.0)[index % 4], count))
        if index % 4 == 2:
            return random.uniform(0.1, 2, count)
        return np.where(np.arange(count) < random.integers(1, 5), 4.0, 0.25)


def nearest(sizes: Sequence[int], wanted: float) -> int:
    """Return the size that is nearest to what is wanted."""
    return min(sizes, key=lambda size: abs(size - wanted))
