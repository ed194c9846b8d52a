"""How far a profile's fits are from points that they have not seen: by kernel, and by whole steps.

A step's time is the sum of its timed kernels over the layers; those that nobody timed (flagged `assumed`) are left out
on both sides. Steps take their attention from held-out points and the rest at as many tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from kvsim.calibration.attention_kinds import PHASES, Kind, form_name, kind_of
from kvsim.calibration.curve import Curve
from kvsim.calibration.features import chunks_of, decodes_of, is_dense
from kvsim.calibration.fits import Fits, fit_points
from kvsim.calibration.points import Point
from kvsim.calibration.roofline_fit import padded
from kvsim.calibration.step_price import calls_of
from kvsim.model import Model

NEIGHBOURS = 1.3
"""Largest ratio of two measured sizes between which a measured time is interpolated."""
STEPS = {"attn_decode": "step decode", "attn_prefill": "step prefill", "attn_mixed": "step mixed"}
"""What a step with this attention is called."""
UNUSED = {"rejected", "assumed"}
"""Flags of points that no error is stated on."""

Pairs = dict[str, list[tuple[float, float]]]
"""Predicted and measured seconds by name."""


class Error(NamedTuple):
    """Relative errors of predictions, predicted / measured − 1."""

    points: int
    mean: float
    """Of absolute values."""
    p90: float
    """Of absolute values."""
    bias: float
    """Mean with sign: above 0, predictions are too slow."""

    @classmethod
    def of(cls, predicted: Sequence[float], measured: Sequence[float]) -> Error:
        """Compare predictions with measurements."""
        misses = np.array(predicted) / np.array(measured) - 1
        size = np.abs(misses)
        found = (float(size.mean()), float(np.quantile(size, 0.9)), float(misses.mean()))
        return cls(len(misses), *(round(value, 6) for value in found))


def pooled_errors(
    splits: Sequence[Sequence[Point]], model: Model, multiprocessors: int | None = None
) -> dict[str, Error]:
    """Return the error of each kernel, then of decode, prefill and mixed steps, over all splits together.

    Each split is the same points with others held out, and fitted here without those.
    """
    kernels: Pairs = {}
    steps: Pairs = {}
    for points in splits:
        fitted = fit_points(points, multiprocessors)
        for point in points:
            if point.held_out and not UNUSED & set(point.flags):
                kernels.setdefault(form_name(point), []).append((predict(point, fitted), point.seconds))
        for op, name in STEPS.items():
            steps.setdefault(name, []).extend(_steps(points, fitted, model, op))
    pairs = {name: kernels[name] for name in sorted(kernels)} | steps
    return {name: Error.of(*zip(*found, strict=True)) for name, found in pairs.items() if found}


def predict(point: Point, fits: Fits) -> float:
    """Return the seconds that the fits give a point."""
    if point.op in PHASES:
        return fits.attention[kind_of(point)].seconds(point)
    if point.op == "gemm":
        return fits.gemm[point.name].at(padded(point.m))
    if point.op == "lm_head":
        return _known(fits.lm_head).at(padded(point.m))
    if point.op == "sampler":
        return _known(fits.sampler).at(point.m)
    if point.op == "allreduce":
        return fits.allreduce[point.mode].at(point.message_bytes)
    if point.op == "launch":
        return fits.launch[point.name].at(max(point.m, 1))
    return fits.elementwise["kv_write" if point.op == "kv_write" else point.name].at(point.m)


def _known(curve: Curve | None) -> Curve:
    assert curve is not None
    return curve


class _Series:
    """Measured times of one kernel by size, beside the curve that was fitted to part of them."""

    def __init__(self, points: Iterable[Point], curve: Curve, calls: int, tiled: bool) -> None:
        self._curve, self._calls, self._tiled = curve, calls, tiled
        times: dict[int, list[float]] = {}
        for point in points:
            times.setdefault(padded(point.m) if tiled else point.m, []).append(point.seconds)
        self._sizes = np.array(sorted(times), dtype=np.float64)
        self._seconds = np.array([np.mean(times[int(size)]) for size in self._sizes])

    def at(self, size: int) -> tuple[float, float] | None:
        """Return predicted and measured seconds; None where nothing near was measured."""
        size = padded(size) if self._tiled else size
        high = int(np.searchsorted(self._sizes, size))
        if high == len(self._sizes):
            return None
        low = high if self._sizes[high] == size else high - 1
        if low < 0 or self._sizes[high] > NEIGHBOURS * self._sizes[low]:
            return None
        measured = float(np.interp(size, self._sizes, self._seconds))
        return self._calls * self._curve.at(size), self._calls * measured


def _steps(points: Sequence[Point], fits: Fits, model: Model, op: str) -> Iterator[tuple[float, float]]:
    """Yield predicted and measured seconds of steps around held-out attention points.

    These are of the largest kind and, where another kernel does whole prompts, of that one too.
    """
    timed = [point for point in points if not UNUSED & set(point.flags)]
    by_tokens = list(_series(timed, fits, model, ("gemm", "elementwise", "kv_write")))
    by_rows = list(_series(timed, fits, model, ("lm_head", "sampler")))
    kind = _largest(timed, op)
    for point in timed:
        if not point.held_out or point.op != op or not (kind_of(point) == kind or is_dense(point)):
            continue
        tokens = sum(point.q)
        rows = decodes_of(point).sequences + chunks_of(point).sequences
        parts = [*(each.at(tokens) for each in by_tokens), *(each.at(rows) for each in by_rows)]
        fitted = {kind_of(point), kind or kind_of(point)}
        alone = min(fits.attention[each].seconds(point) for each in fitted)
        attention = (alone * model.layers, point.seconds * model.layers)
        known = [part for part in parts if part is not None]
        if len(known) == len(parts):
            yield (
                attention[0] + sum(predicted for predicted, _ in known),
                attention[1] + sum(measured for _, measured in known),
            )


def _largest(points: Sequence[Point], op: str) -> Kind | None:
    """Return the kind with the most points: what a plain policy is charged."""
    counts: dict[Kind, int] = {}
    for point in points:
        if point.op == op and point.window is None and not is_dense(point):
            counts[kind_of(point)] = counts.get(kind_of(point), 0) + 1
    return max(counts, key=lambda kind: counts[kind], default=None)


def _series(points: Sequence[Point], fits: Fits, model: Model, ops: tuple[str, ...]) -> Iterator[_Series]:
    groups: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        if point.op in ops:
            groups.setdefault((point.op, point.name), []).append(point)
    for (op, name), group in groups.items():
        if op == "gemm":
            yield _Series(group, fits.gemm[name], model.layers, tiled=True)
        elif op == "lm_head":
            yield _Series(group, _known(fits.lm_head), 1, tiled=True)
        elif op == "sampler":
            yield _Series(group, _known(fits.sampler), 1, tiled=False)
        else:
            name = "kv_write" if op == "kv_write" else name
            yield _Series(group, fits.elementwise[name], calls_of(name, model.layers), tiled=False)
