"""Everything a step is priced by, fitted to the points of one profile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from kvsim.calibration.attention_kinds import PHASES, Attention, fit_attention
from kvsim.calibration.curve import Curve
from kvsim.calibration.fit_sizes import fit_line, fit_product
from kvsim.calibration.points import Point

FITTER = 3
"""Version of the forms; a profile that keeps its points is fitted again when its own differs."""


@dataclass(slots=True, kw_only=True)
class Fits:
    """Fitted forms by what they price: seconds of one call on one GPU."""

    attention: Attention = field(default_factory=dict)
    gemm: dict[str, Curve] = field(default_factory=dict)
    """By name, over padded rows."""
    lm_head: Curve | None = None
    """Over padded rows that sample."""
    sampler: Curve | None = None
    """Over rows that sample."""
    elementwise: dict[str, Curve] = field(default_factory=dict)
    """By name, over tokens; the KV write is one of them."""
    allreduce: dict[str, Curve] = field(default_factory=dict)
    """By mode, graph or eager, over bytes."""
    launch: dict[str, Curve] = field(default_factory=dict)
    """Over sequences: `host`, the host's time between steps; `kernel`, its time to launch one kernel."""
    tool: int = FITTER
    """Version of the fitter that made them."""


def fit_points(points: Iterable[Point], multiprocessors: int | None = None) -> Fits:
    """Fit all points that are neither held out nor rejected; `multiprocessors` are those of the GPU, where known."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        if not point.held_out and "rejected" not in point.flags:
            groups.setdefault(point.op, []).append(point)
    alone = {op: groups.get(op, []) for op in ("lm_head", "sampler")}
    return Fits(
        attention=fit_attention([point for op in PHASES for point in groups.get(op, [])], multiprocessors),
        gemm=_fit_each(groups.get("gemm", []), lambda point: point.name, fit_product),
        lm_head=fit_product(alone["lm_head"]) if alone["lm_head"] else None,
        sampler=_by_rows(alone["sampler"]) if alone["sampler"] else None,
        elementwise=_fit_each(groups.get("elementwise", []), lambda point: point.name, _by_rows)
        | _fit_each(groups.get("kv_write", []), lambda point: "kv_write", _by_rows),
        allreduce=_fit_each(groups.get("allreduce", []), lambda point: point.mode, _by_bytes),
        launch=_fit_each(groups.get("launch", []), lambda point: point.name, _by_rows),
    )


def _fit_each(
    points: Sequence[Point], key: Callable[[Point], str], fit: Callable[[Sequence[Point]], Curve]
) -> dict[str, Curve]:
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(key(point), []).append(point)
    return {name: fit(group) for name, group in groups.items()}


def _by_rows(points: Sequence[Point]) -> Curve:
    return fit_line([max(point.m, 1) for point in points], points)


def _by_bytes(points: Sequence[Point]) -> Curve:
    return fit_line([point.message_bytes for point in points], points)
