"""Content ids of generated tokens: a later turn's prompt repeats an earlier row's answer by them.

Token k of the answer to row i is content 2⁵⁰ + i·2²² + k (vLLM semantics, trace format). The row is part of
the id, so ids move along when rows do.
"""

from __future__ import annotations

import numpy as np

from kvsim.request import IntColumn

FIRST = 2**50
"""Id of the first token of the answer to row 0."""
ROW = 2**22
"""Ids set aside for one row's answer."""
GONE = 2**56
"""From here on stand the answers to rows that are no longer there; they stay equal to each other only."""


def follow_rows(ids: IntColumn, place: IntColumn) -> IntColumn:
    """Return token ids with answers named by their rows' new places; `place[i]` is −1 when row i is gone."""
    answers = np.flatnonzero((ids >= FIRST) & (ids < GONE))
    if not len(answers):
        return ids
    rows, tokens = np.divmod(ids[answers] - FIRST, ROW)
    known = rows < len(place)
    moved = np.where(known, place[np.where(known, rows, 0)], -1)
    named = ids.copy()
    named[answers] = np.where(moved >= 0, FIRST + moved * ROW, GONE + rows * ROW) + tokens
    return named
