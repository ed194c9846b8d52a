"""JSONL rows of `arrival_s`, `output_len` and a prompt by length, by hash ids or by token ids."""

from __future__ import annotations

import dataclasses
from array import array

import numpy as np

from kvsim.errors import InputError
from kvsim.request import IntColumn
from kvsim.traces.reader import Format, Found, Options
from kvsim.traces.rows import Collector, Row, floats, integers, ints, json_rows, number, whole
from kvsim.traces.source import Head, Source
from kvsim.traces.trace import Trace

FIELDS = {
    "arrival": "arrival_s",
    "prompt_tokens": "prompt_len",
    "output_tokens": "output_len",
    "block_ids": "hash_ids",
    "think": "think_s",
}
WHOLE = ("priority", "session", "parent", "samples")
MISSING = {"priority": 0, "session": -1, "parent": -1, "samples": 1}
"""What a row without the field has, when another row has it."""


def read(source: Source, options: Options) -> Found:
    """Read rows; hash id h stands for `hash_block_tokens` tokens, the last id may be cut by the prompt's end.

    A row may say how many that are, for all from there on, as the first one of a trace written here does.
    As soon as one row has `prompt_token_ids`, the whole trace is in ids of one token: a hash id h becomes
    h·H, h·H + 1, …, so rows of both kinds share what is equal.
    """
    rows = Collector(source, FIELDS)
    tokens: set[int] = set()
    extra: dict[str, array[int]] = {name: array("q") for name in WHOLE}
    think = array("d")
    seen: set[str] = set()
    for line, row in json_rows(source):
        seen.update(row.keys() & {*WHOLE, "think_s", "output_token_ids"})
        if "prompt_token_ids" in row:
            tokens.add(len(rows.lines))
        if "hash_block_tokens" in row:
            options = _sized(row, f"{source.name} row {line}", options)
        place = _add(rows, line, row, options)
        for name in WHOLE:
            extra[name].append(MISSING[name] if row.get(name) is None else whole(row, name, place))
        think.append(0.0 if row.get("think_s") is None else number(row, "think_s", place))
    trace = dataclasses.replace(
        _with_ids(rows, tokens, options.hash_block_tokens or 1),
        priority=ints(extra["priority"]) if "priority" in seen else None,
        session=ints(extra["session"]) if "session" in seen else None,
        parent=ints(extra["parent"]) if "parent" in seen else None,
        samples=ints(extra["samples"]) if "samples" in seen else None,
        think=floats(think) if "think_s" in seen else None,
        notes=("output_token_ids are not kept",) if "output_token_ids" in seen else (),
    )
    return Found(trace=trace, origin=rows.origin())


def _add(rows: Collector, line: int, row: Row, options: Options) -> str:
    place = f"{rows.source.name} row {line}"
    if "prompt_token_ids" in row:
        ids = integers(row, "prompt_token_ids", place)
        if row.get("prompt_len", len(ids)) != len(ids):
            raise InputError(f"{place}: prompt_len is {row['prompt_len']!r}; prompt_token_ids has {len(ids)}")
        rows.add(line, {**row, "prompt_len": len(ids)})
    else:
        rows.add(line, row)
        ids = _hash_ids(row, place, rows.prompt[-1], options.hash_block_tokens)
    rows.add_ids(ids)
    return place


def _sized(row: Row, place: str, options: Options) -> Options:
    """Return the options with the tokens of a hash id as a row has them; InputError where that is another number."""
    size = whole(row, "hash_block_tokens", place)
    if size < 1:
        raise InputError(f"{place}: hash_block_tokens must be at least 1, got {size}")
    if options.hash_block_tokens not in (None, size):
        raise InputError(
            f"{place}: hash_block_tokens is {size}, and {options.hash_block_tokens} was said before"
        )
    return dataclasses.replace(options, hash_block_tokens=size)


def _hash_ids(row: Row, place: str, prompt: int, size: int | None) -> array[int]:
    ids = array("q") if row.get("hash_ids") is None else integers(row, "hash_ids", place)
    if not ids:
        return ids
    if size is None:
        raise InputError(f"{place}: hash_ids need --hash-block-tokens, the tokens that one id stands for")
    if len(ids) > (most := -(-prompt // size)) and prompt > 0:
        raise InputError(
            f"{place}: hash_ids has {len(ids)} ids of {size} tokens for a prompt_len of {prompt}; "
            f"it can have at most {most}"
        )
    if not (min(ids) >= 0 and max(ids) < 2**63 // size):
        raise InputError(f"{place}: hash_ids must hold integers from 0 to {2**63 // size - 1}")
    return ids


def _with_ids(rows: Collector, tokens: set[int], size: int) -> Trace:
    """Return the rows, hash ids spelt out token by token where some rows (`tokens`) have token ids."""
    if not rows.ids:
        return rows.trace()
    if not tokens:
        return rows.trace(size)
    ids, ends = ints(rows.ids), ints(rows.ends)
    pieces: list[IntColumn] = []
    for row in range(len(ends) - 1):
        piece = ids[ends[row] : ends[row + 1]]
        if row not in tokens:
            piece = (piece[:, None] * size + np.arange(size)).ravel()[: rows.prompt[row]]
        pieces.append(piece)
    counts = np.array([len(piece) for piece in pieces], np.int64)
    return dataclasses.replace(
        rows.trace(),
        block_ids=np.concatenate(pieces),
        block_offsets=np.concatenate((np.zeros(1, np.int64), np.cumsum(counts))),
        block_tokens=1,
    )


def _matches(head: Head) -> bool:
    return (
        head.kind == "json"
        and head.keys.issuperset(("arrival_s", "output_len"))
        and not head.keys.isdisjoint(("prompt_len", "prompt_token_ids"))
    )


FORMAT = Format("rows", read, _matches)
