"""A simulated run beside a measured one, as a table, as JSON, and as a folder of files and plots."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvsim.measured_compare import Differences, Line, Within
    from kvsim.result import Result

NAMES = {
    "ttft_ms": "TTFT (ms)",
    "tpot_ms": "TPOT (ms)",
    "e2el_ms": "latency (ms)",
    "duration_s": "makespan (s)",
    "request_throughput": "requests/s",
    "output_throughput": "output tokens/s",
    "in_flight": "in the server",
    "running": "running",
    "waiting": "waiting",
    "kv_tokens": "KV tokens decoding",
}
HEAD = ("", "", "measured", "simulated", "difference", "within", "")


def caption(differences: Differences, result: Result) -> str:
    """Return the provenance of both sides."""
    from kvsim.reports.caption import result_caption

    measured = differences.measured
    facts = ", ".join([measured.name, *measured.facts.values()])
    return f"measured {facts} | {result_caption(result)}"


def differences_text(differences: Differences, line: str) -> str:
    """Return the table, how many figures are within their limits, and where both sides come from."""
    rows = [HEAD, *(_row(each) for each in differences.lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = []
    previous = ""
    for row in rows:
        shown = ("" if row[0] == previous else row[0], *row[1:])
        previous = row[0]
        left = [shown[place].ljust(widths[place]) for place in (0, 1)]
        right = [shown[place].rjust(widths[place]) for place in range(2, 6)]
        table.append("  ".join([*left, *right, shown[6]]).rstrip())
    judged = [each for each in differences.lines if each.limit is not None]
    good = sum(each.is_within for each in judged)
    verdict = f"{good} of {len(judged)} figures within their limits"
    return "\n".join([*table, "", verdict, *line.split(" | ")])


def differences_record(
    differences: Differences, result: Result, within: Within, line: str
) -> dict[str, object]:
    """Return all of it but the rows as JSON."""
    measured = differences.measured
    return {
        "format": "kvsim-validation",
        "version": 1,
        "measured": {"name": measured.name, "notes": list(measured.notes), **measured.facts},
        "within": within._asdict(),
        "is_within": differences.is_within,
        "differences": differences.records(),
        "config": result.config,
        "environment": result.environment,
        "caption": line,
    }


def save_differences(folder: Path, differences: Differences, record: Mapping[str, object], line: str) -> None:
    """Write validation.json, three CSV files and the plots into a new folder, all or nothing."""
    import json

    import pandas as pd

    from kvsim.reports.measured import measured_figure
    from kvsim.reports.style import save_figure
    from kvsim.result import whole_folder

    requests, over_time = differences.requests, differences.over_time
    with whole_folder(folder) as working:
        (working / "validation.json").write_text(json.dumps(_plain(record), indent=2, default=str) + "\n")
        pd.DataFrame(differences.records()).to_csv(working / "differences.csv", index=False)
        requests.to_csv(working / "requests.csv", index=False)
        over_time.to_csv(working / "over_time.csv", index=False)
        save_figure(measured_figure(requests, over_time, caption=line), working / "measured")


def _plain(value: object) -> object:
    """Turn what JSON has no word for into null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _row(line: Line) -> tuple[str, ...]:
    verdict = "" if line.is_within else "OUTSIDE"
    difference = "–" if math.isnan(line.difference) else f"{100 * line.difference:+.2f} %"
    limit = "" if line.limit is None else f"{100 * line.limit:g} %"
    return (
        NAMES[line.metric],
        line.statistic,
        _number(line.measured),
        _number(line.simulated),
        difference,
        limit,
        verdict,
    )


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}"
