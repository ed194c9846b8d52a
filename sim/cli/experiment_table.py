"""An experiment's cells as a table: what is varied, and the figures that people compare."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.table import Table

    from kvsim.experiment_run import Plan

SHOWN = {
    "requests/s": ("request_throughput", 1.0),
    "TTFT p99, ms": ("p99_ttft_ms", 1.0),
    "TPOT p99, ms": ("p99_tpot_ms", 1.0),
    "running, mean": ("running_mean", 1.0),
    "waste, %": ("waste", 100.0),
    "preemptions": ("preemptions", 1.0),
    "hits, %": ("prefix_cache_hit_rate", 100.0),
    "tokens/s": ("output_throughput", 1.0),
}
"""Headings, columns, and factors to the heading's unit; what matters least comes last. tokens/s are output tokens."""
WIDTH = 120
"""Characters across where there is no terminal to ask."""
FEWEST_FIGURES = 2
"""Figures that are shown even where the table is too wide with them."""
MOST_ROWS = 100
"""Rows beyond which a table on a terminal helps nobody."""


class Column(NamedTuple):
    """A column as text."""

    heading: str
    cells: list[str]
    is_figure: bool

    @property
    def width(self) -> int:
        """Characters across; a heading is broken where it can be."""
        return max(map(len, [*self.heading.split("\n"), *self.cells]))


def print_table(plan: Plan, frame: DataFrame) -> None:
    """Print the first rows on standard output, with as many figures as fit the terminal or 120 characters."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    room = console.width if console.is_terminal else WIDTH
    columns = [
        column._replace(heading=_broken(column.heading)) for column in _columns(plan, frame.head(MOST_ROWS))
    ]
    while _across(columns) > room and sum(column.is_figure for column in columns) > FEWEST_FIGURES:
        columns.remove([column for column in columns if column.is_figure][-1])
    console.width = max(room, _across(columns))
    console.print(_table(columns))
    if len(frame) > MOST_ROWS:
        console.print(Text(f"and {len(frame) - MOST_ROWS:,} more rows in cells.csv"))
    console.width = room
    console.print(Text(caption(plan), style="dim"))


def markdown(plan: Plan, frame: DataFrame) -> str:
    """Return the table in Markdown, the caption in italics below."""
    columns = _columns(plan, frame)
    lines = [[column.heading for column in columns], [("---:" if c.is_figure else "---") for c in columns]]
    lines += [list(row) for row in zip(*(column.cells for column in columns), strict=True)]
    lines[0] = list(map(_escaped, lines[0]))
    lines[2:] = [list(map(_escaped, row)) for row in lines[2:]]
    table = "\n".join(f"| {' | '.join(row)} |" for row in lines)
    return f"{table}\n\n*{_escaped(caption(plan))}*"


def caption(plan: Plan) -> str:
    """Return the provenance line: what all cells have in common, and that the rest is varied."""
    from kvsim.reports import provenance_caption

    runs = [outcome["run"] for outcome in plan.outcomes.values() if outcome["run"]]
    traces = [
        f"{run['trace']['name']} ({run['trace']['requests']:,} requests, sha256 {str(run['trace']['sha256'])[:8]})"
        for run in runs
    ]
    seeds = _common([str(task.trace.seed) for task in plan.tasks])
    return provenance_caption(
        trace=_common(traces),
        model=_common([task.config.model for task in plan.tasks]),
        gpu=_common([task.config.gpu for task in plan.tasks]),
        cost=_common([run["cost"] for run in runs]),
        seed=int(seeds) if seeds.isdigit() else None,
        version=plan.tasks[0].inputs["versions"]["kvsim"],
    )


def remarks(plan: Plan, frame: DataFrame) -> Iterator[str]:
    """Say what failed, first of all why, and what the experiment cannot show."""
    failed = frame[frame["status"] == "failed"]
    if len(failed):
        first = failed.iloc[0]
        yield f"{len(failed)} of {len(frame)} cells failed; the first is {first['cell']}: {first['error']}"
    for name in ("rejected", "unfinished"):
        some = frame[frame[name] > 0] if name in frame else failed.head(0)
        if len(some):
            most = some.sort_values(name, kind="stable").iloc[-1]
            yield f"{len(some)} of {len(frame)} cells have requests {name}; {most['cell']} the most, {most[name]:,.0f}"
    if _seeds_do_nothing(plan, frame):
        yield (
            "the seeds make no difference: a trace with arrival times of its own draws nothing unless arrival and "
            "rate, or sample, say so"
        )


def _seeds_do_nothing(plan: Plan, frame: DataFrame) -> bool:
    if len({task.trace.seed for task in plan.tasks}) == 1 or "duration" not in frame:
        return False
    varied = [name for name in plan.cells[0].varied if name != "seed"]
    figures = frame.drop(columns=["seed", "cell", "key"])
    groups = figures.groupby(varied, dropna=False) if varied else [((), figures)]
    return all(len(group.drop_duplicates()) == 1 for _, group in groups)


def _columns(plan: Plan, frame: DataFrame) -> list[Column]:
    from kvsim.reports.table import numbers, percent

    columns = [
        Column(name, ["-" if value is None else _text(value) for value in _listed(frame, name)], False)
        for name in plan.cells[0].varied
    ]
    for heading, (name, factor) in SHOWN.items():
        if name in frame:
            values = [
                math.nan if value is None else float(str(value)) * factor for value in _listed(frame, name)
            ]
            columns.append(
                Column(heading, list(map(percent, values) if factor == 100 else numbers(values)), True)
            )
    if (frame["status"] != "ok").any() or not columns:
        columns.append(Column("status", [str(status) for status in frame["status"]], False))
    return columns


def _table(columns: list[Column]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, 1))
    for column in columns:
        side = "right" if column.is_figure else "left"
        table.add_column(Text(column.heading), justify=side, no_wrap=True, vertical="bottom")  # type: ignore[arg-type]
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, row))
    return table


def _across(columns: list[Column]) -> int:
    return sum(column.width + 1 for column in columns) + 1


def _broken(heading: str) -> str:
    """Break a heading over lines where its words end."""
    return re.sub(r"(?<=[._])|, ", "\n", heading)


def _listed(frame: DataFrame, name: str) -> list[object]:
    column = frame[name].astype(object)
    return column.where(column.notna(), None).tolist()


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _common(texts: list[str]) -> str:
    return texts[0] if len(set(texts)) == 1 else "varied" if texts else ""


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\|*_<>[]`" else letter for letter in text)
