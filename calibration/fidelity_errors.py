"""How far predictions are off executed steps: by layout and kind of step, and in total."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from kvsim.calibration.fidelity import TimedStep
from kvsim.calibration.fidelity_steps import KINDS

ALL = "all"
"""Stands for every kind, or every layout, together."""


class Deviation(NamedTuple):
    """Errors of some steps, predicted / measured − 1 each."""

    layout: str
    kind: str
    steps: int
    """How many were executed."""
    population: int
    """Steps like them in the runs that they were taken from."""
    predicted: float
    """Mean seconds."""
    measured: float
    """Mean seconds."""
    mape: float
    """Mean of absolute errors."""
    p95: float
    """Of absolute errors."""
    bias: float
    """Mean error: above 0, predictions are too slow."""
    total: float
    """Error of the whole run's time: Σ predicted / Σ measured − 1, each step weighted by those it stands for."""
    outside: int
    """Steps of sizes that the profile did not measure."""


def deviations(steps: Sequence[TimedStep]) -> list[Deviation]:
    """Return a row for every layout and kind there is, each layout together, each kind together, and everything."""
    return list(_deviations(steps))


def worst(steps: Sequence[TimedStep], most: int = 5) -> list[TimedStep]:
    """Return the steps with the largest absolute errors, the worst first."""
    return sorted(steps, key=lambda step: -abs(step.error))[:most]


def weights(steps: Sequence[TimedStep]) -> list[float]:
    """Return how many steps of its run each executed one stands for."""
    counts: dict[tuple[str, str], int] = {}
    for step in steps:
        counts[_group(step)] = counts.get(_group(step), 0) + 1
    return [step.planned.population / counts[_group(step)] for step in steps]


def _deviations(steps: Sequence[TimedStep]) -> Iterator[Deviation]:
    weighted = list(zip(steps, weights(steps), strict=True))
    layouts = list(dict.fromkeys(step.planned.layout for step in steps))
    for layout in [*layouts, ALL]:
        for kind in [*KINDS, ALL]:
            chosen = [
                (step, weight)
                for step, weight in weighted
                if layout in (ALL, step.planned.layout) and kind in (ALL, step.planned.step.kind)
            ]
            if chosen:
                yield _deviation(layout, kind, *zip(*chosen, strict=True))


def _deviation(layout: str, kind: str, steps: tuple[TimedStep, ...], weight: tuple[float, ...]) -> Deviation:
    predicted = np.array([step.planned.predicted for step in steps])
    measured = np.array([step.seconds for step in steps])
    error = predicted / measured - 1
    share = np.array(weight)
    return Deviation(
        layout,
        kind,
        steps=len(steps),
        population=round(float(share.sum())),
        predicted=float(predicted.mean()),
        measured=float(measured.mean()),
        mape=float(np.abs(error).mean()),
        p95=float(np.quantile(np.abs(error), 0.95)),
        bias=float(error.mean()),
        total=float(share @ predicted / (share @ measured) - 1),
        outside=sum(not step.planned.is_inside for step in steps),
    )


def _group(step: TimedStep) -> tuple[str, str]:
    return step.planned.layout, step.planned.step.kind


def gate_failures(steps: Sequence[TimedStep], *, decode: float | None, total: float | None) -> list[str]:
    """Return a line for each gate, in percent, that is not met: decode steps by MAPE, every layout by total time."""
    found = []
    for each in deviations(steps):
        name = f"{each.layout} layouts" if each.layout == ALL else each.layout
        if decode is not None and (each.layout, each.kind) == (ALL, "decode") and 100 * each.mape > decode:
            found.append(f"decode steps are off by {each.mape:.1%} on average, allowed {decode:g} %")
        if total is not None and each.kind == ALL and 100 * abs(each.total) > total:
            found.append(f"the total time of {name} is off by {each.total:+.1%}, allowed ±{total:g} %")
    return found
