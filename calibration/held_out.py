"""Which points are kept from the fit, so that its error can be stated on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kvsim.calibration.attention_kinds import form_name
from kvsim.calibration.points import Point

HELD_OUT_SHARE = 0.25
"""Part of every group of points that is kept from the fit."""
LEAST_FITTED = 2
"""Points of a form that must be fitted before others of it are kept back."""


def with_held_out(points: Sequence[Point], seed: int, share: float = HELD_OUT_SHARE) -> tuple[Point, ...]:
    """Mark a share of each group as held out; the extremes of a group stay in the fit.

    A group is what one form is fitted to: an operation, its name, heads and window. GEMM rows are drawn together
    for all matrices, so that whole steps of held-out rows can be summed. Rejected points are never held out, nor those
    of a form of which hardly any would be left to fit.
    """
    generator = np.random.default_rng(seed)
    groups: dict[tuple[object, ...], list[Point]] = {}
    for point in points:
        if "rejected" not in point.flags and "assumed" not in point.flags:
            groups.setdefault(_group(point), []).append(point)
    chosen: set[str] = set()
    for key in sorted(groups, key=repr):
        chosen |= _drawn(groups[key], generator, share)
    return with_enough_fitted([replace(point, held_out=point.id in chosen) for point in points])


def with_enough_fitted(points: Sequence[Point]) -> tuple[Point, ...]:
    """Give points back to the fit where else fewer than LEAST_FITTED of their form would be in it."""
    fitted = Counter(form_name(point) for point in points if is_fitted(point))
    return tuple(
        replace(point, held_out=False)
        if point.held_out and fitted[form_name(point)] < LEAST_FITTED
        else point
        for point in points
    )


def is_fitted(point: Point) -> bool:
    """Tell whether a point has a say in the fit."""
    return not point.held_out and "rejected" not in point.flags


def _group(point: Point) -> tuple[object, ...]:
    return point.op, point.window, point.gpus, point.mode, () if point.op == "gemm" else point.name


def _drawn(group: list[Point], generator: np.random.Generator, share: float) -> set[str]:
    """Draw by size, so that points of one size go together."""
    sizes = {point.id: _size(point) for point in group}
    distinct = sorted(set(sizes.values()))
    ends = {min(distinct, key=lambda size: size[axis]) for axis in range(4)}
    ends |= {max(distinct, key=lambda size: size[axis]) for axis in range(4)}
    free = [size for size in distinct if size not in ends]
    taken = generator.permutation(len(free))[: round(share * len(distinct))]
    kept_back = {free[index] for index in taken}
    return {name for name, size in sizes.items() if size in kept_back}


def _size(point: Point) -> tuple[int, int, int, int]:
    if point.q:
        return (
            len(point.q),
            sum(point.kv),
            sum(point.q),
            sum(q * kv for q, kv in zip(point.q, point.kv, strict=True)),
        )
    return point.m, point.message_bytes, 0, 0
