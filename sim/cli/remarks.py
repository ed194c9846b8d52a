"""What the numbers of a comparison say, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvsim.comparison import Comparison

LOSSES = {
    "reserved": "set aside for tokens to come",
    "internal": "taken up by slots that nothing will read",
    "external": "free in pieces too small to give away",
}
"""The parts of the waste, in words."""


def remarks(comparison: Comparison) -> list[str]:
    """Say who ran most requests at once and who answered first, and why."""
    rows = {name: result.summary for name, result in comparison.results.items()}
    return [sentence for sentence in (_at_once(rows), _first_token(rows)) if sentence]


def _at_once(rows: dict[str, dict[str, Any]]) -> str:  # Any: numbers, or None where nothing ran
    held = {name: row["running_max"] for name, row in rows.items()}
    least, most = min(held, key=held.__getitem__), max(held, key=held.__getitem__)
    if held[least] == held[most]:
        return ""
    loss = max(LOSSES, key=lambda part: rows[least][part])
    return (
        f"{most} ran up to {held[most]:,} requests at once, {least} {held[least]:,}: with {least}, "
        f"{rows[least][loss]:.0%} of the memory was {LOSSES[loss]}; with {most}, {rows[most][loss]:.0%}."
    )


def _first_token(rows: dict[str, dict[str, Any]]) -> str:  # Any: as above
    times = {name: row["median_ttft_ms"] for name, row in rows.items() if row["median_ttft_ms"] is not None}
    if len(times) < 2:
        return ""
    quick, slow = min(times, key=times.__getitem__), max(times, key=times.__getitem__)
    hit = rows[quick]["prefix_cache_hit_rate"]
    found = f"; {hit:.0%} of its prompt tokens were in the cache" if hit else ""
    return (
        f"{quick} gave the first token soonest, after {times[quick] / 1000:.2f} s in the median against "
        f"{times[slow] / 1000:.2f} s with {slow}{found}."
    )
