"""A validation as a table, and what was not checked below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from kvsim.validate_verdict import Row

WIDTH = 220
"""Characters across where there is no terminal to ask."""
ROOMY = 160
"""Characters from which on there is room for the conditions."""
WIDE = {"what": 4, "conditions": 5, "source": 2}
"""How columns of text share the width."""
NUMBERS = ("published", "ours", "difference")


def print_rows(rows: Sequence[Row]) -> None:
    """Print the checked rows, the causes of those that are off, the reasons of those not checked, and a summary."""
    from rich.console import Console
    from rich.text import Text

    from kvsim.validate_report import summary

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    checked = [row for row in rows if row.was_checked]
    if checked:
        console.print(_table(checked, console.width))
    _notes(console, "Why", [row for row in rows if row.note and (row.was_checked or not row.is_fine)])
    _notes(console, "Not checked", [row for row in rows if row.note and not row.was_checked and row.is_fine])
    console.print()
    for sentence in summary(rows):
        console.print(Text(sentence), soft_wrap=True)


def _table(rows: Sequence[Row], width: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from kvsim.validate_report import difference, number, published, tolerance

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0))
    columns = {
        "id": [row.check.id for row in rows],
        "class": [row.check.kind for row in rows],
        "what": [row.check.what for row in rows],
        "conditions": [row.check.conditions for row in rows],
        "source": [row.check.short_origin for row in rows],
        "published": [published(row.check) for row in rows],
        "ours": [number(row.ours) for row in rows],
        "difference": [difference(row) for row in rows],
        "tolerance": [tolerance(row) for row in rows],
        "verdict": [row.verdict for row in rows],
    }
    if width < ROOMY:
        del columns["conditions"]
    for name in columns:
        table.add_column(
            name,
            justify="right" if name in NUMBERS else "left",
            ratio=WIDE.get(name),
            no_wrap=name in ("id", "class", "verdict"),
            overflow="fold",
        )
    for row, *cells in zip(rows, *columns.values(), strict=True):
        # Text, since a bracket in a source must not be taken for markup.
        table.add_row(*map(Text, cells), style=_style(row))
    return table


def _style(row: Row) -> str:
    if not row.is_fine:
        return "bold red"
    return "" if not row.note else "yellow"


def _notes(console: Console, heading: str, rows: Sequence[Row]) -> None:
    from rich.text import Text

    if not rows:
        return
    console.print()
    console.print(Text(heading, style="bold"))
    together: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        together.setdefault((row.verdict, row.note), []).append(row)
    for (verdict, note), alike in together.items():
        ids = ", ".join(row.check.id for row in alike)
        what = f"{alike[0].check.what}; " if len(alike) == 1 else ""
        console.print(Text(f"  {ids}  {verdict}: {what}{note}"), soft_wrap=True)
