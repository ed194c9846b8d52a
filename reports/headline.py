"""What the numbers say, in sentences: the answer first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvsim.reports.metrics import scaled

if TYPE_CHECKING:
    from pandas import DataFrame

    from kvsim.reports.sweep_folder import Sweep

LOSSES = {
    "reserved": "set aside for tokens to come",
    "internal": "taken up by slots that nothing will read",
    "external": "free in pieces too small to give away",
}
"""The parts of the waste, in words."""

Row = dict[str, Any]  # Any: a number, a name, or NaN where nothing ran


def sentences(summary: DataFrame) -> list[str]:
    """Say what came out of one run, or who did best among several and why.

    `summary` has a row a run: `policy` and the summary's keys.
    """
    rows = [
        {str(key): None if value != value else value for key, value in row.items()}
        for row in summary.to_dict("records")
    ]
    if not any(row["completed"] for row in rows):
        rejected = max(int(row["rejected"] or 0) for row in rows)
        return [f"No request completed{f': {rejected:,} were rejected' if rejected else ''}."]
    if len(rows) == 1:
        return _alone(rows[0])
    return [said for said in (_at_once(rows), _first_token(rows), _throughput(rows)) if said]


def sweep_sentences(sweep: Sweep) -> list[str]:
    """Say which cells of a sweep did best, in the mean over what is no parameter, such as seeds."""
    cells, found = sweep.cells, []
    for metric, better, words in (
        ("output_throughput", 1, "gave most throughput, {} output tokens/s"),
        ("p99_ttft_ms", -1, "gave the first token soonest, to 99 % of the requests within {} ms"),
        ("waste", -1, "wasted least memory, {} % of the pool"),
    ):
        if metric not in cells.columns or not cells[metric].notna().any() or cells[metric].nunique() < 2:
            continue
        by = list(sweep.parameters)
        means = cells.groupby(by, dropna=False, sort=False)[metric].mean() if by else cells[metric]
        place = int(np.nanargmax(better * means.to_numpy(dtype=float)))
        value = f"{float(scaled(means, metric).iloc[place]):,.4g}"
        found.append(f"{_where(means.index[place], sweep)} {words.format(value)}.")
    count = f"{len(cells):,} cells" if len(cells) != 1 else "1 cell"
    return found or [f"Sweep {sweep.name}: {count} finished."]


def _where(values: object, sweep: Sweep) -> str:
    """Name a cell: its policy, then the other parameters."""
    if not sweep.parameters:
        return sweep.name
    given = dict(zip(sweep.parameters, values if isinstance(values, tuple) else (values,), strict=True))
    policy = given.pop("policy", None)
    rest = ", ".join(f"{name} = {setting_text(value)}" for name, value in given.items() if value == value)
    return " with ".join(str(part) for part in (policy, rest) if part)


def setting_text(value: object) -> str:
    """Write the value of a setting as one would give it."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _alone(row: Row) -> list[str]:
    total = row["completed"] + row["failed"]
    found = [
        f"{row['policy']} completed {row['completed']:,} of {total:,} requests at {row['request_throughput']:.3g} "
        f"requests/s; half of them had their first token within {_seconds(row['median_ttft_ms'])}, 99 % within "
        f"{_seconds(row['p99_ttft_ms'])}."
    ]
    loss = max(LOSSES, key=lambda part: row[part] or 0.0)
    found.append(
        f"{share_text(row['waste'])} of the KV memory was wasted"
        + (f", most of it {LOSSES[loss]}" if row["waste"] else "")
        + f"; up to {row['running_max']:,} requests ran at once."
    )
    if row["preemptions"]:
        found.append(
            f"{row['preemptions']:,} preemptions cost {row['recomputed_tokens']:,} recomputed tokens."
        )
    return found


def _at_once(rows: list[Row]) -> str:
    least, most = (choose(rows, key=lambda row: row["running_max"]) for choose in (min, max))
    if least["running_max"] == most["running_max"]:
        return ""
    loss = max(LOSSES, key=lambda part: least[part] or 0.0)
    return (
        f"{most['policy']} ran up to {most['running_max']:,} requests at once, {least['policy']} "
        f"{least['running_max']:,}: with {least['policy']}, {share_text(least[loss])} of the memory was "
        f"{LOSSES[loss]}; with {most['policy']}, {share_text(most[loss])}."
    )


def _first_token(rows: list[Row]) -> str:
    timed = [row for row in rows if row["median_ttft_ms"] is not None]
    if len(timed) < 2:
        return ""
    quick, slow = (choose(timed, key=lambda row: row["median_ttft_ms"]) for choose in (min, max))
    if quick["median_ttft_ms"] == slow["median_ttft_ms"]:
        return ""
    hit = quick["prefix_cache_hit_rate"]
    found = f"; {share_text(hit)} of its prompt tokens were in the cache" if hit else ""
    return (
        f"{quick['policy']} gave the first token soonest, after {_seconds(quick['median_ttft_ms'])} in the median "
        f"against {_seconds(slow['median_ttft_ms'])} with {slow['policy']}{found}."
    )


def _throughput(rows: list[Row]) -> str:
    least, most = (choose(rows, key=lambda row: row["request_throughput"]) for choose in (min, max))
    low, high = least["request_throughput"], most["request_throughput"]
    if not high or high < 1.005 * low:
        return f"All served the same {high:.3g} requests/s." if high else ""
    return f"{most['policy']} served {high:.3g} requests/s, {least['policy']} {low:.3g}."


def share_text(value: float | None) -> str:
    """Write a share in whole percent; what is there is never 0%."""
    return "none" if value is None else f"{value:.0%}" if not 0 < value < 0.005 else "less than 1%"


def _seconds(ms: float) -> str:
    return f"{ms:,.0f} ms" if ms < 1000 else f"{ms / 1000:,.2f} s"
