"""A grid of runs: what is fixed, what is varied, and one tidy DataFrame with a row a cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvsim.errors import InputError
from kvsim.experiment_grid import DEFAULT_POLICY, Axis, Cell, Settings, count_cells, make_cells, policy_name
from kvsim.experiment_values import Value, checked, flat, known_key, values_of

if TYPE_CHECKING:
    import pandas as pd

    from kvsim.cell_backends import Backend
    from kvsim.request import Workload

MOST_CELLS = 10_000
"""Cells beyond which an experiment is more likely a slip than meant."""
FOLDED = 10
"""Combinations a cell for which it is worth looking how many are the same."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A base configuration and what is varied over it.

    Keys are the flags of `kvsim run` with underscores (times in s, memory in bytes, lengths in tokens), and
    `trace` (a file) or `workload` with `requests`, `policy`, and `measure_capacity`. A parameter of one policy
    is written `paged.block_size`, of a workload `agent.turns`; cells of other policies do without it. Values
    are checked when the experiment is made: InputError names the key and what is allowed.

        Experiment(
            name="block size",
            base={"trace": "trace.jsonl", "gpu": "h100-sxm"},
            sweep={"policy": ["paged", "prefix"], "block_size": {"start": 8, "stop": 64, "factor": 2}},
        ).run(jobs=4)
    """

    name: str = "experiment"
    """What it is called, and its output folder unless that is named."""
    description: str = ""
    """What it is for, in a line."""
    base: Mapping[str, Value] = field(default_factory=dict)
    """Settings of every cell that does not say otherwise."""
    sweep: Mapping[str, Any] = field(default_factory=dict)  # Any: an iterable, or a range as a mapping
    """Lists and ranges; every combination is a cell."""
    zipped: Sequence[Mapping[str, Any]] = ()
    """Groups of equally long lists that are walked side by side; each group is one axis of the combinations."""
    cells: Sequence[Mapping[str, Value]] = ()
    """Cells given one by one, beside the combinations; each may have a `name`."""
    seeds: int | Sequence[int] = ()
    """Seeds with which every cell is repeated; a number n stands for 0 to n − 1."""
    folder: Path = Path()
    """Where relative paths start."""
    max_cells: int = MOST_CELLS
    """Most cells it may come to."""
    source: str = "experiment"
    """How messages call it: the file it was read from."""

    def __post_init__(self) -> None:
        """Check every key and value, and write ranges out."""
        parts = _parts([self.base, self.sweep, *self.zipped, *self.cells])
        put = object.__setattr__
        put(self, "base", _settings(self.base, parts, f"{self.source}: base"))
        put(self, "sweep", _axis(self.sweep, parts, f"{self.source}: sweep"))
        put(self, "zipped", tuple(_zipped(group, parts, f"{self.source}: zip") for group in self.zipped))
        put(self, "cells", tuple(_settings(cell, parts, f"{self.source}: cell") for cell in self.cells))
        put(self, "seeds", _seeds(self.seeds, self.source))
        self._check_axes()

    def expanded(self) -> list[Cell]:
        """Return the cells in the order of their rows; InputError when there are more than `max_cells`."""
        axes, seeds = self._axes(), _seeds(self.seeds, self.source)
        cells = [dict(cell) for cell in self.cells]
        count = count_cells(axes, cells, seeds)
        # Combinations that turn out the same are one cell, but millions are not made to find out.
        if count <= FOLDED * self.max_cells:
            found = make_cells(dict(self.base), axes, cells, seeds, self.source)
            if len(found) <= self.max_cells:
                return found
            count = len(found)
        raise InputError(
            f"{self.source}: {count:,} cells, and at most {self.max_cells:,} may be run; set max_cells "
            "(--max-cells) higher if that is meant"
        )

    def run(
        self,
        output: Path | str | None = None,
        *,
        jobs: int | None = None,
        backend: Backend = "loky",
        scheduler_address: str | None = None,
        progress: bool = False,
    ) -> pd.DataFrame:
        """Run every cell and return a row a cell: what is varied, then the summary's metrics.

        Columns after the varied ones are those of `kvsim.compare(…).summary` (`reports/README.md`: times in ms,
        shares from 0 to 1), then `status` (ok, failed), `error`, `cell` (its name) and `key` (the hash of all it
        depends on). With `output` every finished cell is kept in that folder at once, and another call runs what
        is missing or has changed. `jobs` worker processes (all CPUs unless given) leave no mark on the numbers.
        `backend` is loky, ray or dask, the latter two on the cluster at `scheduler_address`, or on one of `jobs`
        workers that is started here. `progress` shows a line on stderr or in the notebook.
        """
        from kvsim.cell_backends import Workers
        from kvsim.experiment_run import Plan

        # A process that has loaded a user's policy does not see later edits; new ones do.
        workers = Workers(backend, jobs, scheduler_address, fresh=True)
        plan = Plan(self, output)
        plan.run(workers, progress)
        return plan.frame()

    def _axes(self) -> list[Axis]:
        return [*({key: values} for key, values in self.sweep.items()), *self.zipped]

    def _check_axes(self) -> None:
        keys = [key for axis in self._axes() for key in axis]
        if self.seeds:
            keys.append("seed")
        for key in keys:
            if keys.count(key) > 1:
                raise InputError(
                    f"{self.source}: {key} is varied twice; sweep, zip and seeds must not overlap"
                )
        if self.max_cells < 1:
            raise InputError(f"{self.source}: max_cells must be at least 1, got {self.max_cells}")


def sweep(
    trace: Workload | Path | str | None,
    over: Mapping[str, Any],  # Any: an iterable, or a range as a mapping
    *,
    seeds: int | Sequence[int] = (),
    zipped: Sequence[Mapping[str, Any]] = (),
    output: Path | str | None = None,
    jobs: int | None = None,
    backend: Backend = "loky",
    scheduler_address: str | None = None,
    progress: bool = False,
    **base: Any,  # Any: settings by name, checked by Experiment
) -> pd.DataFrame:
    """Run a trace with every combination of the values in `over`; return a row a cell.

    `trace` is a `kvsim.traces.Trace`, or a file; None with `workload="agent"` among the settings. `base` are
    settings of every cell. See `Experiment` for keys and ranges, and `Experiment.run` for the rest.

        frame = kvsim.sweep(trace, {"policy": ["paged", "prefix"], "block_size": range(8, 65, 8)}, gpu="h100-sxm")
        frame.pivot(index="block_size", columns="policy", values="p99_ttft_ms")  # ms
    """
    from kvsim.experiment_run import trace_as_file

    with trace_as_file(trace, output) as given:
        experiment = Experiment(name="sweep", base=given | base, sweep=over, zipped=zipped, seeds=seeds)
        return experiment.run(
            output, jobs=jobs, backend=backend, scheduler_address=scheduler_address, progress=progress
        )


def _parts(tables: Iterable[Mapping[str, Any]]) -> list[str]:
    """List the policies and workloads that have parameters here."""
    found: list[str] = [DEFAULT_POLICY]
    for table in tables:
        for key in ("policy", "workload"):
            given = table.get(key, ())
            texts = [given] if isinstance(given, str) else given
            found += [policy_name(text) for text in texts if isinstance(text, str)]
    return list(dict.fromkeys(found))


def _settings(given: Mapping[str, Any], parts: list[str], place: str) -> Settings:
    found: Settings = {}
    for key, value in flat(given, place).items():
        if key == "name" and place.endswith(": cell"):
            found[key] = str(value)
            continue
        name = known_key(key, parts, place)
        if name in found:
            raise InputError(f"{place}: {name} is given twice")
        found[name] = checked(name, value, place)
    return found


def _axis(given: Mapping[str, Any], parts: list[str], place: str) -> dict[str, tuple[Value, ...]]:
    found: dict[str, tuple[Value, ...]] = {}
    for key, values in flat(given, place).items():
        name = known_key(key, parts, place)
        if name in found:
            raise InputError(f"{place}: {name} is given twice")
        found[name] = values_of(name, values, place)
    return found


def _zipped(given: Mapping[str, Any], parts: list[str], place: str) -> dict[str, tuple[Value, ...]]:
    # Side by side, a list may well name a value twice.
    found = {
        known_key(key, parts, place): values_of(key, values, place, repeats=True)
        for key, values in flat(given, place).items()
    }
    lengths = {name: len(values) for name, values in found.items()}
    if not found or len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} has {length}" for name, length in lengths.items()) or "there is none"
        raise InputError(f"{place}: lists side by side must be equally long: {said}")
    return found


def _seeds(given: int | Sequence[int], place: str) -> tuple[int, ...]:
    if isinstance(given, int) and not isinstance(given, bool):
        if given < 1:
            raise InputError(f"{place}: seeds must be at least 1, or a list of seeds, got {given}")
        return tuple(range(given))
    found = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
    if any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in found):
        raise InputError(
            f"{place}: seeds must be a number of seeds, or a list of whole numbers from 0 up, got {given!r}"
        )
    if len(set(found)) < len(found):
        raise InputError(f"{place}: seeds has a seed twice: {given!r}")
    return found
