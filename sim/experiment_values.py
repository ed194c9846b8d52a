"""Keys and values of an experiment: what is known, of which type, and ranges written short."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import cache
from types import NoneType
from typing import Any, Literal

from kvsim.config import RunConfig
from kvsim.errors import InputError, nearest
from kvsim.trace_settings import TraceSettings

Value = str | int | float | bool | None
"""What one setting of one cell can be."""

LONGEST_RANGE = 100_000
RANGE_KEYS = ("start", "stop", "step", "factor", "count", "geometric")
RANGE_FORMS = (
    "{ start, stop, step }, { start, stop, factor } or { start, stop, count } (with geometric = true if so)"
)


@cache
def settings_known() -> dict[str, Any]:  # Any: a type, or what typing makes of one
    """Return the type of every setting: of a run, of its trace, the policy."""
    trace = typing.get_type_hints(TraceSettings)
    del trace["figures"]
    return {
        **trace,
        "policy": str,
        **typing.get_type_hints(RunConfig),
        "measure_capacity": bool,
    }


def known_key(key: str, parts: Iterable[str], place: str) -> str:
    """Return a setting's name with underscores; `parts` may be dotted as in paged.block_size."""
    name = key.replace("-", "_")
    if name in settings_known():
        return name
    head, dot, parameter = key.rpartition(".")
    if dot and head in parts:
        return f"{head}.{parameter.replace('-', '_')}"
    if dot:
        raise InputError(
            f"{place}: {key!r} sets a parameter of {head!r}, which is neither a policy nor a workload of this "
            f"experiment{nearest(head, parts)}"
        )
    raise InputError(
        f"{place}: unknown key {key!r}{nearest(name, [*settings_known(), *parts])}; a key is a flag of `kvsim run`, "
        "trace, workload, requests, policy, or a policy with parameters, as in paged.block_size"
    )


def flat(table: Mapping[str, Any], place: str) -> dict[str, Any]:  # Any: as a file or a caller gives it
    """Write a table of a policy's or workload's parameters as dotted keys; a range stays as it is."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        is_range = key.replace("-", "_") in settings_known() or (
            isinstance(value, Mapping) and {"start", "stop"} <= set(value)
        )
        is_table = isinstance(value, Mapping) and not is_range
        entries = {f"{key}.{name}": inner for name, inner in value.items()} if is_table else {key: value}
        for name, inner in entries.items():
            if name in found:
                raise InputError(f"{place}: {name} is given twice")
            found[name] = inner
    return found


def checked(key: str, value: object, place: str) -> Value:
    """Return a setting's value in its own type, or say what would have been allowed."""
    value = value.item() if hasattr(value, "item") else value
    hint = settings_known().get(key)
    if hint is None:
        if isinstance(value, str | int | float | bool | NoneType):
            return value
        raise InputError(f"{place}: {key} must be a text, a number, true or false, got {value!r}")
    options = typing.get_args(hint) if not _is_literal(hint) else (hint,)
    kinds = options or (hint,)
    if NoneType in kinds and (value is None or value == "none"):
        return None
    for kind in kinds:
        fits, converted = _as(kind, value)
        if fits:
            return converted
    raise InputError(f"{place}: {key} must be {_allowed(kinds)}, got {value!r}{_hint(kinds, value)}")


def values_of(key: str, given: object, place: str, repeats: bool = False) -> tuple[Value, ...]:
    """Return the values of one axis: a list's own, or those of a range written short."""
    if isinstance(given, Mapping):
        found: list[object] = list(_range(given, f"{place}: {key}", _is_whole(key)))
    elif isinstance(given, str) or not isinstance(given, Iterable):
        raise InputError(
            f"{place}: {key} must be a list, or a range like {{ start = 8, stop = 64, step = 8 }}, got {given!r}; "
            "one value for all cells belongs in base"
        )
    else:
        found = list(given)
    if not found:
        raise InputError(f"{place}: {key} has no value")
    values = tuple(checked(key, value, place) for value in found)
    seen: set[tuple[type, Value]] = set()
    for value in values:
        if (type(value), value) in seen and not repeats:
            raise InputError(f"{place}: {key} has {value!r} twice")
        seen.add((type(value), value))
    return values


def _range(given: Mapping[str, object], place: str, whole: bool) -> list[int | float]:
    for name in given:
        if name not in RANGE_KEYS:
            raise InputError(
                f"{place}: a range has no {name!r}{nearest(name, RANGE_KEYS)}; it is {RANGE_FORMS}"
            )
    ways = [name for name in ("step", "factor", "count") if name in given]
    if len(ways) != 1 or "start" not in given or "stop" not in given:
        raise InputError(f"{place}: a range is {RANGE_FORMS}, got {dict(given)!r}")
    numbers = {name: given[name] for name in ("start", "stop", ways[0])}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise InputError(f"{place}: {name} must be a number, got {value!r}")
    # As decimals, so that 0.1 + 0.2 is 0.3 and the last value is not lost to rounding.
    start, stop, by = (Decimal(str(value)) for value in numbers.values())
    if ways[0] == "count":
        found = _counted(start, stop, by, bool(given.get("geometric")), place)
    elif "geometric" in given:
        raise InputError(f"{place}: geometric goes with count; a factor is geometric by itself")
    else:
        found = _walked(start, stop, by, ways[0], place)
    only_integers = all(isinstance(value, int) for value in numbers.values()) and all(
        value == value.to_integral_value() for value in found
    )
    if whole or only_integers:
        return list(dict.fromkeys(int(value.to_integral_value()) for value in found))
    return [float(value) for value in found]


def _walked(start: Decimal, stop: Decimal, by: Decimal, way: str, place: str) -> list[Decimal]:
    """Go from start by steps or factors as far as stop, which is included when it is met."""
    still = by == (0 if way == "step" else 1)
    rises = by > (0 if way == "step" else 1)
    if still or not by.is_finite() or (way == "factor" and (by <= 0 or start <= 0)):
        raise InputError(f"{place}: {way} {by} from {start} does not lead to {stop}")
    if start != stop and rises != (stop > start):
        raise InputError(f"{place}: {way} {by} leads from {start} away from {stop}")
    found = [start]
    while True:
        following = found[-1] + by if way == "step" else found[-1] * by
        if (following > stop) if rises else (following < stop):
            return found
        found.append(following)
        if len(found) > LONGEST_RANGE:
            raise InputError(f"{place}: the range has more than {LONGEST_RANGE:,} values")


def _counted(start: Decimal, stop: Decimal, count: Decimal, geometric: bool, place: str) -> list[Decimal]:
    """Spread so many values from start to stop, both included."""
    if count != int(count) or not 2 <= count <= LONGEST_RANGE:
        raise InputError(f"{place}: count must be a whole number from 2 to {LONGEST_RANGE:,}, got {count}")
    if geometric and not (start > 0 and stop > 0):
        raise InputError(f"{place}: a geometric range needs start and stop above 0, got {start} and {stop}")
    parts = int(count) - 1
    between = [
        start * (stop / start) ** (Decimal(i) / parts) if geometric else start + (stop - start) * i / parts
        for i in range(1, parts)
    ]
    # Twelve digits say what anybody means, and read well in a cell's name.
    return [start, *(Decimal(f"{value:.12g}") for value in between), stop]


def _as(kind: Any, value: object) -> tuple[bool, Value]:
    """Tell whether a value is of a type, and convert it where that loses nothing."""
    if _is_literal(kind):
        return value in typing.get_args(kind), typing.cast(Value, value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return value == value, float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return True, int(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool), typing.cast(Value, value)
    return isinstance(value, kind) and kind is not NoneType, typing.cast(Value, value)


def _allowed(kinds: tuple[Any, ...]) -> str:
    words = {
        str: "a text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        NoneType: '"none"',
    }
    named = [" or ".join(map(repr, typing.get_args(k))) if _is_literal(k) else words[k] for k in kinds]
    return " or ".join(named)


def _hint(kinds: tuple[Any, ...], value: object) -> str:
    choices = [str(choice) for kind in kinds if _is_literal(kind) for choice in typing.get_args(kind)]
    return nearest(str(value), choices)


def _is_literal(hint: Any) -> bool:
    return typing.get_origin(hint) is Literal


def _is_whole(key: str) -> bool:
    hint = settings_known().get(key)
    return hint is int or int in typing.get_args(hint)
