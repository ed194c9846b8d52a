"""Attention fits by memory layout, page size, window and KV dtype, and which of them prices a policy."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from typing import NamedTuple

import numpy as np

from kvsim.calibration.features import chunks_of, decodes_of
from kvsim.calibration.fit_attention import DecodeFit, MixedFit, PrefillFit
from kvsim.calibration.points import Point
from kvsim.calibration.residual_table import significant
from kvsim.errors import InputError

OWN_FIT = 24
"""Fewest points of a page size or layout for coefficients of its own; fewer give one factor on the largest set."""

Fit = DecodeFit | PrefillFit | MixedFit
PHASES: dict[str, type[Fit]] = {
    "attn_decode": DecodeFit,
    "attn_prefill": PrefillFit,
    "attn_mixed": MixedFit,
}
SIXTEEN_BITS = {"fp16": "bf16"}
"""Dtypes that run as another does."""


class Kind(NamedTuple):
    """What attention points share when they are fitted together."""

    op: str
    layout: str = "paged"
    page: int | None = None
    window: int | None = None
    kv_dtype: str = "bf16"

    @property
    def words(self) -> str:
        """Name it in a table."""
        page = f" page={self.page}" if self.page else ""
        window = f" window={self.window}" if self.window else ""
        return f"{self.op} {self.layout}{page}{window} kv={self.kv_dtype}"


class Fitted(NamedTuple):
    """How a kind is priced: factor · fit − discount · tokens read by several."""

    fit: Fit
    of: Kind
    """Whose points the fit was made from: the kind's own, or those of the largest kind like it."""
    factor: float = 1.0
    discount: float = 0.0
    """Seconds saved a token whose page another sequence reads too."""

    def seconds(self, point: Point) -> float:
        """Return what a point of this kind should take."""
        if isinstance(self.fit, DecodeFit):
            found = self.fit.at(*decodes_of(point))
        elif isinstance(self.fit, PrefillFit):
            found = self.fit.at(chunks_of(point))
        else:
            found = self.fit.at(chunks_of(point), decodes_of(point))
        return self.factor * found - self.discount * point.shared_tokens


Attention = dict[Kind, Fitted]


def kind_of(point: Point) -> Kind:
    """Return what an attention point is fitted with."""
    dtype = SIXTEEN_BITS.get(point.kv_dtype, point.kv_dtype)
    return Kind(point.op, point.layout, point.page, point.window, dtype)


def fit_attention(points: Sequence[Point]) -> Attention:
    """Fit the largest kind of each phase, window and dtype, then the others by themselves or relative to it."""
    kinds: dict[Kind, list[Point]] = {}
    for point in points:
        kinds.setdefault(kind_of(point), []).append(point)
    phases = list(PHASES)
    order = sorted(
        kinds,
        key=lambda kind: (phases.index(kind.op), kind.layout == "shared", -len(kinds[kind]), kind.words),
    )
    found: Attention = {}
    for kind in order:
        alike = (other for other in found if other[3:] == kind[3:] and other.op == kind.op)
        main = next((other for other in alike if found[other].of == other), None)
        found[kind] = _fit_kind(kind, kinds[kind], found, None if main is None else found[main])
    return found


def _fit_kind(kind: Kind, points: Sequence[Point], found: Attention, main: Fitted | None) -> Fitted:
    if kind.layout == "shared" and main is not None:
        return main._replace(discount=_discount(points, main))
    if main is not None and len(points) < OWN_FIT:
        ratios = [point.seconds / main.seconds(point) for point in points]
        return main._replace(factor=significant(float(np.median(ratios))))
    seconds = np.array([point.seconds for point in points])
    if kind.op == "attn_decode":
        return Fitted(DecodeFit.of([decodes_of(point) for point in points], seconds), kind)
    chunks = [chunks_of(point) for point in points]
    if kind.op == "attn_mixed":
        pairs = list(zip(chunks, map(decodes_of, points), strict=True))
        return Fitted(MixedFit.of(pairs, seconds), kind)
    reads_cache = any(call.context > call.tokens for call in chunks)
    return Fitted(PrefillFit.of(chunks, seconds, None if reads_cache else _decode_slope(kind, found)), kind)


def _decode_slope(kind: Kind, found: Attention) -> float | None:
    """Return the seconds a KV token that decodes read, which a cached prefix takes at least."""
    for other, fitted in found.items():
        if other.op == "attn_decode" and other.kv_dtype == kind.kv_dtype and fitted.of == other:
            return fitted.fit.affine.coefficients[2]
    return None


def _discount(points: Sequence[Point], main: Fitted) -> float:
    """Fit seconds saved a shared token, at most all that reading it costs."""
    shared = np.array([point.shared_tokens / point.seconds for point in points])
    over = np.array([main.seconds(point) / point.seconds - 1 for point in points])
    square = float(shared @ shared)
    slope = main.fit.affine.coefficients[2]
    return significant(min(max(float(shared @ over) / square, 0.0), slope)) if square else 0.0


def choose(attention: Attention, wanted: Kind) -> tuple[Fitted, list[str]]:
    """Return the fit that prices best what is wanted, and what is not exactly so, a sentence each."""
    same = [kind for kind in attention if kind.op == wanted.op]
    kv_dtype = SIXTEEN_BITS.get(wanted.kv_dtype, wanted.kv_dtype)
    of_dtype = [kind for kind in same if kind.kv_dtype == kv_dtype]
    if not of_dtype:
        there = ", ".join(sorted({kind.kv_dtype for kind in same})) or "nothing"
        raise InputError(f"no {wanted.op} points over a KV cache of {wanted.kv_dtype}; there is {there}")
    notes: list[str] = []
    windows = {kind.window for kind in of_dtype}
    window = wanted.window if wanted.window in windows else None
    if window != wanted.window:
        notes.append(
            f"{wanted.op} with a window of {wanted.window} was not timed: priced as full attention to as many "
            "tokens, while windowed kernels take 1.0 to 1.5 times that"
        )
    of_window = [kind for kind in of_dtype if kind.window == window]
    if not of_window:
        raise InputError(f"no {wanted.op} points without a window, only of {', '.join(map(str, windows))}")
    layout = wanted.layout if any(kind.layout == wanted.layout for kind in of_window) else "paged"
    if layout != wanted.layout and wanted.layout != "shared":
        notes.append(f"{wanted.op} of {wanted.layout} memory was not timed: priced as paged")
    of_layout = [kind for kind in of_window if kind.layout == layout] or of_window
    nearest = min(of_layout, key=lambda kind: _page_gap(kind.page, wanted.page))
    if layout == "paged" and _page_gap(nearest.page, wanted.page) and nearest.page:
        notes.append(
            f"{wanted.op} with pages of {wanted.page} was not timed: priced as pages of {nearest.page}"
        )
    return attention[nearest], notes


def _page_gap(page: int | None, wanted: int | None) -> float:
    return 0.0 if page is None or wanted is None else abs(log2(page / wanted))
