"""Cut, thin, repeat and speed up a trace."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from kvsim.errors import InputError
from kvsim.request import IntColumn
from kvsim.traces.arrivals import source_of_chance
from kvsim.traces.trace import Trace, select


def transform(
    trace: Trace,
    *,
    between: tuple[float, float] | None = None,
    sample: float | None = None,
    seed: int = 0,
    head: int | None = None,
    repeat: int | None = None,
    scale_rate: float | None = None,
) -> Trace:
    """Apply what is asked for, in this order whatever the order of the arguments.

    between, sample, head, repeat, scale_rate: so `between` means times as the trace has them, and `head`
    the number of requests that one repeat has.
    """
    if between is not None:
        trace = window(trace, *between)
    if sample is not None:
        trace = thin(trace, sample, seed)
    if head is not None:
        trace = first(trace, head)
    if repeat is not None:
        trace = repeated(trace, repeat)
    if scale_rate is not None:
        trace = sped_up(trace, scale_rate)
    return trace


def window(trace: Trace, start: float, end: float) -> Trace:
    """Keep arrivals in [start, end) seconds, and let time start there."""
    if not start < end:
        raise InputError(f"between must be START,END in seconds with START < END, got {start:g},{end:g}")
    kept = np.flatnonzero((trace.arrival >= start) & (trace.arrival < end))
    if not len(kept):
        last = trace.arrival[-1] if len(trace) else 0.0
        raise InputError(
            f"between {start:g},{end:g} keeps no request of {trace.name}; they arrive up to {last:g} s"
        )
    cut = trace.take(kept)
    return replace(cut, arrival=cut.arrival - start)


def thin(trace: Trace, share: float, seed: int = 0) -> Trace:
    """Keep each request, or each session as a whole, with probability `share`."""
    if not 0 < share <= 1:
        raise InputError(f"sample must be a share above 0 and at most 1, got {share:g}")
    group = _groups(trace)
    drawn = source_of_chance(seed).random(int(group.max(initial=-1)) + 1) < share
    kept = np.flatnonzero(drawn[group])
    if not len(kept):
        raise InputError(
            f"sample {share:g} keeps no request of the {len(trace)} of {trace.name}; take a larger share"
        )
    return trace.take(kept)


def first(trace: Trace, count: int) -> Trace:
    """Keep the first `count` requests, or all if there are fewer."""
    if count < 1:
        raise InputError(f"head must be at least 1 request, got {count}")
    return trace if count >= len(trace) else trace.take(np.arange(count))


def repeated(trace: Trace, times: int) -> Trace:
    """Play the trace `times` times, one after the other at the same mean rate.

    A round starts one mean gap after the last arrival of the round before. Content ids stay, as if the same
    users came back with the same documents; sessions get numbers of their own in every round.
    """
    if times < 1:
        raise InputError(f"repeat must be at least 1, got {times}")
    rows = len(trace)
    starts = rows if trace.parent is None else int(np.count_nonzero(trace.parent < 0))
    period = float(np.ptp(trace.arrival)) * starts / (starts - 1) if starts > 1 else 0.0
    again = select(trace, np.tile(np.arange(rows), times))
    turn = np.repeat(np.arange(times), rows)
    return replace(
        again,
        arrival=again.arrival + turn * period,
        session=_renumbered(trace.session, turn, times, int(_largest(trace.session)) + 1),
        parent=_renumbered(trace.parent, turn, times, rows),
    )


def sped_up(trace: Trace, factor: float) -> Trace:
    """Divide arrival times by `factor`; think times stay, people do not read faster."""
    if not (math.isfinite(factor) and factor > 0):
        raise InputError(f"scale_rate must be a positive number, got {factor:g}")
    return replace(trace, arrival=trace.arrival / factor)


def _groups(trace: Trace) -> IntColumn:
    """Number the sessions and the rows without one, from 0, row by row."""
    rows = np.arange(len(trace))
    if trace.session is None:
        return rows
    keys = np.where(trace.session >= 0, trace.session, trace.session.max() + 1 + rows)
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def _largest(column: IntColumn | None) -> int:
    return -1 if column is None else int(column.max(initial=-1))


def _renumbered(column: IntColumn | None, turn: IntColumn, times: int, step: int) -> IntColumn | None:
    if column is None:
        return None
    tiled = np.tile(column, times)
    return np.where(tiled >= 0, tiled + turn * step, tiled)
