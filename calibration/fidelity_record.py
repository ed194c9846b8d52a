"""A fidelity check as a JSON record and as columns, one row an executed step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kvsim.calibration.fidelity import Outcome, TimedStep
from kvsim.calibration.fidelity_errors import deviations, weights, worst

FORMAT = "kvsim-fidelity"
VERSION = 1


def fidelity_record(
    outcome: Outcome, about: dict[str, Any], failures: Sequence[str], *, representative: bool
) -> dict[str, Any]:  # Any: JSON
    """Return everything but the single steps; `about` says what was executed, on what, and predicted by what."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "representative": representative,
        **about,
        "steps": len(outcome.steps),
        "remaining": outcome.remaining,
        "interrupted": outcome.is_interrupted,
        "drift": outcome.drift,
        "logit_errors": outcome.checks,
        "errors": [each._asdict() for each in deviations(outcome.steps)],
        "worst": [step_row(step) for step in worst(outcome.steps)],
        "failures": list(failures),
        "warnings": list(outcome.warnings),
    }


def step_rows(steps: Sequence[TimedStep]) -> list[dict[str, Any]]:
    """Return the rows of steps.csv; each with how many steps of its run it stands for."""
    return [step_row(step) | {"weight": weight} for step, weight in zip(steps, weights(steps), strict=True)]


def step_row(step: TimedStep) -> dict[str, Any]:
    """Return one executed step: times in seconds, lengths in tokens."""
    planned, work = step.planned, step.planned.step
    low, high = np.quantile(step.ns, (0.1, 0.9)) * 1e-9
    return {
        "layout": planned.layout,
        "kind": work.kind,
        "step": work.number,
        "decodes": work.decodes,
        "prefills": len(work.sequences) - work.decodes,
        "tokens": work.tokens,
        "rows": step.rows,
        "context": sum(each.length for each in work.sequences),
        "mode": step.mode,
        "attention": "+".join(step.backends),
        "predicted_s": planned.predicted,
        "measured_s": step.seconds,
        "p10_s": float(low),
        "p90_s": float(high),
        "executions": len(step.ns),
        "error": step.error,
        "inside_hull": planned.is_inside,
        "sm_mhz": None if step.sm_mhz is None else min(step.sm_mhz),
    }
