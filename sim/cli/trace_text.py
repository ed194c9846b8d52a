"""Trace figures as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvsim.traces.reuse import Reuse
    from kvsim.traces.stats import Lengths, Stats


def stats_text(stats: Stats) -> str:
    """Lay out all figures of a trace."""
    lines = [
        f"trace     {stats.name}",
        f"sha256    {stats.sha256}",
        f"requests  {stats.requests:,}",
        f"arrivals  {_arrivals(stats)}",
    ]
    if stats.sessions:
        lines.append(f"sessions  {stats.sessions:,}, with {stats.closed_loop:,} closed-loop requests")
    lines += ["", *table(_length_rows(stats))]
    if stats.reuse is not None:
        lines += ["", *_reuse_lines(stats.reuse)]
    return "\n".join(lines)


def table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Align columns: the first to the left, the others to the right."""
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def _arrivals(stats: Stats) -> str:
    if stats.arrival_rate is None:
        return "all at once"
    what = "sessions" if stats.closed_loop else "requests"
    cv = "–" if stats.arrival_cv is None else f"{stats.arrival_cv:.3f}"
    return f"{stats.arrival_rate:,.4g} {what}/s over {stats.span:,.1f} s, CV of the gaps {cv}"


def _span(seconds: float) -> str:
    return f"{seconds:,.3g} s" if seconds < 100 else f"{seconds:,.0f} s"


def _length_rows(stats: Stats) -> list[tuple[str, ...]]:
    percents = tuple(f"p{percent}" for percent in stats.prompt.percentiles)
    return [
        ("tokens", "total", "mean", "std", "min", *percents, "max"),
        ("prompt", *_length_cells(stats.prompt)),
        ("output", *_length_cells(stats.output)),
    ]


def _length_cells(lengths: Lengths) -> tuple[str, ...]:
    percentiles = (f"{value:,.0f}" for value in lengths.percentiles.values())
    moments = (f"{lengths.total:,}", f"{lengths.mean:,.2f}", f"{lengths.std:,.2f}")
    return (*moments, f"{lengths.min:,}", *percentiles, f"{lengths.max:,}")


def _reuse_lines(reuse: Reuse) -> list[str]:
    rows = [
        ("infinite cache", "seen before", "all", "hit rate"),
        ("tokens", f"{reuse.hit_tokens:,}", f"{reuse.prompt_tokens:,}", f"{reuse.token_hit_rate:.2%}"),
        ("blocks", f"{reuse.hits:,}", f"{reuse.references:,}", f"{reuse.block_hit_rate:.2%}"),
        (
            "full blocks",
            f"{reuse.full_block_hits:,}",
            f"{reuse.full_blocks:,}",
            f"{reuse.full_block_hit_rate:.2%}",
        ),
    ]
    lines = [
        f"prefix reuse, {reuse.block_tokens}-token blocks, {reuse.unique:,} different ones",
        *table(rows),
    ]
    if reuse.hits:
        since = [f"p{percent} {_span(each)}" for percent, each in reuse.seconds_since.items()]
        lines += [
            "",
            f"the most reused 10 % of the blocks give {reuse.top_tenth_share:.1%} of the hits",
            f"time since a block's last use  {'  '.join(since)}",
        ]
    if reuse.lru_hits:
        curve = [
            (f"{capacity:,} blocks", f"{hits:,}", f"{reuse.references:,}", f"{hits / reuse.references:.2%}")
            for capacity, hits in reuse.lru_hits.items()
        ]
        lines += ["", *table([("LRU cache of", "hits", "blocks", "hit rate"), *curve])]
    return lines
