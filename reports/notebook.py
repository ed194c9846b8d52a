"""What a notebook shows for a run and for a comparison: the table of `kvsim compare`, as HTML.

Everything that comes from input is escaped. Colours are the notebook's own, so light and dark both work.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from kvsim.reports.caption import common_caption, result_caption
from kvsim.reports.table import table_lines

if TYPE_CHECKING:
    from pandas import DataFrame

    from kvsim.comparison import Comparison
    from kvsim.result import Result


def result_html(result: Result) -> str:
    """Return a run's summary as an HTML table."""
    import pandas as pd

    frame = pd.DataFrame([{"policy": result.config["policy"]} | result.summary])
    return table_html(frame, result_caption(result))


def comparison_html(comparison: Comparison) -> str:
    """Return a comparison as an HTML table, a column a policy."""
    return table_html(comparison.summary, common_caption(list(comparison.results.values())))


def table_html(frame: DataFrame, caption: str) -> str:
    """Return a summary frame (a row a policy) as an HTML table, with the caption below."""
    names = "".join(f"<th>{escape(name)}</th>" for name in frame["policy"].astype(str))
    rows = [f"<thead><tr><th></th>{names}</tr></thead><tbody>"]
    for line in table_lines(frame):
        if line.cells:
            label = escape(line.label.lstrip())
            indent = 2 if line.label.startswith(" ") else 1
            cells = "".join(_cell(cell, best) for cell, best in zip(line.cells, line.best, strict=True))
            rows.append(f'<tr><td style="text-align:left;padding-left:{indent}em">{label}</td>{cells}</tr>')
        else:
            heading = f'<th colspan="{len(frame) + 1}" style="text-align:left">{escape(line.label)}</th>'
            rows.append(f"<tr>{heading}</tr>")
    below = f"<p><small>{escape(caption)}</small></p>" if caption else ""
    return f"<div><table>{''.join(rows)}</tbody></table>{below}</div>"


def _cell(text: str, is_best: bool) -> str:
    inside = f"<b>{escape(text)}</b>" if is_best else escape(text)
    return f'<td style="text-align:right">{inside}</td>'
