"""What each tier of a policy with several brought: hits, time to the first token, bytes copied."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kvsim.request import FloatColumn


class TierFigures(NamedTuple):
    """One place in which a policy keeps KV, and what came of it."""

    name: str
    found: dict[int, int]
    """Tokens found there at a row's first admission; every row that was admitted has an entry."""
    read_bytes: int
    """Copied from there to a faster place."""
    written_bytes: int
    """Copied there from a faster place."""


def tier_summary(
    tiers: tuple[TierFigures, ...], ttft_ms: FloatColumn, looked_up: int
) -> dict[str, float | int | None]:
    """Return the figures of all tiers; nothing where there are none.

    A request counts for the slowest tier in which some of it was found at its first admission, or for `nowhere`;
    `looked_up` is the tokens of all first admissions.
    """
    if not tiers:
        return {}
    slowest: dict[str, list[int]] = {"nowhere": [], **{tier.name: [] for tier in tiers}}
    for row in tiers[0].found:
        name = next((tier.name for tier in reversed(tiers) if tier.found[row]), "nowhere")
        slowest[name].append(row)
    figures: dict[str, float | int | None] = {}
    for tier in tiers:
        tokens = sum(tier.found.values())
        figures[f"cached_tokens_{tier.name}"] = tokens
        figures[f"prefix_cache_hit_rate_{tier.name}"] = tokens / looked_up if looked_up else 0.0
        figures[f"read_bytes_{tier.name}"] = tier.read_bytes
        figures[f"written_bytes_{tier.name}"] = tier.written_bytes
    for name, rows in slowest.items():
        times = ttft_ms[np.array(rows, dtype=np.int64)]
        times = times[np.isfinite(times)]
        figures[f"requests_{name}"] = len(rows)
        figures[f"mean_ttft_ms_{name}"] = float(times.mean()) if len(times) else None
        figures[f"p99_ttft_ms_{name}"] = float(np.percentile(times, 99)) if len(times) else None
    return figures
