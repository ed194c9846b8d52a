"""Attention fits by memory layout, page size, window, KV dtype and kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from kvsim.calibration.features import Chunks, chunks_of, decodes_of, is_dense
from kvsim.calibration.fit_attention import DecodeFit, MixedFit, PrefillFit
from kvsim.calibration.kv_splits import unsplit_from
from kvsim.calibration.points import Point
from kvsim.calibration.residual_table import significant

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
    dense: bool = False
    """Whether a kernel for whole prompts alone did it; see `is_dense`."""

    @property
    def words(self) -> str:
        """Name it in a table."""
        if self.dense:
            return f"{self.op} whole prompts kv={self.kv_dtype}"
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
        if isinstance(self.fit, PrefillFit):
            return self.factor * self.fit.at(chunks_of(point))
        if isinstance(self.fit, MixedFit):
            return self.factor * self.fit.at(chunks_of(point), decodes_of(point))
        count, context, longest = decodes_of(point)
        alone = self.fit.at(count, context, longest)
        unique = self.fit.at(count, context - point.shared_tokens, longest)
        return saving(self.factor * alone, self.factor * unique, self.discount * point.shared_tokens)


Attention = dict[Kind, Fitted]


def saving(seconds: float, unique: float, saved: float) -> float:
    """Return what is left of `seconds`: never less than reading the unique tokens alone takes."""
    return max(seconds - saved, min(seconds, unique))


def kind_of(point: Point) -> Kind:
    """Return what an attention point is fitted with; where whole prompts are kept does not matter to their kernel."""
    dtype = SIXTEEN_BITS.get(point.kv_dtype, point.kv_dtype)
    if is_dense(point):
        return Kind(point.op, kv_dtype=dtype, dense=True)
    return Kind(point.op, point.layout, point.page, point.window, dtype)


def form_name(point: Point) -> str:
    """Name the form that prices a point."""
    if point.op in PHASES:
        return kind_of(point).words
    if point.op == "kv_write":
        return "elementwise kv_write"
    detail = point.mode if point.op == "allreduce" else point.name
    return point.op if point.op in ("lm_head", "sampler") else f"{point.op} {detail}"


def fit_attention(points: Sequence[Point], multiprocessors: int | None = None) -> Attention:
    """Fit the largest kind of each phase, window and dtype, then the others by themselves or relative to it.

    `multiprocessors` of the GPU, where known, tell which decodes are split over it.
    """
    kinds: dict[Kind, list[Point]] = {}
    for point in points:
        kinds.setdefault(kind_of(point), []).append(point)
    phases = list(PHASES)
    order = sorted(
        kinds,
        key=lambda kind: (
            phases.index(kind.op),
            kind.dense,
            kind.layout == "shared",
            -len(kinds[kind]),
            kind.words,
        ),
    )
    found: Attention = {}
    for kind in order:
        alike = (other for other in found if other[3:] == kind[3:] and other.op == kind.op)
        main = next((other for other in alike if found[other].of == other), None)
        like = None if main is None else found[main]
        found[kind] = _fit_kind(kind, kinds[kind], found, like, multiprocessors)
    return found


def _fit_kind(
    kind: Kind,
    points: Sequence[Point],
    found: Attention,
    main: Fitted | None,
    multiprocessors: int | None,
) -> Fitted:
    if kind.layout == "shared" and main is not None:
        return main._replace(discount=_discount(points, main))
    if main is not None and len(points) < OWN_FIT:
        ratios = [point.seconds / main.seconds(point) for point in points]
        return main._replace(factor=significant(float(np.median(ratios))))
    seconds = np.array([point.seconds for point in points])
    if kind.op == "attn_decode":
        first = unsplit_from(points, multiprocessors)
        return Fitted(DecodeFit.of([decodes_of(point) for point in points], seconds, first), kind)
    chunks = [chunks_of(point) for point in points]
    if kind.op == "attn_mixed":
        pairs = list(zip(chunks, map(decodes_of, points), strict=True))
        return Fitted(MixedFit.of(pairs, seconds), kind)
    return Fitted(PrefillFit.of(chunks, seconds, _per_context(kind, chunks, found)), kind)


def _per_context(kind: Kind, chunks: Sequence[Chunks], found: Attention) -> float | None:
    """Return the seconds that a token of a cached prefix takes at least: as in decodes, if these calls cannot tell.

    A kernel of whole prompts is never asked, unless there is no other.
    """
    if any(call.context > call.tokens for call in chunks):
        return None
    if kind.dense and any(other.op == kind.op for other in found):
        return None
    for other, fitted in found.items():
        if other.op == "attn_decode" and other.kv_dtype == kind.kv_dtype and fitted.of == other:
            return fitted.fit.affine.coefficients[2]
    return None


def _discount(points: Sequence[Point], main: Fitted) -> float:
    """Fit seconds saved a shared token, at most all that reading it costs."""
    shared = np.array([point.shared_tokens / point.seconds for point in points])
    over = np.array([main.seconds(_alone(point)) / point.seconds - 1 for point in points])
    square = float(shared @ shared)
    slope = main.fit.affine.coefficients[2]
    return significant(min(max(float(shared @ over) / square, 0.0), slope)) if square else 0.0


def _alone(point: Point) -> Point:
    return replace(point, shared_tokens=0)
