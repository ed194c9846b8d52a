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
MIXED_OCTAVES = (2.0, 2.0, 1.0, 1.0)
"""Octaves between nodes of each axis of the table of mixed calls, which would be too large with one for all four."""


class DecodeFit:
    """a₀ + a₁·n + a₂·S + table(n, S) + a₃·(M − S / n): n sequences, S = Σ KV tokens read, M of them by the longest.

    The last term is of calls whose sequences are not split over the GPU: what is left of a long one runs when the
    others are done (`kv_splits`). It all rises with n, S and M, so one more sequence never makes a batch faster.
    Beyond the points no KV is read faster than in any of them: a₂ is at least the least (seconds − a₀ − a₁·n) / S of
    the calls that spend most on reading.
    """

    terms = ("constant", "sequences", "context", "longest")

    def __init__(self, affine: Affine, unsplit_from: int | None = None) -> None:
        """Take coefficients in the order of `terms`, and a table over (n, S); a₃ counts from so many sequences on."""
        self.affine = affine
        self.unsplit_from = unsplit_from

    @classmethod
    def of(cls, calls: Sequence[Decodes], seconds: Floats, unsplit_from: int | None = None) -> DecodeFit:
        """Fit timed calls."""
        places = np.array([call[:2] for call in calls], dtype=np.float64)
        late = [_lateness(call) if is_unsplit(call.sequences, unsplit_from) else 0.0 for call in calls]
        rest = np.array(late)[:, None]
        form = Form(_decode_features, lambda nodes: np.zeros((len(nodes), 1)), (1.0, 1.0))
        a0, a1, a2, a3 = relative_nnls(np.hstack([_decode_features(places), rest]), seconds).tolist()
        reading = seconds - a0 - a1 * places[:, 0] - a3 * rest[:, 0]
        per_token = (reading / places[:, 1])[reading > 0.5 * seconds]
        fastest = float(per_token.min(initial=np.inf)) if len(per_token) else a2
        least = (0.0, 0.0, fastest, 0.0)
        return cls(fit_affine(form, places, rest, seconds, least=least), unsplit_from)

    def tail(self, sequences: int) -> float:
        """Return the seconds that each token takes which the longest has beyond the mean."""
        return self.affine.coefficients[3] if is_unsplit(sequences, self.unsplit_from) else 0.0

    def at(self, count: int, context: float, longest: float = 0) -> float:
        """Return the seconds of one layer; sequences are of one length unless the longest is known."""
        late = max(0.0, longest - context / count) if count else 0.0
        return self._even(count, context) + self.tail(count) * late

    def _even(self, count: float, context: float) -> float:
        a0, a1, a2, _ = self.affine.coefficients
        table = self.affine.table
        if table is None:
            return a0 + a1 * count + a2 * context
        count, context = max(count, table.axes[0][0]), max(context, table.axes[1][0])
        return a0 + a1 * count + a2 * context + table.at(count, context)

    def line(self, count: int, tail: float = 0.0) -> Curve:
        """Return the seconds over S for a fixed number of sequences; with `tail`, such that S never makes them less."""
        table = self.affine.table
        nodes = table.axes[1] if table else (0.0,)
        least = tail / max(count, 1)
        seconds = np.array([self._even(count, node) for node in nodes]) - least * np.array(nodes)
        rising = np.maximum.accumulate(seconds) + least * np.array(nodes)
        return Curve(nodes, tuple(rising.tolist()), max(self.affine.coefficients[2], least))


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
    """c₀ + c₁·Σq + c₂·area + c₃·n + c₄·S + c₅·Σkv + c₆·M + table(Σq, depth, n, S), as in the other two forms.

    M are the KV tokens of the longest, decode or chunk: such kernels split no sequence over the GPU.
    """

    terms = ("constant", "tokens", "area", "sequences", "decode_context", "context", "longest")

    def __init__(self, affine: Affine) -> None:
        """Take coefficients in the order of `terms`, and a table over (Σq, depth, n, S)."""
        self.affine = affine

    @classmethod
    def of(cls, calls: Sequence[tuple[Chunks, Decodes]], seconds: Floats) -> MixedFit:
        """Fit timed calls."""
        places = np.array([[chunks.tokens, chunks.depth, *decodes[:2]] for chunks, decodes in calls])
        is_uneven = any(decodes.lack for _, decodes in calls)
        rest = np.array([[chunks.context, is_uneven * longest(chunks, decodes)] for chunks, decodes in calls])
        form = Form(_mixed_features, _mixed_rest, MIXED_OCTAVES)
        reach = _reach([chunks for chunks, _ in calls])
        return cls(fit_affine(form, places, rest, seconds, reach=reach))

    def at(self, chunks: Chunks, decodes: Decodes) -> float:
        """Return the seconds of one layer."""
        c0, c1, c2, c3, c4, c5, c6 = self.affine.coefficients
        count, context, _ = decodes
        table = self.affine.table
        tokens, depth = at_least(table, chunks)
        formula = c0 + c1 * tokens + c2 * tokens * depth + c3 * count + c4 * context + c5 * chunks.context
        formula += c6 * longest(chunks, decodes)
        return formula + (table.at(tokens, depth, count, context) if table else 0.0)


def at_least(table: Table | None, chunks: Chunks) -> tuple[float, float]:
    """Return Σq and depth, no less than a table starts at.

    Between its edge and zero a table stays as it is while the coefficients fall, so that their sum could rise towards
    smaller chunks.
    """
    if table is None:
        return chunks.tokens, chunks.depth
    return max(chunks.tokens, table.axes[0][0]), max(chunks.depth, table.axes[1][0])


def is_unsplit(sequences: int, unsplit_from: int | None) -> bool:
    """Tell whether the KV of so many decodes is not split over the GPU."""
    return unsplit_from is not None and sequences >= unsplit_from


def longest(chunks: Chunks, decodes: Decodes) -> float:
    """Return the KV tokens of the longest sequence, chunks and decodes of unknown length taken as equal."""
    even = decodes.context / decodes.sequences if decodes.sequences else 0.0
    return max(decodes.longest, even, chunks.context / chunks.sequences)


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


def _mixed_rest(places: Floats) -> Floats:
    """Return Σkv and the longest where there is one chunk and all decodes are alike."""
    chunk = _single_chunk(places)[:, 0]
    return np.stack([chunk, np.maximum(chunk, places[:, 3] / places[:, 2])], axis=1)


def _lateness(call: Decodes) -> float:
    return call.lack / call.sequences if call.sequences else 0.0
