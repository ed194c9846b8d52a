"""The comparison as a table: a column a policy, a row a metric."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from io import StringIO
from typing import IO, TYPE_CHECKING, NamedTuple

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from kvsim.reports.caption import fold_caption
from kvsim.reports.frames import fold_name, require

if TYPE_CHECKING:
    from pandas import DataFrame


class Metric(NamedTuple):
    """One row of the table."""

    label: str
    """What it is, and its unit."""
    column: str
    """Where it is in the comparison frame; a frame without it loses the row."""
    scale: float = 1.0
    """Factor from the frame's unit to the row's."""
    better: int = 0
    """1 when more is better, −1 when less is; the best is set bold on a terminal."""
    optional: bool = False
    """Whether a row of zeros is left out."""


WIDTH = 120
"""Characters across where there is no terminal to ask."""

_NAME_WIDTH = 10
"""Characters after which a policy's name is broken."""

_PERCENT = 100.0
_MIB = 1 / 2**20

GROUPS: dict[str, tuple[Metric, ...]] = {
    "Memory (% of pool)": (
        Metric("live", "live", _PERCENT, 1),
        Metric("waste", "waste", _PERCENT, -1),
        Metric("  reserved", "reserved", _PERCENT),
        Metric("  internal", "internal", _PERCENT),
        Metric("  external", "external", _PERCENT),
        Metric("reusable", "reusable", _PERCENT),
        Metric("free", "free", _PERCENT),
        Metric("saved by sharing (%)", "memory_saved_by_sharing", _PERCENT, 1, optional=True),
    ),
    "Batch (requests)": (
        Metric("running, mean", "running_mean", better=1),
        Metric("running, p99", "running_p99", better=1),
        Metric("running, max", "running_max", better=1),
        Metric("capacity, saturated", "batch_capacity", better=1),
        Metric("capacity, closed form", "batch_capacity_bound", better=1),
        Metric("waiting, mean", "waiting_mean", better=-1),
    ),
    "Throughput": (
        Metric("requests/s", "request_throughput", better=1),
        Metric("output tokens/s", "output_throughput", better=1),
        Metric("total tokens/s", "total_token_throughput", better=1),
    ),
    "Latency (ms)": (
        Metric("TTFT, p50", "p50_ttft_ms", better=-1),
        Metric("TTFT, p99", "p99_ttft_ms", better=-1),
        Metric("TPOT, p50", "p50_tpot_ms", better=-1),
        Metric("TPOT, p99", "p99_tpot_ms", better=-1),
    ),
    "Preemption and prefix cache": (
        Metric("preemptions", "preemptions", better=-1),
        Metric("recomputed (tokens)", "recomputed_tokens", better=-1, optional=True),
        Metric("swapped (MiB)", "swapped_bytes", _MIB, better=-1, optional=True),
        Metric("KV copied (MiB)", "copied_bytes", _MIB, better=-1, optional=True),
        Metric("hit rate (% of tokens)", "prefix_cache_hit_rate", _PERCENT, 1),
        Metric("after preemption (%)", "readmission_hit_rate", _PERCENT, optional=True),
    ),
    "Tiers": (
        Metric("hits on the GPU (%)", "prefix_cache_hit_rate_gpu", _PERCENT),
        Metric("hits in CPU memory (%)", "prefix_cache_hit_rate_cpu", _PERCENT),
        Metric("hits on disk (%)", "prefix_cache_hit_rate_disk", _PERCENT),
        Metric("TTFT, mean: nothing found", "mean_ttft_ms_nowhere"),
        Metric("TTFT, mean: on the GPU", "mean_ttft_ms_gpu"),
        Metric("TTFT, mean: CPU memory", "mean_ttft_ms_cpu"),
        Metric("TTFT, mean: disk", "mean_ttft_ms_disk"),
        Metric("from CPU memory (MiB)", "read_bytes_cpu", _MIB),
        Metric("to CPU memory (MiB)", "written_bytes_cpu", _MIB),
        Metric("from disk (MiB)", "read_bytes_disk", _MIB),
        Metric("to disk (MiB)", "written_bytes_disk", _MIB),
    ),
    "Requests": (
        Metric("completed", "completed", better=1),
        Metric("rejected", "rejected", better=-1, optional=True),
        Metric("unfinished", "unfinished", better=-1, optional=True),
    ),
}
"""What the table shows, in order."""


class Line(NamedTuple):
    """One row as text: a group's heading when it has no cells."""

    label: str
    cells: tuple[str, ...] = ()
    best: tuple[bool, ...] = ()


def comparison_table(frame: DataFrame, *, caption: str = "", width: int = WIDTH) -> Table:
    """Lay out a comparison frame (a row a policy) for a rich console.

    `caption` is the provenance line under the table, folded at `width` characters. On a narrow console
    the names fold and the numbers do not; `print_comparison` parts a table that is still too wide.
    """
    require(frame, ["policy"], "comparison table")
    lines = list(table_lines(frame))
    below = Text(fold_caption(caption, width)) if caption else None
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, 1), caption=below, caption_justify="left"
    )
    table.add_column("", overflow="fold")
    for place, name in enumerate(frame["policy"].astype(str)):
        least = max((len(line.cells[place]) for line in lines if line.cells), default=1)
        heading = Text(fold_name(name, _NAME_WIDTH), style="bold", overflow="fold")
        table.add_column(heading, justify="right", no_wrap=True, min_width=least)
    for line in lines:
        if line.cells:
            best = ["bold green" if best else "" for best in line.best]
            table.add_row(f"  {line.label}", *map(Text, line.cells, best))
        else:
            table.add_section()
            table.add_row(Text(line.label, style="bold"))
    return table


def comparison_text(frame: DataFrame, *, caption: str = "", width: int = WIDTH) -> str:
    """Return the table as `print_comparison` writes it, without colour."""
    stream = StringIO()
    _write(Console(file=stream, color_system=None, force_terminal=False), frame, caption, width)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def print_comparison(
    frame: DataFrame, *, caption: str = "", stream: IO[str] | None = None, width: int | None = None
) -> None:
    """Print the table to a stream, standard output by default; no number is ever cut.

    The width is the terminal's, 120 characters where there is none; policies that do not fit beside one
    another are shared out over several tables. Colour follows rich: none when NO_COLOR is set, none off
    a terminal.
    """
    console = Console(file=stream, highlight=False)
    _write(console, frame, caption, width or (console.width if console.is_terminal else WIDTH))


def comparison_markdown(frame: DataFrame, *, caption: str = "") -> str:
    """Return the table in Markdown, the caption in italics below."""
    require(frame, ["policy"], "comparison table")
    names = [_escape(name) for name in frame["policy"].astype(str)]
    rows = [["", *names], ["---", *["---:"] * len(names)]]
    for line in table_lines(frame):
        indent = "&nbsp;&nbsp;" if line.label.startswith(" ") else ""
        label = f"{indent}{line.label.strip()}" if line.cells else f"**{line.label}**"
        rows.append([label, *(line.cells or [""] * len(names))])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\n*{_escape(caption)}*\n" if caption else f"{table}\n"


def numbers(values: Sequence[float]) -> tuple[str, ...]:
    """Write a row of numbers with the same decimals, `-` for what is not one.

    There are as many decimals as leave the smallest number three significant digits: none
    in a row of whole numbers, and never more than three. Nothing has an exponent.
    """
    finite = [abs(value) for value in values if math.isfinite(value)]
    least = min((size for size in finite if size), default=1000.0)
    whole = all(size == round(size) for size in finite)
    decimals = 0 if whole or least >= 1000 else 1 if least >= 10 else 2 if least >= 1 else 3
    return tuple("-" if math.isnan(value) else f"{value:,.{decimals}f}" for value in values)


def percent(value: float) -> str:
    """Write a percentage with one decimal; the least above zero is `<0.1`."""
    if math.isnan(value):
        return "-"
    return "<0.1" if 0 < value < 0.05 else f"{value:,.1f}"


def _write(console: Console, frame: DataFrame, caption: str, room: int) -> None:
    require(frame, ["policy"], "comparison table")
    parts = _parts(frame, room)
    console.width = max(room, *(_wide(part) for part in parts))
    for part in parts:
        console.print(comparison_table(part))
        console.print()
    if caption:
        # Not the table's own caption, which would be folded at the table's width.
        console.print(Text(fold_caption(caption, room), style="dim"))


def table_lines(frame: DataFrame) -> Iterator[Line]:
    """Return the rows of a comparison as text, each group after its heading."""
    for heading, metrics in GROUPS.items():
        lines = [_line(frame, metric) for metric in metrics if _is_shown(frame, metric)]
        if lines:
            yield Line(heading)
            yield from lines


def _is_shown(frame: DataFrame, metric: Metric) -> bool:
    if metric.column not in frame.columns:
        return False
    return not metric.optional or bool((frame[metric.column].fillna(0) != 0).any())


def _line(frame: DataFrame, metric: Metric) -> Line:
    values = [math.nan if value is None else float(value) * metric.scale for value in frame[metric.column]]
    cells = tuple(map(percent, values)) if metric.scale == _PERCENT else numbers(values)
    known = [value * metric.better for value in values if not math.isnan(value)]
    differ = bool(metric.better and known and min(known) < max(known))
    best = tuple(differ and value * metric.better == max(known) for value in values)
    return Line(metric.label, cells, best)


def _parts(frame: DataFrame, room: int) -> list[DataFrame]:
    """Share the policies out over as few tables as fit, evenly; one that never fits stands alone."""
    for tables in range(1, len(frame) + 1):
        size = math.ceil(len(frame) / tables)
        parts = [frame.iloc[first : first + size] for first in range(0, len(frame), size)]
        if all(_wide(part) <= room for part in parts):
            break
    return parts


def _wide(frame: DataFrame) -> int:
    """Return the characters that the table of these policies needs."""
    console = Console(file=StringIO(), width=100_000)
    return Measurement.get(console, console.options, comparison_table(frame)).maximum


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")
