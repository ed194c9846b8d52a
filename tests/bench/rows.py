"""A row of the table: one figure beside what it should reach, and how the table is printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a figure should reach."""

    value: float
    is_most: bool = False
    """Whether it is the most allowed, not the least."""

    def met_by(self, figure: float) -> bool:
        """Tell whether a figure is good enough."""
        return figure <= self.value if self.is_most else figure >= self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure. A row that could not be measured has `why` and no figure."""

    name: str
    figure: float | None = None
    unit: str = ""
    target: Target | None = None
    loop: float | None = None
    """Seconds of the calibration loop beside it."""
    notes: dict[str, float | str] = field(default_factory=dict)
    why: str = ""

    def cells(self) -> list[str]:
        """Return the row as the table shows it."""
        if self.figure is None:
            return [self.name, "absent", "", "", "", self.why]
        notes = ", ".join(f"{name} {number(value)}" for name, value in self.notes.items())
        target, verdict = "", ""
        if self.target is not None:
            target = f"{'≤' if self.target.is_most else '≥'} {number(self.target.value)}"
            verdict = "met" if self.target.met_by(self.figure) else "not met"
        loop = "" if self.loop is None else f"{self.loop * 1e3:.1f}"
        return [self.name, f"{number(self.figure)} {self.unit}", target, verdict, loop, notes]


HEADINGS = ("what", "figure", "target", "", "loop ms", "with")


def number(value: float | str) -> str:
    """Print whole thousands with commas, small numbers with three digits."""
    if isinstance(value, str):
        return value
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    """Lay rows out in columns; figures to the right."""
    lines = [list(HEADINGS), *[row.cells() for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    text = []
    for line in lines:
        cells = [
            cell.rjust(width) if 1 <= column <= 4 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(cells).rstrip())
    text.insert(1, "─" * max(map(len, text)))
    return "\n".join(text)
