"""Timed points as JSON and back; lengths that repeat are written once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, get_args

from kvsim.calibration.points import Op, Point
from kvsim.errors import InputError, nearest
from kvsim.model import KV_BITS, WEIGHT_BITS

Json = dict[str, Any]  # Any: what JSON holds, checked field by field
FIELDS = {field.name: field for field in dataclasses.fields(Point)}
LENGTHS = ("q", "kv")
MOST_SEQUENCES = 1 << 20
"""Of one call; more is a slip in the file."""
LEAST_TIME = 1e-9
"""A number that is not above this is no time, clock or power, but 0 by another name."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and _is_number(value) and value > LEAST_TIME


def _is_count(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 62


def _is_size(value: object) -> bool:
    return _is_count(value, 1)


def _is_list(value: object, of: Callable[[Any], bool], length: int | None = None) -> bool:
    return isinstance(value, list) and all(map(of, value)) and length in (None, len(value))


def _is_word(value: object) -> bool:
    return isinstance(value, str)


def _one_of(words: Sequence[str]) -> Rule:
    return lambda value: isinstance(value, str) and value in words, f"one of {', '.join(words)}"


Rule = tuple[Callable[[object], bool], str]
"""Whether a value is allowed, and what is, in words."""
COUNT: Rule = (_is_count, "a whole number ≥ 0")
SIZE: Rule = (_is_size, "a whole number ≥ 1")
MAYBE_SIZE: Rule = (lambda value: value is None or _is_size(value), "null or a whole number ≥ 1")
WORD: Rule = (_is_word, "text")
WORDS: Rule = (lambda value: _is_list(value, _is_word), "a list of words")
PAIR: Rule = (lambda value: value is None or _is_list(value, _is_time, 2), "null or two numbers > 0")
FLAG: Rule = (lambda value: isinstance(value, bool), "true or false")
RULES: dict[str, Rule] = {
    "id": WORD,
    "set": WORD,
    "op": _one_of(get_args(Op)),
    "m": COUNT,
    "n": COUNT,
    "k": COUNT,
    "name": WORD,
    "message_bytes": COUNT,
    "gpus": SIZE,
    "heads": (lambda value: _is_list(value, _is_count, 3), "three whole numbers"),
    "layout": _one_of(("paged", "contiguous", "shared")),
    "page": MAYBE_SIZE,
    "window": MAYBE_SIZE,
    "shared_tokens": COUNT,
    "dtype": _one_of(tuple(WEIGHT_BITS)),
    "kv_dtype": _one_of(tuple(KV_BITS)),
    "backend": WORD,
    "kernels": WORDS,
    "mode": _one_of(("graph", "eager")),
    "cold": FLAG,
    "calls": SIZE,
    **dict.fromkeys(("sm_mhz", "memory_mhz", "temperature_c", "power_w", "slow_sm_mhz"), PAIR),
    "slow_ns": (lambda value: _is_list(value, _is_time), "a list of times > 0"),
    "rel_err": (lambda value: value is None or _is_number(value), "null or a number"),
    "held_out": FLAG,
    "flags": WORDS,
}
"""By field; lengths and times have checks of their own."""


def point_to_json(point: Point) -> Json:
    """Return the fields that differ from their defaults; lengths as runs where that is shorter."""
    record: Json = {}
    for name, field in FIELDS.items():
        value = getattr(point, name)
        if value != field.default:
            record[name] = _runs(value) if name in LENGTHS else _plain(value)
    return record


def point_from_json(value: object, where: str) -> Point:
    """Read one point; fields that are not known are left out."""
    if not isinstance(value, dict):
        raise InputError(f"{where} must be an object, got {type(value).__name__}")
    known = {name: each for name, each in value.items() if name in FIELDS}
    for name in ("id", "set", "op", "ns"):
        if name not in known:
            raise InputError(f"{where}: no {name!r}")
    place = f"{where} ({known['id']})" if _is_word(known["id"]) else where
    for name, (allows, words) in RULES.items():
        if name in known and not allows(known[name]):
            close = nearest(known[name], get_args(Op)) if name == "op" and _is_word(known[name]) else ""
            raise InputError(f"{place}: {name} must be {words}, got {known[name]!r}{close}")
    for name in LENGTHS:
        known[name] = _lengths(known.get(name, []), f"{place}: {name}")
    _check_times(known["ns"], place)
    _check_sizes(known, place)
    fields: Json = {name: tuple(each) if isinstance(each, list) else each for name, each in known.items()}
    return Point(**fields)


def _check_times(times: object, place: str) -> None:
    if not isinstance(times, list) or not times:
        raise InputError(f"{place}: ns must be a list of times")
    for time in times:
        if not _is_time(time):
            raise InputError(f"{place}: ns must be finite and > 0, got {time!r}")


def _check_sizes(known: Json, place: str) -> None:
    """Check that lengths agree, and that an operation has the sizes it needs."""
    op, q, kv = known["op"], known["q"], known["kv"]
    if len(q) != len(kv):
        raise InputError(f"{place}: {len(q)} lengths q and {len(kv)} lengths kv; they must agree")
    for queries, context in zip(q, kv, strict=True):
        if queries > context:
            raise InputError(f"{place}: lengths must be 1 ≤ q ≤ kv, got q {queries} and kv {context}")
    if op.startswith("attn"):
        _check_attention(op, q, place)
    elif op == "allreduce" and not known.get("message_bytes"):
        raise InputError(f"{place}: allreduce needs message_bytes ≥ 1")
    elif op not in ("allreduce", "launch") and not known.get("m"):
        raise InputError(f"{place}: {op} needs m ≥ 1")


def _check_attention(op: str, q: Sequence[int], place: str) -> None:
    if not q:
        raise InputError(f"{place}: {op} needs lengths q and kv")
    decodes = sum(queries == 1 for queries in q)
    if op == "attn_decode" and decodes < len(q):
        raise InputError(f"{place}: attn_decode has one query token a sequence, got {max(q)}")
    if op == "attn_mixed" and decodes in (0, len(q)):
        raise InputError(f"{place}: attn_mixed needs a sequence with one query token and one with more")


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _runs(lengths: Sequence[int]) -> object:
    """Write lengths as they are, or as [value, count] runs where those are fewer than half."""
    runs = [[value, len(list(group))] for value, group in groupby(lengths)]
    return {"rle": runs} if 2 * len(runs) < len(lengths) else list(lengths)


def _lengths(value: object, where: str) -> tuple[int, ...]:
    """Read a list of lengths, or {"rle": [[value, count], …]}."""
    if isinstance(value, Mapping) and isinstance(value.get("rle"), list):
        expanded: list[object] = []
        for run in value["rle"]:
            if not isinstance(run, list) or len(run) != 2 or not _is_count(run[1], 1):
                raise InputError(f"{where}: a run is [length, count], got {run!r}")
            if len(expanded) + run[1] > MOST_SEQUENCES:
                raise InputError(f"{where}: more than {MOST_SEQUENCES} sequences")
            expanded += [run[0]] * run[1]
        value = expanded
    if not isinstance(value, list):
        raise InputError(f"{where} must be a list of lengths, got {value!r}")
    found: list[int] = []
    for each in value:
        if not isinstance(each, int) or not _is_size(each):
            raise InputError(f"{where}: a length must be a whole number ≥ 1, got {each!r}")
        found.append(each)
    return tuple(found)
