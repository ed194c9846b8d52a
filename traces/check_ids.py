"""Validation of content ids: their number, their range, and that they chain where the format says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import InputError
from kvsim.request import IntColumn
from kvsim.traces.origin import Coverage, Origin
from kvsim.traces.trace import Trace


def check_ids(trace: Trace, origin: Origin) -> Trace:
    """Return the trace with its ids checked, in int64."""
    if trace.block_ids is None or trace.block_offsets is None:
        if trace.block_ids is not None or trace.block_offsets is not None or trace.block_tokens:
            raise InputError(
                f"{origin.file}: block_ids, block_offsets and block_tokens must be given together"
            )
        return trace
    if trace.block_tokens < 1:
        raise InputError(f"{origin.file}: block_tokens must be at least 1, got {trace.block_tokens}")
    ids = trace.block_ids.astype(np.int64, copy=False)
    offsets = trace.block_offsets.astype(np.int64, copy=False)
    _check_offsets(offsets, len(trace), len(ids), origin)
    clean = dataclasses.replace(trace, block_ids=ids, block_offsets=offsets)
    _check_counts(clean, np.diff(offsets), origin)
    _check_range(ids, offsets, trace.block_tokens, origin)
    if origin.chained:
        check_chain(ids, offsets, origin.at, origin.named("block_ids"))
    return clean


def check_chain(ids: IntColumn, offsets: IntColumn, at: Callable[[int], str], name: str) -> None:
    """Raise InputError unless every id always has the same predecessor (or always none).

    Such ids are hashes of a whole prefix: equal ids then mean equal prefixes. Linear in time.
    """
    if not len(ids):
        return
    before = np.empty_like(ids)
    before[1:] = ids[:-1]
    before[offsets[:-1][np.diff(offsets) > 0]] = -1
    first = first_seen(ids)
    wrong = before != before[first]
    if not wrong.any():
        return
    here = int(np.argmax(wrong))
    there = int(first[here])
    row, other = (int(np.searchsorted(offsets, position, "right")) - 1 for position in (here, there))
    raise InputError(
        f"{at(row)}: {name} {ids[here]} follows {_id(before[here])}, but in {at(other)} it follows "
        f"{_id(before[there])}; an id must always have the same predecessor"
    )


def first_seen(ids: IntColumn) -> IntColumn:
    """Return, for each position, the position where its id occurs first."""
    keys: NDArray[np.int64] = ids
    if int(ids.max()) > 4 * len(ids) + 1000:
        keys = np.unique(ids, return_inverse=True)[1]
    seen = np.empty(int(keys.max()) + 1, np.int64)
    # With a repeated index the last assignment stays, so backwards the first occurrence does.
    seen[keys[::-1]] = np.arange(len(keys) - 1, -1, -1)
    return seen[keys]


def _id(value: np.int64) -> str:
    return "nothing" if value < 0 else str(value)


def _check_offsets(offsets: IntColumn, rows: int, ids: int, origin: Origin) -> None:
    fits = offsets.shape == (rows + 1,) and offsets[0] == 0 and offsets[-1] == ids
    if not fits or np.any(np.diff(offsets) < 0):
        raise InputError(
            f"{origin.file}: {origin.named('block_offsets')} must rise from 0 to {ids} over {rows} rows"
        )


def _check_counts(trace: Trace, counts: IntColumn, origin: Origin) -> None:
    """Compare the number of ids of each row with what its prompt calls for."""
    size = trace.block_tokens
    needed = (
        trace.prompt_tokens // size if origin.coverage is Coverage.FLOOR else -(-trace.prompt_tokens // size)
    )
    wrong = counts > needed if origin.coverage is Coverage.AT_MOST else counts != needed
    if wrong.any():
        row = int(np.argmax(wrong))
        rule = origin.coverage.value.replace("block", str(size)).replace(
            "prompt", str(trace.prompt_tokens[row])
        )
        raise InputError(
            f"{origin.at(row)}: {origin.named('block_ids')} has {counts[row]} ids for "
            f"{trace.prompt_tokens[row]} prompt tokens; it must have {rule} = {needed[row]}"
        )


def _check_range(ids: IntColumn, offsets: IntColumn, size: int, origin: Origin) -> None:
    most = (2**63 - 1) // size - 1
    wrong = (ids < 0) | (ids > most)
    if wrong.any():
        position = int(np.argmax(wrong))
        row = int(np.searchsorted(offsets, position, "right")) - 1
        raise InputError(
            f"{origin.at(row)}: {origin.named('block_ids')} holds {ids[position]}; "
            f"it must hold integers from 0 to {most}"
        )
