"""Draw the sessions of a trace with replacement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kvsim.errors import InputError
from kvsim.request import IntColumn
from kvsim.traces.trace import Trace, select


def bootstrapped(trace: Trace, rng: np.random.Generator) -> Trace:
    """Return as many sessions (or lone requests) as there are, drawn with replacement, at the recorded start times.

    A session keeps its own course from its start on. Where it is drawn again, content that only it has gets new ids in
    each further copy: other users with texts of their own, who share what sessions shared before.
    """
    if trace.block_ids is not None and trace.block_tokens == 1:
        raise InputError(f"{trace.name}: sessions cannot be drawn again where ids stand for single tokens")
    group = session_groups(trace)
    order = np.argsort(group, kind="stable")
    edges = np.searchsorted(group[order], np.arange(int(group.max()) + 2))
    sizes, begins = np.diff(edges), trace.arrival[order[edges[:-1]]]
    drawn = rng.integers(len(sizes), size=len(sizes))
    copy = np.repeat(np.arange(len(drawn)), sizes[drawn])
    first = np.cumsum(sizes[drawn]) - sizes[drawn]
    place = np.arange(len(copy)) - first[copy]
    rows = order[edges[drawn][copy] + place]
    begin_anew = np.sort(begins)
    made = select(trace, rows)
    made = replace(
        made,
        arrival=trace.arrival[rows] - begins[drawn][copy] + begin_anew[copy],
        session=None if trace.session is None else np.where(trace.session[rows] >= 0, copy, -1),
        block_ids=_own_ids(trace, made, group, drawn, copy),
    )
    if trace.parent is None:
        return made.checked()
    position = np.empty(len(trace), np.int64)
    position[order] = np.arange(len(trace)) - np.repeat(edges[:-1], sizes)
    parent = trace.parent[rows]
    waits = parent >= 0
    think = None if trace.think is None else np.where(waits, trace.think[rows], 0.0)
    anew = np.where(waits, first[copy] + position[parent], -1)
    return replace(made, parent=anew, think=think).checked()


def session_groups(trace: Trace) -> IntColumn:
    """Number the sessions and the rows without one, from 0, row by row."""
    rows = np.arange(len(trace))
    if trace.session is None:
        return rows
    keys = np.where(trace.session >= 0, trace.session, trace.session.max() + 1 + rows)
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def _own_ids(
    trace: Trace, made: Trace, group: IntColumn, drawn: IntColumn, copy: IntColumn
) -> IntColumn | None:
    """Return the ids of the drawn rows, from 0 up; those of one session only differ between its copies."""
    if trace.block_ids is None or trace.block_offsets is None:
        return None
    assert made.block_ids is not None
    assert made.block_offsets is not None
    known, dense = np.unique(trace.block_ids, return_inverse=True)
    owner = np.repeat(group, np.diff(trace.block_offsets))
    least, most = np.full(len(known), len(trace)), np.full(len(known), -1)
    np.minimum.at(least, dense, owner)
    np.maximum.at(most, dense, owner)
    ids = np.searchsorted(known, made.block_ids)
    again = np.repeat(_times_before(drawn)[copy], np.diff(made.block_offsets))
    return np.where(least[ids] == most[ids], ids + again * len(known), ids)


def _times_before(values: IntColumn) -> IntColumn:
    """Count, for each value, how often it stands further ahead."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    counts = np.empty(len(values), np.int64)
    counts[order] = np.arange(len(values)) - np.searchsorted(ranked, ranked)
    return counts
