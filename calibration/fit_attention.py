"""Attention time over the sums that a step is told by: of decodes, of chunks, and of both in one fused kernel.

Each form is an `Affine`. Beyond the points the edge of its table stays, and the coefficients decide.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kvsim.calibration.affine import Affine, Form, fit_affine
from kvsim.calibration.curve import Curve
from kvsim.calibration.features import TILES, Chunks, Decodes
from kvsim.calibration.nnls import relative_nnls
from kvsim.calibration.residual_table import Table

Floats = NDArray[np.float64]
MIXED_OCTAVES = 2.0
"""Octaves between nodes of the four-dimensional table of mixed calls."""


class DecodeFit:
    """a₀ + a₁·n + a₂·S + table(n, S), with n sequences and S = Σ KV tokens read.

    It rises with n and with S, so one more sequence never makes a batch faster. Beyond the points no KV is read faster
    than in any of them: a₂ is at least the least (seconds − a₀ − a₁·n) / S of the calls that spend most on reading.
    """

    terms = ("constant", "sequences", "context")

    def __init__(self, affine: Affine) -> None:
        """Take coefficients in the order of `terms`, and a table over (n, S)."""
        self.affine = affine

    @classmethod
    def of(cls, calls: Sequence[Decodes], seconds: Floats) -> DecodeFit:
        """Fit timed calls."""
        places = np.array(calls, dtype=np.float64)
        form = Form(_decode_features, _nothing, (1.0, 1.0))
        a0, a1, a2 = relative_nnls(_decode_features(places), seconds).tolist()
        reading = seconds - a0 - a1 * places[:, 0]
        per_token = (reading / places[:, 1])[reading > 0.5 * seconds]
        fastest = float(per_token.min(initial=np.inf)) if len(per_token) else a2
        return cls(fit_affine(form, places, _nothing(places), seconds, least=(0.0, 0.0, fastest)))

    def at(self, count: float, context: float) -> float:
        """Return the seconds of one layer."""
        a0, a1, a2 = self.affine.coefficients
        table = self.affine.table
        if table is None:
            return a0 + a1 * count + a2 * context
        count, context = max(count, table.axes[0][0]), max(context, table.axes[1][0])
        return a0 + a1 * count + a2 * context + table.at(count, context)

    def line(self, count: int) -> Curve:
        """Return the seconds over S for a fixed number of sequences."""
        table = self.affine.table
        nodes = table.axes[1] if table else (0.0,)
        return Curve(nodes, tuple([self.at(count, node) for node in nodes]), self.affine.coefficients[2])


class PrefillFit:
    """b₀ + b₁·Σq + b₂·area + b₃·Σkv + Σ b·max(Σq, p·tile) + table(Σq, depth): p chunks, depth = area / Σq."""

    terms = ("constant", "tokens", "area", "context", *(f"tile_{tile}" for tile in TILES))

    def __init__(self, affine: Affine) -> None:
        """Take coefficients in the order of `terms`, and a table over (Σq, depth)."""
        self.affine = affine

    @classmethod
    def of(cls, calls: Sequence[Chunks], seconds: Floats, per_context: float | None = None) -> PrefillFit:
        """Fit timed calls; `per_context` is b₃ where none of them reads a cached prefix to tell it by."""
        places = np.array([[call.tokens, call.depth] for call in calls])
        rest = np.array([[call.context, *tiles(call)] for call in calls], dtype=np.float64)
        form = Form(_chunk_features, _single_chunk, (1.0, 1.0))
        return cls(fit_affine(form, places, rest, seconds, per_context, reach=_reach(calls)))

    def was_timed(self, chunks: Chunks) -> bool:
        """Tell whether as many tokens were timed after as many cached ones, and queries that see as much."""
        table = self.affine.table
        deepest = table.axes[1][-1] if table else np.inf
        return chunks.depth <= deepest and self.affine.hull.holds(chunks.tokens, 1 + chunks.cached)

    def at(self, chunks: Chunks) -> float:
        """Return the seconds of one layer."""
        b0, b1, b2, b3, *others = self.affine.coefficients
        table = self.affine.table
        tokens, depth = at_least(table, chunks)
        formula = b0 + b1 * tokens + b2 * tokens * depth + b3 * chunks.context
        for coefficient, rows in zip(others, tiles(chunks), strict=True):
            formula += coefficient * rows
        return formula + (table.at(tokens, depth) if table else 0.0)


class MixedFit:
    """c₀ + c₁·Σq + c₂·area + c₃·n + c₄·S + c₅·Σkv + table(Σq, depth, n, S), as in the other two forms."""

    terms = ("constant", "tokens", "area", "sequences", "decode_context", "context")

    def __init__(self, affine: Affine) -> None:
        """Take coefficients in the order of `terms`, and a table over (Σq, depth, n, S)."""
        self.affine = affine

    @classmethod
    def of(cls, calls: Sequence[tuple[Chunks, Decodes]], seconds: Floats) -> MixedFit:
        """Fit timed calls."""
        places = np.array([[chunks.tokens, chunks.depth, n, context] for chunks, (n, context) in calls])
        rest = np.array([[chunks.context] for chunks, _ in calls], dtype=np.float64)
        form = Form(_mixed_features, lambda nodes: _single_chunk(nodes)[:, :1], (MIXED_OCTAVES,) * 4)
        reach = _reach([chunks for chunks, _ in calls])
        return cls(fit_affine(form, places, rest, seconds, reach=reach))

    def at(self, chunks: Chunks, decodes: Decodes) -> float:
        """Return the seconds of one layer."""
        c0, c1, c2, c3, c4, c5 = self.affine.coefficients
        count, context = decodes
        table = self.affine.table
        tokens, depth = at_least(table, chunks)
        formula = c0 + c1 * tokens + c2 * tokens * depth + c3 * count + c4 * context + c5 * chunks.context
        return formula + (table.at(tokens, depth, count, context) if table else 0.0)


def at_least(table: Table | None, chunks: Chunks) -> tuple[float, float]:
    """Return Σq and depth, no less than a table starts at.

    Between its edge and zero a table stays as it is while the coefficients fall, so that their sum could rise towards
    smaller chunks.
    """
    if table is None:
        return chunks.tokens, chunks.depth
    return max(chunks.tokens, table.axes[0][0]), max(chunks.depth, table.axes[1][0])


def tiles(chunks: Chunks) -> list[int]:
    """Return the query rows computed, were each chunk filled up to a tile of each size."""
    return [max(chunks.tokens, chunks.sequences * tile) for tile in TILES]


def _reach(calls: Sequence[Chunks]) -> Floats:
    return np.array([[call.tokens, 1 + call.cached] for call in calls])


def _decode_features(places: Floats) -> Floats:
    return np.hstack([np.ones((len(places), 1)), places])


def _chunk_features(places: Floats) -> Floats:
    tokens, depth = places[:, 0], places[:, 1]
    return np.stack([np.ones(len(places)), tokens, tokens * depth], axis=1)


def _mixed_features(places: Floats) -> Floats:
    return np.hstack([_chunk_features(places), places[:, 2:]])


def _single_chunk(places: Floats) -> Floats:
    """Return Σkv and tiles where all tokens are one chunk's: its KV is depth + (q − 1) / 2."""
    tokens, depth = places[:, 0], places[:, 1]
    return np.stack([depth + (tokens - 1) / 2, *(np.maximum(tokens, tile) for tile in TILES)], axis=1)


def _nothing(places: Floats) -> Floats:
    return np.zeros((len(places), 0))
