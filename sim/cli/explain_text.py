"""What `kvsim explain` prints: tables of waiting, preemptions and prefix misses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import fsum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table

    from kvsim.explain import Explanation
    from kvsim.explain_preemptions import Preemption

WIDTH = 120
"""Characters across where there is no terminal to ask."""


class WaitTotal(NamedTuple):
    """All waiting for one reason."""

    reason: str
    meaning: str
    requests: int
    seconds: float
    share: float
    """Of all waiting."""
    longest_s: float
    """Most that one request waited for it."""


def wait_totals(explanation: Explanation) -> list[WaitTotal]:
    """Sum up the waiting by reason, in the order of REASONS; reasons that never held are left out."""
    from kvsim.explain_waits import REASONS

    edges: dict[str, dict[int, list[float]]] = {reason: {} for reason in REASONS}
    for wait in explanation.waits:
        edges[wait.reason].setdefault(wait.request, []).extend((wait.end, -wait.start))
    seconds = {reason: [fsum(times) for times in rows.values()] for reason, rows in edges.items()}
    whole = fsum(fsum(each) for each in seconds.values())
    return [
        WaitTotal(reason, meaning, len(each), fsum(each), fsum(each) / whole, max(each))
        for reason, meaning in REASONS.items()
        if (each := seconds[reason])
    ]


def prefix_totals(explanation: Explanation) -> dict[str, int] | None:
    """Sum up the looked-up tokens by what became of them; None for a policy that shares nothing."""
    if explanation.lookups is None:
        return None
    kinds = ("hit", "evicted", "never_seen", "too_short")
    return {kind: sum(getattr(lookup, kind) for lookup in explanation.lookups) for kind in kinds}


def preemption_totals(explanation: Explanation) -> dict[str, float]:
    """Sum up what all preemptions cost."""
    each = explanation.preemptions
    back = [(one, one.back, one.caught_up) for one in each if one.back is not None]
    return {
        "preemptions": len(each),
        "requests": len({one.request for one in each}),
        "recomputed_tokens": sum(one.recomputed_tokens for one in each),
        "waited_ms": fsum((back_at - one.time) * 1e3 for one, back_at, _ in back),
        "recompute_ms": fsum((end - back_at) * 1e3 for _, back_at, end in back if end is not None),
        "step_ms": fsum(one.step_seconds * 1e3 for one in each),
    }


def print_explanation(explanation: Explanation, rows: int, caption: str) -> None:
    """Print the three tables, of preemptions the `rows` dearest, and the caption below."""
    from rich.console import Console
    from rich.text import Text

    from kvsim.reports.caption import fold_caption

    console = Console(highlight=False)
    console.width = console.width if console.is_terminal else WIDTH
    _print_waits(console.print, explanation)
    _print_preemptions(console.print, explanation, rows)
    _print_prefix(console.print, explanation)
    console.print(Text(fold_caption(caption, console.width), style="dim"))


def _print_waits(show: Any, explanation: Explanation) -> None:  # Any: Console.print
    totals = wait_totals(explanation)
    if not totals:
        show("Nobody waited.\n")
        return
    again = fsum(wait.end - wait.start for wait in explanation.waits if wait.preemptions)
    note = f", {again:,.1f} s of it after preemptions" if again else ""
    show(f"Why requests waited ({fsum(total.seconds for total in totals):,.1f} s in all{note})")
    lines = [
        (
            total.reason,
            f"{total.requests:,}",
            f"{total.seconds:,.1f}",
            f"{total.share:.1%}",
            f"{total.longest_s:,.2f}",
            total.meaning,
        )
        for total in totals
    ]
    show(_table(("reason", "requests", "total s", "share", "longest s", "which means"), lines, texts=(0, 5)))
    show()


def _print_preemptions(show: Any, explanation: Explanation, rows: int) -> None:  # Any: Console.print
    each = explanation.preemptions
    if not each:
        show("Nobody was preempted.\n")
        return
    totals = preemption_totals(explanation)
    show(
        f"What preemptions cost: {_count(len(each), 'preemption')} of "
        f"{_count(int(totals['requests']), 'request')}, {totals['recomputed_tokens']:,.0f} tokens computed again in "
        f"{totals['step_ms']:,.1f} ms of steps"
    )
    # Never back is the dearest.
    dearest = sorted(each, key=lambda one: one.caught_up - one.time if one.caught_up else float("inf"))[::-1]
    heads = (
        "at s",
        "request",
        "by",
        "lost",
        "found",
        "recomputed",
        "waited ms",
        "recompute ms",
        "of steps ms",
    )
    show(_table(heads, [_cells(one) for one in dearest[:rows]]))
    if len(each) > rows:
        show(f"The {rows} that cost most time; --limit shows more, -o writes all.")
    show()


def _cells(one: Preemption) -> tuple[str, ...]:
    back, caught_up = one.back, one.caught_up
    return (
        f"{one.time:,.3f}",
        str(one.request),
        "itself" if one.by == one.request else str(one.by),
        f"{one.lost_tokens:,}",
        f"{one.found_tokens:,}",
        f"{one.recomputed_tokens:,}",
        "never back" if back is None else f"{(back - one.time) * 1e3:,.1f}",
        "-" if back is None or caught_up is None else f"{(caught_up - back) * 1e3:,.1f}",
        f"{one.step_seconds * 1e3:,.1f}",
    )


def _print_prefix(show: Any, explanation: Explanation) -> None:  # Any: Console.print
    totals = prefix_totals(explanation)
    if totals is None:
        show(f"Policy {explanation.result.config['policy']} shares nothing: no prefix was looked up.\n")
        return
    whole = sum(totals.values())
    lookups = explanation.lookups or []
    show(f"Where prompts were when first scheduled ({whole:,} tokens of {_count(len(lookups), 'request')})")
    meanings = {
        "hit": "found in the cache",
        "evicted": "computed before, and not found any more",
        "never_seen": "nobody had computed it before",
        "too_short": "in the last block, which is not full or has to be computed",
    }
    lines = [
        (
            kind.replace("_", " "),
            f"{sum(getattr(lookup, kind) > 0 for lookup in lookups):,}",
            f"{tokens:,}",
            f"{tokens / whole:.1%}" if whole else "-",
            meanings[kind],
        )
        for kind, tokens in totals.items()
    ]
    show(_table(("prefix", "requests", "tokens", "share", "which means"), lines, texts=(0, 4)))
    show()


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]], texts: Sequence[int] = ()) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 1))
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place in texts else "right", no_wrap=place not in texts[1:])
    for line in lines:
        table.add_row(*map(Text, line))
    return table


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
