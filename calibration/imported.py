"""What an importer hands over: points of published tables, and their origin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kvsim.calibration.points import Point

STATEMENT = "imported, not measured by this project"
HELD_OUT_SHARE = 0.25
"""Part of every group of points that is kept from the fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """Points of one model on one GPU of a tensor-parallel group."""

    points: tuple[Point, ...]
    device: Mapping[str, object]
    """What the profile says of the GPU."""
    source: Mapping[str, object]
    """Origin, licence, tables read, and that the project did not measure them."""
    host: Mapping[str, object] = field(default_factory=dict)
    """Seconds of host time a step and a request, and whose; empty where the tables have none."""
    warnings: tuple[str, ...] = ()
    """What is odd about the points, a sentence each."""

    @classmethod
    def of(
        cls,
        points: Sequence[Point],
        *,
        gpu: str,
        seed: int,
        source: Mapping[str, object],
        host: Mapping[str, object] | None = None,
        warnings: Sequence[str] = (),
    ) -> Imported:
        """Draw the held-out points, and complete the source with what every import says."""
        check_ids(points)
        return cls(
            points=with_held_out(points, seed),
            device={"type": "cuda", "name": gpu, "gpu": gpu},
            host=host or {},
            source={"statement": STATEMENT, **source, "seed": seed, "flags": count_flags(points)},
            warnings=tuple(warnings),
        )


def with_held_out(points: Sequence[Point], seed: int, share: float = HELD_OUT_SHARE) -> tuple[Point, ...]:
    """Mark a share of each group as held out; the extremes of a group stay in the fit.

    A group is what one form is fitted to: an operation, its name, heads and window. GEMM rows are drawn together
    for all matrices, so that whole steps of held-out rows can be summed. Rejected points are never held out.
    """
    generator = np.random.default_rng(seed)
    groups: dict[tuple[object, ...], list[Point]] = {}
    for point in points:
        if "rejected" not in point.flags and "assumed" not in point.flags:
            groups.setdefault(_group(point), []).append(point)
    chosen: set[str] = set()
    for key in sorted(groups, key=repr):
        chosen |= _drawn(groups[key], generator, share)
    return tuple(replace(point, held_out=point.id in chosen) for point in points)


def count_flags(points: Sequence[Point]) -> dict[str, int]:
    """Count the points by flag, in the order of the alphabet."""
    counted = Counter(flag for point in points for flag in point.flags)
    return {flag: counted[flag] for flag in sorted(counted)}


def check_ids(points: Sequence[Point]) -> None:
    """Fail when two points have one id: a defect of the importer."""
    twice = [name for name, count in Counter(point.id for point in points).items() if count > 1]
    assert not twice, f"two points are called {twice[0]}"


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
