"""Validation of a trace: the first wrong value is named with its place, column and what is allowed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import InputError
from kvsim.request import FloatColumn, IntColumn
from kvsim.traces.check_ids import check_ids
from kvsim.traces.origin import Origin
from kvsim.traces.trace import ROW_COLUMNS, Trace, select

MOST_TOKENS = 2**31 - 1
"""Longest prompt or output that is believed, in tokens."""
INT64 = 2**63 - 1

# Whatever a reader or a caller put into a column; its dtype is what is being checked.
Raw = NDArray[Any]


def check(trace: Trace, origin: Origin) -> Trace:
    """Return the trace with every value checked, closed-loop arrivals filled in, sorted by arrival."""
    _check_shape(trace, origin)
    columns: dict[str, Any] = {
        "arrival": _seconds(trace.arrival, "arrival", origin),
        "prompt_tokens": _whole(trace.prompt_tokens, "prompt_tokens", origin, 1, MOST_TOKENS),
        "output_tokens": _whole(trace.output_tokens, "output_tokens", origin, 1, MOST_TOKENS),
    }
    if trace.priority is not None:
        columns["priority"] = _whole(trace.priority, "priority", origin, -INT64, INT64)
    if trace.session is not None:
        columns["session"] = _whole(trace.session, "session", origin, -1, INT64)
    if trace.samples is not None:
        columns["samples"] = _whole(trace.samples, "samples", origin, 1, MOST_TOKENS)
    if trace.think is not None:
        columns["think"] = _seconds(trace.think, "think", origin)
    if trace.parent is not None:
        columns |= _closed_loop(trace, columns, origin)
    clean = dataclasses.replace(trace, **columns)
    return _sorted(check_ids(clean, origin))


def _check_shape(trace: Trace, origin: Origin) -> None:
    rows = len(trace.arrival)
    if not rows:
        raise InputError(f"{origin.file}: the trace has no requests")
    for name in ROW_COLUMNS:
        column = getattr(trace, name)
        if column is not None and np.shape(column) != (rows,):
            raise InputError(
                f"{origin.file}: {origin.named(name)} has shape {np.shape(column)}; arrival has {rows} rows"
            )


def _whole(values: Raw, name: str, origin: Origin, least: int, most: int) -> IntColumn:
    """Return a column of whole numbers as int64; floats are fine where they are whole."""
    bounds = f"an integer from {least} to {most}"
    if most == INT64:
        bounds = "an integer" if least < -1 else f"an integer, at least {least}"
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise InputError(f"{origin.file}: {origin.named(name)} must be {bounds}, got {array.dtype} values")
    wrong = (array < least) | (array > most)
    if array.dtype.kind == "f":
        # 2**63 − 1 rounds up as a float, so ≥ is what keeps the conversion within int64.
        wrong = (
            ~np.isfinite(array) | (array != np.floor(array)) | (array < least) | (array >= float(most) + 1)
        )
    _refuse(wrong, array, name, origin, bounds)
    return array.astype(np.int64, copy=False)


def _seconds(values: Raw, name: str, origin: Origin) -> FloatColumn:
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise InputError(f"{origin.file}: {origin.named(name)} must be numbers, got {array.dtype} values")
    array = array.astype(np.float64, copy=False)
    _refuse(~((array >= 0) & (array < np.inf)), array, name, origin, "a finite number, at least 0")
    return array


def _refuse(wrong: NDArray[np.bool_], values: Raw, name: str, origin: Origin, allowed: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        value = values[row].item()
        raise InputError(f"{origin.at(row)}: {origin.named(name)} is {value}; it must be {allowed}")


def _closed_loop(trace: Trace, columns: dict[str, Any], origin: Origin) -> dict[str, Any]:
    """Check parents, and give every row that has one the arrival of the row its session starts with."""
    rows = np.arange(len(trace))
    parent = _whole(trace.parent, "parent", origin, -1, INT64)  # type: ignore[arg-type]
    _refuse(parent >= rows, parent, "parent", origin, "−1 or the number (from 0) of an earlier row")
    child = parent >= 0
    session = columns.get("session")
    root = _roots(parent)
    if session is None:
        session = root
    elif np.any(strange := child & (session != session[parent])):
        row = int(np.argmax(strange))
        raise InputError(
            f"{origin.at(row)}: {origin.named('parent')} is {parent[row]}, a row of session "
            f"{session[parent[row]]}; it must be of the row's own session {session[row]}"
        )
    think = columns.get("think", np.zeros(len(trace)))
    return {"parent": parent, "session": session, "think": think, "arrival": columns["arrival"][root]}


def _roots(parent: IntColumn) -> IntColumn:
    """Follow parents to the first row of each chain, doubling the stride until nothing moves."""
    root = np.where(parent >= 0, parent, np.arange(len(parent)))
    while not np.array_equal(root, further := root[root]):
        root = further
    return root


def _sorted(trace: Trace) -> Trace:
    early = int((np.diff(trace.arrival) < 0).sum())
    if not early:
        return trace
    order = np.argsort(trace.arrival, kind="stable").astype(np.int64)
    said = "1 row came" if early == 1 else f"{early:,} rows came"
    note = f"{said} before the one above by arrival; the rows were sorted"
    return dataclasses.replace(select(trace, order), notes=(*trace.notes, note))
