"""The cells of an experiment: every combination, zipped lists, and cells given one by one."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from kvsim.config import RunConfig
from kvsim.errors import InputError
from kvsim.experiment_values import Value
from kvsim.trace_settings import TraceSettings

Settings = dict[str, Value]
Axis = Mapping[str, tuple[Value, ...]]
"""Keys that move together, and their values; most axes have one key."""

_PARAMETER = re.compile(r":(?=[A-Za-z_][\w-]*=)")
"""Where a policy's name ends: at a colon before key=, not at one of module:Class."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of an experiment."""

    name: str
    """What differs from the other cells, as in policy=paged,block_size=16; or the name it was given."""
    varied: Settings
    """The value of everything the experiment varies; None for a parameter of another policy."""
    settings: Settings
    """Everything that was set for this cell, by base or otherwise."""

    @property
    def config(self) -> RunConfig:
        """The run's configuration, paths as they were given."""
        given = {field.name for field in dataclasses.fields(RunConfig)} & set(self.settings)
        changes: dict[str, Any] = {name: self.settings[name] for name in given}
        return RunConfig().changed(**changes)

    @property
    def policy(self) -> str:
        """The policy with its parameters, as `--policy` takes it."""
        policy = str(self.settings.get("policy", DEFAULT_POLICY))
        parameters = self._figures(policy_name(policy))
        return ":".join([policy, *(f"{name}={as_text(value)}" for name, value in parameters.items())])

    @property
    def trace(self) -> TraceSettings:
        """Which requests it replays."""
        given = {field.name for field in dataclasses.fields(TraceSettings)} & set(self.settings)
        chosen: dict[str, Any] = {name: self.settings[name] for name in given}
        figures = self._figures(str(self.settings.get("workload")))
        return TraceSettings(**chosen, figures=tuple(figures.items()))  # type: ignore[arg-type]

    @property
    def measures_capacity(self) -> bool:
        """Whether batch capacity is measured too, in a second, saturated replay."""
        return self.settings.get("measure_capacity", True) is True

    def _figures(self, head: str) -> Settings:
        dotted = {key.rpartition("."): value for key, value in self.settings.items()}
        return {name: value for (before, dot, name), value in dotted.items() if dot and before == head}


DEFAULT_POLICY = "paged"
"""As for `kvsim run`."""


def policy_name(text: str) -> str:
    """Return a policy's name, module:Class or file.py:Class without its parameters."""
    return _PARAMETER.split(text)[0]


def as_text(value: Value) -> str:
    """Write a value as a flag would take it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def count_cells(axes: Sequence[Axis], cells: Sequence[Settings], seeds: Sequence[int]) -> int:
    """Count without making them; combinations that turn out the same are counted apart."""
    combinations = math.prod(_length(axis) for axis in axes) if axes or not cells else 0
    return (combinations + len(cells)) * max(len(seeds), 1)


def make_cells(
    base: Settings, axes: Sequence[Axis], cells: Sequence[Settings], seeds: Sequence[int], place: str
) -> list[Cell]:
    """Combine the axes, append the cells given one by one, and repeat each for every seed.

    A parameter of a policy or workload that a cell does not have leaves no trace in it, and combinations
    that only differ in such parameters are one cell.
    """
    last: list[Axis] = [{"seed": tuple(seeds)}] if seeds else []
    columns = list(dict.fromkeys(key for each in (*axes, *cells, *last) for key in each if key != "name"))
    chosen = list(_combined([*axes, *last])) if axes or not cells else []
    one_by_one = [given | seed for given in cells for seed in _combined(last)]
    found: dict[tuple[tuple[str, Value], ...], Cell] = {}
    for choice in chosen:
        cell = _cell(base, choice, columns)
        found.setdefault(_signature(cell), cell)
    for choice in one_by_one:
        cell = _cell(base, choice, columns)
        twin = found.setdefault(_signature(cell), cell)
        if twin is not cell:
            raise InputError(f"{place}: cell {cell.name!r} is the same as cell {twin.name!r}; drop one")
    _check_use(columns, list(found.values()), place)
    _check_names(list(found.values()), place)
    return list(found.values())


def _combined(axes: Sequence[Axis]) -> Iterator[Settings]:
    """Yield every combination; the last axis moves fastest."""
    rows = [[dict(zip(axis, row, strict=True)) for row in zip(*axis.values(), strict=True)] for axis in axes]
    for parts in itertools.product(*rows):
        yield {key: value for part in parts for key, value in part.items()}


def _cell(base: Settings, choice: Settings, columns: Sequence[str]) -> Cell:
    given = base | {key: value for key, value in choice.items() if key != "name"}
    heads = (policy_name(str(given.get("policy", DEFAULT_POLICY))), given.get("workload"))
    settings = {
        key: value for key, value in given.items() if "." not in key or key.rpartition(".")[0] in heads
    }
    varied = {key: settings.get(key, defaults().get(key)) for key in columns}
    name = str(choice["name"]) if "name" in choice else _derived(choice, settings)
    if "name" in choice and "seed" in choice:
        name += f",seed={choice['seed']}"
    return Cell(name, varied, settings)


def _derived(choice: Settings, settings: Settings) -> str:
    parts = [f"{key}={as_text(settings[key])}" for key in choice if key in settings]
    return ",".join(parts) or "base"


@cache
def defaults() -> Settings:
    """Return what a setting is when nobody sets it."""
    fields = [*dataclasses.fields(TraceSettings), *dataclasses.fields(RunConfig)]
    found: dict[str, Any] = {field.name: field.default for field in fields if field.name != "figures"}
    return found | {"policy": DEFAULT_POLICY, "measure_capacity": True}


def _signature(cell: Cell) -> tuple[tuple[str, Value], ...]:
    return tuple(sorted(cell.settings.items()))


def _check_use(columns: Sequence[str], cells: Sequence[Cell], place: str) -> None:
    """Refuse a parameter that no cell has."""
    for key in columns:
        if "." in key and not any(key in cell.settings for cell in cells):
            raise InputError(f"{place}: {key} is varied, but no cell has {key.rpartition('.')[0]!r}")


def _check_names(cells: Sequence[Cell], place: str) -> None:
    seen: set[str] = set()
    for cell in cells:
        if cell.name in seen:
            raise InputError(f"{place}: two cells are named {cell.name!r}")
        seen.add(cell.name)


def _length(axis: Axis) -> int:
    return len(next(iter(axis.values())))
