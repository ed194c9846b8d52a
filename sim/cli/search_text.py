"""What a search tried, as a table, and its answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kvsim.search_words import number
from kvsim.slo import COMPLETE

if TYPE_CHECKING:
    from rich.table import Table

    from kvsim.search_result import Search

MOST_ROWS = 24
"""Rows of a table; of a longer curve those nearest to the answer are shown."""
WIDTH = 120
"""Characters across where there is no terminal to ask."""


def print_search(found: Search, caption: str) -> None:
    """Print the curve that was walked, the provenance line, and the answer in one sentence."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    table, left_out = _table(found)
    console.print(table)
    if left_out:
        console.print(Text(f"{left_out} values further from the answer are left out", style="dim"))
    from kvsim.reports.caption import fold_caption

    console.print(Text(fold_caption(caption, console.width), style="dim"))
    console.print()
    # One line whatever the width, so that it can be taken from a log.
    console.print(Text(found.sentence, style="bold"), soft_wrap=True)


def caption(found: Search) -> str:
    """Return the provenance line: traffic, model, GPU, cost, seeds, version."""
    import kvsim
    from kvsim.reports import provenance_caption

    plan, setup = found.plan, found.plan.setup
    identity, gpus = setup.traffic.identity(), setup.config.tensor_parallel_size
    digest = f", sha256 {str(identity['trace'])[:8]}" if "trace" in identity else ""
    seeds = plan.seeds
    line = provenance_caption(
        trace=f"{setup.traffic.name} ({setup.traffic.requests:,} requests{digest}, {setup.traffic.about})",
        model=setup.config.model,
        gpu=setup.config.gpu if gpus == 1 else f"{gpus} × {setup.config.gpu}",
        cost=plan.cost_label,
        seed=None,
        version=kvsim.__version__,
    )
    drawn = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    return f"{line} | policy {setup.policy} | {drawn}"


def _table(found: Search) -> tuple[Table, int]:
    """Lay out the curve: a value, in how many seeds it keeps to the limits, and means of what is limited."""
    from rich import box
    from rich.table import Table

    rows = found.curve.to_dict("records")
    shown = _nearest(found)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0))
    bounds = [bound for bound in found.plan.bounds if bound != COMPLETE]
    head = [f"{found.plan.knob}", "met by"]
    head += [_score_name(found)] if found.scores else []
    head += [bound.label for bound in bounds]
    for name in [*head, "requests/s", "running", "waiting", "preemptions"]:
        table.add_column(name, justify="right")
    for place in shown:
        row = rows[place]
        cells = [number(float(row["value"])), f"{int(row['seeds_met'])} of {int(row['seeds'])}"]
        cells += [_number(row["score_mean"])] if found.scores else []
        cells += [_text(row[bound.key], bound.text) for bound in bounds]
        cells += [
            _number(row[key]) for key in ("request_throughput", "running_mean", "waiting_mean", "preemptions")
        ]
        table.add_row(*cells, style="bold" if found.scores and bool(row["is_best"]) else "")
    return table, len(rows) - len(shown)


def _nearest(found: Search) -> list[int]:
    """Return the rows to show, ascending: those nearest by ratio to the answer, or to the last value."""
    values = [float(value) for value in found.curve["value"]]
    middle = found.value if found.value is not None else values[-1]
    by_ratio = sorted(range(len(values)), key=lambda place: abs(math.log(values[place] / middle)))
    return sorted(by_ratio[:MOST_ROWS])


def _score_name(found: Search) -> str:
    objective = found.plan.objective
    return (
        f"highest {found.plan.rate_unit}"
        if objective is None
        else f"{objective.label} ({found.plan.score_unit})"
    )


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else number(float(value))


def _text(value: float | None, write: object) -> str:
    assert callable(write)
    return "-" if value is None or math.isnan(value) else str(write(float(value)))
