"""Rows of a validation in words and as records: for the table, JSON, CSV and the page."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence

from kvsim.validate_table import CLASSES, Check, Interval, Value
from kvsim.validate_verdict import BAD, CONTEXT, FAILED, GOOD, KNOWN_MISS, NOT_THERE, NOT_YET, Row

COLUMNS = (
    "id", "class", "what", "source", "conditions", "published", "unit", "ours", "difference", "relative", "tolerance",
    "verdict", "note",
)  # fmt: skip
"""Columns of validation.csv."""


def record(row: Row) -> dict[str, object]:
    """Return a row as JSON: numbers as they are, in the check's unit; an interval as low, value, high."""
    check = row.check
    ours: object = list(row.ours) if isinstance(row.ours, tuple) else row.ours
    return {
        "id": check.id,
        "class": check.kind,
        "what": check.what,
        "source": check.origin,
        "conditions": check.conditions,
        "published": list(check.published) if isinstance(check.published, tuple) else check.published,
        "unit": check.unit,
        "ours": ours,
        "difference": row.difference,
        "relative": row.relative,
        "tolerance": tolerance(row),
        "verdict": row.verdict,
        "note": row.note,
    }


def csv_text(rows: Iterable[Row]) -> str:
    """Return the rows as CSV; several numbers are separated by spaces."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(value) for key, value in record(row).items()})
    return out.getvalue()


def counts(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Return how many rows of each class came to which verdict."""
    return {
        kind: dict(Counter(row.verdict for row in rows if row.check.kind == kind))
        for kind in CLASSES
        if any(row.check.kind == kind for row in rows)
    }


def summary(rows: Sequence[Row]) -> list[str]:
    """Say in sentences what the rows came to."""
    said = []
    for kind, name, verb in (("E", "E", "exact"), ("T", "T", "in band"), ("physics", "physics", "hold")):
        checked = [
            row for row in rows if row.check.kind == kind and (row.was_checked or row.verdict == FAILED)
        ]
        if not checked:
            continue
        found = Counter(row.verdict for row in checked)
        more = [f"{found[word]} {text}" for word, text in (
            (KNOWN_MISS, "missed for a known cause"), (BAD[kind], "off"), (FAILED, "failed"),
        ) if found[word]]  # fmt: skip
        said.append(", ".join([f"{found[GOOD[kind]]} of {len(checked)} {name} rows {verb}", *more]))
    beside = sum(row.verdict == CONTEXT and row.was_checked for row in rows)
    if beside:
        said.append(f"{beside} C rows show ours beside a claim, for its direction only")
    rest = Counter(row.verdict for row in rows if not row.was_checked)
    words = {
        NOT_THERE: "need a trace that is not there",
        NOT_YET: "are not measured yet",
        CONTEXT: "cannot be repeated",
    }
    if left := [f"{rest[word]} {text}" for word, text in words.items() if rest[word]]:
        said.append(f"not checked: {', '.join(left)}")
    return said


def number(value: Value | Interval | None) -> str:
    """Write a figure with as many digits as tell it apart from its neighbours."""
    if value is None:
        return ""
    if isinstance(value, Interval):
        ends = f"{number(value.low)} to {number(value.high)}"
        return number(value.value) if value.low == value.high else f"{number(value.value)} ({ends})"
    if isinstance(value, tuple):
        return ", ".join(map(number, value))
    if isinstance(value, str):
        return value
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    size = abs(value)
    if size < 1e-4:
        return f"{value:.1e}"
    decimals = next(
        places for bound, places in ((1000, 0), (100, 1), (10, 2), (1, 3), (0, 5)) if size >= bound
    )
    return f"{value:,.{decimals}f}"


def published(check: Check) -> str:
    """Write what was published, with no more digits than it has, and its unit."""
    value = check.published
    text = f"{value:,.10g}" if isinstance(value, float) else number(value)
    return f"{text} {check.unit}".strip()


def tolerance(row: Row) -> str:
    """Say how near ours has to be; a figure with a range of its own has to have the published one in it."""
    if isinstance(row.ours, Interval) and row.ours.low < row.ours.high:
        kind = row.check.tolerance.kind
        return "in our range" if kind in ("equal", "digits") else f"our range {row.check.tolerance.words}"
    return row.check.tolerance.words if row.check.measure and row.verdict != CONTEXT else ""


def difference(row: Row) -> str:
    """Write a row's difference: a share where there is one to give, else in the check's unit."""
    gap, share = row.difference, row.relative
    if gap is None:
        return ""
    if gap == 0:
        return "0"
    if row.check.tolerance.kind in ("least", "most"):
        return ""
    if share is None or row.check.tolerance.kind == "plus_minus":
        return f"{gap:+.3g}"
    return f"{share:+.2%}".replace("%", " %")


def _cell(value: object) -> object:
    return " ".join(map(str, value)) if isinstance(value, list) else value
