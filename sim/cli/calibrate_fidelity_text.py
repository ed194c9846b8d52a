"""A fidelity check as text and as a folder: how far predictions are off, by layout and kind of step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvsim.calibration.fidelity import Outcome, TimedStep
    from kvsim.calibration.fidelity_errors import Deviation

HEADINGS = ("layout", "step", "executed", "predicted", "measured", "MAPE", "p95", "bias", "total", "outside")
WORDS = 2
"""Columns that are words, and so stand on the left."""


def fidelity_text(outcome: Outcome, line: str, *, representative: bool) -> str:
    """Return a table by layout and kind, the worst steps, and what the figures are."""
    from kvsim.calibration.fidelity_errors import deviations, worst

    rows = [HEADINGS, *(_cells(each) for each in deviations(outcome.steps))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = []
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:WORDS], widths[:WORDS], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[WORDS:], widths[WORDS:], strict=True)]
        lines.append("  ".join([*left, *right]).rstrip())
    lines += ["", "Furthest off:", *(f"  {_step(step)}" for step in worst(outcome.steps)), ""]
    lines.append(
        "Errors are predicted / measured − 1; total weighs each step by those of the run that it stands for, outside "
        "counts steps of sizes that the profile did not measure."
    )
    error = max(outcome.checks.values(), default=0.0)
    lines.append(f"Logits of the mini engine are within {error:.1g} of a float64 reference in every layout.")
    if not representative:
        lines.append("Not representative of any GPU.")
    return "\n".join([*lines, line])


def caption(record: dict[str, Any]) -> str:  # Any: JSON
    """Return the line under the table and the plot: what was executed, on what, and predicted by what."""
    layers = f"{record['layers']} of {record['of_layers']} layers"
    parts = [
        f"profile {record['profile']}",
        f"device {record['device']['name']}",
        f"model {record['model']} ({layers}, {record['dtype']}, KV {record['kv_dtype']})",
        f"trace {record['trace']} ({record['requests']:,} requests)",
        f"seed {record['seed']}",
        "" if record["representative"] else "not representative",
    ]
    return " | ".join(part for part in parts if part)


def save_fidelity(folder: Path, record: dict[str, Any], rows: Sequence[dict[str, Any]], line: str) -> None:
    """Write fidelity.json, steps.csv and the plot, all or nothing."""
    import pandas as pd

    from kvsim.reports.predicted import plot_predicted_measured
    from kvsim.reports.style import figure_of, save_figure
    from kvsim.result import whole_folder

    frame = pd.DataFrame(list(rows))
    figure = figure_of(plot_predicted_measured(frame, caption=line))
    with whole_folder(folder) as working:
        text = json.dumps(record, indent=2, ensure_ascii=False, default=str)
        (working / "fidelity.json").write_text(text + "\n", encoding="utf-8")
        frame.to_csv(working / "steps.csv", index=False)
        save_figure(figure, working / "predicted")


def _cells(each: Deviation) -> tuple[str, ...]:
    return (
        each.layout,
        each.kind,
        f"{each.steps:,} of {each.population:,}",
        _time(each.predicted),
        _time(each.measured),
        f"{each.mape:.1%}",
        f"{each.p95:.1%}",
        f"{each.bias:+.1%}",
        f"{each.total:+.1%}",
        f"{each.outside:,}" if each.outside else "",
    )


def _step(step: TimedStep) -> str:
    planned, work = step.planned, step.planned.step
    prefills = len(work.sequences) - work.decodes
    what = [f"{work.decodes} decodes"] if work.decodes else []
    what += [f"{prefills} prompts of {work.tokens - work.decodes:,} tokens"] if prefills else []
    context = sum(each.length for each in work.sequences)
    return (
        f"{step.error:+.1%}  {planned.layout}, step {work.number}, {work.kind}: {', '.join(what)}, "
        f"{context:,} tokens of KV; predicted {_time(planned.predicted)}, measured {_time(step.seconds)}"
    )


def _time(seconds: float) -> str:
    """Write a time with three digits, in µs or ms."""
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"
